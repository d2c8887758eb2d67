"""DeepLabV3: Chen, Papandreou, Schroff, Adam, "Rethinking atrous convolution for semantic image segmentation", 2017.

On ResNet-50 with an output stride of 8 and atrous spatial pyramid pooling, in torchvision's form, whose state dicts
load: rates of 12, 24 and 36, a 3x3 convolution before the classifier, and an auxiliary head on the third stage in
training (Zhao et al., "Pyramid scene parsing network", CVPR 2017, section 3.3, with its weight of 0.4).
Initialisation: He et al., ICCV 2015, fan-out mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.models.convolutions import CONVOLUTION_CONFIG, configure_convolutions, scale_channels
from edgeconv.models.registry import register
from edgeconv.models.residual import Bottleneck
from edgeconv.models.resnet import ImageNetResNet

PAPER = (
    'Chen et al., "Rethinking atrous convolution for semantic image segmentation", 2017 (arXiv 1706.05587); '
    "ResNet-50: He et al., CVPR 2016"
)

RATES = (12, 24, 36)
"""Dilations of the pyramid at an output stride of 8 (section 3.3)."""


class SegmentationLogits(NamedTuple):
    """What DeepLabV3 returns in training.

    Attributes:
        logits: (N, num_classes, H, W).
        aux: The same from the auxiliary head.
    """

    logits: Tensor
    aux: Tensor


def _conv(in_channels: int, out_channels: int, kernel_size: int = 1, dilation: int = 1) -> list[nn.Module]:
    padding = dilation * (kernel_size // 2)
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size, 1, padding, dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]


class ImagePooling(nn.Sequential):
    """Image-level features: the mean over all pixels, a 1x1 convolution, spread over all pixels (section 3.3).

    Args:
        in_channels: C.
        out_channels: M.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *_conv(in_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, M, H, W) for (N, C, H, W)."""
        y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return y.expand(-1, -1, *x.shape[2:])


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (section 3.3, figure 5).

    Args:
        in_channels: C.
        out_channels: M.
        rates: Dilations.
    """

    def __init__(self, in_channels: int, out_channels: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                nn.Sequential(*_conv(in_channels, out_channels)),
                *(nn.Sequential(*_conv(in_channels, out_channels, 3, rate)) for rate in rates),
                ImagePooling(in_channels, out_channels),
            ]
        )
        joined = _conv(out_channels * (len(rates) + 2), out_channels)
        self.project = nn.Sequential(*joined, nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, M, H, W) for (N, C, H, W)."""
        y: Tensor = self.project(torch.cat([conv(x) for conv in self.convs], 1))
        return y


class DeepLabV3(nn.Module):
    """ResNet-50, the pyramid, and logits at the input's size.

    Args:
        num_classes: Classes of a pixel.
        in_channels: Channels of the input.
        blocks: Number of blocks in each stage of the backbone.
        width: Multiplier of all channels.
        aux: Build the auxiliary head, which takes part in training only.
    """

    auxiliary_weight = 0.4
    """Of the auxiliary head's loss."""

    def __init__(self, num_classes: int, in_channels: int, blocks: tuple[int, ...], width: float, aux: bool) -> None:
        super().__init__()
        if len(blocks) != 4 or min(blocks) < 1:
            raise ValueError(f"blocks must be 4 numbers from 1 up; got {list(blocks)!r}")
        self.backbone = ImageNetResNet(
            Bottleneck, blocks, 1, in_channels, width=width, dilate=(False, False, True, True)
        )
        channels = self.backbone.fc.in_features
        self.backbone.fc, self.backbone.avgpool = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        middle = scale_channels(256, width)
        self.classifier = nn.Sequential(
            ASPP(channels, middle, RATES), *_conv(middle, middle, 3), nn.Conv2d(middle, num_classes, 1)
        )
        self.aux_classifier: nn.Sequential | None = None
        if aux:
            narrow = channels // 8
            head = _conv(channels // 2, narrow, 3)
            self.aux_classifier = nn.Sequential(*head, nn.Dropout(0.1), nn.Conv2d(narrow, num_classes, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor | SegmentationLogits:
        """Return logits (N, num_classes, H, W) for (N, in_channels, H, W); in training, with the auxiliary head's."""
        maps = self.backbone.maps(x)

        def enlarge(y: Tensor) -> Tensor:
            return F.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)

        logits = enlarge(self.classifier(maps[-1]))
        if self.training and self.aux_classifier is not None:
            return SegmentationLogits(logits, enlarge(self.aux_classifier(maps[-2])))
        return logits


@register(
    "deeplabv3_resnet50",
    description="DeepLabV3 on ResNet-50, 39.6 M parameters, 42.0 M with the auxiliary head; logits of every pixel",
    paper=PAPER,
    input_shape=(3, 520, 520),
    config={
        "num_classes": 21,
        "in_channels": 3,
        "blocks": [3, 4, 6, 3],
        "width": 1.0,
        "aux": True,
        **CONVOLUTION_CONFIG,
    },
    weights={
        "torchvision deeplabv3_resnet50": None,
        "torchvision deeplabv3_resnet101 (blocks=[3,4,23,3])": None,
    },
)
def deeplabv3_resnet50(
    *, num_classes: int, in_channels: int, blocks: list[int], width: float, aux: bool, **layers: Any
) -> DeepLabV3:
    """Build DeepLabV3 on ResNet-50; see `DeepLabV3` and `CONVOLUTION_CONFIG`."""
    return configure_convolutions(DeepLabV3(num_classes, in_channels, tuple(blocks), width, aux), **layers)
