"""`QLinearManhattanKervolution` on a layer: the operator alone, and between quantisation and dequantisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from layers import Layer
from onnx import TensorProto
from standard_graphs import Graph

X_SCALE, X_ZERO_POINT = np.float32(0.03), 128
"""About four standard deviations of the input either way; the weights lie on the same grid, as the operator wants."""


def quantized_tensors(layer: Layer) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int8]]:
    """X and W in 8 bits. W is spread as X is, for the layer's own weights would be a step or two of X's grid."""
    x, w = layer.tensors()
    quantized_x = np.clip(np.rint(x / X_SCALE) + X_ZERO_POINT, 0, 255).astype(np.uint8)
    quantized_w = np.clip(np.rint(w * np.sqrt(layer.taps) / X_SCALE), -128, 127).astype(np.int8)
    return quantized_x, quantized_w


def y_scale(layer: Layer) -> np.float32:
    """Scale of the output, whose zero-point is 255: E|x - w| = 2/√π, and as much again for its spread."""
    return np.float32(2 * 1.13 * layer.taps / 255)


def expected_output(layer: Layer) -> npt.NDArray[np.uint8]:
    """The output by the operator's definition: exact integer sums, then three float32 steps. Imports torch."""
    import torch

    from edgeconv.ops.kervolution_torch import kervolution

    x, w = quantized_tensors(layer)
    sums = -kervolution(
        torch.from_numpy(x.astype(np.float64) - X_ZERO_POINT), torch.from_numpy(w.astype(np.float64)),
        kernel="manhattan", stride=(layer.stride,) * 2, pads=(layer.pad,) * 4, groups=layer.group,
    ).numpy()  # fmt: skip
    value = -(X_SCALE * sums.astype(np.int64).astype(np.float32))
    return np.clip(np.rint(value / y_scale(layer)) + 255, 0, 255).astype(np.uint8)


def dequantized(y: npt.NDArray[np.uint8], layer: Layer) -> npt.NDArray[np.float32]:
    """What DequantizeLinear makes of an output."""
    return (y.astype(np.float32) - 255) * y_scale(layer)


def quantized_operator(layer: Layer, *, conversions: bool) -> bytes:
    """A model of the operator without a function, so that nothing but the op library runs it.

    Args:
        layer: The layer.
        conversions: Quantise a float32 input before it, and dequantise its output.
    """
    graph = Graph(layer)
    x_grid = [graph.constant(X_SCALE), graph.constant(X_ZERO_POINT, np.uint8)]
    y_grid = [graph.constant(y_scale(layer)), graph.constant(255, np.uint8)]
    x = graph.add("QuantizeLinear", "X", *x_grid) if conversions else "X"
    weights = graph.constant(quantized_tensors(layer)[1], np.int8)
    w_grid = [graph.constant(X_SCALE), graph.constant(0, np.int8)]
    attributes: dict[str, Any] = {
        "kernel_shape": [layer.window] * 2, "strides": [layer.stride] * 2, "pads": [layer.pad] * 4,
        "group": layer.group, "plugin_version": "1", "plugin_namespace": "edgeconv",
    }  # fmt: skip
    y = graph.add("QLinearManhattanKervolution", x, *x_grid, weights, *w_grid, *y_grid, domain="edgeconv", **attributes)
    if conversions:
        return graph.model(graph.add("DequantizeLinear", y, *y_grid))
    return graph.model(y, x_type=TensorProto.UINT8, y_type=TensorProto.UINT8)
