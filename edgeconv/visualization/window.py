"""The geometry of a sliding window: which rows and columns it sees, and where its transpose puts them."""

from __future__ import annotations

from dataclasses import dataclass

Pair = tuple[int, int]


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels; all four bounds belong to it, and may lie outside of the image before `clip`."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top + 1

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left + 1

    def clip(self, size: Pair) -> Box:
        """Return the part that lies in an image of this height and width."""
        height, width = size
        return Box(max(self.top, 0), max(self.left, 0), min(self.bottom, height - 1), min(self.right, width - 1))


@dataclass(frozen=True)
class Window:
    """A window over rows and columns.

    Attributes:
        kernel: Rows and columns that it takes.
        stride: Between neighbouring positions.
        before: Padding above and at the left.
        dilation: Distance between the pixels that it takes.
    """

    kernel: Pair
    stride: Pair = (1, 1)
    before: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def extent(self, axis: int) -> int:
        """Rows (axis 0) or columns (axis 1) from the first to the last pixel that one position takes."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1

    def sees(self, box: Box) -> Box:
        """Return what the positions in a box see of the input, padding included."""
        (rows, columns), (top, left) = self.stride, self.before
        return Box(
            box.top * rows - top,
            box.left * columns - left,
            box.bottom * rows - top + self.extent(0) - 1,
            box.right * columns - left + self.extent(1) - 1,
        )

    def missing(self, axis: int, size: int, count: int) -> int:
        """Return by how many pixels an input exceeds what its windows cover at the end; negative: they exceed it.

        Args:
            axis: 0 for rows, 1 for columns.
            size: Of the input.
            count: Positions of the window.
        """
        return size + self.before[axis] - ((count - 1) * self.stride[axis] + self.extent(axis))

    def tiles(self, size: Pair) -> bool:
        """Whether the windows cover an input of this size without gaps and overlap."""
        plain = self.kernel == self.stride and self.before == (0, 0) and self.dilation == (1, 1)
        return plain and all(length % step == 0 for length, step in zip(size, self.stride, strict=True))
