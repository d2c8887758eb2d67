"""The layers that the benchmarks measure: five of ResNet, which the goals are for, and a held set of other geometries.

Nobody tunes for the held set: there the library must only never be slower than what standard operators give.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """A convolution layer with a square window, padded by half of it on each side.

    Attributes:
        name: What it is called in options and results.
        channels: Input channels.
        height: Rows of the input.
        width: Columns of the input.
        filters: Output channels.
        window: Rows and columns of the window.
        stride: Both ways.
        group: Groups of channels.
        batch: Images.
    """

    name: str
    channels: int
    height: int
    width: int
    filters: int
    window: int
    stride: int = 1
    group: int = 1
    batch: int = 1

    @property
    def pad(self) -> int:
        """Rows and columns of padding on each side."""
        return self.window // 2

    @property
    def output_height(self) -> int:
        """Rows of the output."""
        return (self.height + 2 * self.pad - self.window) // self.stride + 1

    @property
    def output_width(self) -> int:
        """Columns of the output."""
        return (self.width + 2 * self.pad - self.window) // self.stride + 1

    @property
    def positions(self) -> int:
        """Positions of the window in one image."""
        return self.output_height * self.output_width

    @property
    def depth(self) -> int:
        """Channels that one filter reads."""
        return self.channels // self.group

    @property
    def taps(self) -> int:
        """Taps of one filter."""
        return self.depth * self.window**2

    @property
    def depthwise(self) -> bool:
        """Whether every channel has one filter of its own."""
        return self.group == self.channels == self.filters

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        """Shape of the input."""
        return self.batch, self.channels, self.height, self.width

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        """Shape of the filters."""
        return self.filters, self.depth, self.window, self.window

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        """Shape of the output."""
        return self.batch, self.filters, self.output_height, self.output_width

    @property
    def macs(self) -> int:
        """Multiply-adds (or absolute differences) of the direct algorithm."""
        return self.batch * self.filters * self.positions * self.taps

    def bytes(self, element: int = 4) -> int:
        """Input, filters and output together, each touched once.

        Args:
            element: Bytes of a number.
        """
        return element * sum(int(np.prod(shape)) for shape in (self.x_shape, self.w_shape, self.y_shape))

    def tensors(self) -> tuple[Array, Array]:
        """X and W, seeded; neither may be written to."""
        return _tensors(self)

    def describe(self) -> str:
        """One line for people."""
        parts = [f"{self.height}x{self.width}", f"{self.channels}->{self.filters}", f"k{self.window}"]
        parts += [f"stride {self.stride}"] if self.stride > 1 else []
        parts += [f"groups {self.group}"] if self.group > 1 else []
        parts += [f"batch {self.batch}"] if self.batch > 1 else []
        return " ".join(parts)


@lru_cache(maxsize=4)
def _tensors(layer: Layer) -> tuple[Array, Array]:
    generator = np.random.default_rng(1)
    x = generator.standard_normal(layer.x_shape).astype(np.float32)
    w = (generator.standard_normal(layer.w_shape) / np.sqrt(layer.taps)).astype(np.float32)
    return x, w


LAYERS = {
    layer.name: layer
    for layer in (
        Layer("56", 64, 56, 56, 64, 3),
        Layer("28", 128, 28, 28, 128, 3),
        Layer("14", 256, 14, 14, 256, 3),
        Layer("7", 512, 7, 7, 512, 3),
        Layer("224s2", 3, 224, 224, 64, 7, stride=2),
    )
}
"""ResNet's (He et al., CVPR 2016, table 1): the 3x3 layers of its four stages and its first layer."""

HELD = {
    layer.name: layer
    for layer in (
        Layer("dw56", 144, 56, 56, 144, 3, group=144),  # MobileNetV2 (CVPR 2018, table 2), second block
        Layer("dw112s2", 96, 112, 112, 96, 3, stride=2, group=96),  # the same, first strided block
        Layer("1x1", 512, 28, 28, 128, 1),  # ResNet-50's second stage
        Layer("56s2", 64, 56, 56, 128, 3, stride=2),  # ResNet-18's first strided layer
        Layer("groups", 128, 56, 56, 128, 3, group=32),  # ResNeXt-50 32x4d (CVPR 2017, table 1), first stage
        Layer("batch4", 256, 14, 14, 256, 3, batch=4),
        Layer("odd", 40, 37, 41, 72, 3),
        Layer("5x5", 32, 28, 28, 96, 5),  # GoogLeNet's inception 3b (CVPR 2015, table 1)
    )
}
"""Depthwise, 1x1, strided, grouped, batched, odd and 5x5 layers."""


def parameters(kernel: str, layer: Layer) -> dict[str, float]:
    """Values of the kernel's parameters; gamma of a size at which no output is subnormal."""
    values = {
        "polynomial": {"balance": 1.0},
        "gaussian": {"gamma": 2 / layer.taps},
        "sigmoid": {"scale": 0.1, "balance": 1.0},
    }
    return values.get(kernel, {})
