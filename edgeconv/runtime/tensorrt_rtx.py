"""TensorRT-RTX: builds engines for RTX GPUs by compute capability, also on a machine without a GPU.

It has no plugin layers, so files are inlined for it. What it builds is compiled on the GPU when it is first loaded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.runtime.engine_backend import EngineBackend
from edgeconv.runtime.engine_log import Log
from edgeconv.runtime.engine_session import EngineSession

ARCHITECTURES = {
    "turing": ("7.5",),
    "ampere": ("8.0", "8.6"),
    "ada": ("8.9",),
    "blackwell": ("12.0", "12.1"),
}
"""GPU architectures by name, as far as TensorRT-RTX knows them."""

CURRENT = "current"
"""Stands for the compute capability of this machine's GPU."""


class TensorRtRtx(EngineBackend):
    """TensorRT-RTX. See `EngineBackend`.

    Args:
        log: Where its messages go.
        device: Number of the GPU, where there is one.

    Raises:
        MissingDependencyError: The package is not installed.
    """

    provider, title = "tensorrt-rtx", "TensorRT-RTX"

    def __init__(self, log: Log, *, device: int = 0) -> None:
        super().__init__(require_tensorrt_rtx(), log, device)

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """Compute capabilities that this version builds for, such as ``8.9``."""
        numbers = (re.fullmatch(r"SM(\d+)(\d)", name) for name in dir(self.trt.ComputeCapability))
        return tuple(
            sorted((f"{m[1]}.{m[2]}" for m in numbers if m), key=lambda text: tuple(map(int, text.split("."))))
        )

    def resolve_target(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """Return compute capabilities in rising order, each once; by default that of this machine's GPU."""
        known = self.compute_capabilities
        found: set[str] = set()
        for text in [part.strip() for given in wanted for part in given.split(",")] or [CURRENT]:
            found.update(self._named(text, known, asked=bool(wanted)))
        return tuple(text for text in known if text in found)

    def configure(self, config: Any, target: Sequence[str]) -> None:
        """Set the compute capabilities."""
        config.num_compute_capabilities = len(target)
        for index, text in enumerate(target):
            config.set_compute_capability(getattr(self.trt.ComputeCapability, f"SM{text.replace('.', '')}"), index)

    def fits_here(self, target: Sequence[str]) -> bool:
        """Tell whether this machine's GPU is among those it was built for."""
        return self.gpu.compute_capability in target

    def _named(self, text: str, known: Sequence[str], *, asked: bool) -> tuple[str, ...]:
        name = text.lower()
        if name == CURRENT:
            return self._current(known, asked=asked)
        if name in ARCHITECTURES:
            return tuple(each for each in ARCHITECTURES[name] if each in known)
        match = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", name)
        if match and (number := f"{match[1]}.{match[2]}") in known:
            return (number,)
        remedy = f"It knows {', '.join(known)}, the names {', '.join(ARCHITECTURES)}, and {CURRENT}."
        if match:
            remedy += " Engines for a Jetson are built on it: --provider tensorrt."
        raise InputError(f"TensorRT-RTX builds for no compute capability {text}.", remedy)

    def _current(self, known: Sequence[str], *, asked: bool) -> tuple[str, ...]:
        try:
            gpu = self.gpu
        except MissingDependencyError as error:
            if asked:
                raise
            raise MissingDependencyError(
                f"nothing says which GPU to build for: {error.message}",
                f"Name compute capabilities: --compute-capability 8.6,8.9,12.0 (known: {', '.join(known)}).",
            ) from error
        if gpu.compute_capability not in known:
            raise InputError(
                f"TensorRT-RTX does not run on this GPU, {gpu.name} (compute capability {gpu.compute_capability}).",
                f"It knows {', '.join(known)}. Use --provider tensorrt here.",
            )
        return (gpu.compute_capability,)


class TensorRtRtxSession(EngineSession):
    """A TensorRT-RTX engine, loaded: `OrtSession`'s interface. See `EngineSession`."""

    provider = "tensorrt-rtx"


def require_tensorrt_rtx() -> Any:
    """Import TensorRT-RTX's Python package: `tensorrt_rtx` of NVIDIA's SDK, or `tensorrt_rtx_bindings` of the wheels.

    Raises:
        MissingDependencyError: Neither is installed, or it does not load.
    """
    try:
        try:
            import tensorrt_rtx as found
        except ImportError:
            import tensorrt_rtx_bindings as found
    except Exception as error:
        raise MissingDependencyError(
            f"TensorRT-RTX cannot be imported: {error}.", "pip install 'edgeconv[tensorrt-rtx]'"
        ) from error
    return found
