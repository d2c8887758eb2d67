"""ZFNet: Zeiler, Fergus, "Visualizing and understanding convolutional networks", ECCV 2014.

The network of figure 3: AlexNet with 7x7 windows and a stride of 2 in the first layer, a stride of 2 in the second, and
dense connections in place of two columns. Padding and rounding make the figure's sizes: 224, 110, 55, 26, 13, 6.
Section 3's initialisation: weights of the size of 0.01 (here normal with that deviation), biases of 0.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.models.convolutions import CONVOLUTION_CONFIG, configure_convolutions, scale_channels
from edgeconv.models.registry import register
from edgeconv.nn.blocks import LocalResponseNorm

PAPER = 'Zeiler, Fergus, "Visualizing and understanding convolutional networks", ECCV 2014 (arXiv 1311.2901), figure 3'

WIDTHS = (96, 256, 384, 384, 256)
HIDDEN = 4096
ROWS = 6
"""Of the maps that the linear layers see."""


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


class ZFNet(nn.Module):
    """Five convolutions and three linear layers (figure 3).

    Args:
        num_classes: Width of the output.
        in_channels: Channels of the input.
        width: Multiplier of all channels.
        dropout: Probability before the hidden linear layers.
    """

    def __init__(self, num_classes: int, in_channels: int, width: float, dropout: float) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (scale_channels(channels, width) for channels in WIDTHS)
        hidden, relu = scale_channels(HIDDEN, width), nn.ReLU
        self.features = nn.Sequential(
            *(nn.Conv2d(in_channels, c1, 7, 2, 1), relu(inplace=True), _pool(), LocalResponseNorm()),
            *(nn.Conv2d(c1, c2, 5, 2), relu(inplace=True), _pool(), LocalResponseNorm()),
            *(nn.Conv2d(c2, c3, 3, padding=1), relu(inplace=True)),
            *(nn.Conv2d(c3, c4, 3, padding=1), relu(inplace=True)),
            *(nn.Conv2d(c4, c5, 3, padding=1), relu(inplace=True), nn.MaxPool2d(3, 2)),
        )
        self.classifier = nn.Sequential(
            *(nn.Dropout(dropout), nn.Linear(c5 * ROWS * ROWS, hidden), relu(inplace=True)),
            *(nn.Dropout(dropout), nn.Linear(hidden, hidden), relu(inplace=True)),
            nn.Linear(hidden, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for (N, in_channels, H, W), from 63x63 up; 224x224 is the paper's.

        Other sizes are averaged to the 6x6 maps that the linear layers see.
        """
        maps = F.adaptive_avg_pool2d(self.features(x), ROWS)
        logits: Tensor = self.classifier(maps.flatten(1))
        return logits


@register(
    "zfnet",
    description="ZFNet, 62.4 M parameters; AlexNet with smaller windows and strides",
    paper=PAPER,
    input_shape=(3, 224, 224),
    config={"num_classes": 1000, "in_channels": 3, "width": 1.0, "dropout": 0.5, **CONVOLUTION_CONFIG},
)
def zfnet(*, num_classes: int, in_channels: int, width: float, dropout: float, **layers: Any) -> ZFNet:
    """Build ZFNet; see `ZFNet` and `CONVOLUTION_CONFIG`."""
    return configure_convolutions(ZFNet(num_classes, in_channels, width, dropout), **layers)
