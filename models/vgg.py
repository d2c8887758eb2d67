"""VGG: Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015.

The columns of the paper's table 1 with batch normalisation, in the form that is usual on CIFAR, also in the experiments
of network deconvolution: global average pooling and one linear layer take the place of the three linear layers, so any
input from 32x32 up will do (at 32x32 the pooling has nothing left to average). Layers are numbered as in torchvision's
`vgg11_bn` (`features.0.weight`, ...), and convolutions have a bias, as there. Initialisation: He et al., ICCV 2015,
fan-out mode; normal with a deviation of 0.01 for the linear layer, as the paper has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.models.convolutions import CONVOLUTION_CONFIG, configure_convolutions
from edgeconv.models.registry import register

PAPER = (
    'Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015 '
    "(arXiv 1409.1556)"
)

POOL = 0
"""Stands for 2x2 max pooling among the widths of a column."""

COLUMNS: dict[str, tuple[int, ...]] = {"A": (64, POOL, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL)}
"""Table 1: widths of the 3x3 convolutions. A is VGG-11."""


def _features(column: Sequence[int], in_channels: int, first_padding: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    padding = first_padding
    for width in column:
        if width == POOL:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(in_channels, width, 3, padding=padding), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        in_channels, padding = width, 1
    return nn.Sequential(*layers)


class CifarVGG(nn.Module):
    """A column of VGG with one linear layer.

    Args:
        column: Widths of the convolutions, and `POOL`.
        num_classes: Width of the output.
        in_channels: Channels of the input.
        first_padding: Of the first convolution, all round. 1 keeps the size of the input; 3 makes 32x32 of 28x28.
    """

    def __init__(self, column: Sequence[int], num_classes: int, in_channels: int, first_padding: int) -> None:
        super().__init__()
        if first_padding < 1:
            raise ValueError(f"first_padding must be at least 1; got {first_padding!r}")
        self.least = 2 ** sum(width == POOL for width in column) - 2 * (first_padding - 1)
        self.features = _features(column, in_channels, first_padding)
        self.classifier = nn.Linear(column[-2], num_classes)
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for (N, in_channels, H, W) of at least 32x32 after the first padding."""
        if x.shape[2] < self.least or x.shape[3] < self.least:
            raise ValueError(
                f"this VGG takes inputs from {self.least}x{self.least} up; got shape {tuple(x.shape)} "
                "(28x28 needs first_padding=3)"
            )
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return logits


@register(
    "vgg11",
    description="VGG-11 with batch normalisation in the CIFAR form, 9.2 M parameters; 32x32 or more",
    paper=PAPER,
    input_shape=(3, 32, 32),
    config={"num_classes": 10, "in_channels": 3, "first_padding": 1, **CONVOLUTION_CONFIG},
)
def vgg11(*, num_classes: int, in_channels: int, first_padding: int, **layers: Any) -> CifarVGG:
    """Build VGG-11; see `CifarVGG` and `CONVOLUTION_CONFIG`."""
    return configure_convolutions(CifarVGG(COLUMNS["A"], num_classes, in_channels, first_padding), **layers)
