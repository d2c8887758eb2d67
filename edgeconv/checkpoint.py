"""Checkpoints: a `.pt` file in, a model with what must travel with it out. Safe by default.

The format is a plain dictionary written by `torch.save`, read back with `weights_only=True`:

    format          "edgeconv.checkpoint"
    format_version  1
    architecture    name in the model registry (`edgeconv models`)
    config          keyword arguments of the architecture, JSON-able
    state_dict      parameters and buffers
    input_shape     (C, H, W) of one input
    normalization   {"mean": [...], "std": [...]} that inputs in [0, 1] went through, or None
    class_names     list of str, or None
    training        how it came about: command, seed, curves; or None
    samples         {"images": (N, C, H, W) uint8, "labels": (N) int64}, real inputs to check exports on; or None

Also taken: a bare state dict, `.pth` or `.safetensors` (with `architecture`), an `ExportedProgram` (`.pt2`), and, only
with `trust_pickle`, a pickled module. Needs the `export` extra (torch).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.modules.batchnorm import _BatchNorm

from edgeconv.errors import CheckpointError
from edgeconv.files import atomic_output
from edgeconv.pt2 import load_exported_program

FORMAT = "edgeconv.checkpoint"
FORMAT_VERSION = 1

StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model and its metadata.

    Attributes:
        module: The model in evaluation mode.
        program: The `ExportedProgram` the module came from, if the file was a `.pt2`.
        architecture: Registry name, or what the file is ("exported program", the class of a pickled module).
        config: Keyword arguments of the architecture.
        input_shape: (C, H, W) of one input, if the file says.
        normalization: Mean and standard deviation per channel, if the file says.
        class_names: Names of the classes, if the file says.
        training: The training record, if the file has one.
        samples: Real inputs, as uint8 "images" (N, C, H, W) and int64 "labels" (N), if the file has some.
        source_sha256: Hash of the file.
    """

    module: nn.Module
    architecture: str
    source_sha256: str
    program: ExportedProgram | None = None
    config: dict[str, Any] = field(default_factory=dict)
    input_shape: tuple[int, ...] | None = None
    normalization: dict[str, list[float]] | None = None
    class_names: list[str] | None = None
    training: dict[str, Any] | None = None
    samples: dict[str, Tensor] | None = None


def save_checkpoint(
    path: StrPath,
    model: nn.Module,
    *,
    architecture: str,
    config: Mapping[str, Any],
    input_shape: Sequence[int],
    normalization: Mapping[str, Sequence[float]] | None = None,
    class_names: Sequence[str] | None = None,
    training: Mapping[str, Any] | None = None,
    samples: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint that `load_checkpoint` and `edgeconv export` take without further options.

    Args:
        path: The `.pt` file; written whole or not at all.
        model: Its state dict is saved.
        architecture: Name in the model registry.
        config: Keyword arguments that build the architecture; JSON-able.
        input_shape: (C, H, W) of one input.
        normalization: {"mean": per channel, "std": per channel} for inputs in [0, 1].
        class_names: One name per output class.
        training: Anything JSON-able worth keeping about how the weights came about.
        samples: A few real inputs, so that every export can be checked on them: "images", (N, C, H, W) in uint8, and
            "labels", (N).

    Raises:
        InputError: The file cannot be written.
        ValueError: config or training is not JSON-able, or samples are not of this form.
    """
    if samples is not None:
        _check_samples(samples, input_shape)
    for name, value in (("config", config), ("training", training)):
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be JSON-able: {error}") from error
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "architecture": architecture,
        "config": dict(config),
        "state_dict": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        "input_shape": [int(size) for size in input_shape],
        "normalization": {key: [float(v) for v in values] for key, values in normalization.items()}
        if normalization
        else None,
        "class_names": list(class_names) if class_names else None,
        "training": dict(training) if training else None,
        "samples": {name: tensor.detach().cpu().clone() for name, tensor in samples.items()} if samples else None,
    }
    # Into memory first: torch's own file writer turns a full disk into a RuntimeError without a cause.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_output(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _check_samples(samples: Mapping[str, Tensor], input_shape: Sequence[int]) -> None:
    images, labels = samples.get("images"), samples.get("labels")
    if (
        images is None
        or labels is None
        or images.dtype != torch.uint8
        or tuple(images.shape[1:]) != tuple(input_shape)
        or tuple(labels.shape) != (len(images),)
    ):
        raise ValueError(f"samples must be uint8 images (N, {', '.join(map(str, input_shape))}) and N labels")


def load_checkpoint(
    path: StrPath,
    *,
    architecture: str | None = None,
    config: Mapping[str, Any] | None = None,
    trust_pickle: bool = False,
) -> Checkpoint:
    """Load a model from a checkpoint, a bare state dict, an `ExportedProgram` or (only if trusted) a pickled module.

    Nothing in the file is executed unless `trust_pickle` is set.

    Args:
        path: A `.pt`, `.pth`, `.safetensors` or `.pt2` file.
        architecture: Registry name for a bare state dict.
        config: Keyword arguments of the architecture for a bare state dict. A checkpoint has its own; it must agree.
        trust_pickle: Unpickle whole modules. Only for files whose author you trust: unpickling runs their code.

    Returns:
        The model in evaluation mode and its metadata.

    Raises:
        CheckpointError: The file is missing, damaged, foreign, unsafe, or does not fit the architecture.
    """
    source = Path(path)
    content, sha256 = _read(source, trust_pickle)
    if isinstance(content, ExportedProgram | nn.Module) and (architecture is not None or config):
        raise CheckpointError(f"{source} is a whole model, not a state dict.", "Leave out --arch and --config.")
    if isinstance(content, ExportedProgram):
        return Checkpoint(content.module(), "exported program", sha256, program=content)
    if isinstance(content, nn.Module):
        return Checkpoint(content.eval(), type(content).__name__, sha256)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{source} holds a {type(content).__name__}, not a model.",
            "Save it with edgeconv.save_checkpoint, or save model.state_dict() and pass --arch.",
        )
    if content.get("format") == FORMAT:
        return _from_checkpoint(source, content, sha256, architecture, config)
    return _from_state_dict(source, content, sha256, architecture, config)


def _read(source: Path, trust_pickle: bool) -> tuple[object, str]:
    try:
        data = source.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"cannot read {source}: {error.strerror}.", "Check the path; `edgeconv train` makes a checkpoint."
        ) from error
    if not data:
        raise CheckpointError(f"{source} is empty.", "Copy or save the checkpoint again.")
    sha256 = hashlib.sha256(data).hexdigest()
    if source.suffix.lower() == ".safetensors":
        try:
            return safetensors.torch.load(data), sha256
        except safetensors.SafetensorError as error:
            raise CheckpointError(f"{source} is damaged: {_first_line(error)}", _DAMAGED_REMEDY) from error
    if data[:2] == b"PK":
        names = _archive_names(source)
        if any(name.endswith("/archive_format") or name == "archive_format" for name in names):
            return load_exported_program(source, trust_pickle=trust_pickle), sha256
        if any(name.endswith("constants.pkl") for name in names):
            raise CheckpointError(
                f"{source} is a TorchScript archive, which this version does not take.",
                "Save the original module's state_dict() and pass --arch, or torch.export it to a .pt2.",
            )
        if not any(name.endswith("data.pkl") for name in names):
            raise CheckpointError(f"{source} is a zip file, but not one that PyTorch wrote.", _FOREIGN_REMEDY)
    elif data[:1] != b"\x80":
        raise CheckpointError(f"{source} is not a PyTorch file.", _FOREIGN_REMEDY)
    try:
        return torch.load(source, map_location="cpu", weights_only=not trust_pickle), sha256
    except pickle.UnpicklingError as error:
        if trust_pickle:
            raise CheckpointError(f"{source} is damaged: {_first_line(error)}", _DAMAGED_REMEDY) from error
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"pickled Python objects ({named[1]})" if named else "pickled Python objects, or is damaged"
        raise CheckpointError(
            f"{source} holds {what}; loading them would run code from the file.",
            "Save model.state_dict() instead and pass --arch, or, only if you trust its author, add --trust-pickle.",
        ) from error
    except Exception as error:  # torch.load raises whatever its readers meet in a damaged file
        if trust_pickle and isinstance(error, AttributeError | ModuleNotFoundError):
            raise CheckpointError(
                f"{source} needs a class that is not importable here: {_first_line(error)}",
                "Install or import the code that defines the model, or save model.state_dict() and pass --arch.",
            ) from error
        raise CheckpointError(f"{source} is damaged: {_first_line(error)}", _DAMAGED_REMEDY) from error


_FOREIGN_REMEDY = (
    "Pass a .pt or .pth checkpoint, a .safetensors file or a .pt2 ExportedProgram; an .onnx file is already exported."
)
_DAMAGED_REMEDY = "Copy or download it again and compare the file sizes."


def _archive_names(source: Path) -> list[str]:
    try:
        with zipfile.ZipFile(source) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise CheckpointError(f"{source} is damaged: {damaged} fails its checksum.", _DAMAGED_REMEDY)
            return archive.namelist()
    except CheckpointError:
        raise
    except Exception as error:  # zipfile raises more than BadZipFile: on flags, names and sizes that it cannot take
        raise CheckpointError(f"{source} is truncated or damaged: {_first_line(error)}", _DAMAGED_REMEDY) from error


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_list(value: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, kind) for item in value)


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "architecture": lambda v: isinstance(v, str),
    "config": lambda v: isinstance(v, dict) and all(isinstance(key, str) for key in v) and _is_json(v),
    "state_dict": _is_state,
    "input_shape": lambda v: _is_list(v, int) and len(v) > 0 and min(v) > 0,
    "normalization": lambda v: (
        v is None or (isinstance(v, dict) and all(_is_list(v.get(k), (int, float)) for k in ("mean", "std")))
    ),
    "class_names": lambda v: v is None or _is_list(v, str),
    "training": lambda v: v is None or (isinstance(v, dict) and _is_json(v)),
    "samples": lambda v: v is None or (_is_state(v) and v.keys() >= {"images", "labels"}),
}
"""What a file's fields must be; a stranger's file is not to fail somewhere downstream."""


def _from_checkpoint(
    source: Path, content: dict[str, Any], sha256: str, architecture: str | None, config: Mapping[str, Any] | None
) -> Checkpoint:
    if content.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{source} has checkpoint format {content.get('format_version')}; this edgeconv reads {FORMAT_VERSION}.",
            "Install the edgeconv version that wrote it, or a newer one.",
        )
    unusable = [key for key, usable in _FIELDS.items() if not usable(content.get(key))]
    if unusable:
        raise CheckpointError(
            f"{source} is an edgeconv checkpoint without a usable {', '.join(unusable)}.",
            "Write it again with edgeconv.save_checkpoint.",
        )
    name, stored = content["architecture"], content["config"]
    if architecture is not None and architecture != name:
        raise CheckpointError(f"{source} holds a {name}, not a {architecture}.", f"Drop --arch, or pass --arch {name}.")
    different = [key for key, value in (config or {}).items() if key not in stored or stored[key] != value]
    if different:
        raise CheckpointError(
            f"{source} was saved with its own configuration, in which {different[0]} is "
            f"{json.dumps(stored[different[0]]) if different[0] in stored else 'left at its default'}.",
            "Drop --config: it is for bare state dicts.",
        )
    module = _build(source, name, stored, content["state_dict"])
    return Checkpoint(
        module,
        name,
        sha256,
        config=stored,
        input_shape=tuple(int(size) for size in content["input_shape"]),
        normalization=content.get("normalization"),
        class_names=content.get("class_names"),
        training=content.get("training"),
        samples=content.get("samples"),
    )


def _from_state_dict(
    source: Path, content: dict[str, Any], sha256: str, architecture: str | None, config: Mapping[str, Any] | None
) -> Checkpoint:
    state = _bare_state(source, content)
    if architecture is None:
        raise CheckpointError(
            f"{source} is a bare state dict, which does not say its architecture.",
            "Add --arch NAME (and --config KEY=VALUE where it needs one); `edgeconv models` lists the names.",
        )
    from edgeconv.models.registry import model_info

    settings = dict(config or {})
    module = _build(source, architecture, settings, state)
    shape = model_info(architecture).input_shape
    channels = int(settings.get("in_channels", shape[0]))
    return Checkpoint(module, architecture, sha256, config=settings, input_shape=(channels, *shape[1:]))


_STATE_KEYS = ("state_dict", "model_state_dict", "model", "net")
"""Under which training scripts save the weights beside the optimizer's state and the like; earlier ones first."""

_WRAPPERS = ("module.", "_orig_mod.")
"""What `DataParallel` and `torch.compile` put before every name."""


def _bare_state(source: Path, content: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return the state dict that a file is, or holds, by the names of the model alone."""
    if content and _is_state(content):
        state: Mapping[str, Tensor] = content
    else:
        held = {key: value for key, value in content.items() if _is_state(value) and len(value)}
        known = [key for key in _STATE_KEYS if key in held] or list(held)
        if not held:
            raise CheckpointError(
                f"{source} is neither an edgeconv checkpoint nor a state dict.",
                "Save it with edgeconv.save_checkpoint, or save model.state_dict() and pass --arch.",
            )
        if known[0] not in _STATE_KEYS and len(held) > 1:
            raise CheckpointError(
                f"{source} holds several state dicts: {', '.join(map(str, held))}.",
                "Save the one that is meant in a file of its own.",
            )
        state = held[known[0]]
    while prefix := next((each for each in _WRAPPERS if all(key.startswith(each) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _build(source: Path, architecture: str, config: dict[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    from edgeconv.models.registry import create, match_state

    module = create(architecture, **config)
    expected = module.state_dict()
    names = None
    if expected.keys() != state.keys():
        matched = match_state(architecture, module, state)
        # Files of before PyTorch 0.4.1 lack batch normalisation's counters, which inference does without.
        counters = (
            f"{name}.num_batches_tracked" for name, part in module.named_modules() if isinstance(part, _BatchNorm)
        )
        state = {**{name: expected[name] for name in counters if name in expected}, **matched.state}
        names = matched.source
    missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    misfits = [
        f"{key} is {found}, expected {wanted}"
        for key in expected.keys() & state.keys()
        for found, wanted in _misfit(state[key], expected[key])
    ]
    if missing or unexpected or misfits:
        details = [_some("missing: ", missing), _some("not in the model: ", unexpected), _some("", sorted(misfits))]
        raise CheckpointError(
            f"{source} does not fit {architecture}{f', read by the names of {names}' if names else ''}: "
            f"{'; '.join(detail for detail in details if detail)}.",
            "Check --arch and --config against how the weights were trained; `edgeconv models` lists both.",
        )
    module.load_state_dict(dict(state))
    return module.eval()


def _misfit(found: Tensor, expected: Tensor) -> Iterator[tuple[str, str]]:
    """Yield what a tensor of a file is, and what it should be, where it cannot be loaded as it is."""
    if found.shape != expected.shape:
        yield str(tuple(found.shape)), str(tuple(expected.shape))
    elif found.is_meta or found.layout != torch.strided or found.is_quantized:
        kind = "without values" if found.is_meta else "quantised" if found.is_quantized else "sparse"
        yield kind, "plain values"
    elif expected.is_floating_point() and not found.is_floating_point():
        yield str(found.dtype).removeprefix("torch."), str(expected.dtype).removeprefix("torch.")


def _some(prefix: str, names: list[str], most: int = 4) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{prefix}{', '.join(names[:most])}{rest}" if names else ""


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
