"""Convolutions of mobile networks in 8 bits: a convolution, blocks of them in one operator, kervolutions on x·w.

    QLinearConvolution             conv
    QLinearSeparableConvolution    depthwise → project
    QLinearBottleneck              expand → depthwise → project
    QLinearInvertedResidual        expand → depthwise → project → + X
    QLinearGlobalAveragePool       mean of every channel
    QLinearPolynomialKervolution   (x·w + balance)^degree + B            and so for the gaussian, sigmoid and euclidean
                                                                         kernels (`edgeconv.ops.kervolution`)

Source of the blocks: Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018 (arXiv
1801.04381), section 3.3. The expansion and the projection are 1x1 convolutions; the operator's window (kernel_shape,
strides, pads, dilations) is the depthwise one's, and `group` is its number of channels. In `QLinearBottleneck` the
expansion may have a window of its own, with `expand_strides` and `expand_pads`: so a network's first convolution and
its first block are one operator. `QLinearConvolution` takes any window with `group` 1, and filters of one channel each
(group = C = M).

By definition each stage is its part of the function body, in the order of inputs:

    x = DequantizeLinear(X, x_scale, x_zero_point)
    Y = QuantizeLinear(Clip(Conv(x, W · w_scale, B · x_scale · w_scale), min, max), y_scale, y_zero_point)

and with the residual

    Y = QuantizeLinear(DequantizeLinear(P, project_scale, project_zero_point) + x, y_scale, y_zero_point)

W is int8 without a zero-point, with one scale or one for each filter; B is int32. X, Y and everything between them are
of one type, uint8 or int8. Kernels compute the sum exactly, in int32 (they refuse weights that could overflow it):

    sum = B + Σ(X - x_zero_point) · W            m = x_scale · w_scale / y_scale, rounded to 22 bits
    sum = Σ(X - x_zero_point)                    of the mean, with m = x_scale / (positions · y_scale)
    Y   = clamp(round_half_even(float(sum) · m) + y_zero_point)

and with the residual, with a = project_scale / y_scale and b = x_scale / y_scale,

    Y   = clamp(round_half_even((P - project_zero_point) · a + (X - x_zero_point) · b) + y_zero_point)

in float32, each step rounded by itself, and clamped to the type and to the steps of min and max. Kernels agree on this
bit for bit. In real numbers it is the function body; in float32 that sums products which are rounded, so that where a
quotient falls next to a half, Y may be off by one step.

Of the kervolutions the sums are exact likewise, and what follows is in float32: with s = x_scale · w_scale

    x·w = s · Σ(X - x_zero_point) · W     ‖x - w‖² = max(0, x_scale²·Σ(X - x_zero_point)² + w_scale²·ΣW² - 2·x·w)
    Y   = clamp(round_half_even((kernel + B) / y_scale) + y_zero_point)

so that the CPU's instruction set may decide where the quotient falls next to a half. Their B is float32, in real
values: a function lies between the sum and it. Their group is 1.

Data lies with channels first, or last, as one says by the permutations `x_perm` (from X to NCHW: [0, 1, 2, 3] or
[0, 3, 1, 2]) and `y_perm` (from NCHW to Y: [0, 1, 2, 3] or [0, 2, 3, 1]). Kernels are made for channels last.

This module needs nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeconv.ops.kervolution import OPERATORS as KERVOLUTION_OPERATORS

if TYPE_CHECKING:
    from edgeconv.ops.operator import Operator

NCHW_TO_NHWC = (0, 2, 3, 1)
NHWC_TO_NCHW = (0, 3, 1, 2)
KEEP = (0, 1, 2, 3)
NO_LIMIT = 3.4028234663852886e38
"""The attributes `…min` and `…max` are -NO_LIMIT and NO_LIMIT where nothing is cut: the range of float32."""


@dataclass(frozen=True)
class Stage:
    """One convolution of an operator.

    Attributes:
        kind: "conv", "expand", "depthwise" or "project".
        inputs: Names of its weights, their scale, its bias, and of its results' scale and zero-point.
        limits: Names of the attributes that its results are cut by.
    """

    kind: str
    inputs: tuple[str, str, str, str, str]
    limits: tuple[str, str] | None


@dataclass(frozen=True)
class QLinearMobileOperator:
    """One of the operators.

    Attributes:
        name: The operator's name.
        formula: What it computes, in one line.
        stages: Its convolutions, in order.
        residual: Whether X is added.
        kernel: The kernel of a kervolution, else empty.
        parameters: Its tensor parameters, behind all other inputs; float32, a scalar or one per filter.
        has_degree: Whether it takes the integer attribute `degree`.
    """

    name: str
    formula: str
    stages: tuple[Stage, ...]
    residual: bool = False
    kernel: str = ""
    parameters: tuple[str, ...] = ()
    has_degree: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs in order."""
        result = ("y_scale", "y_zero_point") if self.residual else ()
        stages = (name for stage in self.stages for name in stage.inputs)
        return ("X", "x_scale", "x_zero_point", *stages, *result, *self.parameters)

    @property
    def outputs(self) -> tuple[str, ...]:
        """`Y` alone."""
        return ("Y",)

    @property
    def is_quantized(self) -> bool:
        """True."""
        return True

    @property
    def window(self) -> Stage:
        """The stage that the window's attributes belong to."""
        return next(stage for stage in self.stages if stage.kind in ("conv", "depthwise"))


def _stage(kind: str, last: bool) -> Stage:
    prefix = "" if kind == "conv" else f"{kind}_"
    result = "y" if last else kind
    limits = None if kind == "project" else (f"{prefix}min", f"{prefix}max")
    weights = (f"{prefix}W", f"{prefix}w_scale", f"{prefix}B")
    return Stage(kind, (*weights, f"{result}_scale", f"{result}_zero_point"), limits)


def _operator(name: str, formula: str, *kinds: str, residual: bool = False) -> QLinearMobileOperator:
    stages = tuple(_stage(kind, last=kind == kinds[-1] and not residual) for kind in kinds)
    return QLinearMobileOperator(name, formula, stages, residual)


CONVOLUTION = _operator("QLinearConvolution", "x·w", "conv")
SEPARABLE = _operator("QLinearSeparableConvolution", "project(depthwise(x))", "depthwise", "project")
BOTTLENECK = _operator("QLinearBottleneck", "project(depthwise(expand(x)))", "expand", "depthwise", "project")
INVERTED_RESIDUAL = _operator(
    "QLinearInvertedResidual", "project(depthwise(expand(x))) + x", "expand", "depthwise", "project", residual=True
)


KERVOLUTIONS = {
    f"QLinear{each.name}": QLinearMobileOperator(
        f"QLinear{each.name}",
        each.formula,
        (Stage("conv", ("W", "w_scale", "B", "y_scale", "y_zero_point"), None),),
        kernel=each.kernel,
        parameters=each.parameters,
        has_degree=each.has_degree,
    )
    for each in KERVOLUTION_OPERATORS.values()
    if each.has_precision
}
"""Operator name -> its description, of the kervolutions on x·w; `formula` is before the bias."""


@dataclass(frozen=True)
class QLinearPoolOperator:
    """The mean over all positions."""

    name: str = "QLinearGlobalAveragePool"
    formula: str = "mean of x over all positions"
    inputs: tuple[str, ...] = ("X", "x_scale", "x_zero_point", "y_scale", "y_zero_point")
    outputs: tuple[str, ...] = ("Y",)
    is_quantized: bool = True


GLOBAL_AVERAGE_POOL = QLinearPoolOperator()

CONVOLUTIONS = {operator.name: operator for operator in (CONVOLUTION, SEPARABLE, BOTTLENECK, INVERTED_RESIDUAL)}
"""Operator name -> its description; `formula` is of the dequantised tensors, each stage quantised."""

OPERATORS: dict[str, Operator] = {**CONVOLUTIONS, **KERVOLUTIONS, GLOBAL_AVERAGE_POOL.name: GLOBAL_AVERAGE_POOL}
"""Operator name -> its description, of all of them."""
