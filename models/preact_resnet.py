"""Pre-activation ResNet: He, Zhang, Ren, Sun, "Identity mappings in deep residual networks", ECCV 2016.

Normalisation and ReLU come before each convolution (figure 4e), and once more behind the last block. ResNet-18's size,
as in the experiments of network deconvolution (with `stem="cifar"`). There and in timm the first block's shortcut takes
the first convolution's plain output; `activate_first=True` activates it before the split, as the paper's appendix has
it. Initialisation: He et al., ICCV 2015, fan-out mode.
"""

from __future__ import annotations

import re
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.models.convolutions import (
    CONVOLUTION_CONFIG,
    STEMS,
    check_choice,
    configure_convolutions,
    scale_channels,
)
from edgeconv.models.registry import register

PAPER = 'He et al., "Identity mappings in deep residual networks", ECCV 2016 (arXiv 1603.05027)'


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each behind normalisation and ReLU, and a shortcut (figure 4e).

    Args:
        in_channels: C.
        out_channels: M.
        stride: Of the first convolution.
        activate_first: The shortcut takes the activated input even where it is an identity.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, activate_first: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        changes = stride != 1 or in_channels != out_channels
        self.downsample = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if changes else None
        self.activate_first = activate_first

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, M, ceil(H/stride), ceil(W/stride)) for (N, C, H, W)."""
        activated = F.relu(self.bn1(x))
        shortcut = activated if self.activate_first else x
        if self.downsample is not None:
            shortcut = self.downsample(activated)
        y: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return y + shortcut


class PreActResNet(nn.Module):
    """Four stages of 64 to 512 channels.

    Args:
        blocks: Number of blocks in each stage.
        num_classes: Width of the output.
        in_channels: Channels of the input.
        stem: One of `STEMS`.
        width: Multiplier of all channels.
        activate_first: See `PreActBlock`; of the first block.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        num_classes: int,
        in_channels: int,
        stem: str,
        width: float,
        activate_first: bool,
    ) -> None:
        super().__init__()
        check_choice("stem", stem, STEMS)
        large, channels = stem == "imagenet", scale_channels(64, width)
        self.conv1 = nn.Conv2d(in_channels, channels, *((7, 2, 3) if large else (3, 1, 1)), bias=False)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        self.stages = [f"layer{index + 1}" for index in range(len(blocks))]
        for index, (name, count) in enumerate(zip(self.stages, blocks, strict=True)):
            stage, planes = [], scale_channels(64 * 2**index, width)
            for block in range(count):
                first = index == block == 0
                stride = 2 if index > 0 and block == 0 else 1
                stage.append(PreActBlock(channels, planes, stride, first and activate_first))
                channels = planes
            self.add_module(name, nn.Sequential(*stage))
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for (N, in_channels, H, W) of any size."""
        x = self.maxpool(self.conv1(x))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(F.relu(self.bn(x)), 1).flatten(1))
        return logits


ENDS = {"stem.conv": "conv1", "norm": "bn", "head.fc": "fc"}
IN_BLOCK = {"norm1": "bn1", "conv1": "conv1", "norm2": "bn2", "conv2": "conv2", "downsample.conv": "downsample"}


def rename_timm(model: nn.Module, name: str) -> str | None:
    """Return the name here of what timm's ResNetV2 calls `name`."""
    layer, _, tensor = name.rpartition(".")
    if layer in ENDS:
        return f"{ENDS[layer]}.{tensor}"
    found = re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)\.(.+)", layer)
    if found is None or found[3] not in IN_BLOCK:
        return None
    return f"layer{int(found[1]) + 1}.{found[2]}.{IN_BLOCK[found[3]]}.{tensor}"


@register(
    "preact_resnet18",
    description="Pre-activation ResNet-18, 11.7 M parameters",
    paper=PAPER,
    input_shape=(3, 224, 224),
    config={
        "num_classes": 1000,
        "in_channels": 3,
        "stem": "imagenet",
        "width": 1.0,
        "activate_first": False,
        **CONVOLUTION_CONFIG,
    },
    weights={"timm resnetv2_18": rename_timm},
)
def preact_resnet18(
    *, num_classes: int, in_channels: int, stem: str, width: float, activate_first: bool, **layers: Any
) -> PreActResNet:
    """Build pre-activation ResNet-18; see `PreActResNet` and `CONVOLUTION_CONFIG`."""
    model = PreActResNet((2, 2, 2, 2), num_classes, in_channels, stem, width, activate_first)
    return configure_convolutions(model, **layers)
