"""Network in Network: Lin, Chen, Yan, "Network in network", ICLR 2014.

Three mlpconv layers and global average pooling (figure 2), in the sizes of the authors' network for CIFAR-10: 5x5, 5x5
and 3x3 windows, overlapping pooling, dropout between the layers. Initialisation: He et al., ICCV 2015, fan-in mode; the
paper leaves it open.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.models.convolutions import CONVOLUTION_CONFIG, configure_convolutions, scale_channels
from edgeconv.models.registry import register
from edgeconv.nn.blocks import MlpConv

PAPER = 'Lin, Chen, Yan, "Network in network", ICLR 2014 (arXiv 1312.4400)'


class NIN(nn.Module):
    """Three mlpconv layers; each class's score is the mean of a map of its own (section 3.2).

    Args:
        num_classes: Width of the output.
        in_channels: Channels of the input.
        width: Multiplier of the channels.
        dropout: Probability between the mlpconv layers (section 4.1).
    """

    def __init__(self, num_classes: int, in_channels: int, width: float, dropout: float) -> None:
        super().__init__()
        wide, middle, narrow = (scale_channels(channels, width) for channels in (192, 160, 96))
        self.features = nn.Sequential(
            *(MlpConv(in_channels, (wide, middle, narrow), 5), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Dropout(dropout)),
            *(MlpConv(narrow, (wide, wide, wide), 5), nn.AvgPool2d(3, 2, ceil_mode=True), nn.Dropout(dropout)),
            MlpConv(wide, (wide, wide, num_classes), 3),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (N, num_classes) for (N, in_channels, H, W); they are not negative, as in the paper."""
        return F.adaptive_avg_pool2d(self.features(x), 1).flatten(1)


@register(
    "nin",
    description="Network in Network for CIFAR, 0.97 M parameters; mlpconv layers, global average pooling",
    paper=PAPER,
    input_shape=(3, 32, 32),
    config={"num_classes": 10, "in_channels": 3, "width": 1.0, "dropout": 0.5, **CONVOLUTION_CONFIG},
)
def nin(*, num_classes: int, in_channels: int, width: float, dropout: float, **layers: Any) -> NIN:
    """Build Network in Network; see `NIN` and `CONVOLUTION_CONFIG`."""
    return configure_convolutions(NIN(num_classes, in_channels, width, dropout), **layers)
