"""The 8-bit operators of mobile networks as ONNX functions: each stage is dequantised, convolved and quantised.

Formulas: see `edgeconv.ops.qlinear_mobile`. Weights go through DequantizeLinear, and not through a product with their
scales: ONNX Runtime 1.31 quantises constant float weights between quantised activations once more, with one scale for
the whole tensor. Needs onnxscript (the `export` extra).
"""

# onnxscript reads these functions as source: their parameters without annotation are tensors, and `op` is ONNX.
# ruff: noqa: RUF013
# mypy: disable-error-code="no-untyped-def,assignment"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import onnx.inliner
from onnxscript import opset18, script, values

from edgeconv.ops.function import build_function
from edgeconv.ops.kervolution import DOMAIN, OPERATOR_OF_KERNEL, VERSION
from edgeconv.ops.kervolution_function import FUNCTIONS as KERVOLUTION_FUNCTIONS
from edgeconv.ops.kervolution_function import OPSET
from edgeconv.ops.qlinear_mobile import KERVOLUTIONS, NO_LIMIT, OPERATORS

op: Any = opset18
edgeconv: Any = values.Opset(DOMAIN, VERSION)
parts: Any = values.Opset(f"{DOMAIN}.parts", VERSION)  # inlined into the operators before they are shipped


@script(parts)
def _weights(W, w_scale):
    """W · w_scale, with the zero-points that ONNX Runtime wants to see written."""
    return op.DequantizeLinear(W, w_scale, op.Cast(w_scale * 0.0, to=3), axis=0)


@script(parts)
def _bias(B, x_scale, w_scale):
    """B · x_scale · w_scale."""
    each = op.Constant(value_ints=[-1])
    return op.Cast(B, to=1) * (op.Reshape(x_scale, each) * op.Reshape(w_scale, each))


@script(parts)
def _pointwise(x, x_scale, W, w_scale, B):
    """A 1x1 convolution."""
    return op.Conv(x, _weights(W, w_scale), _bias(B, x_scale, w_scale))


@script(parts)
def _requantize(x, scale, zero_point):
    """X as its grid has it."""
    return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero_point), scale, zero_point)


@script(edgeconv)
def QLinearConvolution(
    X, x_scale, x_zero_point, W, w_scale, B, y_scale, y_zero_point,
    kernel_shape: Sequence[int] = None, group: int = 1,
    strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0), dilations: Sequence[int] = (1, 1),
    x_perm: Sequence[int] = (0, 1, 2, 3), y_perm: Sequence[int] = (0, 1, 2, 3),
    min: float = -NO_LIMIT, max: float = NO_LIMIT,
    plugin_version: str = "1", plugin_namespace: str = "edgeconv",
):  # fmt: skip
    """A convolution."""
    x = op.Transpose(op.DequantizeLinear(X, x_scale, x_zero_point), perm=x_perm)
    w = _weights(W, w_scale)
    b = _bias(B, x_scale, w_scale)
    y = op.Conv(x, w, b, group=group, strides=strides, pads=pads, dilations=dilations)
    y = op.Clip(y, op.Constant(value_float=min), op.Constant(value_float=max))
    return op.Transpose(op.QuantizeLinear(y, y_scale, y_zero_point), perm=y_perm)


@script(edgeconv)
def QLinearSeparableConvolution(
    X, x_scale, x_zero_point,
    depthwise_W, depthwise_w_scale, depthwise_B, depthwise_scale, depthwise_zero_point,
    project_W, project_w_scale, project_B, y_scale, y_zero_point,
    kernel_shape: Sequence[int] = None, group: int = 1,
    strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0), dilations: Sequence[int] = (1, 1),
    x_perm: Sequence[int] = (0, 1, 2, 3), y_perm: Sequence[int] = (0, 1, 2, 3),
    depthwise_min: float = -NO_LIMIT, depthwise_max: float = NO_LIMIT,
    plugin_version: str = "1", plugin_namespace: str = "edgeconv",
):  # fmt: skip
    """A depthwise convolution and a projection."""
    x = op.Transpose(op.DequantizeLinear(X, x_scale, x_zero_point), perm=x_perm)
    w = _weights(depthwise_W, depthwise_w_scale)
    b = _bias(depthwise_B, x_scale, depthwise_w_scale)
    d = op.Conv(x, w, b, group=group, strides=strides, pads=pads, dilations=dilations)
    d = op.Clip(d, op.Constant(value_float=depthwise_min), op.Constant(value_float=depthwise_max))
    d = _requantize(d, depthwise_scale, depthwise_zero_point)
    p = _pointwise(d, depthwise_scale, project_W, project_w_scale, project_B)
    return op.Transpose(op.QuantizeLinear(p, y_scale, y_zero_point), perm=y_perm)


@script(edgeconv)
def QLinearBottleneck(
    X, x_scale, x_zero_point,
    expand_W, expand_w_scale, expand_B, expand_scale, expand_zero_point,
    depthwise_W, depthwise_w_scale, depthwise_B, depthwise_scale, depthwise_zero_point,
    project_W, project_w_scale, project_B, y_scale, y_zero_point,
    kernel_shape: Sequence[int] = None, group: int = 1,
    strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0), dilations: Sequence[int] = (1, 1),
    expand_strides: Sequence[int] = (1, 1), expand_pads: Sequence[int] = (0, 0, 0, 0),
    x_perm: Sequence[int] = (0, 1, 2, 3), y_perm: Sequence[int] = (0, 1, 2, 3),
    expand_min: float = -NO_LIMIT, expand_max: float = NO_LIMIT,
    depthwise_min: float = -NO_LIMIT, depthwise_max: float = NO_LIMIT,
    plugin_version: str = "1", plugin_namespace: str = "edgeconv",
):  # fmt: skip
    """An expansion, a depthwise convolution and a projection."""
    x = op.Transpose(op.DequantizeLinear(X, x_scale, x_zero_point), perm=x_perm)
    we = _weights(expand_W, expand_w_scale)
    be = _bias(expand_B, x_scale, expand_w_scale)
    e = op.Conv(x, we, be, strides=expand_strides, pads=expand_pads)
    e = op.Clip(e, op.Constant(value_float=expand_min), op.Constant(value_float=expand_max))
    e = _requantize(e, expand_scale, expand_zero_point)
    w = _weights(depthwise_W, depthwise_w_scale)
    b = _bias(depthwise_B, expand_scale, depthwise_w_scale)
    d = op.Conv(e, w, b, group=group, strides=strides, pads=pads, dilations=dilations)
    d = op.Clip(d, op.Constant(value_float=depthwise_min), op.Constant(value_float=depthwise_max))
    d = _requantize(d, depthwise_scale, depthwise_zero_point)
    p = _pointwise(d, depthwise_scale, project_W, project_w_scale, project_B)
    return op.Transpose(op.QuantizeLinear(p, y_scale, y_zero_point), perm=y_perm)


@script(edgeconv)
def QLinearInvertedResidual(
    X, x_scale, x_zero_point,
    expand_W, expand_w_scale, expand_B, expand_scale, expand_zero_point,
    depthwise_W, depthwise_w_scale, depthwise_B, depthwise_scale, depthwise_zero_point,
    project_W, project_w_scale, project_B, project_scale, project_zero_point, y_scale, y_zero_point,
    kernel_shape: Sequence[int] = None, group: int = 1,
    strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0), dilations: Sequence[int] = (1, 1),
    x_perm: Sequence[int] = (0, 1, 2, 3), y_perm: Sequence[int] = (0, 1, 2, 3),
    expand_min: float = -NO_LIMIT, expand_max: float = NO_LIMIT,
    depthwise_min: float = -NO_LIMIT, depthwise_max: float = NO_LIMIT,
    plugin_version: str = "1", plugin_namespace: str = "edgeconv",
):  # fmt: skip
    """An expansion, a depthwise convolution, a projection, and X added."""
    x = op.Transpose(op.DequantizeLinear(X, x_scale, x_zero_point), perm=x_perm)
    e = _pointwise(x, x_scale, expand_W, expand_w_scale, expand_B)
    e = op.Clip(e, op.Constant(value_float=expand_min), op.Constant(value_float=expand_max))
    e = _requantize(e, expand_scale, expand_zero_point)
    w = _weights(depthwise_W, depthwise_w_scale)
    b = _bias(depthwise_B, expand_scale, depthwise_w_scale)
    d = op.Conv(e, w, b, group=group, strides=strides, pads=pads, dilations=dilations)
    d = op.Clip(d, op.Constant(value_float=depthwise_min), op.Constant(value_float=depthwise_max))
    d = _requantize(d, depthwise_scale, depthwise_zero_point)
    p = _pointwise(d, depthwise_scale, project_W, project_w_scale, project_B)
    p = op.Add(_requantize(p, project_scale, project_zero_point), x)
    return op.Transpose(op.QuantizeLinear(p, y_scale, y_zero_point), perm=y_perm)


@script(edgeconv)
def QLinearGlobalAveragePool(
    X, x_scale, x_zero_point, y_scale, y_zero_point,
    x_perm: Sequence[int] = (0, 1, 2, 3),
    plugin_version: str = "1", plugin_namespace: str = "edgeconv",
):  # fmt: skip
    """The mean of every channel."""
    x = op.Transpose(op.DequantizeLinear(X, x_scale, x_zero_point), perm=x_perm)
    return op.QuantizeLinear(op.GlobalAveragePool(x), y_scale, y_zero_point)


# The kervolutions dequantise, and call the float operator, whose body is then expanded into theirs.


@script(edgeconv)
def QLinearPolynomialKervolution(
    X, x_scale, x_zero_point, W, w_scale, B, y_scale, y_zero_point, balance,
    kernel_shape: Sequence[int] = None, degree: int = 3, group: int = 1,
    strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0), dilations: Sequence[int] = (1, 1),
    x_perm: Sequence[int] = (0, 1, 2, 3), y_perm: Sequence[int] = (0, 1, 2, 3),
    plugin_version: str = "1", plugin_namespace: str = "edgeconv",
):  # fmt: skip
    """(x·w + balance)^degree + B."""
    x = op.Transpose(op.DequantizeLinear(X, x_scale, x_zero_point), perm=x_perm)
    w = _weights(W, w_scale)
    y = edgeconv.PolynomialKervolution(
        x, w, balance, B, degree=degree, group=group, strides=strides, pads=pads, dilations=dilations
    )
    return op.Transpose(op.QuantizeLinear(y, y_scale, y_zero_point), perm=y_perm)


@script(edgeconv)
def QLinearGaussianKervolution(
    X, x_scale, x_zero_point, W, w_scale, B, y_scale, y_zero_point, gamma,
    kernel_shape: Sequence[int] = None, group: int = 1,
    strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0), dilations: Sequence[int] = (1, 1),
    x_perm: Sequence[int] = (0, 1, 2, 3), y_perm: Sequence[int] = (0, 1, 2, 3),
    plugin_version: str = "1", plugin_namespace: str = "edgeconv",
):  # fmt: skip
    """exp(-gamma·‖x - w‖²) + B."""
    x = op.Transpose(op.DequantizeLinear(X, x_scale, x_zero_point), perm=x_perm)
    w = _weights(W, w_scale)
    y = edgeconv.GaussianKervolution(x, w, gamma, B, group=group, strides=strides, pads=pads, dilations=dilations)
    return op.Transpose(op.QuantizeLinear(y, y_scale, y_zero_point), perm=y_perm)


@script(edgeconv)
def QLinearSigmoidKervolution(
    X, x_scale, x_zero_point, W, w_scale, B, y_scale, y_zero_point, scale, balance,
    kernel_shape: Sequence[int] = None, group: int = 1,
    strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0), dilations: Sequence[int] = (1, 1),
    x_perm: Sequence[int] = (0, 1, 2, 3), y_perm: Sequence[int] = (0, 1, 2, 3),
    plugin_version: str = "1", plugin_namespace: str = "edgeconv",
):  # fmt: skip
    """tanh(scale·x·w + balance) + B."""
    x = op.Transpose(op.DequantizeLinear(X, x_scale, x_zero_point), perm=x_perm)
    w = _weights(W, w_scale)
    y = edgeconv.SigmoidKervolution(
        x, w, scale, balance, B, group=group, strides=strides, pads=pads, dilations=dilations
    )
    return op.Transpose(op.QuantizeLinear(y, y_scale, y_zero_point), perm=y_perm)


@script(edgeconv)
def QLinearEuclideanKervolution(
    X, x_scale, x_zero_point, W, w_scale, B, y_scale, y_zero_point,
    kernel_shape: Sequence[int] = None, group: int = 1,
    strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0), dilations: Sequence[int] = (1, 1),
    x_perm: Sequence[int] = (0, 1, 2, 3), y_perm: Sequence[int] = (0, 1, 2, 3),
    plugin_version: str = "1", plugin_namespace: str = "edgeconv",
):  # fmt: skip
    """-‖x - w‖² + B."""
    x = op.Transpose(op.DequantizeLinear(X, x_scale, x_zero_point), perm=x_perm)
    w = _weights(W, w_scale)
    y = edgeconv.EuclideanKervolution(x, w, B, group=group, strides=strides, pads=pads, dilations=dilations)
    return op.Transpose(op.QuantizeLinear(y, y_scale, y_zero_point), perm=y_perm)


_PARTS = (_weights, _bias, _pointwise, _requantize)
_SCRIPTS = (
    QLinearConvolution,
    QLinearSeparableConvolution,
    QLinearBottleneck,
    QLinearInvertedResidual,
    QLinearGlobalAveragePool,
    QLinearPolynomialKervolution,
    QLinearGaussianKervolution,
    QLinearSigmoidKervolution,
    QLinearEuclideanKervolution,
)


def _build(each: Any) -> onnx.FunctionProto:
    """Build one function; the float kervolution that it calls is expanded in it."""
    body = build_function(each.name, each, _PARTS, OPSET, f"{OPERATORS[each.name].formula}, quantised")
    if each.name not in KERVOLUTIONS:
        return body
    called = OPERATOR_OF_KERNEL[KERVOLUTIONS[each.name].kernel].name
    opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(DOMAIN, VERSION)]
    pair = onnx.ModelProto(ir_version=8, opset_import=opsets, functions=[body, KERVOLUTION_FUNCTIONS[called]])
    pair.graph.name = "empty"
    expanded: onnx.FunctionProto
    (expanded,) = onnx.inliner.inline_selected_functions(pair, [(DOMAIN, called)]).functions
    del expanded.opset_import[:]
    expanded.opset_import.append(opsets[0])
    return expanded


FUNCTIONS = {each.name: _build(each) for each in _SCRIPTS}
"""Operator name -> its ONNX function (`onnx.FunctionProto`)."""
