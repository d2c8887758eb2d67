"""One door to every runtime: a model or an engine, loaded for any provider, behind one interface."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.runtime.engine_stamp import is_engine
from edgeconv.runtime.ort import OrtSession
from edgeconv.runtime.providers import PROVIDERS as ORT_PROVIDERS
from edgeconv.runtime.providers import report_missing, require_onnxruntime, require_provider

if TYPE_CHECKING:
    from edgeconv.runtime.engine_session import EngineSession
    from edgeconv.runtime.gpu import GpuInfo

    Session = OrtSession | EngineSession

ENGINE_PROVIDERS = ("tensorrt", "tensorrt-rtx")
"""Providers that run engines, built of the model on the way, outside ONNX Runtime."""

PROVIDERS = (*ORT_PROVIDERS, *ENGINE_PROVIDERS)

OPTION_PROVIDERS: dict[str, tuple[str, ...]] = {
    "threads": tuple(ORT_PROVIDERS),
    "device": PROVIDERS[1:],
    "tf32": PROVIDERS[1:],
    "cuda_graph": PROVIDERS[1:],
    "copies": PROVIDERS[1:],
    "allow_cpu_fallback": ("cuda",),
    "trust_engine": ENGINE_PROVIDERS,
}
"""Options that not every provider has, with those that have it."""


def check_options(provider: str, given: Mapping[str, Any], models: Sequence[str | os.PathLike[str]] = ()) -> None:
    """Refuse a provider that does not exist, options that it does not have, and engines where it runs none.

    Args:
        provider: One of `PROVIDERS`.
        given: Values of `OPTION_PROVIDERS` by name; those that are None, False or 0 are not given.
        models: The files to run.

    Raises:
        InputError: One of these.
    """
    if provider not in PROVIDERS:
        raise InputError(f"unknown provider {provider!r}.", f"Choose one of: {', '.join(PROVIDERS)}.")
    for name, providers in OPTION_PROVIDERS.items():
        if given.get(name) and provider not in providers:
            option = f"--{name.replace('_', '-')}"
            raise InputError(
                f"{option} is for provider {' or '.join(providers)}, and the provider is {provider}.",
                f"Add --provider {providers[0]}, or drop {option}.",
            )
    engines = [os.fspath(model) for model in models if is_engine(model)]
    if engines and provider not in ENGINE_PROVIDERS:
        raise InputError(
            f"{engines[0]} is an engine, which provider {provider} does not run.",
            f"Add --provider {' or --provider '.join(ENGINE_PROVIDERS)}, or give the .onnx file.",
        )
    if engines and given.get("tf32"):
        raise InputError(
            f"{engines[0]} is built: it uses TF32 or not, as it was told then.",
            "Give --tf32 to edgeconv build, or give the .onnx file here.",
        )


def require_runtime(provider: str, device: int = 0) -> None:
    """Check that the runtime of a provider, and the GPU, are there.

    Args:
        provider: One of `PROVIDERS`.
        device: Number of the GPU.

    Raises:
        InputError: There is no provider of that name, or no such GPU beside others.
        MissingDependencyError: All that is missing, and how to get it.
    """
    if provider not in ENGINE_PROVIDERS:
        return require_provider(provider, device)
    from edgeconv.runtime.gpu import select_gpu

    library, _ = _engine_library(provider)
    missing = []
    checks: tuple[Callable[[], object], ...] = (library, lambda: select_gpu(device))
    for check in checks:
        try:
            check()
        except MissingDependencyError as error:
            missing.append(error)
    return report_missing(missing)


def runtime_version(provider: str) -> str:
    """Return the name and version of the library that runs a provider's models, such as ``TensorRT 10.14.1``.

    Raises:
        MissingDependencyError: It is not installed.
    """
    if provider not in ENGINE_PROVIDERS:
        return f"ONNX Runtime {require_onnxruntime().__version__}"
    library, title = _engine_library(provider)
    return f"{title} {library().__version__}"


def open_session(
    model: str | os.PathLike[str],
    *,
    provider: str = "cpu",
    shapes: Mapping[str, Sequence[int]] | None = None,
    threads: int | None = None,
    op_library: bool | str | os.PathLike[str] = True,
    device: int = 0,
    tf32: bool = False,
    cuda_graph: bool = False,
    trust_engine: bool = False,
    profile: bool = False,
    options: Mapping[str, str] | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Session:
    """Load a model for a provider.

    Args:
        model: Path of an ``.onnx`` file; for the providers of engines also of an engine. Of a model they take the
            cached engine (`edgeconv.runtime.engine_cache`), which is built if need be.
        provider: One of `PROVIDERS`.
        shapes: Of a model's inputs by name, which an engine is built for.
        threads: See `OrtSession`.
        op_library: See `OrtSession`; for engines, whether edgeconv's plugins are used.
        device: Number of the GPU.
        tf32: Let products of float32 values drop to TF32; an engine has it built in.
        cuda_graph: Launch what `bind` returns as one CUDA graph.
        trust_engine: See `EngineSession`.
        profile: See `OrtSession`.
        options: See `OrtSession`.
        progress: Called with what happens while an engine is built, and the done share.

    Raises:
        InputError: The file cannot be used, or there is no provider of that name.
        MissingDependencyError: Something that the provider needs is not there.
    """
    if provider not in ENGINE_PROVIDERS:
        return OrtSession(
            model, provider=provider, threads=threads, op_library=op_library, profile=profile, options=options,
            device=device, tf32=tf32, cuda_graph=cuda_graph,
        )  # fmt: skip
    from edgeconv.runtime.engine_cache import cached_engine
    from edgeconv.runtime.tensorrt import TensorRtSession
    from edgeconv.runtime.tensorrt_rtx import TensorRtRtxSession

    plugins = bool(op_library)
    if not is_engine(model):
        model = cached_engine(
            model, provider=provider, shapes=shapes, device=device, plugins=plugins, tf32=tf32, progress=progress
        ).engine
    kind: type[EngineSession] = TensorRtSession if provider == "tensorrt" else TensorRtRtxSession
    return kind(model, trust_engine=trust_engine, plugins=plugins, device=device, cuda_graph=cuda_graph)


def find_gpu(provider: str, device: int) -> GpuInfo | None:
    """Return the GPU that a provider uses; None on the CPU."""
    if provider == "cpu":
        return None
    from edgeconv.runtime.gpu import select_gpu

    return select_gpu(device)


def _engine_library(provider: str) -> tuple[Callable[[], Any], str]:
    """Return what imports a provider's library, and the library's name."""
    if provider == "tensorrt":
        from edgeconv.runtime.tensorrt import TensorRt, require_tensorrt

        return require_tensorrt, TensorRt.title
    from edgeconv.runtime.tensorrt_rtx import TensorRtRtx, require_tensorrt_rtx

    return require_tensorrt_rtx, TensorRtRtx.title
