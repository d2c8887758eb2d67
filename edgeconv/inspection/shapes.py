"""Gives the dynamic dimensions a size and infers the type and shape of every value."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import shape_inference

from edgeconv.errors import InputError
from edgeconv.inspection.folding import fold_sizes
from edgeconv.inspection.nodes import dtype_name, standard_opset, subgraphs
from edgeconv.ops.schema import register_schemas

INPUT_SHAPE_KEY = "edgeconv.input_shape"
"""Metadata in which the export writes the shape of the first input, batch first, as a JSON list."""

_ROUNDS = 64  # bounds the work on a file in which sizes hang on sizes without end

_CONTAINERS = ("sequence", "optional", "map")

Dimension = int | str | None
"""A size, a symbol, or None where the file says nothing."""


@dataclass(frozen=True)
class Value:
    """Type and shape of a tensor; `shape` is None where even the rank is unknown."""

    dtype: str
    shape: tuple[Dimension, ...] | None

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """The shape if every dimension is a number, else None."""
        sizes = tuple(d for d in self.shape or () if isinstance(d, int))
        return sizes if self.shape is not None and len(sizes) == len(self.shape) else None


def value_of(info: onnx.ValueInfoProto) -> Value:
    """Read a value's declared type and shape."""
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        return Value((kind or "unknown").removesuffix("_type"), None)
    tensor = info.type.tensor_type
    dims = (d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim)
    return Value(dtype_name(tensor.elem_type), tuple(dims) if tensor.HasField("shape") else None)


def model_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that a caller feeds: those that are not also initialisers."""
    stored = {tensor.name for tensor in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    return [info for info in graph.input if info.name not in stored]


def fix_dimensions(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None) -> list[str]:
    """Replace the model's dynamic dimensions by sizes, in place and everywhere a symbol occurs.

    A shape in `shapes` is taken as it is. Otherwise a dynamic first dimension is a batch of 1, and the others come
    from the metadata `edgeconv.input_shape` (a list, for the first input).

    Args:
        model: The model.
        shapes: Shapes by input name; the empty name means the only input.

    Returns:
        What was assumed and what stays unknown, as sentences.

    Raises:
        InputError: `shapes` names no input, or does not fit what the model declares.
    """
    inputs = model_inputs(model.graph)
    given = _by_name(inputs, shapes or {})
    exported = _exported_shape(model)
    symbols: dict[str, int] = {}
    notes: list[str] = []
    # What the caller says holds for every use of a symbol, so it comes before what is assumed.
    for info in sorted(inputs, key=lambda info: info.name not in given):
        value = value_of(info)
        sizes: Sequence[Dimension]
        if info.name in given:
            sizes = _check_given(info.name, value, given[info.name])
        elif value.shape is None:
            continue
        else:
            sizes = [symbols.get(d, d) if isinstance(d, str) else d for d in value.shape]
            known = exported if info is inputs[0] and exported and len(exported) == len(sizes) else None
            if sizes and not isinstance(sizes[0], int):
                notes.append(f"the batch of input {info.name} is dynamic; shapes and MACs are for batch 1.")
                sizes[0] = 1
            if known:
                sizes = [d if isinstance(d, int) else known[axis] for axis, d in enumerate(sizes)]
        for declared, size in zip(value.shape or (), sizes, strict=False):
            if isinstance(declared, str) and isinstance(size, int) and symbols.setdefault(declared, size) != size:
                raise InputError(
                    f"the dimension {declared!r} would be {symbols[declared]} in one place and {size} in input "
                    f"{info.name}.",
                    "Give every input that has it the same size: --shapes NAME:1x3x224x224",
                )
        _write(info, sizes)
    for info in [*model.graph.input, *_annotations(model.graph)]:
        declared_shape = value_of(info).shape
        if declared_shape is not None:
            _write(info, [symbols.get(d, d) if isinstance(d, str) else d for d in declared_shape])
    for info in inputs:
        sizes_known = value_of(info).sizes
        if sizes_known is None and value_of(info).dtype not in _CONTAINERS:
            notes.append(
                f"input {info.name} leaves a size open, so shapes that follow from it and their MACs are unknown; "
                f"give it with --shapes {info.name}:1x3x224x224."
            )
    return notes


def infer_values(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Infer types and shapes with edgeconv's schemas, and say why where it fails.

    Returns:
        A copy of the model with `value_info` filled as far as inference came, and notes on what stopped it.
    """
    register_schemas()
    inferred, notes = _infer(model)
    opset = standard_opset(model)
    # Each round makes sizes known that were computed from shapes of the round before.
    for _ in range(_ROUNDS if opset else 0):
        shapes = {name: value.shape for name, value in known_values(inferred.graph).items()}
        if not fold_sizes(inferred.graph, shapes, opset):
            break
        inferred = _infer(inferred)[0]
    for node, original in zip(inferred.graph.node, model.graph.node, strict=True):
        if node.op_type != original.op_type:
            node.CopyFrom(original)
    return inferred, notes


def _infer(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    notes: list[str] = []
    for strict in (True, False):
        try:
            return shape_inference.infer_shapes(model, strict_mode=strict, data_prop=True), notes
        except Exception as error:  # a defect in the file reaches Python as one of many types; all mean the same here
            problem = " ".join(str(error).split())
            if not notes:
                notes.append(f"shape inference met a defect in the file: {problem[:400]}")
    untouched = onnx.ModelProto()
    untouched.CopyFrom(model)
    return untouched, notes


def known_values(graph: onnx.GraphProto, outer: Mapping[str, Value] | None = None) -> dict[str, Value]:
    """Collect the type and shape of every value in a graph, after those visible from outside it."""
    values = dict(outer or {})
    for info in (*graph.input, *graph.output, *graph.value_info):
        value = value_of(info)
        if value.shape is not None and any(_is_placeholder(d) for d in value.shape):
            value = Value(value.dtype, tuple(None if _is_placeholder(d) else d for d in value.shape))
        values[info.name] = value
    for tensor in graph.initializer:
        values[tensor.name] = Value(dtype_name(tensor.data_type), tuple(tensor.dims))
    for sparse in graph.sparse_initializer:
        values[sparse.values.name] = Value(dtype_name(sparse.values.data_type), tuple(sparse.dims))
    return values


def _is_placeholder(dim: Dimension) -> bool:
    return isinstance(dim, str) and dim.startswith("unk__")  # inference's own name for a size that it does not know


def _by_name(inputs: Sequence[onnx.ValueInfoProto], shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    names = [info.name for info in inputs]
    listed = ", ".join(names)
    given = {name: tuple(shape) for name, shape in shapes.items()}
    if "" in given:
        if len(names) != 1:
            raise InputError(f"the model has {len(names)} inputs: {listed}.", "Name each: --shapes NAME:1x3x224x224")
        given[names[0]] = given.pop("")
    for name, shape in given.items():
        if name not in names:
            raise InputError(f"the model has no input {name!r}.", f"Its inputs are: {listed}.")
        if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in shape):
            raise InputError(f"the shape {list(shape)} of input {name} is not a list of positive numbers.")
    return given


def _check_given(name: str, declared: Value, shape: tuple[int, ...]) -> tuple[int, ...]:
    if declared.dtype in _CONTAINERS:
        raise InputError(f"input {name} is a {declared.dtype}, which has no shape to give.")
    fits = declared.shape is None or (
        len(declared.shape) == len(shape)
        and all(not isinstance(d, int) or d == size for d, size in zip(declared.shape, shape, strict=True))
    )
    if not fits:
        text = "x".join("?" if d is None else str(d) for d in declared.shape or ())
        raise InputError(
            f"the shape {'x'.join(map(str, shape))} does not fit input {name}, which is declared as {text}.",
            "A static dimension cannot change; export with --dynamic for other sizes.",
        )
    return shape


def _exported_shape(model: onnx.ModelProto) -> list[int] | None:
    text = next((entry.value for entry in model.metadata_props if entry.key == INPUT_SHAPE_KEY), None)
    try:
        shape = json.loads(text) if text else None
    except ValueError:
        return None
    valid = isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)
    return shape if valid else None


def _annotations(graph: onnx.GraphProto) -> Iterable[onnx.ValueInfoProto]:
    yield from graph.output
    yield from graph.value_info
    for node in graph.node:
        for inner in subgraphs(node):
            yield from inner.input
            yield from _annotations(inner)


def _write(info: onnx.ValueInfoProto, sizes: Sequence[Dimension]) -> None:
    shape = info.type.tensor_type.shape
    shape.ClearField("dim")
    for size in sizes:
        dim = shape.dim.add()
        if isinstance(size, int):
            dim.dim_value = size
        elif size is not None:
            dim.dim_param = size
    # Touch the field: a scalar has a shape without dimensions, which is not the same as no shape.
    info.type.tensor_type.shape.SetInParent()
