"""Reading `QuantizeLinear` and `DequantizeLinear` nodes.

QuantizeLinear is q = saturate(round_half_even(x / scale) + zero_point), DequantizeLinear x = (q - zero_point) · scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edgeconv.rewrite.graph import Graph, NotRewritten, attribute

Array = NDArray[Any]


@dataclass(frozen=True)
class Quantization:
    """The grid that a node quantises to, or dequantises from.

    Attributes:
        scale: float32, finite and positive; a scalar, or one value along `axis`.
        zero_point: Of the quantised type, in the shape of `scale`.
        axis: The axis that the scales are along; it means nothing where `scale` is a scalar.
    """

    scale: NDArray[np.float32]
    zero_point: Array
    axis: int

    @property
    def per_tensor(self) -> bool:
        """Whether one scale serves the whole tensor."""
        return self.scale.ndim == 0

    def dequantize(self, values: Array) -> NDArray[np.float32]:
        """Return the real values of integers on this grid, in float32, as DequantizeLinear gives them."""
        shape = [1] * values.ndim
        if not self.per_tensor:
            shape[self.axis] = self.scale.size
        zero_point = self.zero_point.astype(np.int64).reshape(shape)
        steps = (values.astype(np.int64) - zero_point).astype(np.float32)
        return np.asarray(steps * self.scale.reshape(shape), np.float32)


def read_quantization(graph: Graph, node: onnx.NodeProto) -> Quantization:
    """Read scale, zero-point and type of a `QuantizeLinear` or `DequantizeLinear` node.

    Raises:
        NotRewritten: They are not constant, not of float32, or in blocks.
    """
    kind = node.op_type
    scale = graph.constant(node.input[1])
    if scale is None:
        raise NotRewritten(f"the scale of its {kind} is not constant")
    if scale.dtype != np.float32:
        raise NotRewritten(f"the scale of its {kind} is {scale.dtype}; the operator computes in float32")
    computed = attribute(node, "precision" if kind == "QuantizeLinear" else "output_dtype", TensorProto.UNDEFINED)
    if computed not in (TensorProto.UNDEFINED, TensorProto.FLOAT):
        raise NotRewritten(f"its {kind} computes in another type than float32")
    if attribute(node, "block_size", 0) or scale.ndim > 1:
        raise NotRewritten(f"its {kind} has scales in blocks")
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise NotRewritten(f"its {kind} has a scale that is not finite and positive")
    zero_point = _zero_point(graph, node, scale)
    if zero_point.dtype.kind not in "iu":
        raise NotRewritten(f"its {kind} quantises to {zero_point.dtype}, not to whole bytes of integers")
    if scale.size != zero_point.size:
        raise NotRewritten(f"its {kind} has {scale.size} scales and {zero_point.size} zero-points")
    if scale.size == 1:
        scale, zero_point = scale.reshape(()), zero_point.reshape(())
    return Quantization(scale, zero_point, int(attribute(node, "axis", 1)))


def _zero_point(graph: Graph, node: onnx.NodeProto, scale: Array) -> Array:
    if len(node.input) > 2 and node.input[2]:
        value = graph.constant(node.input[2])
        if value is None:
            raise NotRewritten(f"the zero-point of its {node.op_type} is not constant")
        return value
    if node.op_type == "QuantizeLinear":
        element = attribute(node, "output_dtype", TensorProto.UNDEFINED) or TensorProto.UINT8
    else:
        element = graph.element_type(node.input[0])
    if element == TensorProto.UNDEFINED:
        raise NotRewritten(f"the type that its {node.op_type} reads is not known")
    return np.zeros(scale.shape, onnx.helper.tensor_dtype_to_np_dtype(element))
