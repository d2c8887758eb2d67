"""What a stack is made of: each operation forward, and its counterpart on the way down.

Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014 (arXiv 1311.2901), section 2.1: the
way down unpools with the switches that max pooling recorded, rectifies, and filters with the transposed weights. What
the section does not say is done as follows. Batch normalisation (evaluation) scales channels, and so does its
transpose. Average pooling is linear; its transpose spreads a value evenly over its window. Local response
normalisation is passed through: the paper's network has it, and its way down has no counterpart; dropout is the
identity in evaluation. Where max pooling's windows overlap, values that meet at one pixel are added, which is the
transpose of selecting; where they do not, this is unpooling. A padding's transpose cuts it off.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeconv.visualization.window import Pair, Window


@dataclass(frozen=True, eq=False)
class Operation(ABC):
    """One operation of a stack.

    Attributes:
        layer: Name of the layer that it comes from.
    """

    layer: str

    @property
    def window(self) -> Window | None:
        """What it sees; None if each pixel depends on the same pixel alone."""
        return None

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return (N, M, h, w) for (N, C, H, W), and max pooling's switches: the pixels chosen, as row · W + column."""

    @abstractmethod
    def down(self, y: Tensor, size: Pair, switches: Tensor | None) -> Tensor:
        """Return (N, C, H, W) for (N, M, h, w), H and W being `size`."""


@dataclass(frozen=True, eq=False)
class Convolution(Operation):
    """With zero padding.

    Attributes:
        weight: (M, C / groups, kH, kW).
        bias: (M) or None.
        strides: Rows, columns.
        pads: Top, left, bottom, right.
        dilations: Rows, columns.
        groups: Of channels.
    """

    weight: Tensor
    bias: Tensor | None
    strides: Pair
    pads: tuple[int, int, int, int]
    dilations: Pair
    groups: int

    @property
    def window(self) -> Window:
        """Of the filters."""
        kernel = (self.weight.shape[2], self.weight.shape[3])
        return Window(kernel, self.strides, self.pads[:2], self.dilations)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Convolve."""
        top, left, bottom, right = self.pads
        x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, self.weight, self.bias, self.strides, 0, self.dilations, self.groups), None

    def down(self, y: Tensor, size: Pair, switches: Tensor | None) -> Tensor:
        """Filter with the transposed weights; the bias has no part in it."""
        return transpose_window(y, self.weight, self.window, self.groups, size)


@dataclass(frozen=True, eq=False)
class Rectifier(Operation):
    """max(x, 0), with an upper bound if there is one. The way down rectifies without a bound.

    Attributes:
        ceiling: 6 for ReLU6; None for ReLU.
    """

    ceiling: float | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Rectify."""
        return x.clamp(0, self.ceiling), None

    def down(self, y: Tensor, size: Pair, switches: Tensor | None) -> Tensor:
        """Rectify what comes down; where the forward pass was positive plays no part."""
        return y.clamp(min=0)


@dataclass(frozen=True, eq=False)
class MaxPooling(Operation):
    """Padding never wins.

    Attributes:
        pooling: Its window.
        ceil_mode: Whether a last window may hang over the end.
    """

    pooling: Window
    ceil_mode: bool = False

    @property
    def window(self) -> Window:
        """Of the pooling."""
        return self.pooling

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pool; of equal pixels the first one is chosen."""
        w = self.pooling
        pooled, switches = F.max_pool2d(x, w.kernel, w.stride, w.before, w.dilation, self.ceil_mode, True)
        return pooled, switches

    def down(self, y: Tensor, size: Pair, switches: Tensor | None) -> Tensor:
        """Put each value where it came from, and add those that came from one pixel."""
        assert switches is not None
        flat = y.new_zeros(*y.shape[:2], size[0] * size[1])
        return flat.scatter_add_(2, switches.flatten(2), y.flatten(2)).view(*y.shape[:2], *size)


@dataclass(frozen=True, eq=False)
class AveragePooling(Operation):
    """Mean of a window.

    Attributes:
        pooling: Its window.
        ceil_mode: Whether a last window may hang over the end.
        count_padding: Whether padding counts as pixels.
        divisor: What sums are divided by, if not by the number of pixels.
    """

    pooling: Window
    ceil_mode: bool = False
    count_padding: bool = True
    divisor: int | None = None

    @property
    def window(self) -> Window:
        """Of the pooling."""
        return self.pooling

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Pool."""
        return self._pool(x, self.divisor), None

    def down(self, y: Tensor, size: Pair, switches: Tensor | None) -> Tensor:
        """Spread each value evenly over its window."""
        ones = y.new_ones(y.shape[1], 1, *self.pooling.kernel)
        return transpose_window(y * self.shares(size).to(y), ones, self.pooling, y.shape[1], size)

    def shares(self, size: Pair) -> Tensor:
        """Return 1 / what each window's sum is divided by, (h, w), for an input of this height and width."""
        ones = torch.ones(1, 1, *size, dtype=torch.float64)
        return (self._pool(ones, self.divisor) / self._pool(ones, 1))[0, 0]

    def _pool(self, x: Tensor, divisor: int | None) -> Tensor:
        w = self.pooling
        return F.avg_pool2d(x, w.kernel, w.stride, w.before, self.ceil_mode, self.count_padding, divisor)


@dataclass(frozen=True, eq=False)
class ChannelScale(Operation):
    """Batch normalisation with running statistics: scale · x + shift, of each channel.

    Attributes:
        scale: (C).
        shift: (C).
    """

    scale: Tensor
    shift: Tensor

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Scale and shift."""
        return x * self.scale[:, None, None] + self.shift[:, None, None], None

    def down(self, y: Tensor, size: Pair, switches: Tensor | None) -> Tensor:
        """Scale."""
        return y * self.scale[:, None, None]


@dataclass(frozen=True, eq=False)
class ResponseNormalization(Operation):
    """x / (k + alpha · mean of x² over neighbouring channels)^beta: Krizhevsky et al., NIPS 2012, section 3.3.

    Attributes:
        size: Neighbouring channels; where even, one more before than behind.
        alpha: Of the mean (the paper's, of the sum, times `size`).
        beta: Exponent.
        k: Added.
    """

    size: int
    alpha: float
    beta: float
    k: float

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Normalise."""
        return F.local_response_norm(x, self.size, self.alpha, self.beta, self.k), None

    def down(self, y: Tensor, size: Pair, switches: Tensor | None) -> Tensor:
        """Pass through."""
        return y


@dataclass(frozen=True, eq=False)
class ZeroPadding(Operation):
    """Zeros (or, where negative, cuts) at the edges.

    Attributes:
        pads: Top, left, bottom, right.
    """

    pads: tuple[int, int, int, int]

    @property
    def window(self) -> Window:
        """A shift."""
        return Window((1, 1), before=self.pads[:2])

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Pad."""
        top, left, bottom, right = self.pads
        return F.pad(x, (left, right, top, bottom)), None

    def down(self, y: Tensor, size: Pair, switches: Tensor | None) -> Tensor:
        """Cut off what was padded."""
        top, left, bottom, right = self.pads
        return F.pad(y, (-left, -right, -top, -bottom))


OPERATION_NAMES: dict[type[Operation], str] = {
    Convolution: "convolution",
    Rectifier: "ReLU",
    MaxPooling: "max pooling",
    AveragePooling: "average pooling",
    ChannelScale: "batch normalisation",
    ResponseNormalization: "response normalisation",
    ZeroPadding: "padding",
}
"""What each is called in reports."""


def transpose_window(y: Tensor, weight: Tensor, window: Window, groups: int, size: Pair) -> Tensor:
    """Return the transpose of a convolution, cut or filled up with zeros to the input's size exactly.

    Args:
        y: (N, M, h, w).
        weight: (M, C / groups, kH, kW).
        window: Of the convolution.
        groups: Of channels.
        size: H and W of the convolution's input.

    Returns:
        (N, C, H, W).
    """
    whole = F.conv_transpose2d(y, weight, None, window.stride, 0, 0, groups, window.dilation)
    (top, left), (rows, columns) = window.before, y.shape[2:]
    bottom, right = window.missing(0, size[0], rows), window.missing(1, size[1], columns)
    return F.pad(whole, (-left, right, -top, bottom))
