"""AlexNet: Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", NIPS 2012.

The paper's network has two columns of layers, of which the second, fourth and fifth see their own column's half of the
channels: grouped convolutions. `columns=1` is Krizhevsky's form of 2014 (arXiv 1404.5997, section 3), without
normalisation, under torchvision's names. Section 5's initialisation: normal with a deviation of 0.01, biases of 1 in
the second, fourth and fifth convolution and in the hidden linear layers, 0 elsewhere. Padding of 2 makes the paper's
55x55 of its 224x224.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.models.convolutions import CONVOLUTION_CONFIG, configure_convolutions, scale_channels
from edgeconv.models.registry import register
from edgeconv.nn.blocks import LocalResponseNorm

PAPER = (
    'Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", NIPS 2012; '
    "columns=1: arXiv 1404.5997"
)

WIDTHS = {2: (96, 256, 384, 384, 256), 1: (64, 192, 384, 256, 256)}
"""Channels of the five convolutions by the number of columns."""
HIDDEN = 4096
ROWS = 6
"""Of the maps that the linear layers see."""


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, 2)  # overlapping: section 3.4


class AlexNet(nn.Module):
    """Five convolutions and three linear layers (figure 2).

    Args:
        num_classes: Width of the output.
        in_channels: Channels of the input.
        columns: 2, the paper's, or 1.
        width: Multiplier of all channels.
        dropout: Probability before the hidden linear layers (section 4.2).
    """

    def __init__(self, num_classes: int, in_channels: int, columns: int, width: float, dropout: float) -> None:
        super().__init__()
        if columns not in WIDTHS:
            raise ValueError(f"columns must be 1 or 2; got {columns!r}")
        c1, c2, c3, c4, c5 = (scale_channels(channels, width) for channels in WIDTHS[columns])
        hidden = scale_channels(HIDDEN, width)

        def norm() -> list[nn.Module]:
            return [LocalResponseNorm()] if columns == 2 else []

        relu = nn.ReLU
        self.features = nn.Sequential(
            *(nn.Conv2d(in_channels, c1, 11, 4, 2), relu(inplace=True), *norm(), _pool()),
            *(nn.Conv2d(c1, c2, 5, padding=2, groups=columns), relu(inplace=True), *norm(), _pool()),
            *(nn.Conv2d(c2, c3, 3, padding=1), relu(inplace=True)),
            *(nn.Conv2d(c3, c4, 3, padding=1, groups=columns), relu(inplace=True)),
            *(nn.Conv2d(c4, c5, 3, padding=1, groups=columns), relu(inplace=True), _pool()),
        )
        self.classifier = nn.Sequential(
            *(nn.Dropout(dropout), nn.Linear(c5 * ROWS * ROWS, hidden), relu(inplace=True)),
            *(nn.Dropout(dropout), nn.Linear(hidden, hidden), relu(inplace=True)),
            nn.Linear(hidden, num_classes),
        )
        layers = [module for module in self.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        for index, layer in enumerate(layers):
            nn.init.normal_(layer.weight, 0, 0.01)
            assert layer.bias is not None
            nn.init.constant_(layer.bias, 1.0 if index in (1, 3, 4, 5, 6) else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for (N, in_channels, H, W), from 63x63 up; 224x224 is the paper's.

        Other sizes are averaged to the 6x6 maps that the linear layers see.
        """
        maps = F.adaptive_avg_pool2d(self.features(x), ROWS)
        logits: Tensor = self.classifier(maps.flatten(1))
        return logits


@register(
    "alexnet",
    description="AlexNet with two columns, 61.0 M parameters; grouped convolutions, local response normalisation",
    paper=PAPER,
    input_shape=(3, 224, 224),
    config={
        "num_classes": 1000,
        "in_channels": 3,
        "columns": 2,
        "width": 1.0,
        "dropout": 0.5,
        **CONVOLUTION_CONFIG,
    },
    weights={"torchvision alexnet (columns=1)": None},
)
def alexnet(
    *, num_classes: int, in_channels: int, columns: int, width: float, dropout: float, **layers: Any
) -> AlexNet:
    """Build AlexNet; see `AlexNet` and `CONVOLUTION_CONFIG`."""
    return configure_convolutions(AlexNet(num_classes, in_channels, columns, width, dropout), **layers)
