"""A chain of operations from the image to a layer: forward with switches recorded, and down again."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from edgeconv.visualization.operations import Operation
from edgeconv.visualization.window import Box, Pair

Shape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Recording:
    """What the way down needs of a forward pass.

    Attributes:
        maps: (N, M, h, w), the layer's activations.
        sizes: Height and width of each operation's input.
        switches: Of each operation; None where it has none.
    """

    maps: Tensor
    sizes: tuple[Pair, ...]
    switches: tuple[Tensor | None, ...]


@dataclass(frozen=True, eq=False)
class Stack:
    """The operations up to a layer, and the rectifier behind it.

    Attributes:
        layer: The layer's name.
        operations: In the order of the forward pass.
        input_shape: (C, H, W) of an image.
        shapes: (channels, height, width) of each operation's input, and of the layer's maps.
    """

    layer: str
    operations: tuple[Operation, ...]
    shapes: tuple[Shape, ...]

    @property
    def input_shape(self) -> Shape:
        """(C, H, W) of an image."""
        return self.shapes[0]

    @property
    def output_shape(self) -> Shape:
        """(M, h, w) of the layer's maps."""
        return self.shapes[-1]

    @property
    def features(self) -> int:
        """How many maps the layer has."""
        return self.output_shape[0]

    def forward(self, images: Tensor) -> Tensor:
        """Return the layer's activations (N, M, h, w) for (N, C, H, W)."""
        for operation in self.operations:
            images, _ = operation.forward(images)
        return images

    def record(self, images: Tensor) -> Recording:
        """Run forward, and keep the switches and the sizes."""
        sizes, switches = [], []
        for operation in self.operations:
            sizes.append((images.shape[2], images.shape[3]))
            images, chosen = operation.forward(images)
            switches.append(chosen)
        return Recording(images, tuple(sizes), tuple(switches))

    def project(self, maps: Tensor, recording: Recording) -> Tensor:
        """Take activations of the layer down to pixels (paper, section 2.1).

        Args:
            maps: (N, M, h, w); all but the activations to be shown are 0.
            recording: Of the forward pass.

        Returns:
            (N, C, H, W), in units of the network's input.
        """
        steps = zip(self.operations, recording.sizes, recording.switches, strict=True)
        for operation, size, switches in reversed(list(steps)):
            maps = operation.down(maps, size, switches)
        return maps

    def receptive_field(self, row: int, column: int) -> Box:
        """Return what an activation can depend on: rows and columns of the image, clipped at its borders.

        Clipping happens at every layer, because a window that hangs over a border sees padding there, and not what
        more of the image would have become.
        """
        box = Box(row, column, row, column)
        for operation, (_, height, width) in reversed(list(zip(self.operations, self.shapes[:-1], strict=True))):
            box = box if operation.window is None else operation.window.sees(box).clip((height, width))
        return box

    def unclipped_field(self, row: int, column: int) -> Box:
        """Return the same as `receptive_field` for an image without borders."""
        box = Box(row, column, row, column)
        for operation in reversed(self.operations):
            box = box if operation.window is None else operation.window.sees(box)
        return box
