"""Computes the small constants on which shapes depend, which onnx's shape inference does not follow far enough.

An inlined function takes its sizes from `Shape` and reckons with them before it reshapes. Where the size is known, so
is the result, and the shapes after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeconv.inspection.nodes import domain_of, subgraphs, tensor_elements
from edgeconv.inspection.reading import SMALL

Array = NDArray[Any]

_ARITHMETIC = frozenset({
    "Abs", "Add", "Cast", "Ceil", "Concat", "Div", "Equal", "Expand", "Floor", "Gather", "Greater", "Identity",
    "Less", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Range", "ReduceMax", "ReduceMin", "ReduceProd",
    "ReduceSum", "Reshape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip


def fold_sizes(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int | str | None, ...] | None], opset: int) -> int:
    """Replace the nodes whose value follows from known sizes and small constants by `Constant` nodes, in place.

    Args:
        graph: The graph; every node keeps its position.
        shapes: Shapes known so far, by name.
        opset: Version of the standard operators.

    Returns:
        Number of nodes replaced.
    """
    known: dict[str, Array] = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if _is_small(tensor)
    }
    replaced = 0
    for node in graph.node:
        if domain_of(node) or len(node.output) != 1 or any(True for _ in subgraphs(node)):
            continue
        if node.op_type == "Constant":
            value = _evaluate(node, {}, opset) if all(_is_small(a.t) for a in node.attribute) else None
        elif node.op_type in ("Shape", "Size"):
            value = _measure(node, shapes.get(node.input[0]))
        elif node.op_type in _ARITHMETIC and all(name in known for name in node.input if name):
            value = _evaluate(node, known, opset)
        else:
            value = None
        if value is None or value.size > SMALL:
            continue
        known[node.output[0]] = value
        if node.op_type != "Constant":
            tensor = numpy_helper.from_array(value)
            node.CopyFrom(onnx.helper.make_node("Constant", [], list(node.output), name=node.name, value=tensor))
            replaced += 1
    return replaced


def _is_small(tensor: onnx.TensorProto) -> bool:
    return tensor_elements(tensor) <= SMALL and tensor.data_type != onnx.TensorProto.STRING


def _measure(node: onnx.NodeProto, shape: tuple[int | str | None, ...] | None) -> Array | None:
    if shape is None:
        return None
    if node.op_type == "Shape":
        limits = {attribute.name: attribute.i for attribute in node.attribute}
        shape = shape[limits.get("start", 0) : limits.get("end", len(shape))]
    sizes = [size for size in shape if isinstance(size, int)]
    if len(sizes) != len(shape):
        return None
    return np.asarray(sizes if node.op_type == "Shape" else np.prod(sizes, dtype=np.int64), dtype=np.int64)


def _evaluate(node: onnx.NodeProto, known: Mapping[str, Array], opset: int) -> Array | None:
    try:
        feeds = {name: known[name] for name in node.input if name}
        results: Any = ReferenceEvaluator(node, opsets={"": opset}).run(None, feeds)
    except Exception:  # an invalid node, or one that the evaluator lacks: its value just stays unknown
        return None
    return np.asarray(results[0])
