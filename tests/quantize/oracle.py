"""What a QDQ graph means, computed without ONNX Runtime and without the package: integers and float64.

A Conv or Gemm of dequantised operands is a sum of integers times its scales; QuantizeLinear divides in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[Any]


def evaluate(model: onnx.ModelProto, x: Array) -> dict[str, Array]:
    """Every value of a QDQ graph of Conv, Gemm, Clip, Add, GlobalAveragePool, Flatten and Sum."""
    values: dict[str, Any] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    values[model.graph.input[0].name] = x
    exact: dict[str, tuple[Array, Any, int]] = {}  # dequantised value -> integers less zero-point, scale, axis
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        ins = [values[name] if name else None for name in node.input]
        kind, out = node.op_type, node.output[0]
        if kind == "QuantizeLinear":
            limits = np.iinfo(ins[2].dtype)
            steps = np.rint(ins[0].astype(np.float32) / ins[1]) + float(ins[2])
            values[out] = np.clip(steps, limits.min, limits.max).astype(ins[2].dtype)
        elif kind == "DequantizeLinear":
            axis = attributes.get("axis", 1)
            shape = [1] * ins[0].ndim
            if ins[1].ndim:
                shape[axis] = -1
            whole = ins[0].astype(np.int64) - ins[2].astype(np.int64).reshape(shape)
            scale = ins[1].astype(np.float64).reshape(shape)
            exact[out] = (whole, ins[1].astype(np.float64), axis)
            values[out] = whole * scale
        elif kind in ("Conv", "Gemm"):
            values[out] = product(node, attributes, ins, exact)
        elif kind == "Clip":
            values[out] = np.clip(ins[0], ins[1], ins[2])
        elif kind == "Add":
            values[out] = ins[0] + ins[1]
        elif kind == "GlobalAveragePool":
            values[out] = ins[0].mean((2, 3), keepdims=True)
        elif kind == "Flatten":
            values[out] = ins[0].reshape(len(ins[0]), -1)
        elif kind == "Sum":
            values[out] = sum(ins)
        else:
            raise NotImplementedError(kind)
    return values


def product(
    node: onnx.NodeProto, attributes: dict[str, Any], ins: list[Any], exact: dict[str, tuple[Array, Any, int]]
) -> Array:
    x, w = exact.get(node.input[0]), exact.get(node.input[1])
    whole = x is not None and w is not None
    left, right = (x[0], w[0]) if whole and x and w else (ins[0].astype(np.float64), ins[1].astype(np.float64))
    if node.op_type == "Gemm":
        result = left @ (right.T if attributes.get("transB") else right)
        shape: tuple[int, ...] = (1, -1)
    else:
        result = convolve(left, right, attributes)
        shape = (1, -1, 1, 1)
    if whole and x and w:
        result = result * (float(x[1]) * w[1].reshape(shape))
    bias = ins[2] if len(ins) > 2 and ins[2] is not None else np.zeros(result.shape[1])
    return np.asarray(result + bias.reshape(shape), np.float64)


def convolve(x: Array, w: Array, attributes: dict[str, Any]) -> Array:
    """A plain loop over taps, in the type of the operands."""
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    group = attributes.get("group", 1)
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    filters, depth, tall, wide = w.shape
    rows = (x.shape[2] - dilations[0] * (tall - 1) - 1) // strides[0] + 1
    columns = (x.shape[3] - dilations[1] * (wide - 1) - 1) // strides[1] + 1
    y = np.zeros((len(x), filters, rows, columns), x.dtype)
    for m in range(filters):
        first = m // (filters // group) * depth
        for c in range(depth):
            for i in range(tall):
                for j in range(wide):
                    r, s = i * dilations[0], j * dilations[1]
                    part = x[
                        :, first + c, r : r + rows * strides[0] : strides[0], s : s + columns * strides[1] : strides[1]
                    ]
                    y[:, m] += w[m, c, i, j] * part
    return y
