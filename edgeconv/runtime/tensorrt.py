"""TensorRT: builds engines for the GPU of this machine, with edgeconv's plugins where they are installed.

The Python package `tensorrt` is imported when it is first used. On a Jetson it comes with JetPack, outside virtual
environments.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.ops.kervolution import PLUGIN_ATTRIBUTES
from edgeconv.ops.registry import OPERATORS
from edgeconv.runtime.engine_backend import EngineBackend, version_of
from edgeconv.runtime.engine_log import Log
from edgeconv.runtime.engine_session import EngineSession
from edgeconv.runtime.plugin_library import VARIABLE, plugin_library

LEAST_VERSION = (10, 3)
"""That of JetPack 6.1: the first with everything that the plugins use."""


class TensorRt(EngineBackend):
    """TensorRT. See `EngineBackend`.

    Args:
        log: Where its messages go.
        plugins: Load edgeconv's plugin library, if there is one.
        device: Number of the GPU.

    Raises:
        MissingDependencyError: The package is not installed or too old, TensorRT finds no GPU to load plugins for, or
            EDGECONV_TRT_PLUGINS names no file.
        InputError: TensorRT does not load the plugin library.
    """

    provider, title = "tensorrt", "TensorRT"

    def __init__(self, log: Log, *, plugins: bool = True, device: int = 0) -> None:
        super().__init__(require_tensorrt(), log, device)
        if plugins:
            self._load_plugins()

    def resolve_target(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """Return the GPU of this machine: TensorRT times its kernels on it."""
        if wanted:
            raise InputError(
                "TensorRT builds for the GPU that it runs on: --compute-capability is for --provider tensorrt-rtx.",
                "Build on the device itself, or leave --compute-capability out.",
            )
        return (f"{self.gpu.name} (compute capability {self.gpu.compute_capability})",)

    def configure(self, config: Any, target: Sequence[str]) -> None:
        """Nothing: the target is this machine's GPU."""

    def fits_here(self, target: Sequence[str]) -> bool:
        """Tell whether it was built on a GPU of this kind."""
        return tuple(target) == self.resolve_target(())

    def _load_plugins(self) -> None:
        try:
            path = plugin_library()
        except MissingDependencyError as error:
            if os.environ.get(VARIABLE):
                raise
            self.missing_plugins = str(error)
            return
        # The registry has the logger of what lives, and without one keeps its reasons to itself.
        _, registry = self.runtime, self.trt.get_plugin_registry()
        self.log.forget()
        handle = registry.load_library(path)
        cause = self.log.cause() or ("it holds none of edgeconv's plugins" if handle else "it does not say why")
        namespace, version = PLUGIN_ATTRIBUTES["plugin_namespace"], PLUGIN_ATTRIBUTES["plugin_version"]
        found = frozenset(name for name in OPERATORS if registry.get_creator(name, version, namespace) is not None)
        if not found:  # a library that the process has loaded already is refused too, but its plugins are there
            raise InputError(
                f"TensorRT {self.version} does not load the plugin library {path}: {cause.removesuffix('.')}.",
                f"Reinstall edgeconv on this machine, or unset {VARIABLE} if it names a library of another version or "
                "machine; --no-plugins builds from TensorRT's own layers.",
            )
        self.plugins, self.plugin_operators = Path(path), found


class TensorRtSession(EngineSession):
    """A TensorRT engine, loaded: `OrtSession`'s interface. See `EngineSession`."""

    provider = "tensorrt"


def require_tensorrt() -> Any:
    """Import TensorRT's Python package.

    Raises:
        MissingDependencyError: It is not installed, does not load, or is older than `LEAST_VERSION`.
    """
    remedy = (
        "On a Jetson it comes with JetPack (apt-get install python3-libnvinfer) for the system's Python: make the "
        "virtual environment with --system-site-packages. Elsewhere, on a machine with an NVIDIA GPU: "
        "pip install 'edgeconv[tensorrt]'. Engines for RTX GPUs also build without a GPU: --provider tensorrt-rtx."
    )
    try:
        import tensorrt
    except Exception as error:  # its own loader raises FileNotFoundError and RuntimeError where libraries are missing
        raise MissingDependencyError(f"TensorRT cannot be imported: {error}.", remedy) from error
    version = str(getattr(tensorrt, "__version__", "0"))
    if not hasattr(tensorrt, "Builder"):
        raise MissingDependencyError("the installed package tensorrt is an empty shell without TensorRT.", remedy)
    if version_of(version) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise MissingDependencyError(
            f"TensorRT {version} is too old: edgeconv needs {least} or later.", f"On a Jetson: JetPack 6.1. {remedy}"
        )
    return tensorrt
