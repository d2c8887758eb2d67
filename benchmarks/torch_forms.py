"""Each kernel in PyTorch, in every form that could be its fastest, eager and for torch.compile. Imports torch.

The kernels made of x·w are a convolution into whose filters and bias the constants are folded. The distance kernels
unfold the input to columns; eager they go through `torch.cdist` or blocks of taps, compiled through one broadcast
expression, of which the compiler makes a loop without temporaries. The unfolding stays outside the compiled part:
inside, the compiler computes it anew for every filter, which takes 20 times as long.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from layers import Layer, parameters
from standard_graphs import DISTANCES
from torch import Tensor, nn

EAGER_BLOCK = 8
"""Taps that the eager form takes at a time."""

COMPILED_DISTANCES = {
    "manhattan": (("positions", ""), ("positions", "maximum"), ("taps", ""), ("filters", "")),
    "chebyshev": (("positions", ""), ("positions", "bits"), ("taps", ""), ("taps", "bits")),
}
"""What lies innermost and which trick is used (see `FromColumns`), in every form offered to torch.compile."""


class FromConv(nn.Module):
    """The kernels made of x·w."""

    def __init__(self, kernel: str, layer: Layer) -> None:
        super().__init__()
        w = torch.from_numpy(layer.tensors()[1].copy())
        values = parameters(kernel, layer)
        self.kernel, self.layer = kernel, layer
        if kernel == "polynomial":
            bias = torch.full((layer.filters,), values["balance"])
        elif kernel == "sigmoid":
            w, bias = values["scale"] * w, torch.full((layer.filters,), values["balance"])
        else:
            scale = values.get("gamma", 1.0)
            w, bias = 2 * scale * w, -scale * w.square().sum((1, 2, 3))
            box = torch.full((layer.group, 1, layer.window, layer.window), -scale)
            self.box = nn.Parameter(box, requires_grad=False)
        # Parameters, because those are what freezing lays out anew for the machine.
        self.weight, self.bias = (nn.Parameter(tensor, requires_grad=False) for tensor in (w, bias))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, M, H', W')."""
        layer = self.layer
        u = F.conv2d(x, self.weight, self.bias, layer.stride, layer.pad, 1, layer.group)
        if self.kernel == "polynomial":
            return u * u * u
        if self.kernel == "sigmoid":
            return torch.tanh(u)
        squares = x.square()
        if layer.group == 1:
            squares = squares.sum(1, keepdim=True)
        elif layer.depth > 1:
            squares = squares.unflatten(1, (layer.group, layer.depth)).sum(2)
        energy = F.conv2d(squares, self.box, None, layer.stride, layer.pad, 1, layer.group)
        if 1 < layer.group < layer.filters:
            energy = energy.repeat_interleave(layer.filters // layer.group, 1)
        u = u + energy
        return u.exp() if self.kernel == "gaussian" else u


class Unfold(nn.Module):
    """The input as columns: (N, group, taps, positions), or with taps last (N, group, positions, taps)."""

    def __init__(self, layer: Layer, taps_last: bool = False) -> None:
        super().__init__()
        self.layer, self.taps_last = layer, taps_last

    def forward(self, x: Tensor) -> Tensor:
        """From (N, C, H, W)."""
        layer = self.layer
        columns = F.unfold(x, layer.window, 1, layer.pad, layer.stride)
        columns = columns.reshape(layer.batch, layer.group, layer.taps, layer.positions)
        return columns.transpose(2, 3).contiguous() if self.taps_last else columns


class FromColumns(nn.Module):
    """The distance kernels over columns, as one expression.

    Args:
        kernel: manhattan or chebyshev.
        layer: The geometry.
        innermost: What lies innermost when the expression is written out: "positions", which takes columns as they are
            unfolded, or "taps" or "filters", which take them with taps last.
        trick: "" for |x - w|; "maximum" for it as 2 max(x, w) - x - w, in a sum; "bits" to compare its bits as
            integers, in a maximum: what is not negative has the same order, and integers have no NaN to look out for.
    """

    def __init__(self, kernel: str, layer: Layer, innermost: str, trick: str = "") -> None:
        super().__init__()
        self.kernel, self.layer, self.innermost, self.trick = kernel, layer, innermost, trick
        w = torch.from_numpy(layer.tensors()[1].reshape(layer.group, -1, layer.taps).copy())
        self.register_buffer("weight", w.transpose(1, 2).contiguous() if innermost == "filters" else w)
        self.register_buffer("weight_sums", w.sum(2))
        self.weight: Tensor
        self.weight_sums: Tensor

    def forward(self, columns: Tensor) -> Tensor:
        """From columns to (N, M, H', W')."""
        if self.innermost == "positions":  # N, group, filters, taps, positions
            x, w, taps = columns[:, :, None], self.weight[:, :, :, None], 3
        elif self.innermost == "taps":  # N, group, positions, filters, taps
            x, w, taps = columns[:, :, :, None], self.weight[:, None], 4
        else:  # N, group, positions, taps, filters
            x, w, taps = columns[..., None], self.weight[:, None], 3
        if self.kernel == "chebyshev":
            distance = (x - w).abs()
            bits = self.trick == "bits"
            y = distance.view(torch.int32).amax(taps).view(torch.float32) if bits else distance.amax(taps)
        elif self.trick == "maximum":
            y = 2 * torch.maximum(x, w).sum(taps) - x.sum(taps)
        else:
            y = (x - w).abs().sum(taps)
        if self.innermost != "positions":
            y = y.transpose(2, 3)
        if self.trick == "maximum":
            y = y - self.weight_sums[:, :, None]
        return -y.reshape(self.layer.y_shape)


class EagerColumns(FromColumns):
    """The distance kernels over columns, a block of taps at a time."""

    def forward(self, columns: Tensor) -> Tensor:
        """(N, group, taps, positions) to (N, M, H', W')."""
        total: Tensor | None = None
        for first in range(0, self.layer.taps, EAGER_BLOCK):
            block = slice(first, first + EAGER_BLOCK)
            difference = columns[:, :, None, block] - self.weight[:, :, block, None]
            difference.abs_()
            part = difference.amax(3) if self.kernel == "chebyshev" else difference.sum(3)
            if total is None:
                total = part
            elif self.kernel == "chebyshev":
                torch.maximum(total, part, out=total)
            else:
                total += part
        assert total is not None
        return total.neg_().reshape(self.layer.y_shape)


class Cdist(FromColumns):
    """The distance kernels over columns by `torch.cdist`."""

    def forward(self, columns: Tensor) -> Tensor:
        """(N, group, taps, positions) to (N, M, H', W')."""
        p = math.inf if self.kernel == "chebyshev" else 1.0
        y = torch.cdist(columns.transpose(2, 3), self.weight[None].expand(self.layer.batch, -1, -1, -1), p=p)
        return -y.transpose(2, 3).reshape(self.layer.y_shape)


class TapByTap(nn.Module):
    """The distance kernels of a depthwise layer: one shifted input a tap."""

    def __init__(self, kernel: str, layer: Layer) -> None:
        super().__init__()
        self.kernel, self.layer = kernel, layer
        self.register_buffer("weight", torch.from_numpy(layer.tensors()[1].copy()))
        self.weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H', W')."""
        layer = self.layer
        x = F.pad(x, [layer.pad] * 4)
        height, width = (layer.stride * (size - 1) + 1 for size in (layer.output_height, layer.output_width))
        total: Tensor | None = None
        for row in range(layer.window):
            for column in range(layer.window):
                tap = x[:, :, row : row + height : layer.stride, column : column + width : layer.stride]
                distance = (tap - self.weight[:, 0, row, column, None, None]).abs()
                if total is None:
                    total = distance
                else:
                    total = torch.maximum(total, distance) if self.kernel == "chebyshev" else total + distance
        assert total is not None
        return -total


class Steps(nn.Module):
    """Two steps, of which only the second is compiled."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        """Both, one after the other."""
        result: Tensor = self.second(self.first(x))
        return result


def input_tensor(layer: Layer, channels_last: bool) -> Tensor:
    """X in the memory format asked for."""
    x = torch.from_numpy(layer.tensors()[0].copy())
    return x.to(memory_format=torch.channels_last) if channels_last else x


def eager_forms(kernel: str, layer: Layer) -> Iterator[tuple[str, nn.Module, bool]]:
    """Candidates for the best eager form: name, module, whether its input is channels-last."""
    if kernel not in DISTANCES:
        yield "conv2d", FromConv(kernel, layer), False
        yield "conv2d, channels last", FromConv(kernel, layer).to(memory_format=torch.channels_last), True
        return
    yield "unfold, cdist", Steps(Unfold(layer), Cdist(kernel, layer, "positions")), False
    yield f"unfold, blocks of {EAGER_BLOCK}", Steps(Unfold(layer), EagerColumns(kernel, layer, "positions")), False
    if layer.depthwise:
        yield "tap by tap", TapByTap(kernel, layer), False


def compiled_forms(kernel: str, layer: Layer) -> Iterator[tuple[str, nn.Module, bool, bool]]:
    """Candidates for torch.compile's best form: name, module, whether its input is channels-last, and freezing.

    In `Steps` only the second step is to be compiled.
    """
    if kernel not in DISTANCES:
        yield "conv2d", FromConv(kernel, layer), False, False
        yield "conv2d, frozen", FromConv(kernel, layer), False, True
        last = FromConv(kernel, layer).to(memory_format=torch.channels_last)
        yield "conv2d, frozen, channels last", last, True, True
        return
    for innermost, trick in COMPILED_DISTANCES[kernel]:
        name = f"unfold, {innermost} innermost" + (f", {trick}" if trick else "")
        distance = FromColumns(kernel, layer, innermost, trick)
        yield name, Steps(Unfold(layer, innermost != "positions"), distance), False, False
    if layer.depthwise:
        yield "tap by tap", TapByTap(kernel, layer), False, False
