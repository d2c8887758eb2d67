"""The stamp beside an engine: what it was built from, by what, for what. Without it an engine is not loaded.

An engine fits one version of TensorRT, one kind of GPU and one plugin library, and says so only by failing, or not at
all: the stamp says it beforehand, and which part does not fit. It also holds the engine's digest, so that a damaged or
exchanged file is noticed. It is no signature: whoever may write the engine may write the stamp.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeconv.bench.environment import edgeconv_version
from edgeconv.bench.model_file import file_sha256
from edgeconv.errors import InputError
from edgeconv.files import atomic_output, write_text
from edgeconv.runtime.engine_shapes import ShapeRange
from edgeconv.runtime.ort import TensorInfo

FORMAT = 1
SUFFIXES = (".engine", ".plan", ".trt")
"""Endings of engines' file names, as people use them."""

_TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


@dataclass(frozen=True)
class EngineKey:
    """Everything that an engine depends on; two engines with equal keys are interchangeable.

    Attributes:
        provider: ``tensorrt`` or ``tensorrt-rtx``.
        version: Version of that library.
        model_sha256: Digest of the ``.onnx`` file with its external weights.
        plugins_sha256: Digest of the plugin library, None if the engine uses none.
        target: What it is for: a GPU's name and compute capability, or (TensorRT-RTX) compute capabilities.
        flags: Options that change what is built, by name, as text; profiles are among them.
        preparation: `edgeconv.runtime.engine_model.PREPARATION`.
    """

    provider: str
    version: str
    model_sha256: str
    plugins_sha256: str | None
    target: tuple[str, ...]
    flags: dict[str, str] = field(default_factory=dict)
    preparation: int = 1

    def differences(self, wanted: EngineKey, model: str = "the model", built_from: str = "the model") -> list[str]:
        """Say in which parts an engine with this key is not what is wanted; nothing if it is.

        Args:
            wanted: The key of what is wanted.
            model: Name of the model that is wanted.
            built_from: Name of the model that the engine was built from.
        """
        return [*self._model_differences(wanted, model, built_from), *self.machine_differences(wanted)]

    def _model_differences(self, wanted: EngineKey, model: str, built_from: str) -> list[str]:
        """The part of `differences` that comes from the model and the options."""
        found = []
        if self.model_sha256 != wanted.model_sha256:
            changed = f"{model} has changed since" if model == built_from else f"built from {built_from}, not {model}"
            found.append(changed)
        if self.preparation != wanted.preparation:
            found.append("built by another version of edgeconv, which prepared the model differently")
        for name in dict.fromkeys([*self.flags, *wanted.flags]):
            old, new = self.flags.get(name, "not set"), wanted.flags.get(name, "not set")
            if old != new:
                found.append(f"built with {name} {old}, wanted is {new}")
        return found

    def machine_differences(self, wanted: EngineKey) -> list[str]:
        """The part of `differences` that comes from the libraries and the GPU."""
        title = _TITLES.get(self.provider, self.provider)
        if self.provider != wanted.provider:
            return [f"built with {title}, wanted is {_TITLES.get(wanted.provider, wanted.provider)}"]
        found = []
        if self.version != wanted.version:
            found.append(f"built with {title} {self.version}, this is {wanted.version}")
        if self.plugins_sha256 != wanted.plugins_sha256:
            found.append(_plugin_difference(self.plugins_sha256, wanted.plugins_sha256))
        if self.target != wanted.target:
            found.append(f"built for {', '.join(self.target)}, wanted is {', '.join(wanted.target)}")
        return found


def _plugin_difference(built: str | None, wanted: str | None) -> str:
    if built is None:
        return "built without edgeconv's plugins, which are here now"
    if wanted is None:
        return "built with edgeconv's plugins, which are not here"
    return f"built with another version of edgeconv's plugins ({built[:12]}, this is {wanted[:12]})"


@dataclass(frozen=True)
class EngineStamp:
    """What is known of an engine.

    Attributes:
        key: What it depends on.
        model: File name of the model.
        engine_sha256: Digest of the engine.
        engine_bytes: Its size.
        inputs: The model's inputs.
        outputs: The model's outputs.
        profile: The shapes that it takes, by input; empty if all are fixed.
        metadata: The model's metadata properties.
        built: When, in UTC.
        seconds: How long the build took.
        edgeconv: Version of edgeconv.
    """

    key: EngineKey
    model: str
    engine_sha256: str
    engine_bytes: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    profile: dict[str, ShapeRange]
    metadata: dict[str, str]
    seconds: float
    built: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    edgeconv: str = field(default_factory=edgeconv_version)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EngineStamp:
        """Read what `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: It did not write this.
        """
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']}, not {FORMAT}")
        values = {name: value for name, value in data.items() if name != "format"}
        key = values["key"]
        values["key"] = EngineKey(**{**key, "target": tuple(key["target"])})
        for end in ("inputs", "outputs"):
            values[end] = tuple(TensorInfo(t["name"], t["type"], tuple(t["shape"])) for t in values[end])
        values["profile"] = {
            name: ShapeRange(*(tuple(ends[end]) for end in ("min", "opt", "max")))
            for name, ends in values["profile"].items()
        }
        return cls(**values)


def is_engine(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is an engine, by its name."""
    return Path(path).suffix.lower() in SUFFIXES


def stamp_path(engine: str | os.PathLike[str]) -> Path:
    """Return where an engine's stamp is: ``net.engine.json`` for ``net.engine``."""
    return Path(f"{os.fspath(engine)}.json")


def read_stamp(engine: str | os.PathLike[str], *, trusted: bool = False) -> EngineStamp | None:
    """Read an engine's stamp and check that it is this engine's; None if there is none.

    Args:
        engine: The engine.
        trusted: Its user trusts it: a stamp that is damaged or another engine's is as good as none.

    Raises:
        InputError: The engine is missing, the stamp is damaged, or it is another engine's.
    """
    try:
        digest = file_sha256(engine)
    except FileNotFoundError as error:
        raise InputError(f"{engine} does not exist.", "edgeconv build writes engines.") from error
    except OSError as error:
        raise InputError(f"cannot read {engine}: {error.strerror or error}.") from error
    try:
        return _read_stamp_of(Path(engine), digest)
    except InputError:
        if trusted:
            return None
        raise


def _read_stamp_of(engine: Path, digest: str) -> EngineStamp | None:
    path = stamp_path(engine)
    remedy = "Build the engine again: edgeconv build MODEL.onnx."
    try:
        stamp = EngineStamp.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read the stamp {path}: {error.strerror or error}.") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not an engine's stamp, or is damaged ({error!r}).", remedy) from error
    if stamp.engine_sha256 != digest:
        raise InputError(f"{path} is the stamp of another engine than {engine.name}, or one is damaged.", remedy)
    return stamp


def write_engine(path: str | os.PathLike[str], content: bytes, stamp: EngineStamp) -> None:
    """Write an engine and its stamp, each whole or not at all; a stamp without its engine is noticed when it is read.

    Raises:
        InputError: They cannot be written; see `edgeconv.files.atomic_output`.
    """
    with atomic_output(path) as temporary:
        temporary.write_bytes(content)
        # If this fails, the old engine stays, with a stamp that is its own or says that it is not.
        write_text(stamp_path(path), json.dumps(stamp.to_dict(), indent=2) + "\n")
