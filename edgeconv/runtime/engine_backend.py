"""What TensorRT and TensorRT-RTX have in common, and where they differ: the interface of the two."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from edgeconv.bench.model_file import file_sha256
from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.runtime.engine_log import Log, make_logger, tidy
from edgeconv.runtime.engine_stamp import EngineKey
from edgeconv.runtime.gpu import GpuInfo, select_gpu

PROVIDERS = ("tensorrt", "tensorrt-rtx")


class EngineBackend(abc.ABC):
    """A library of TensorRT's kind, loaded.

    Args:
        trt: The Python module.
        log: Where its messages go.
        device: Number of the GPU that it uses, if it uses one.

    Attributes:
        trt: The Python module.
        log: Where its messages go.
        device: Number of the GPU.
        logger: The same, as the library takes it.
        version: Version of the library.
        plugins: Path of the loaded plugin library, or None.
        plugin_operators: edgeconv's operators that it has a plugin for.
        missing_plugins: Why no plugin library was loaded although there could be one; otherwise empty.
    """

    provider: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, trt: Any, log: Log, device: int = 0) -> None:
        self.trt, self.log, self.device = trt, log, device
        self.logger = make_logger(trt, log)
        self.version = str(trt.__version__)
        self.plugins: Path | None = None
        self.plugin_operators: frozenset[str] = frozenset()
        self.missing_plugins = ""

    @cached_property
    def gpu(self) -> GpuInfo:
        """The GPU, which is the calling thread's own from then on.

        Raises:
            InputError: There is none of this number.
            MissingDependencyError: There is none at all.
        """
        return select_gpu(self.device)

    def make(self, kind: str) -> Any:
        """Make a ``Builder`` or a ``Runtime``, which TensorRT can only where there is a GPU.

        Raises:
            MissingDependencyError: It finds none.
        """
        self.log.forget()
        reason: Exception | None = None
        cause = ""
        try:
            made = getattr(self.trt, kind)(self.logger)
        except Exception as error:  # TypeError: the bindings' way to say that the library returned nothing
            cause, reason = tidy(str(error)), error
        else:
            if made is not None:
                return made
        raise MissingDependencyError(
            f"{self.title} cannot make a {kind.lower()}: {self.log.cause() or cause or 'it does not say why'}.",
            "It needs an NVIDIA GPU and a driver that is new enough for it (nvidia-smi must work).",
        ) from reason

    @cached_property
    def runtime(self) -> Any:
        """What loads engines. While it lives, the plugin registry has a logger."""
        return self.make("Runtime")

    @property
    def plugins_sha256(self) -> str | None:
        """Digest of the loaded plugin library."""
        return None if self.plugins is None else file_sha256(self.plugins)

    @abc.abstractmethod
    def resolve_target(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """Settle what to build for: what the user names, or this machine's GPU.

        Raises:
            InputError: The library cannot build for it.
            MissingDependencyError: It would have to be this machine's GPU, and there is none.
        """

    @abc.abstractmethod
    def configure(self, config: Any, target: Sequence[str]) -> None:
        """Set the target in a builder's configuration."""

    @abc.abstractmethod
    def fits_here(self, target: Sequence[str]) -> bool:
        """Tell whether an engine for this target runs on this machine's GPU.

        Raises:
            MissingDependencyError: There is no GPU.
        """

    def machine(self, key: EngineKey) -> EngineKey:
        """Return what an engine's key would be, were it built for this machine: model and flags as they are."""
        uses_plugins = key.plugins_sha256 is not None
        return EngineKey(
            provider=self.provider,
            version=self.version,
            model_sha256=key.model_sha256,
            # An engine of standard layers does not care about a library that is here.
            plugins_sha256=self.plugins_sha256 if uses_plugins else None,
            target=key.target if self.fits_here(key.target) else self.resolve_target(()),
            flags=key.flags,
            preparation=key.preparation,
        )


def version_of(text: str) -> tuple[int, ...]:
    """Return the first two numbers of a version."""
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def load_backend(
    provider: str,
    *,
    plugins: bool = True,
    device: int = 0,
    tell: Callable[[str], None] | None = None,
    verbose: bool = False,
) -> EngineBackend:
    """Load TensorRT or TensorRT-RTX.

    Args:
        provider: One of `PROVIDERS`.
        plugins: Load edgeconv's plugin library too, if there is one.
        device: Number of the GPU.
        tell: Is called with the library's warnings and errors, line by line.
        verbose: Pass on everything that the library says.

    Raises:
        InputError: There is no such provider.
        MissingDependencyError: The library is not installed or too old, or EDGECONV_TRT_PLUGINS names no file.
    """
    log = Log(tell, 3 if verbose else 1)
    if provider == "tensorrt":
        from edgeconv.runtime.tensorrt import TensorRt

        return TensorRt(log, plugins=plugins, device=device)
    if provider == "tensorrt-rtx":
        from edgeconv.runtime.tensorrt_rtx import TensorRtRtx

        return TensorRtRtx(log, device=device)
    raise InputError(
        f"there is no provider {provider!r} that builds engines.", f"Choose one of: {', '.join(PROVIDERS)}."
    )
