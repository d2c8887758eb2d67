"""Whitening for network deconvolution: `DeconvWhitening`, its names, its attributes and what it computes.

Source: Ye et al., "Network Deconvolution", ICLR 2020 (arXiv 1905.11926), section 3 and algorithm 1; where the paper is
silent, the authors' published layers decide.

A deconvolution removes the correlation between the values that a filter sees before the filter sees them. Over the
patches of the input, unfolded into rows of F = block·kH·kW values,

    mean   = average of the rows
    Cov    = (S - mean)ᵀ(S - mean)/P + eps·I        of the P rows S; not centered: SᵀS/P + eps·I
    deconv = Cov^(-1/2), by n_iter coupled Newton–Schulz steps:
             Y = Cov/‖Cov‖_F, Z = I;  T = (3·I - Z·Y)/2, Y = Y·T, Z = T·Z;  deconv = Z/√‖Cov‖_F

and the layer convolves with W·deconv and the bias B - W·deconv·mean, both of which are standard operators.

Rows. With a window of more than one tap: the output positions of a convolution whose strides are
sampling_stride·strides, of every image; zero padding takes part. With one tap: every (sampling_stride²·strides)-th
pixel, counted through all images from the first; there is no padding.

Columns. Feature f = c·kH·kW + i·kW + j is tap (i, j) of channel c. Without groups the C/block blocks are interleaved:
feature f = p·(C/block) + q is value p of block q. They share one mean and one covariance: each block of a row is a
sample. With groups each group is one block, with statistics of its own.

Results are float32 for float32, float16 and bfloat16 inputs. Large inputs do not overflow: samples are scaled down, and
the results back. NaN and infinity in a sample make the results NaN or infinite, which the layers do not use.

This module needs nothing but the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NAME = "DeconvWhitening"
"""The operator's name, the same in ONNX, in torch, in the native libraries and as a TensorRT plugin."""

EPS, N_ITER, SAMPLING_STRIDE, BLOCK = 1e-5, 5, 3, 64
"""Defaults of the authors' layers; `block` has no default in the operator."""


@dataclass(frozen=True)
class WhiteningOperator:
    """The operator's description.

    Attributes:
        name: See `NAME`.
        formula: What it computes.
        inputs: Names of the inputs in order; none is optional.
        outputs: Names of the outputs in order.
    """

    name: str
    formula: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def is_quantized(self) -> bool:
        """False."""
        return False


OPERATOR = WhiteningOperator(
    NAME,
    "mean and (Cov + eps·I)^(-1/2) of the input's patches",
    ("X",),
    ("mean", "deconv"),
)
"""The operator's description."""


@dataclass(frozen=True)
class WhiteningShape:
    """How channels are cut into blocks, and the sizes that follow.

    Attributes:
        channels: C.
        block: Channels of a block.
        taps: kH·kW.
        group: As in the convolution that follows.
    """

    channels: int
    block: int
    taps: int
    group: int = 1

    def __post_init__(self) -> None:
        if self.group < 1 or self.block < 1 or self.taps < 1:
            raise ValueError(f"block, taps and group must be at least 1; got {self.block}, {self.taps}, {self.group}")
        if self.channels % self.group:
            raise ValueError(f"{self.group} groups do not divide {self.channels} channels")
        if self.group > 1 and self.block != self.channels // self.group:
            raise ValueError(
                f"with {self.group} groups the block must be the {self.channels // self.group} channels of a group; "
                f"got {self.block}"
            )
        if self.channels % self.block:
            raise ValueError(f"a block of {self.block} does not divide {self.channels} channels")

    @property
    def blocks(self) -> int:
        """Blocks that share a covariance: C/block without groups, 1 with groups."""
        return self.channels // self.block if self.group == 1 else 1

    @property
    def features(self) -> int:
        """F, the side of a covariance."""
        return self.block * self.taps


def choose_block(channels: int, block: int, group: int = 1) -> int:
    """Return the block that a layer uses when asked for `block`: the authors' rule.

    A block of more channels than there are becomes all of them; one that does not divide them, the greatest common
    divisor; a layer with groups uses one block a group.
    """
    if block < 1:
        raise ValueError(f"block must be at least 1; got {block}")
    if group > 1:
        return channels // group
    return channels if block > channels else math.gcd(block, channels)


def sampling_steps(sampling_stride: int, strides: Sequence[int]) -> tuple[int, int]:
    """Return the vertical and horizontal step from one sampled position to the next."""
    return sampling_stride * strides[0], sampling_stride * strides[1]
