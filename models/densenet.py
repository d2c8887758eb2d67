"""DenseNet: Huang, Liu, van der Maaten, Weinberger, "Densely connected convolutional networks", CVPR 2017.

DenseNet-121 of table 1: bottleneck layers and compression (DenseNet-BC). State dicts have torchvision's names, which
are timm's too; the numbering of torchvision's published files is renamed as they load. Initialisation: He et al., ICCV
2015, as in the paper's section 4.2.
"""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.models.convolutions import (
    CONVOLUTION_CONFIG,
    STEMS,
    check_choice,
    configure_convolutions,
)
from edgeconv.models.registry import register

PAPER = 'Huang et al., "Densely connected convolutional networks", CVPR 2017 (arXiv 1608.06993)'


class DenseLayer(nn.Module):
    """A 1x1 and a 3x3 convolution behind normalisation and ReLU; their output joins the input (section 3).

    Args:
        in_channels: C.
        growth: k.
    """

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C + growth, H, W) for (N, C, H, W)."""
        y = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return torch.cat([x, y], 1)


class Transition(nn.Module):
    """A 1x1 convolution to half the channels, and pooling to half the size.

    Args:
        in_channels: C.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, in_channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C/2, H/2, W/2) for (N, C, H, W)."""
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class DenseNet(nn.Module):
    """Dense blocks with transitions between them (table 1).

    Args:
        blocks: Layers of each dense block.
        growth: k.
        num_classes: Width of the output.
        in_channels: Channels of the input.
        stem: One of `STEMS`.
    """

    def __init__(self, blocks: tuple[int, ...], growth: int, num_classes: int, in_channels: int, stem: str) -> None:
        super().__init__()
        check_choice("stem", stem, STEMS)
        if growth < 1 or not blocks or min(blocks) < 1:
            raise ValueError(f"growth and each of blocks must be at least 1; got {growth!r} and {list(blocks)!r}")
        large, channels = stem == "imagenet", 2 * growth
        self.features = nn.Sequential()
        stem_window = (7, 2, 3) if large else (3, 1, 1)
        self.features.add_module("conv0", nn.Conv2d(in_channels, channels, *stem_window, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(channels))
        self.features.add_module("relu0", nn.ReLU(inplace=True))
        if large:
            self.features.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        for index, layers in enumerate(blocks):
            block = nn.Sequential()
            for layer in range(layers):
                block.add_module(f"denselayer{layer + 1}", DenseLayer(channels, growth))
                channels += growth
            self.features.add_module(f"denseblock{index + 1}", block)
            if index + 1 < len(blocks):
                self.features.add_module(f"transition{index + 1}", Transition(channels))
                channels //= 2
        self.features.add_module(f"norm{len(blocks) + 1}", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for (N, in_channels, H, W)."""
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(F.relu(self.features(x)), 1).flatten(1))
        return logits


def rename_published(model: nn.Module, name: str) -> str | None:
    """Return the name here of what torchvision's published files call `name`: `norm.1` for `norm1`."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)


@register(
    "densenet121",
    description="DenseNet-121, 8.0 M parameters",
    paper=PAPER,
    input_shape=(3, 224, 224),
    config={
        "num_classes": 1000,
        "in_channels": 3,
        "growth": 32,
        "blocks": [6, 12, 24, 16],
        "stem": "imagenet",
        **CONVOLUTION_CONFIG,
    },
    weights={
        "torchvision densenet121": None,
        "torchvision densenet121 (published file)": rename_published,
        "timm densenet121": None,
    },
)
def densenet121(
    *, num_classes: int, in_channels: int, growth: int, blocks: list[int], stem: str, **layers: Any
) -> DenseNet:
    """Build DenseNet-121; see `DenseNet` and `CONVOLUTION_CONFIG`."""
    return configure_convolutions(DenseNet(tuple(blocks), growth, num_classes, in_channels, stem), **layers)
