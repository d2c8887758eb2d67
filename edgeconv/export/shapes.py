"""Which axes of an input are dynamic, and how users write that: `1x3x224x224`, `Nx3xH=64xW=64`, `left:Nx1x28x28`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from edgeconv.errors import InputError

_AXIS = re.compile(r"(?P<size>\d+)|(?P<name>[A-Za-z_]\w*)(=(?P<example>\d+))?")
_SYMBOL = re.compile(r"s\d+")  # as the tracer names a size
_FORM = "Write sizes with x between them, such as 1x3x224x224; a word is a dynamic axis (Nx3xH=64xW=64)."


@dataclass(frozen=True)
class Axis:
    """One axis: the size to trace with, and its name if it is dynamic."""

    size: int
    name: str | None = None


Shape = tuple[Axis, ...]


def parse_shapes(texts: Sequence[str], default: Sequence[int] | None = None) -> dict[str, Shape]:
    """Parse `--shapes` options.

    Args:
        texts: `[NAME:]AxBxC…`; an axis is a size, or a name for a dynamic axis with, after `=`, a size to trace with.
            The character x separates, so a name may not contain it.
        default: Sizes, batch first, that dynamic axes without a size of their own are traced with.

    Returns:
        Input name (empty if none is given) -> its axes.

    Raises:
        InputError: A shape is not of this form.
    """
    shapes: dict[str, Shape] = {}
    for text in texts:
        name, _, sizes = text.rpartition(":")
        axes = []
        for position, part in enumerate(sizes.split("x")):
            match = _AXIS.fullmatch(part)
            if match is None:
                raise InputError(f"{text!r} is not a shape: {part!r} is neither a size nor a name.", _FORM)
            if match["size"]:
                size, axis = int(match["size"]), None
            else:
                size, axis = int(match["example"] or _example(default, position)), match["name"]
            if size < 1:
                raise InputError(f"{text!r} is not a shape: every size must be at least 1.", _FORM)
            axes.append(Axis(size, axis))
        if name in shapes:
            raise InputError(f"--shapes gives input {name or '(the first)'} twice.", "Name each input once.")
        shapes[name] = tuple(axes)
    return shapes


def _example(default: Sequence[int] | None, position: int) -> int:
    if position == 0:
        return 2
    return default[position] if default is not None and position < len(default) else 64


def default_shape(input_shape: Sequence[int], *, batch: int, dynamic: bool) -> Shape:
    """Return (batch, C, H, W) with the batch dynamic or fixed.

    Args:
        input_shape: (C, H, W).
        batch: Size of a fixed batch axis.
        dynamic: Whether the batch is dynamic. It is then traced with at least 2: the tracer takes 1 for a constant.
    """
    first = Axis(max(batch, 2), "batch") if dynamic else Axis(batch)
    return (first, *(Axis(int(size)) for size in input_shape))


def sizes(shape: Shape) -> tuple[int, ...]:
    """Sizes to trace with."""
    return tuple(axis.size for axis in shape)


def parameter_names(module: nn.Module | ExportedProgram, count: int) -> list[str]:
    """Return the names of the first `count` inputs of `forward`.

    Raises:
        InputError: It takes fewer.
    """
    if isinstance(module, ExportedProgram):
        return [str(name) for name in module.graph_signature.user_inputs][:count]
    names: list[str] = []
    for name, parameter in inspect.signature(module.forward).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            names += [f"{name}_{i}" for i in range(count - len(names))]
        elif parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            names.append(name)
    if len(names) < count:
        raise InputError(f"the model's forward takes {len(names)} inputs, got {count}.")
    return names[:count]


def check_inputs(tensors: Mapping[str, Any]) -> None:
    """Refuse example inputs that are no tensors, or of a type that ONNX Runtime has no kernels for.

    Raises:
        InputError: With the input's name.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise InputError(
                f"the example input {name} is a {type(tensor).__name__}, not a tensor.", "Give torch.from_numpy(ARRAY)."
            )
        if tensor.dtype == torch.float64:
            raise InputError(f"the example input {name} is float64.", "Give float32 inputs: TENSOR.float().")


def check_names(option: str, names: Sequence[str] | None, count: int) -> None:
    """Refuse names that are not one for each of `count` inputs or outputs, or that are given twice.

    Raises:
        InputError: One of these.
    """
    if names is None:
        return
    if isinstance(names, str) or len(names) != count:
        given = 1 if isinstance(names, str) else len(names)
        raise InputError(f"{option} has {given} names for {count}.", "Give a list with one for each.")
    if len(set(names)) < len(names):
        raise InputError(f"{option} has a name twice: {', '.join(names)}.", "Give each a name of its own.")


DynamicAxes = dict[str, dict[int, str]]
"""Input name -> {axis: name} for the axes whose size is left open."""


def dynamic_axes(tensors: Mapping[str, Tensor], dynamic: bool | Mapping[str, Mapping[int, str]]) -> DynamicAxes:
    """Settle which axes are dynamic.

    Args:
        tensors: The example inputs, in order.
        dynamic: True: the first axis of every input that has as many samples as the first input, named "batch".
            False: none. Or the axes themselves.

    Raises:
        InputError: An input or axis does not exist.
    """
    if isinstance(dynamic, bool):
        first = next(iter(tensors.values()), None)
        if not dynamic or first is None or not first.dim():
            return {}
        return {
            name: {0: "batch"} for name, tensor in tensors.items() if tensor.dim() and tensor.shape[0] == first.shape[0]
        }
    unknown = sorted(dynamic.keys() - tensors.keys())
    if unknown:
        raise InputError(f"the model has no input {unknown[0]!r}.", f"Its inputs: {', '.join(tensors)}.")
    for name, axes in dynamic.items():
        for axis in axes:
            if not 0 <= axis < tensors[name].dim():
                raise InputError(f"input {name} has {tensors[name].dim()} axes, none numbered {axis}.")
    return {name: dict(axes) for name, axes in dynamic.items() if axes}


def tracing_inputs(tensors: Mapping[str, Tensor], axes: DynamicAxes) -> dict[str, Tensor]:
    """Return the inputs with every dynamic axis of size 1 doubled: the tracer takes a size of 1 for a constant."""
    widened = {}
    for name, tensor in tensors.items():
        for axis in axes.get(name, {}):
            if tensor.shape[axis] == 1:
                tensor = torch.cat([tensor, tensor], axis)
        widened[name] = tensor
    return widened


def tracing_shapes(tensors: Mapping[str, Tensor], axes: DynamicAxes) -> dict[str, Any]:
    """Return `dynamic_shapes` as `torch.export.export` takes them, by parameter name."""
    return {name: {axis: torch.export.Dim.AUTO for axis in axes.get(name, {})} for name in tensors}


def name_axes(model: onnx.ModelProto, axes: DynamicAxes) -> None:
    """Give the dynamic axes the names that were asked for instead of the tracer's symbols.

    An ExportedProgram has its own dynamic axes, and torch forgets what its author called them: the first axis of the
    first input then is "batch".

    Args:
        model: Its inputs stand in the order of the parameters that `axes` names, under those names or others.
        axes: What was asked for.

    Raises:
        InputError: The model fixes an axis that was to be dynamic.
    """
    names: dict[str, str] = {}
    if not axes and model.graph.input:
        dims = model.graph.input[0].type.tensor_type.shape.dim
        if dims and _SYMBOL.fullmatch(dims[0].dim_param):
            names[dims[0].dim_param] = "batch"
    for name, chosen in axes.items():
        value = next(value for value in model.graph.input if value.name == name)
        for axis, label in chosen.items():
            dim = value.type.tensor_type.shape.dim[axis]
            if not dim.dim_param:
                raise InputError(
                    f"axis {axis} ({label}) of input {name} was asked to be dynamic, but the model fixes it to "
                    f"{dim.dim_value}.",
                    "Export with --static, or name only the axes that may change in --shapes.",
                )
            names.setdefault(dim.dim_param, label)
    if not names:
        return
    symbols = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = symbols.sub(lambda match: names[match.group()], dim.dim_param)


def rename_inputs(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Rename graph inputs; the nodes that read them, in subgraphs too, follow."""
    changed = {old: new for old, new in names.items() if old != new}

    def follow(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            for i, name in enumerate(node.input):
                node.input[i] = changed.get(name, name)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    follow(attribute.g)

    if changed:
        for value in model.graph.input:
            value.name = changed.get(value.name, value.name)
        follow(model.graph)
