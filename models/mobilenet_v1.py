"""MobileNetV1: Howard et al., "MobileNets: efficient convolutional neural networks for mobile vision applications".

Table 1's network with the width multiplier of section 3.3. The activation is ReLU6, as in the authors' published code
and weights (`activation="relu"` is the paper's word). Initialisation: He et al., ICCV 2015, fan-in mode, which
keeps the scale through depthwise convolutions; the paper leaves it open.
"""

from __future__ import annotations

import re
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.models.convolutions import CONVOLUTION_CONFIG, check_choice, configure_convolutions, scale_channels
from edgeconv.models.registry import register
from edgeconv.nn.blocks import ConvNormActivation, SeparableConv2d

PAPER = (
    'Howard et al., "MobileNets: efficient convolutional neural networks for mobile vision applications", '
    "2017 (arXiv 1704.04861)"
)

STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
"""Table 1: channels, separable convolutions, stride of the first of them."""
STEM = 32
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu6": nn.ReLU6, "relu": nn.ReLU}


class MobileNetV1(nn.Module):
    """Depthwise separable convolutions behind a 3x3 one (table 1).

    Args:
        num_classes: Width of the output.
        in_channels: Channels of the input.
        width: alpha, the multiplier of the channels.
        dropout: Probability before the classifier.
        activation: A key of `ACTIVATIONS`.
    """

    def __init__(self, num_classes: int, in_channels: int, width: float, dropout: float, activation: str) -> None:
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        relu, channels = ACTIVATIONS[activation], scale_channels(STEM, width)
        features: list[nn.Module] = [ConvNormActivation(in_channels, channels, 3, 2, activation=relu)]
        for base, blocks, stride in STAGES:
            for index in range(blocks):
                out_channels = scale_channels(base, width)
                features.append(SeparableConv2d(channels, out_channels, 3, stride if index == 0 else 1, relu))
                channels = out_channels
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for (N, in_channels, H, W)."""
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return logits


ENDS = {"conv_stem": "features.0.0", "bn1": "features.0.1", "classifier": "classifier.1"}
IN_BLOCK = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1.0", "bn2": "1.1"}


def rename_timm(model: nn.Module, name: str) -> str | None:
    """Return the name here of what timm calls `name`."""
    layer, _, tensor = name.rpartition(".")
    if layer in ENDS:
        return f"{ENDS[layer]}.{tensor}"
    found = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(\w+)", layer)
    if found is None or found[3] not in IN_BLOCK or int(found[1]) >= len(STAGES):
        return None
    index = 1 + sum(blocks for _, blocks, _ in STAGES[: int(found[1])]) + int(found[2])
    return f"features.{index}.{IN_BLOCK[found[3]]}.{tensor}"


@register(
    "mobilenet_v1",
    description="MobileNetV1, 4.2 M parameters; depthwise separable convolutions",
    paper=PAPER,
    input_shape=(3, 224, 224),
    config={
        "num_classes": 1000,
        "in_channels": 3,
        "width": 1.0,
        "dropout": 0.2,
        "activation": "relu6",
        **CONVOLUTION_CONFIG,
    },
    weights={"timm mobilenetv1_100": rename_timm, "timm mobilenetv1_125 (width=1.25)": rename_timm},
)
def mobilenet_v1(
    *, num_classes: int, in_channels: int, width: float, dropout: float, activation: str, **layers: Any
) -> MobileNetV1:
    """Build MobileNetV1; see `MobileNetV1` and `CONVOLUTION_CONFIG`."""
    return configure_convolutions(MobileNetV1(num_classes, in_channels, width, dropout, activation), **layers)
