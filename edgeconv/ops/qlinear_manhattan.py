"""Manhattan kervolution in 8 bits: `QLinearManhattanKervolution`, its names and its arithmetic.

Its inputs stand in the order of ONNX `QLinearConv`. What it computes is, by definition, its function body:

    Y = QuantizeLinear(ManhattanKervolution(DequantizeLinear(X), DequantizeLinear(W, axis=0), B), y_scale, y_zero_point)

    ManhattanKervolution = -Σ|x - w| + B, over the zero-padded patch (Wang et al., CVPR 2019, arXiv 1904.03955)

A padded position is the real value 0, that is `x_zero_point`. The bias is float32: a sum of absolute differences has no
product of scales that an integer bias could be in.

Where every w_scale equals x_scale (the weights are on the activations' grid), the scale leaves the sum, and what is
left is exact in integers. A kernel computes it so, with every float32 step rounded by itself (no fused multiply-add):

    sum = Σ|(X - x_zero_point) - (W - w_zero_point)|          int32; below 510·(C/group)·kH·kW
    v   = -(x_scale · float(sum)) + B                         without B: no addition
    Y   = saturate(round_half_even(v / y_scale) + y_zero_point)

Kernels agree on this bit for bit. The function body dequantises before it sums, so its float32 sum may be off in its
last digits, and where v / y_scale falls next to a half, Y is off by one step.

This module needs nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeconv.ops.kervolution import KervolutionOperator


@dataclass(frozen=True)
class QLinearKervolutionOperator(KervolutionOperator):
    """A kervolution between 8-bit tensors."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs in order; the last, `B`, is optional."""
        activations, weights = (("X", "x_scale", "x_zero_point"), ("W", "w_scale", "w_zero_point"))
        return (*activations, *weights, "y_scale", "y_zero_point", "B")

    @property
    def is_quantized(self) -> bool:
        """True."""
        return True


OPERATOR = QLinearKervolutionOperator("QLinearManhattanKervolution", "manhattan", (), "-‖x - w‖₁")
"""The operator's description; `formula` is of the dequantised tensors, before the bias."""
