"""Engines that are built of ``.onnx`` files only to run or measure them, kept for the next time."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeconv.errors import InputError
from edgeconv.runtime.engine_build import StrPath, build_engine
from edgeconv.runtime.engine_report import EngineReport

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
    defaults = {name: each.default for name, each in inspect.signature(build_engine).parameters.items()}
    # Only what differs: naming a default must not make another engine.
    request = {k: str(v) for k, v in sorted(options.items()) if k not in telling and v != defaults.get(k)}
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
