"""PNASNet: Liu et al., "Progressive neural architecture search", ECCV 2018, in the CIFAR form of network deconvolution.

The experiments of Ye et al., "Network deconvolution", ICLR 2020, are with a small network of cells after the paper's:
six cells of a size, a cell of stride 2 to double the channels, three sizes. Cell A adds a 7x7 depthwise convolution and
a 3x3 pooling; cell B joins two such sums. State dicts have the names of those authors' code. Initialisation: He et al.,
ICCV 2015, fan-out mode.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.models.convolutions import CONVOLUTION_CONFIG, check_choice, configure_convolutions
from edgeconv.models.registry import register

PAPER = (
    'Liu et al., "Progressive neural architecture search", ECCV 2018 (arXiv 1712.00559), in the CIFAR form of '
    'Ye et al., "Network deconvolution", ICLR 2020 (arXiv 1905.11926)'
)


class SepConv(nn.Module):
    """A depthwise convolution, of which each channel gives M / C, and batch normalisation.

    Args:
        in_channels: C.
        out_channels: M, a multiple of C.
        kernel_size: Odd.
        stride: Both ways.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=in_channels, bias=False
        )
        self.bn1 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, M, ceil(H/stride), ceil(W/stride)) for (N, C, H, W)."""
        y: Tensor = self.bn1(self.conv1(x))
        return y


class _Pooled(nn.Module):
    """What both cells share: 3x3 pooling, and behind it a 1x1 convolution where the size changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(3, stride, 1)
        changes = stride != 1
        self.conv1 = nn.Conv2d(in_channels, out_channels, 1, bias=False) if changes else nn.Identity()
        self.bn1 = nn.BatchNorm2d(out_channels) if changes else nn.Identity()

    def pooled(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn1(self.conv1(self.pool(x)))
        return y


class CellA(_Pooled):
    """A 7x7 depthwise convolution plus pooling.

    Args:
        in_channels: C.
        out_channels: M.
        stride: Both ways.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.sep_conv1 = SepConv(in_channels, out_channels, 7, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, M, ceil(H/stride), ceil(W/stride)) for (N, C, H, W)."""
        return F.relu(self.sep_conv1(x) + self.pooled(x))


class CellB(_Pooled):
    """7x7 plus 3x3, and 5x5 plus pooling, joined by a 1x1 convolution.

    Args:
        in_channels: C.
        out_channels: M.
        stride: Both ways.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.sep_conv1 = SepConv(in_channels, out_channels, 7, stride)
        self.sep_conv2 = SepConv(in_channels, out_channels, 3, stride)
        self.sep_conv3 = SepConv(in_channels, out_channels, 5, stride)
        self.conv2 = nn.Conv2d(2 * out_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, M, ceil(H/stride), ceil(W/stride)) for (N, C, H, W)."""
        left = F.relu(self.sep_conv1(x) + self.sep_conv2(x))
        right = F.relu(self.pooled(x) + self.sep_conv3(x))
        return F.relu(self.bn2(self.conv2(torch.cat([left, right], 1))))


CELLS: dict[str, type[CellA | CellB]] = {"A": CellA, "B": CellB}
PLANES = {"A": 44, "B": 32}
"""Channels of the first cells, as the deconvolution's authors have them."""


class PNASNet(nn.Module):
    """Cells of three sizes.

    Args:
        cell: A key of `CELLS`.
        cells: Cells of a size.
        planes: Channels of the first; 0 for those of `PLANES`.
        num_classes: Width of the output.
        in_channels: Channels of the input.
    """

    def __init__(self, cell: str, cells: int, planes: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        check_choice("cell", cell, CELLS)
        make, planes = CELLS[cell], planes or PLANES[cell]

        def row(channels: int) -> nn.Sequential:
            return nn.Sequential(*(make(channels, channels, 1) for _ in range(cells)))

        self.conv1 = nn.Conv2d(in_channels, planes, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.layer1 = row(planes)
        self.layer2 = make(planes, 2 * planes, 2)
        self.layer3 = row(2 * planes)
        self.layer4 = make(2 * planes, 4 * planes, 2)
        self.layer5 = row(4 * planes)
        self.linear = nn.Linear(4 * planes, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for (N, in_channels, H, W)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer5(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


@register(
    "pnasnet",
    description="PNASNet in the CIFAR form of network deconvolution, 0.13 M parameters (cell B: 0.45 M with 32 planes)",
    paper=PAPER,
    input_shape=(3, 32, 32),
    config={"num_classes": 10, "in_channels": 3, "cell": "A", "cells": 6, "planes": 0, **CONVOLUTION_CONFIG},
)
def pnasnet(*, num_classes: int, in_channels: int, cell: str, cells: int, planes: int, **layers: Any) -> PNASNet:
    """Build PNASNet; see `PNASNet` and `CONVOLUTION_CONFIG`."""
    return configure_convolutions(PNASNet(cell, cells, planes, num_classes, in_channels), **layers)
