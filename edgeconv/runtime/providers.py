"""ONNX Runtime's providers: their names, and what a machine lacks to use one.

onnxruntime and the CUDA bindings are imported when they are asked for, never before.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgeconv.errors import EdgeconvError, InputError, MissingDependencyError

PROVIDERS: dict[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
}
"""Providers of ONNX Runtime as users write them, and its names for the same. Engines: `edgeconv.runtime.session`."""

_GPU_PACKAGE = (
    "Install ONNX Runtime with CUDA in place of the other: pip uninstall onnxruntime && pip install 'edgeconv[gpu]' "
    "(on a Jetson the wheel of onnxruntime-gpu that NVIDIA builds for its JetPack)."
)
_CUDA_LIBRARY = "libonnxruntime_providers_cuda.so"
# A symbol that only a library with CUDA kernels has, and one that only a host-executed one has.
_CUDA_SYMBOL, _HOST_SYMBOL = "edgeconv_cuda_device", "edgeconv_simt_last_error"


def require_onnxruntime() -> Any:
    """Import onnxruntime.

    Raises:
        MissingDependencyError: It is not installed, or does not load.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            f"ONNX Runtime cannot be imported: {error}.", "Install it: pip install 'edgeconv[cpu]'"
        ) from error
    return onnxruntime


MOST_THREADS = 1024
"""Of an operator: more than any device has cores, and few enough to be started."""


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that no device has.

    Raises:
        InputError: It is below 1, or above `MOST_THREADS`.
    """
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise InputError(
            f"threads must be 1 or more, at most {MOST_THREADS}, got {threads}.", "Leave it out for one thread a core."
        )


def require_provider(provider: str, device: int = 0, *, select_gpu: Callable[[int], object] | None = None) -> None:
    """Check that edgeconv and the installed ONNX Runtime can run on `provider`.

    Args:
        provider: One of `PROVIDERS`.
        device: Number of the GPU, among those that the process sees.
        select_gpu: Finds it; by default `edgeconv.runtime.gpu.select_gpu`.

    Raises:
        InputError: There is no provider of that name, or no such GPU beside others.
        MissingDependencyError: The provider is known, but cannot be used here; all that is missing is named.
    """
    if provider not in PROVIDERS:
        raise InputError(f"unknown provider {provider!r}.", f"Choose one of: {', '.join(PROVIDERS)}.")
    available: Sequence[str] = require_onnxruntime().get_available_providers()
    missing: list[MissingDependencyError] = []
    if PROVIDERS[provider] not in available:
        found = f"provider {provider} is not in the installed ONNX Runtime, which has: {', '.join(available)}"
        missing.append(MissingDependencyError(found, _GPU_PACKAGE))
    if provider == "cuda":
        if select_gpu is None:
            from edgeconv.runtime.gpu import select_gpu as select
        else:
            select = select_gpu  # type: ignore[assignment]
        try:
            select(device)
        except MissingDependencyError as error:
            missing.append(error)
    report_missing(missing)


def report_missing(missing: Sequence[MissingDependencyError]) -> None:
    """Raise one error for all that a machine lacks to use a provider; do nothing if it lacks nothing.

    Raises:
        MissingDependencyError: What is missing, and every remedy.
    """
    if missing:
        remedies = [error.remedy for error in missing if error.remedy]
        raise MissingDependencyError(
            f"{'; '.join(error.message.removesuffix('.') for error in missing)}.",
            "\n".join([*remedies, "Or use --provider cpu."]),
        )


def require_cuda_kernels(library: str) -> None:
    """Check that an op library holds CUDA kernels.

    Raises:
        MissingDependencyError: It was built without CUDA, or for tests.
    """
    try:
        symbols = ctypes.CDLL(library)
    except OSError:
        return  # registering it will say more
    if not hasattr(symbols, _CUDA_SYMBOL):
        raise MissingDependencyError(
            f"op library {library} was built without CUDA: edgeconv's operators have CPU kernels only.",
            "Install edgeconv again where nvcc of CUDA 12.6 or later is found (CUDA_HOME; scripts/cuda_toolkit.sh gets "
            "it without root), or run the functions in the file: --no-op-library. --allow-cpu-fallback runs these "
            "nodes on the CPU.",
        )
    if hasattr(symbols, _HOST_SYMBOL):
        raise MissingDependencyError(
            f"op library {library} executes its CUDA kernels on the host: it is for tests.",
            "Unset EDGECONV_OP_LIBRARY, or build the library without EDGECONV_SIMT.",
        )


def cuda_load_error(onnxruntime: Any, name: str) -> MissingDependencyError:
    """Say why ONNX Runtime made a session without its CUDA provider, which it does not tell its caller.

    Args:
        onnxruntime: The module.
        name: The model, for the message.
    """
    reason = "it does not say why"
    library = Path(onnxruntime.__file__).parent / "capi" / _CUDA_LIBRARY
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        if "undefined symbol" not in str(error):  # the runtime itself brings those
            reason = str(error)
    remedy = (
        f"Install the CUDA and cuDNN libraries that ONNX Runtime {onnxruntime.__version__} is built for: "
        "pip install 'onnxruntime-gpu[cuda,cudnn]', or those of the system, found by LD_LIBRARY_PATH."
    )
    return MissingDependencyError(
        f"ONNX Runtime cannot load its CUDA provider and would run {name} on the CPU: {reason}.", remedy
    )


def cuda_creation_error(name: str, cause: str) -> EdgeconvError | None:
    """Explain a failure of the CUDA provider that has a remedy; None for any other."""
    if "graph capture feature" in cause:
        return InputError(f"{name} cannot be launched as a CUDA graph: {cause}", "Leave --cuda-graph out.")
    if re.search(r"driver version is insufficient|CUDA failure 35\b", cause):
        return MissingDependencyError(
            f"the NVIDIA driver is too old for the CUDA that ONNX Runtime is built with: {cause}",
            "Update the driver, or install an onnxruntime-gpu for the CUDA that nvidia-smi shows.",
        )
    if re.search(r"no CUDA-capable device|CUDA failure 100\b", cause):
        return MissingDependencyError(
            f"ONNX Runtime finds no GPU to run {name} on: {cause}", "Check nvidia-smi and CUDA_VISIBLE_DEVICES."
        )
    if re.search(r"no kernel image is available|CUDA failure 209\b", cause):
        return MissingDependencyError(
            f"ONNX Runtime has no code for this GPU: {cause}",
            "Install an onnxruntime-gpu that is built for its compute capability.",
        )
    return None
