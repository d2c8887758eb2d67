"""Residual blocks and stages, for ResNet and for the networks that are made of its parts.

Sources: He et al., CVPR 2016, figure 5; Xie et al., CVPR 2017 (ResNeXt), figure 3c; Hu et al., CVPR 2018
(squeeze-and-excitation), figure 3. Submodules have torchvision's names; squeeze-and-excitation has timm's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.models.convolutions import check_choice
from edgeconv.nn.blocks import SqueezeExcite

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6}

Shortcut = Callable[[int, int, int], nn.Module]
"""Makes a shortcut of input channels, output channels and stride."""


@dataclass(frozen=True)
class BlockStyle:
    """What a network's blocks are made of.

    Attributes:
        activation: A key of `ACTIVATIONS`.
        groups: Cardinality: groups of a bottleneck's 3x3 convolution.
        base_width: Channels of a group where a stage has 64.
        reduction: Of squeeze-and-excitation; 0 leaves it out.
    """

    activation: str = "relu"
    groups: int = 1
    base_width: int = 64
    reduction: int = 0

    def __post_init__(self) -> None:
        check_choice("activation", self.activation, ACTIVATIONS)

    def squeeze(self, channels: int) -> SqueezeExcite | None:
        """Return squeeze-and-excitation for a block's output, if the style has it."""
        return SqueezeExcite(channels, max(1, channels // self.reduction)) if self.reduction else None


class ZeroPadShortcut(nn.Module):
    """Option A (section 4.2): subsample, then pad the new channels with zeros. It has no parameters.

    Args:
        extra: Number of channels to add.
        stride: Of the subsampling, both ways.
    """

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C + extra, ceil(H/stride), ceil(W/stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Option B: a 1x1 convolution with batch normalisation."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left).

    Args:
        in_channels: C.
        width: Of the convolutions.
        stride: Of the first.
        downsample: The shortcut; None for the input itself.
        style: See `BlockStyle`; no groups here.
        dilation: Of the first convolution.
    """

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        downsample: nn.Module | None,
        style: BlockStyle,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = ACTIVATIONS[style.activation](inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = style.squeeze(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, ceil(H/stride), ceil(W/stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        result: Tensor = self.relu((y if self.se is None else self.se(y)) + shortcut)
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (figure 5, right).

    Args:
        in_channels: C.
        width: Of the stage; the output has four times as many channels.
        stride: Of the 3x3 convolution.
        downsample: The shortcut; None for the input itself.
        style: See `BlockStyle`.
        dilation: Of the 3x3 convolution.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        downsample: nn.Module | None,
        style: BlockStyle,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        inner, out = max(1, width * style.base_width // 64) * style.groups, width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, dilation, dilation, style.groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = ACTIVATIONS[style.activation](inplace=True)
        self.se = style.squeeze(out)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 4 width, ceil(H/stride), ceil(W/stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        result: Tensor = self.relu((y if self.se is None else self.se(y)) + shortcut)
        return result


def stage(
    block: type[BasicBlock | Bottleneck],
    in_channels: int,
    width: int,
    blocks: int,
    stride: int,
    style: BlockStyle,
    shortcut: Shortcut = projection,
    *,
    dilation: int = 1,
    first_dilation: int | None = None,
) -> nn.Sequential:
    """Return blocks of one size in a row.

    Args:
        block: Their class.
        in_channels: C.
        width: See the block.
        blocks: How many.
        stride: Of the first.
        style: Of all.
        shortcut: Of the first, where it changes the size.
        dilation: Of all.
        first_dilation: Of the first block, if another.
    """
    out = width * block.expansion
    downsample = shortcut(in_channels, out, stride) if stride != 1 or in_channels != out else None
    first = block(in_channels, width, stride, downsample, style, dilation if first_dilation is None else first_dilation)
    return nn.Sequential(first, *(block(out, width, 1, None, style, dilation) for _ in range(blocks - 1)))


def initialize(model: nn.Module, zero_init_residual: bool) -> None:
    """Initialise convolutions after He et al., ICCV 2015; with `zero_init_residual` start blocks as their shortcuts."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual and isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)
        if zero_init_residual and isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)
