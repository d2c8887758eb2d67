"""How much memory the reference evaluator of onnx would hold for a network's largest convolution.

It writes out a dilated filter with its zeros, and unfolds the whole input with two 64-bit indices an element. A filter
of 3x3 with a dilation of 36, as DeepLabV3 has, becomes one of 73x73: tens of gigabytes, whatever the image's size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx

LIMIT = 4 * 2**30
"""Bytes that a check may cost on the side."""

_UNFOLDED = 24  # bytes an element: two indices of 8, the value, and its copy in another order
_WEIGHT = 4


def reference_bytes(model: onnx.ModelProto, feeds: Mapping[str, npt.NDArray[Any]]) -> tuple[int, str]:
    """Return the bytes that the most expensive convolution would take, and its node's name; 0 where nothing is known.

    Args:
        model: Its `value_info` says the sizes of values, as far as they are fixed.
        feeds: Inputs; they say the sizes of dynamic axes.
    """
    symbols = {
        dim.dim_param: size
        for value in model.graph.input
        if value.name in feeds
        for dim, size in zip(value.type.tensor_type.shape.dim, feeds[value.name].shape, strict=True)
        if dim.dim_param
    }
    shapes: dict[str, list[int | None]] = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        shapes.setdefault(value.name, [symbols.get(dim.dim_param) if dim.dim_param else dim.dim_value for dim in dims])
    found = [(_bytes(node, shapes), node.name) for node in model.graph.node if node.op_type == "Conv"]
    return max(found, default=(0, ""))


def _bytes(node: onnx.NodeProto, shapes: Mapping[str, Sequence[int | None]]) -> int:
    filters = shapes.get(node.input[1], [])
    outputs = shapes.get(node.output[0], [])
    sizes = [size for size in filters if size is not None]
    if len(filters) < 3 or len(sizes) != len(filters):
        return 0
    dilations = next((list(a.ints) for a in node.attribute if a.name == "dilations"), [])
    window = [(k - 1) * d + 1 for k, d in zip(sizes[2:], dilations or [1] * (len(sizes) - 2), strict=True)]
    per_filter = sizes[1] * math.prod(window)
    written_out = sizes[0] * per_filter * _WEIGHT if any(dilation != 1 for dilation in dilations) else 0
    positions = math.prod(size or 1 for size in (*outputs[:1], *outputs[2:]))
    return int(written_out + per_filter * positions * _UNFOLDED)
