"""Matching quantised convolutions in a QDQ graph: what stands between the quantised input and the quantised output.

    QuantizeLinear(Clip?(Conv(DequantizeLinear(X), DequantizeLinear(W), B?)))

The activation between the convolution and the quantiser may be `Clip` with constant limits, `Relu`, or none. The bias
is a constant: `DequantizeLinear` of integers, or float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeconv.rewrite.graph import Graph, NotRewritten, attribute, is_standard
from edgeconv.rewrite.qdq import Quantization, read_quantization

Array = NDArray[Any]

WINDOW = {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1}
"""Attributes of `Conv` and their defaults."""


@dataclass(frozen=True)
class QuantizedConvolution:
    """One match.

    Attributes:
        node: The `Conv`.
        nodes: It, its activation if there is one, and the `QuantizeLinear`.
        source: Name of the quantised input.
        x: Its grid.
        weights: int8, (M, C/group, kH, kW).
        w_scale: float32, a scalar or (M).
        bias: In steps of x_scale · w_scale, int32, (M).
        bias_moved: The largest distance that the bias was moved by rounding to these steps, in steps.
        limits: Least and largest real result, None where nothing is cut that the output's grid does not cut.
        result: Name of the quantised output.
        y: Its grid.
    """

    node: onnx.NodeProto
    nodes: tuple[onnx.NodeProto, ...]
    source: str
    x: Quantization
    weights: NDArray[np.int8]
    w_scale: NDArray[np.float32]
    bias: NDArray[np.int32]
    bias_moved: float
    limits: tuple[float, float] | None
    result: str
    y: Quantization

    @property
    def window(self) -> dict[str, Any]:
        """strides, pads, dilations and group."""
        return {name: attribute(self.node, name, default) for name, default in WINDOW.items()}

    @property
    def is_pointwise(self) -> bool:
        """Whether it is 1x1, dense, and gives every pixel one result."""
        return self.weights.shape[2:] == (1, 1) and self.window | {"dilations": [1, 1]} == WINDOW

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel has one filter."""
        filters, depth = self.weights.shape[:2]
        return bool(depth == 1 and self.window["group"] == filters)


def match_convolution(graph: Graph, node: onnx.NodeProto) -> QuantizedConvolution:
    """Match a `Conv` and what is around it.

    Raises:
        NotRewritten: It is not quantised, or not in a way that the 8-bit operators compute.
    """
    if attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        raise NotRewritten("its padding is written as auto_pad")
    source, x = quantized_input(graph, node.input[0], "input")
    weights, w_scale = int8_weights(graph, node)
    window = {name: attribute(node, name, default) for name, default in WINDOW.items()}
    filters, depth = weights.shape[:2]
    if window["group"] != 1 and (depth != 1 or window["group"] != filters):
        raise NotRewritten(f"it has {window['group']} groups; the operator takes one, or as many as channels")
    between, quantize, limits = _quantizer(graph, node)
    y = byte_grid(graph, quantize, "output")
    if x.zero_point.dtype != y.zero_point.dtype:
        raise NotRewritten(f"its input is {x.zero_point.dtype}, its output {y.zero_point.dtype}; they must be the same")
    bias, moved = _bias(graph, node, x, w_scale, filters)
    check_sums(weights, bias)
    return QuantizedConvolution(
        node, (node, *between, quantize), source, x, weights, w_scale, bias, moved,
        _needed_limits(limits, y), quantize.output[0], y,
    )  # fmt: skip


def quantized_input(graph: Graph, name: str, what: str) -> tuple[str, Quantization]:
    """Return the integers that a value is dequantised from, and their grid; `what` is what messages call it."""
    node = graph.producer(name)
    if node is None or not is_standard(node, "DequantizeLinear"):
        raise NotRewritten(f"its {what} does not come from DequantizeLinear")
    return node.input[0], byte_grid(graph, node, what)


def byte_grid(graph: Graph, node: onnx.NodeProto, what: str) -> Quantization:
    """Return the grid of a `QuantizeLinear` or `DequantizeLinear`: 8 bits, one scale for the tensor."""
    grid = read_quantization(graph, node)
    if not grid.per_tensor:
        raise NotRewritten(f"its {what} has a scale for each channel")
    if grid.zero_point.dtype not in (np.uint8, np.int8):
        raise NotRewritten(f"its {what} is {grid.zero_point.dtype}; the operator takes uint8 and int8")
    return grid


def int8_weights(graph: Graph, node: onnx.NodeProto) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return a layer's weights, (M, C/group, kH, kW), and their scale, a scalar or (M)."""
    dequantize = graph.producer(node.input[1])
    if dequantize is None or not is_standard(dequantize, "DequantizeLinear"):
        raise NotRewritten("its weights are not quantised constants")
    values = graph.constant(dequantize.input[0])
    if values is None:
        raise NotRewritten("its weights are not quantised constants")
    if values.ndim != 4:
        raise NotRewritten(f"its weights have {values.ndim} dimensions; the operator takes images")
    grid = read_quantization(graph, dequantize)
    if values.dtype != np.int8 or grid.zero_point.any():
        raise NotRewritten("its weights are not int8 with zero-points of 0")
    if not grid.per_tensor and (grid.axis % values.ndim or grid.scale.size != len(values)):
        raise NotRewritten("its weights have scales along another axis than that of the filters")
    return values, grid.scale


def _quantizer(
    graph: Graph, node: onnx.NodeProto
) -> tuple[list[onnx.NodeProto], onnx.NodeProto, tuple[float, float] | None]:
    """Return the activation, the QuantizeLinear behind it, and the activation's limits."""
    reader, between, limits = only_reader(graph, node), [], None
    if is_standard(reader, "Clip") or is_standard(reader, "Relu"):
        limits = (0.0, np.inf) if reader.op_type == "Relu" else _clip_limits(graph, reader)
        between.append(reader)
        reader = only_reader(graph, reader)
    if not is_standard(reader, "QuantizeLinear"):
        raise NotRewritten(f"its result goes to {reader.op_type}, not to QuantizeLinear")
    return between, reader, limits


def only_reader(graph: Graph, node: onnx.NodeProto) -> onnx.NodeProto:
    """Return the one node that reads a node's result, as its first input."""
    result = node.output[0]
    readers = graph.consumers(result)
    if result in graph.outputs:
        raise NotRewritten("its float result is an output of the graph")
    if len(readers) != 1 or readers[0].input[0] != result:
        kinds = ", ".join(sorted(reader.op_type for reader in readers)) or "nothing"
        raise NotRewritten(f"its result goes to {kinds}, not to one QuantizeLinear")
    return readers[0]


def _clip_limits(graph: Graph, node: onnx.NodeProto) -> tuple[float, float]:
    limits = []
    for index, absent in ((1, -np.inf), (2, np.inf)):
        name = node.input[index] if len(node.input) > index else ""
        value = graph.constant(name) if name else np.asarray(absent)
        if value is None or value.size != 1:
            raise NotRewritten("the limits of its Clip are not constant")
        limits.append(float(value.reshape(())))
    return limits[0], limits[1]


def _needed_limits(limits: tuple[float, float] | None, y: Quantization) -> tuple[float, float] | None:
    """Return None where rounding to the grid and saturation cut at the same steps."""
    if limits is None:
        return None
    ends = np.iinfo(y.zero_point.dtype)
    steps = np.rint(np.asarray(limits, np.float32) / y.scale) + np.float32(y.zero_point)
    if np.isnan(steps).any():
        raise NotRewritten("the limits of its Clip are not numbers")
    return None if steps[0] <= ends.min and steps[1] >= ends.max else limits


def _bias(
    graph: Graph, node: onnx.NodeProto, x: Quantization, w_scale: NDArray[np.float32], filters: int
) -> tuple[NDArray[np.int32], float]:
    name = node.input[2] if len(node.input) > 2 else ""
    if not name:
        return np.zeros(filters, np.int32), 0.0
    step = x.scale.astype(np.float64) * w_scale.astype(np.float64)
    dequantize = graph.producer(name)
    if is_standard(dequantize, "DequantizeLinear"):
        assert dequantize is not None
        values = graph.constant(dequantize.input[0])
        if values is None:
            raise NotRewritten("its bias is not constant")
        grid = read_quantization(graph, dequantize)
        close = np.allclose(grid.scale, step, rtol=1e-5, atol=0)
        if values.dtype == np.int32 and not grid.zero_point.any() and close:
            return values.reshape(filters), 0.0
        real: Array = grid.dequantize(values)
    else:
        constant = graph.constant(name)
        if constant is None:
            raise NotRewritten("its bias is not constant")
        real = constant
    exact = real.astype(np.float64).reshape(filters) / step
    rounded = np.rint(exact)
    if not (np.isfinite(rounded).all() and (np.abs(rounded) < 2**31).all()):
        raise NotRewritten("its bias does not fit into 32 bits in steps of x_scale · w_scale")
    return rounded.astype(np.int32), float(np.abs(exact - rounded).max(initial=0))


def check_sums(weights: NDArray[np.int8], bias: NDArray[np.int32]) -> None:
    """Check that no sum of products may leave 32 bits, whatever the activations are."""
    largest = 255 * np.abs(weights.astype(np.int64)).reshape(len(weights), -1).sum(1) + np.abs(bias.astype(np.int64))
    if (largest > 2**31 - 1).any():
        raise NotRewritten("its sums may not fit into 32 bits")


def readers_of(graph: Graph, name: str) -> list[onnx.NodeProto] | None:
    """Return the nodes that read the real values of a quantised tensor; None if anything reads the integers."""
    found = []
    for node in graph.consumers(name):
        if not is_standard(node, "DequantizeLinear") or node.input[0] != name or node.output[0] in graph.outputs:
            return None
        found += graph.consumers(node.output[0])
    return None if name in graph.outputs else found
