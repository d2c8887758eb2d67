"""VGG: Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015.

The columns A, B, D and E of the paper's table 1, in two forms. "imagenet" is the paper's: three linear layers, no batch
normalisation unless `batch_norm` adds it. "cifar" is usual on CIFAR, also in the experiments of network deconvolution:
global average pooling and one linear layer in place of the three, so any input from 32x32 up will do (at 32x32 the
pooling has nothing left to average); with batch normalisation. Layers are numbered as in torchvision's `vgg11`
(`features.0.weight`, ...) and `vgg11_bn`. Initialisation: for the paper's form that of its section 3.1 without
pre-training (Glorot and Bengio, AISTATS 2010); for CIFAR He et al., ICCV 2015, fan-out mode, and normal with a
deviation of 0.01 for the linear layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.models.convolutions import CONVOLUTION_CONFIG, check_choice, configure_convolutions, scale_channels
from edgeconv.models.registry import register

PAPER = (
    'Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015 '
    "(arXiv 1409.1556)"
)

POOL = 0
"""Stands for 2x2 max pooling among the widths of a column."""

COLUMNS: dict[str, tuple[int, ...]] = {
    "A": (64, POOL, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL),
    "B": (64, 64, POOL, 128, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL),
    "D": (64, 64, POOL, 128, 128, POOL, *(256,) * 3, POOL, *(512,) * 3, POOL, *(512,) * 3, POOL),
    "E": (64, 64, POOL, 128, 128, POOL, *(256,) * 4, POOL, *(512,) * 4, POOL, *(512,) * 4, POOL),
}
"""Table 1: widths of the 3x3 convolutions. VGG-11, -13, -16 and -19."""
FORMS = ("imagenet", "cifar")
HIDDEN, ROWS = 4096, 7
"""Of the three linear layers: channels, and rows of the maps that they see."""


def _features(column: Sequence[int], in_channels: int, first_padding: int, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    padding = first_padding
    for width in column:
        if width == POOL:
            layers.append(nn.MaxPool2d(2))
            continue
        norm = [nn.BatchNorm2d(width)] if batch_norm else []
        layers += [nn.Conv2d(in_channels, width, 3, padding=padding), *norm, nn.ReLU(inplace=True)]
        in_channels, padding = width, 1
    return nn.Sequential(*layers)


class VGG(nn.Module):
    """The paper's form: a column of convolutions and three linear layers.

    Args:
        column: Widths of the convolutions, and `POOL`.
        num_classes: Width of the output.
        in_channels: Channels of the input.
        first_padding: Of the first convolution, all round.
        batch_norm: Behind each convolution.
        hidden: Width of the hidden linear layers.
        dropout: Probability behind them.
    """

    def __init__(
        self,
        column: Sequence[int],
        num_classes: int,
        in_channels: int,
        first_padding: int,
        batch_norm: bool,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.features = _features(column, in_channels, first_padding, batch_norm)
        relu = nn.ReLU
        self.classifier = nn.Sequential(
            *(nn.Linear(column[-2] * ROWS * ROWS, hidden), relu(inplace=True), nn.Dropout(dropout)),
            *(nn.Linear(hidden, hidden), relu(inplace=True), nn.Dropout(dropout)),
            nn.Linear(hidden, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_normal_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for (N, in_channels, H, W), from 32x32 up; 224x224 is the paper's.

        Other sizes are averaged to the 7x7 maps that the linear layers see.
        """
        maps = F.adaptive_avg_pool2d(self.features(x), ROWS)
        logits: Tensor = self.classifier(maps.flatten(1))
        return logits


class CifarVGG(nn.Module):
    """A column of VGG with one linear layer.

    Args:
        column: Widths of the convolutions, and `POOL`.
        num_classes: Width of the output.
        in_channels: Channels of the input.
        first_padding: Of the first convolution, all round. 1 keeps the size of the input; 3 makes 32x32 of 28x28.
        batch_norm: Behind each convolution.
    """

    def __init__(
        self, column: Sequence[int], num_classes: int, in_channels: int, first_padding: int, batch_norm: bool
    ) -> None:
        super().__init__()
        self.least = 2 ** sum(width == POOL for width in column) - 2 * (first_padding - 1)
        self.features = _features(column, in_channels, first_padding, batch_norm)
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


def _build(
    letter: str,
    *,
    num_classes: int,
    in_channels: int,
    first_padding: int,
    form: str,
    batch_norm: bool | None,
    width: float,
    dropout: float,
    **layers: Any,
) -> VGG | CifarVGG:
    check_choice("form", form, FORMS)
    if first_padding < 1:
        raise ValueError(f"first_padding must be at least 1; got {first_padding!r}")
    column = [channels and scale_channels(channels, width) for channels in COLUMNS[letter]]
    norm = form == "cifar" if batch_norm is None else batch_norm
    if form == "cifar":
        return configure_convolutions(CifarVGG(column, num_classes, in_channels, first_padding, norm), **layers)
    hidden = scale_channels(HIDDEN, width)
    model = VGG(column, num_classes, in_channels, first_padding, norm, hidden, dropout)
    return configure_convolutions(model, **layers)


TIMM = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}


def rename_timm(model: nn.Module, name: str) -> str | None:
    """Return the name here of what timm calls `name`; its hidden layers are convolutions, ours linear layers."""
    layer, _, tensor = name.rpartition(".")
    return name if name.startswith("features.") else f"{TIMM[layer]}.{tensor}" if layer in TIMM else None


def _register(depth: int, letter: str, description: str) -> None:
    def build(**config: Any) -> VGG | CifarVGG:
        return _build(letter, **config)

    known = [f"vgg{depth}", f"vgg{depth}_bn (batch_norm=true)"]
    register(
        f"vgg{depth}",
        description=description,
        paper=PAPER,
        input_shape=(3, 224, 224),
        config={
            "num_classes": 1000,
            "in_channels": 3,
            "first_padding": 1,
            "form": "imagenet",
            "batch_norm": None,
            "width": 1.0,
            "dropout": 0.5,
            **CONVOLUTION_CONFIG,
        },
        weights={
            **{f"torchvision {name}": None for name in known},
            **{f"timm {name}": rename_timm for name in known},
        },
    )(build)


_register(11, "A", "VGG-11, 132.9 M parameters; form=cifar: 9.2 M, for 32x32 or more")
_register(13, "B", "VGG-13, 133.0 M parameters")
_register(16, "D", "VGG-16, 138.4 M parameters")
_register(19, "E", "VGG-19, 143.7 M parameters")
