"""Engines that are built of ``.onnx`` files only to run or measure them, kept for the next time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeconv.errors import InputError
from edgeconv.runtime.engine_build import StrPath, build_engine
from edgeconv.runtime.engine_report import EngineReport
from edgeconv.runtime.engine_session import EngineSession

VARIABLE = "EDGECONV_ENGINE_CACHE"


def cache_directory() -> Path:
    """Return where engines are kept: EDGECONV_ENGINE_CACHE, or ``edgeconv/engines`` in the user's cache directory."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "edgeconv" / "engines"


def cached_engine(
    model: StrPath,
    *,
    provider: str,
    shapes: Mapping[str, Sequence[int]] | None = None,
    device: int = 0,
    **options: Any,
) -> EngineReport:
    """Return an engine of a model for this machine, built if there is none that fits.

    One file is kept for each model, by its path, and set of options. Its stamp tells whether it still fits: another
    model, TensorRT, GPU or plugin library makes it stale, and it is built again.

    Args:
        model: The ``.onnx`` file.
        provider: ``tensorrt`` or ``tensorrt-rtx``.
        shapes: The shapes that it is to run with.
        device: Number of the GPU.
        **options: As for `build_engine`.

    Raises:
        InputError: As for `build_engine`; or the cache cannot be written.
        MissingDependencyError: As for `build_engine`.
    """
    telling = ("progress", "tell", "verbose", "force", "rebuild")
    request = {name: str(value) for name, value in sorted(options.items()) if name not in telling}
    sizes = {name: list(shape) for name, shape in sorted((shapes or {}).items())}
    asked = json.dumps([str(Path(model).resolve()), provider, sizes, device, request])
    directory = cache_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the directory {directory} for engines: {error.strerror or error}.", f"Set {VARIABLE}."
        ) from error
    name = f"{Path(model).stem[:80]}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.engine"
    return build_engine(model, directory / name, provider=provider, shapes=shapes, device=device, **options)


def open_session(
    path: StrPath,
    *,
    provider: str,
    shapes: Mapping[str, Sequence[int]] | None = None,
    trust_engine: bool = False,
    device: int = 0,
    cuda_graph: bool = False,
    **options: Any,
) -> EngineSession:
    """Load an engine, or the cached engine of an ``.onnx`` file, which is built if need be.

    Args:
        path: An engine (``.engine``, ``.plan``, ``.trt``), or a model.
        provider: ``tensorrt`` or ``tensorrt-rtx``.
        shapes: For a model: the shapes that it is to run with.
        trust_engine: See `EngineSession`.
        device: Number of the GPU.
        cuda_graph: See `EngineSession`.
        **options: For a model: as for `build_engine`.

    Raises:
        InputError, MissingDependencyError: As for `build_engine` and `EngineSession`.
    """
    from edgeconv.runtime.tensorrt import TensorRtSession
    from edgeconv.runtime.tensorrt_rtx import TensorRtRtxSession

    kinds: dict[str, type[EngineSession]] = {"tensorrt": TensorRtSession, "tensorrt-rtx": TensorRtRtxSession}
    if provider not in kinds:
        raise InputError(f"there is no provider {provider!r} that runs engines.", f"Choose: {', '.join(kinds)}.")
    plugins = bool(options.get("plugins", True))
    if Path(path).suffix.lower() == ".onnx":
        path = cached_engine(path, provider=provider, shapes=shapes, device=device, **options).engine
    return kinds[provider](path, trust_engine=trust_engine, plugins=plugins, device=device, cuda_graph=cuda_graph)
