"""GoogLeNet (Inception v1): Szegedy et al., "Going deeper with convolutions", CVPR 2015.

Table 1's network, with both auxiliary classifiers of section 5 in training. `batch_norm=True` is torchvision's form:
batch normalisation in place of biases and of local response normalisation, and 3x3 windows where the paper has 5x5;
its state dicts load. The auxiliary classifiers average any map to 4x4, as torchvision does, where the paper pools 5x5
windows with a stride of 3. Initialisation: He et al., ICCV 2015, fan-in mode; the paper leaves it open.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.models.convolutions import CONVOLUTION_CONFIG, configure_convolutions, scale_channels
from edgeconv.models.registry import register
from edgeconv.nn.blocks import BasicConv2d, Inception, LocalResponseNorm

PAPER = 'Szegedy et al., "Going deeper with convolutions", CVPR 2015 (arXiv 1409.4842)'

INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Table 1: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj."""


class GoogLeNetLogits(NamedTuple):
    """What GoogLeNet returns in training.

    Attributes:
        logits: (N, num_classes).
        aux2: The same from the classifier behind 4d.
        aux1: The same from the classifier behind 4a.
    """

    logits: Tensor
    aux2: Tensor
    aux1: Tensor


class AuxiliaryClassifier(nn.Module):
    """Pooling to 4x4, a 1x1 convolution and two linear layers (section 5).

    Args:
        in_channels: C.
        channels: Of the convolution.
        hidden: Width of the first linear layer.
        num_classes: Width of the output.
        batch_norm: As in `BasicConv2d`.
    """

    def __init__(self, in_channels: int, channels: int, hidden: int, num_classes: int, batch_norm: bool) -> None:
        super().__init__()
        self.conv = BasicConv2d(in_channels, channels, batch_norm=batch_norm)
        self.fc1 = nn.Linear(16 * channels, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)
        self.dropout = nn.Dropout(0.7)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for (N, C, H, W)."""
        maps = self.conv(F.adaptive_avg_pool2d(x, 4)).flatten(1)
        logits: Tensor = self.fc2(self.dropout(F.relu(self.fc1(maps))))
        return logits


class GoogLeNet(nn.Module):
    """Nine inception modules behind three convolutions (table 1).

    Args:
        num_classes: Width of the output.
        in_channels: Channels of the input.
        width: Multiplier of all channels.
        dropout: Probability before the classifier.
        batch_norm: torchvision's form.
        aux: Build the auxiliary classifiers, which take part in training only.
    """

    auxiliary_weight = 0.3
    """Of each auxiliary classifier's loss (section 5)."""

    def __init__(
        self, num_classes: int, in_channels: int, width: float, dropout: float, batch_norm: bool, aux: bool
    ) -> None:
        super().__init__()
        c1, c3 = scale_channels(64, width), scale_channels(192, width)

        def pool(size: int) -> nn.Module:
            return nn.MaxPool2d(size, 2, ceil_mode=True)

        def norm() -> nn.Module:
            return nn.Identity() if batch_norm else LocalResponseNorm()

        self.conv1 = BasicConv2d(in_channels, c1, 7, 2, batch_norm=batch_norm)
        self.maxpool1, self.norm1 = pool(3), norm()
        self.conv2 = BasicConv2d(c1, c1, batch_norm=batch_norm)
        self.conv3 = BasicConv2d(c1, c3, 3, batch_norm=batch_norm)
        self.norm2, self.maxpool2 = norm(), pool(3)
        self.maxpool3, self.maxpool4 = pool(3), pool(2 if batch_norm else 3)
        channels, outputs = c3, {}
        for name, widths in INCEPTION.items():
            block = Inception(
                channels,
                tuple(scale_channels(w, width) for w in widths),
                window=3 if batch_norm else 5,
                batch_norm=batch_norm,
            )
            self.add_module(f"inception{name}", block)
            outputs[name] = channels = block.out_channels
        self.aux1: AuxiliaryClassifier | None = None
        self.aux2: AuxiliaryClassifier | None = None
        if aux:
            sizes = scale_channels(128, width), scale_channels(1024, width), num_classes, batch_norm
            self.aux1 = AuxiliaryClassifier(outputs["4a"], *sizes)
            self.aux2 = AuxiliaryClassifier(outputs["4d"], *sizes)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor | GoogLeNetLogits:
        """Return logits (N, num_classes) for (N, in_channels, H, W), from 31x31 up; in training, auxiliary ones too."""
        x = self.norm1(self.maxpool1(self.conv1(x)))
        x = self.maxpool2(self.norm2(self.conv3(self.conv2(x))))
        auxiliary: dict[str, Tensor] = {}
        for name in INCEPTION:
            x = self.get_submodule(f"inception{name}")(x)
            if name == "3b":
                x = self.maxpool3(x)
            elif name == "4e":
                x = self.maxpool4(x)
            if self.training and name == "4a" and self.aux1 is not None:
                auxiliary["aux1"] = self.aux1(x)
            if self.training and name == "4d" and self.aux2 is not None:
                auxiliary["aux2"] = self.aux2(x)
        logits: Tensor = self.fc(self.dropout(F.adaptive_avg_pool2d(x, 1).flatten(1)))
        return GoogLeNetLogits(logits, **auxiliary) if auxiliary else logits


@register(
    "googlenet",
    description="GoogLeNet (Inception v1), 7.0 M parameters, 13.4 M with the auxiliary classifiers of training",
    paper=PAPER,
    input_shape=(3, 224, 224),
    config={
        "num_classes": 1000,
        "in_channels": 3,
        "width": 1.0,
        "dropout": 0.4,
        "batch_norm": False,
        "aux": True,
        **CONVOLUTION_CONFIG,
    },
    weights={"torchvision googlenet (batch_norm=true)": None},
)
def googlenet(
    *, num_classes: int, in_channels: int, width: float, dropout: float, batch_norm: bool, aux: bool, **layers: Any
) -> GoogLeNet:
    """Build GoogLeNet; see `GoogLeNet` and `CONVOLUTION_CONFIG`."""
    return configure_convolutions(GoogLeNet(num_classes, in_channels, width, dropout, batch_norm, aux), **layers)
