"""Frozen whitening becomes part of the weights: a deconvolution is then a plain Conv, Gemm or MatMul.

    Conv(x, f(W, deconv), g(W, deconv, mean, b))  →  Conv(x, W', b')      all of W, deconv, mean and b constant

where f and g are what the layer computes (`edgeconv.nn.deconvolution`): W·deconv with the blocks put in order, and
b - Σ W·deconv·mean. This is an exact identity, because the network computes the same product either way; the pass
computes it once, in float64, and rounds the result to the type that it had. What is not constant is left: statistics
that the device computes (`DeconvWhitening`) depend on the data.

The pass knows the shape of the thing and not its name: any weight or bias that a chain of pure operators makes of
constants is folded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeconv.inspection.nodes import consumed, domain_of, standard_opset
from edgeconv.rewrite.graph import Graph, NotRewritten, attribute, is_standard, name_of

Array = NDArray[Any]

_OPERANDS = {"Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "MatMul": (0, 1), "Add": (0, 1)}
"""Operators whose weights or biases are folded, and which inputs those are."""

_PURE = frozenset({
    "Abs", "Add", "Cast", "Concat", "Constant", "Div", "Einsum", "Expand", "Flatten", "Gather", "Gemm", "Identity",
    "MatMul", "Mul", "Neg", "Pow", "Reciprocal", "ReduceMean", "ReduceSum", "Reshape", "Shape", "Slice", "Split",
    "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze",
})  # fmt: skip
"""What a constant may be made with. All of it is linear algebra and arrangement, without a choice or a random value."""


@dataclass(frozen=True)
class FoldedOperand:
    """A weight or bias that is a constant now.

    Attributes:
        node: The node that takes it.
        operand: Which of its inputs, from 0.
        operators: How many operators made it.
        shape: Of the constant.
    """

    node: str
    operand: int
    operators: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LeftOperand:
    """A weight or bias that is made of constants and stays so, and why."""

    node: str
    operand: int
    reason: str


@dataclass(frozen=True)
class FoldingReport:
    """What the pass did, in the order of the graph."""

    folded: tuple[FoldedOperand, ...]
    left: tuple[LeftOperand, ...]


def fold_whitening(model: onnx.ModelProto) -> tuple[onnx.ModelProto, FoldingReport]:
    """Compute the weights and biases that follow from constants.

    Args:
        model: Is not changed. External data must be loaded.

    Returns:
        The new model, and the report. Nodes inside subgraphs and functions are left.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph, opset = Graph(result), standard_opset(result)
    folded: list[FoldedOperand] = []
    left: list[LeftOperand] = []
    for node in graph.nodes:
        if domain_of(node) or node.op_type not in _OPERANDS or _match(graph, node.output[0]) is not None:
            continue  # … or the node is part of such a chain itself
        for operand in _OPERANDS[node.op_type]:
            if operand >= len(node.input) or graph.producer(node.input[operand]) is None:
                continue
            name = node.input[operand]
            try:
                chain = _match(graph, name)
                if chain is None:
                    continue
                value = _evaluate(graph, chain, name, opset)
            except NotRewritten as reason:
                left.append(LeftOperand(name_of(node), operand, str(reason)))
                continue
            replacement = onnx.NodeProto()
            replacement.CopyFrom(node)
            replacement.input[operand] = graph.add_constant(value, f"{name}_folded")
            graph.replace([node], replacement)
            node = replacement
            folded.append(FoldedOperand(name_of(node), operand, len(chain), value.shape))
    return result, FoldingReport(tuple(folded), tuple(left))


def _match(graph: Graph, name: str) -> list[onnx.NodeProto] | None:
    """Return the operators that make a value of constants alone, in order; None if it depends on anything else."""
    chain: list[onnx.NodeProto] = []
    seen: set[str] = set()

    def visit(value: str) -> bool:
        if value in seen or graph.constant(value) is not None:
            return True
        node = graph.producer(value)
        if node is None or domain_of(node) or node.op_type not in _PURE:
            return False
        if not all(visit(each) for each in consumed(node)):
            return False
        seen.update(node.output)
        chain.append(node)
        return True

    return chain if visit(name) and chain else None


def _evaluate(graph: Graph, chain: list[onnx.NodeProto], name: str, opset: int) -> Array:
    """Compute a chain in float64, and round the result to the type that it had."""
    element = graph.element_type(name)
    if element not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16):
        raise NotRewritten("its type is not a floating one, or not known")
    made = {each for node in chain for each in node.output}
    feeds: dict[str, Array] = {}
    for node in chain:
        for each in consumed(node):
            constant = graph.constant(each)
            if each not in made and constant is not None:
                feeds[each] = constant.astype(np.float64) if np.issubdtype(constant.dtype, np.floating) else constant
    inputs = [
        onnx.helper.make_tensor_value_info(key, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for key, value in feeds.items()
    ]
    output = onnx.helper.make_tensor_value_info(name, TensorProto.DOUBLE, None)
    nodes = [_in_float64(node) for node in chain]
    part = onnx.helper.make_graph(nodes, "chain", inputs, [output])
    opsets = [onnx.helper.make_opsetid("", opset)]
    try:
        (value,) = ReferenceEvaluator(onnx.helper.make_model(part, opset_imports=opsets)).run([name], feeds)
    except Exception as error:  # whatever the evaluator meets in a node that it cannot compute
        raise NotRewritten(f"it cannot be computed ({error})") from error
    return np.asarray(value).astype(onnx.helper.tensor_dtype_to_np_dtype(element))


def _in_float64(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a copy of a node that does not round on the way."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    if is_standard(node, "Cast") and attribute(node, "to") in floats:
        next(each for each in copy.attribute if each.name == "to").i = TensorProto.DOUBLE
    if is_standard(node, "Constant"):
        for each in copy.attribute:
            if each.name == "value" and each.t.data_type in floats:
                each.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(each.t).astype(np.float64)))
    return copy
