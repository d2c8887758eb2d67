"""MobileNetV2: Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018.

State dicts have torchvision's names and shapes. Initialisation: He et al., ICCV 2015, fan-out mode; normal with a
deviation of 0.01 for the classifier, as in torchvision.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.models.convolutions import CONVOLUTION_CONFIG, configure_convolutions
from edgeconv.models.registry import register
from edgeconv.nn.blocks import ConvNormActivation, InvertedResidual, make_divisible

PAPER = 'Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018 (arXiv 1801.04381)'

STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Table 2: expansion t, channels c, blocks n, stride s of the first of them."""
STEM, HEAD = 32, 1280


class MobileNetV2(nn.Module):
    """Inverted residuals between a 3x3 stem and a 1x1 head (table 2).

    Args:
        num_classes: Width of the output.
        in_channels: Channels of the input.
        width: Multiplier of the channels (section 4); the head does not become narrower than 1280.
        dropout: Probability before the classifier.
        strides: Of the stem and of the seven stages; the paper's halve the size five times.
    """

    def __init__(
        self, num_classes: int, in_channels: int, width: float, dropout: float, strides: tuple[int, ...]
    ) -> None:
        super().__init__()
        if not width > 0:
            raise ValueError(f"width must be positive; got {width!r}")
        if len(strides) != 1 + len(STAGES) or any(stride not in (1, 2) for stride in strides):
            raise ValueError(f"strides must be {1 + len(STAGES)} numbers, each 1 or 2; got {list(strides)!r}")
        channels = make_divisible(STEM * width)
        features: list[nn.Module] = [ConvNormActivation(in_channels, channels, 3, strides[0])]
        for (expansion, base, blocks, _), stride in zip(STAGES, strides[1:], strict=True):
            for index in range(blocks):
                out_channels = make_divisible(base * width)
                features.append(InvertedResidual(channels, out_channels, stride if index == 0 else 1, expansion))
                channels = out_channels
        head = make_divisible(HEAD * max(1.0, width))
        features.append(ConvNormActivation(channels, head))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(head, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for (N, in_channels, H, W)."""
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return logits


@register(
    "mobilenet_v2",
    description="MobileNetV2, 3.5 M parameters; inverted residuals, linear bottlenecks, ReLU6",
    paper=PAPER,
    input_shape=(3, 224, 224),
    config={
        "num_classes": 1000,
        "in_channels": 3,
        "width": 1.0,
        "dropout": 0.2,
        "strides": [2, *(stride for *_, stride in STAGES)],
        **CONVOLUTION_CONFIG,
    },
)
def mobilenet_v2(
    *, num_classes: int, in_channels: int, width: float, dropout: float, strides: list[int], **layers: Any
) -> MobileNetV2:
    """Build MobileNetV2; see `MobileNetV2` and `CONVOLUTION_CONFIG`."""
    return configure_convolutions(MobileNetV2(num_classes, in_channels, width, dropout, tuple(strides)), **layers)
