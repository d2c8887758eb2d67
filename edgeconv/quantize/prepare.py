"""A model made ready to be quantised: what would stand between a Conv and its activation is folded away.

Every step is exact in real arithmetic and computed in float64: constants are folded, BatchNormalization goes into the
weights before it, zero padding into the Conv after it; Identity and Dropout vanish; Min and Max with constants become
Clip; a mean over height and width becomes GlobalAveragePool, which runtimes have in integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto

from edgeconv.errors import InputError
from edgeconv.inspection.nodes import functions_of, standard_opset, walk
from edgeconv.ops.kervolution import DOMAIN
from edgeconv.ops.registry import operator_of
from edgeconv.ops.schema import register_schemas
from edgeconv.quantize import canonical
from edgeconv.quantize.editing import EditableGraph

MIN_OPSET = 13
"""The first with DequantizeLinear along an axis."""
_NEW_OPSET = 17


@dataclass(frozen=True)
class PreparedModel:
    """A float model in the form that the rest of the package reads.

    Attributes:
        model: Every node has a name of its own; shapes are inferred.
        types: Value name -> element type (`TensorProto.DataType`), where it is known.
        shapes: Value name -> sizes, 0 for an unknown one, where the rank is known.
    """

    model: onnx.ModelProto
    types: dict[str, int]
    shapes: dict[str, tuple[int, ...]]


def prepare_model(model: onnx.ModelProto, name: str = "the model") -> PreparedModel:
    """Fold and normalise a copy of a model.

    Args:
        model: Is not changed. External data must be loaded.
        name: For messages.

    Raises:
        InputError: It is quantised already, computes in float16, or cannot be brought to opset 13.
    """
    _refuse(model, name)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    if standard_opset(result) < MIN_OPSET:
        try:
            result = onnx.version_converter.convert_version(result, _NEW_OPSET)
        except Exception as error:
            raise InputError(
                f"{name} has opset {standard_opset(model)} and cannot be brought to {_NEW_OPSET}: {error}",
                "Export it again with a newer opset.",
            ) from error
    foreign = [key[:2] for key in functions_of(result) if key[0] != DOMAIN]
    if foreign:
        result = onnx.inliner.inline_selected_functions(result, foreign)
    _name_nodes(result)
    for step in canonical.STEPS:
        step(EditableGraph(result))
    return infer(result)


def infer(model: onnx.ModelProto) -> PreparedModel:
    """Return a model with the types and shapes of its values."""
    register_schemas()
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    types: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        types[value.name] = value.type.tensor_type.elem_type
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    for tensor in model.graph.initializer:
        types[tensor.name], shapes[tensor.name] = tensor.data_type, tuple(tensor.dims)
    return PreparedModel(inferred, types, shapes)


def is_quantized(model: onnx.ModelProto) -> bool:
    """Tell whether a node of the main graph rounds to 8 bits."""
    for node in walk(model.graph.node):
        operator = operator_of(node)
        kind = node.op_type
        if kind in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"):
            return True
        if kind.startswith("QLinear") or (operator is not None and operator.is_quantized):
            return True
    return False


def _refuse(model: onnx.ModelProto, name: str) -> None:
    if is_quantized(model):
        raise InputError(f"{name} is quantised already.", "Give the float32 file that it was made from.")
    halves = sum(tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for tensor in model.graph.initializer)
    if halves:
        raise InputError(
            f"{name} computes in 16-bit floating point ({halves} of its constants do).",
            "Quantise the float32 file: export it without --fp16.",
        )


def _name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a name of its own: reports, --exclude and the plan refer to nodes by name."""
    taken: set[str] = set()
    for node in model.graph.node:
        base = node.name or f"{node.op_type}_{next((name for name in node.output if name), 'unnamed')}"
        name, count = base, 1
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        node.name = name
        taken.add(name)
