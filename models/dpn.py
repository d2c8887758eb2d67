"""DPN: Chen et al., "Dual path networks", NIPS 2017.

DPN-92 of table 1: one path adds its residuals, as ResNeXt, the other gathers new channels, as DenseNet. timm's state
dicts load: their names but for the classifier, and batch normalisation with an epsilon of 0.001. Initialisation: He et
al., ICCV 2015, fan-out mode; the paper leaves it open.
"""

from __future__ import annotations

from typing import Any

import torch
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

PAPER = 'Chen et al., "Dual path networks", NIPS 2017 (arXiv 1707.01629)'

INCREMENTS = (16, 32, 24, 128)
"""Table 1: channels that each block of a stage adds to the dense path."""
STEM, REDUCED, RESIDUAL, GROUPS = 64, 96, 256, 32
"""Channels of the stem; of the first stage's 3x3 convolutions; of its residual path; groups of the 3x3 convolutions."""
EPS = 1e-3


class NormActConv(nn.Module):
    """Batch normalisation, ReLU and a convolution without bias.

    Args:
        in_channels: C.
        out_channels: M.
        kernel_size: Odd; padded to keep the size at a stride of 1.
        stride: Both ways.
        groups: As in Conv2d.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels, EPS)
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, M, ceil(H/stride), ceil(W/stride)) for (N, C, H, W)."""
        y: Tensor = self.conv(F.relu(self.bn(x)))
        return y


class DualPathBlock(nn.Module):
    """A bottleneck whose output is added to one part of the channels and appended to the other (figure 2d).

    The first `residual` channels are the residual path, the others the dense one.

    Args:
        in_channels: C.
        reduced: Channels of the 3x3 convolution.
        residual: Channels of the residual path.
        increment: Channels that join the dense path.
        groups: Of the 3x3 convolution.
        stride: Of the 3x3 convolution.
        projects: The input goes through a 1x1 convolution, which makes both paths: a stage's first block.
    """

    def __init__(
        self,
        in_channels: int,
        reduced: int,
        residual: int,
        increment: int,
        groups: int,
        stride: int,
        projects: bool,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.projection = f"c1x1_w_s{stride}" if projects else ""
        if projects:
            self.add_module(self.projection, NormActConv(in_channels, residual + 2 * increment, 1, stride))
        self.c1x1_a = NormActConv(in_channels, reduced)
        self.c3x3_b = NormActConv(reduced, reduced, 3, stride, groups)
        self.c1x1_c = NormActConv(reduced, residual + increment)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, channels of both paths, ceil(H/stride), ceil(W/stride)) for (N, C, H, W)."""
        paths: Tensor = self.get_submodule(self.projection)(x) if self.projection else x
        y: Tensor = self.c1x1_c(self.c3x3_b(self.c1x1_a(x)))
        cut = self.residual
        return torch.cat([paths[:, :cut] + y[:, :cut], paths[:, cut:], y[:, cut:]], 1)


class NormAct(nn.Module):
    """Batch normalisation and ReLU.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W) for the same."""
        return F.relu(self.bn(x))


class Stem(nn.Module):
    """The first convolution, batch normalisation and ReLU.

    Args:
        in_channels: C.
        out_channels: M.
        stem: One of `STEMS`.
    """

    def __init__(self, in_channels: int, out_channels: int, stem: str) -> None:
        super().__init__()
        window = (7, 2, 3) if stem == "imagenet" else (3, 1, 1)
        self.conv = nn.Conv2d(in_channels, out_channels, *window, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Return feature maps (N, M, …) for (N, C, H, W)."""
        return F.relu(self.bn(self.conv(x)))


class DPN(nn.Module):
    """Four stages of dual path blocks (table 1).

    Args:
        blocks: Number of blocks in each stage.
        num_classes: Width of the output.
        in_channels: Channels of the input.
        stem: One of `STEMS`.
        width: Multiplier of all channels.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        num_classes: int,
        in_channels: int,
        stem: str,
        width: float,
    ) -> None:
        super().__init__()
        check_choice("stem", stem, STEMS)
        if len(blocks) != len(INCREMENTS) or min(blocks) < 1:
            raise ValueError(f"blocks must be {len(INCREMENTS)} numbers from 1 up; got {list(blocks)!r}")
        channels = scale_channels(STEM, width)
        self.features = nn.Sequential()
        self.features.add_module("conv1_1", Stem(in_channels, channels, stem))
        if stem == "imagenet":
            self.features.add_module("conv1_pool", nn.MaxPool2d(3, 2, 1))
        for stage, (count, base) in enumerate(zip(blocks, INCREMENTS, strict=True)):
            reduced = scale_channels(REDUCED * 2**stage, width, GROUPS)
            residual, increment = scale_channels(RESIDUAL * 2**stage, width), scale_channels(base, width)
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                self.features.add_module(
                    f"conv{stage + 2}_{index + 1}",
                    DualPathBlock(channels, reduced, residual, increment, GROUPS, stride, index == 0),
                )
                channels = (residual + 3 * increment) if index == 0 else channels + increment
        self.features.add_module("conv5_bn_ac", NormAct(channels))
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for (N, in_channels, H, W) of any size."""
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return logits


def rename_timm(model: nn.Module, name: str) -> str | None:
    """Return the name here of what timm calls `name`; its classifier is a convolution, ours a linear layer."""
    layer, _, tensor = name.rpartition(".")
    return f"fc.{tensor}" if layer == "classifier" else name


@register(
    "dpn92",
    description="DPN-92, 37.7 M parameters; a residual and a dense path",
    paper=PAPER,
    input_shape=(3, 224, 224),
    config={
        "num_classes": 1000,
        "in_channels": 3,
        "blocks": [3, 4, 20, 3],
        "stem": "imagenet",
        "width": 1.0,
        **CONVOLUTION_CONFIG,
    },
    weights={"timm dpn92": rename_timm},
)
def dpn92(
    *,
    num_classes: int,
    in_channels: int,
    blocks: list[int],
    stem: str,
    width: float,
    **layers: Any,
) -> DPN:
    """Build DPN-92; see `DPN` and `CONVOLUTION_CONFIG`."""
    return configure_convolutions(DPN(tuple(blocks), num_classes, in_channels, stem, width), **layers)
