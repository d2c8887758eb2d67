"""EfficientNet: Tan, Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML 2019.

B0 to B7 by the paper's compound scaling, and Lite0, the form for edge devices that its authors published with their
code in 2020: ReLU6 in place of SiLU, no squeeze-and-excitation. State dicts have torchvision's names and shapes; those
of PyTorch ports of the authors' checkpoints are renamed as they load (`rename_port`). Initialisation: He et al.,
ICCV 2015, fan-out mode; uniform within 1/sqrt(num_classes) for the classifier, as in torchvision.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.models.convolutions import CONVOLUTION_CONFIG, configure_convolutions
from edgeconv.models.registry import register
from edgeconv.nn.blocks import ConvNormActivation, MBConv, make_divisible

PAPER = (
    'Tan, Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML 2019 (arXiv 1905.11946)'
)

STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
"""Table 1, stages 2 to 8: expansion, channels, blocks, window, stride of the first block."""
STEM, HEAD = 32, 1280


@dataclass(frozen=True)
class Scale:
    """One member of the family.

    Attributes:
        width: Multiplier of the channels.
        depth: Multiplier of the blocks of a stage, rounded up.
        resolution: Rows and columns of the input.
        dropout: Probability before the classifier.
    """

    width: float
    depth: float
    resolution: int
    dropout: float


SCALES = {
    "b0": Scale(1.0, 1.0, 224, 0.2),
    "b1": Scale(1.0, 1.1, 240, 0.2),
    "b2": Scale(1.1, 1.2, 260, 0.3),
    "b3": Scale(1.2, 1.4, 300, 0.3),
    "b4": Scale(1.4, 1.8, 380, 0.4),
    "b5": Scale(1.6, 2.2, 456, 0.4),
    "b6": Scale(1.8, 2.6, 528, 0.5),
    "b7": Scale(2.0, 3.1, 600, 0.5),
}
"""Compound scaling (section 3.3) as the authors' code rounds it."""

MILLIONS = {"b0": 5.3, "b1": 7.8, "b2": 9.1, "b3": 12.2, "b4": 19.3, "b5": 30.4, "b6": 43.0, "b7": 66.3}
"""Parameters."""


class EfficientNet(nn.Module):
    """MBConv blocks between a 3x3 stem and a 1x1 head (table 1).

    Args:
        width: Multiplier of the channels.
        depth: Multiplier of the blocks of a stage.
        num_classes: Width of the output.
        in_channels: Channels of the input.
        dropout: Probability before the classifier.
        drop_path: Probability of stochastic depth in the last block; it grows from 0 block by block.
        lite: ReLU6, no squeeze-and-excitation, and stem, head and the outer stages' depth as they are at any scale.
        padding: One of `edgeconv.nn.blocks.PADDINGS`.
        eps: Of the batch normalisations.
        momentum: Of the batch normalisations.
    """

    def __init__(
        self,
        width: float,
        depth: float,
        num_classes: int,
        in_channels: int,
        dropout: float,
        drop_path: float,
        lite: bool,
        padding: str,
        eps: float,
        momentum: float,
    ) -> None:
        super().__init__()
        if not (width > 0 and depth > 0):
            raise ValueError(f"width and depth must be positive; got {width!r} and {depth!r}")
        activation: type[nn.Module] = nn.ReLU6 if lite else nn.SiLU
        norm: dict[str, Any] = {"activation": activation, "padding": padding, "eps": eps, "momentum": momentum}
        outer = (0, len(STAGES) - 1)
        repeats = [
            blocks if lite and stage in outer else math.ceil(blocks * depth)
            for stage, (_, _, blocks, _, _) in enumerate(STAGES)
        ]
        channels = STEM if lite else make_divisible(STEM * width)
        features: list[nn.Module] = [ConvNormActivation(in_channels, channels, 3, 2, **norm)]
        done = 0
        for (expansion, base, _, window, stride), blocks in zip(STAGES, repeats, strict=True):
            out_channels, stage = make_divisible(base * width), []
            for index in range(blocks):
                drop = drop_path * done / sum(repeats)
                stage.append(
                    MBConv(
                        channels,
                        out_channels,
                        window,
                        stride if index == 0 else 1,
                        expansion,
                        squeeze=0.0 if lite else 0.25,
                        drop=drop,
                        **norm,
                    )
                )
                channels, done = out_channels, done + 1
            features.append(nn.Sequential(*stage))
        head = HEAD if lite else 4 * channels
        features.append(ConvNormActivation(channels, head, **norm))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(head, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.out_features)
                nn.init.uniform_(module.weight, -bound, bound)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for (N, in_channels, H, W)."""
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return logits


PORT_CONVOLUTIONS = {
    "_expand_conv": ("expand", "0"), "_bn0": ("expand", "1"), "_depthwise_conv": ("depthwise", "0"),
    "_bn1": ("depthwise", "1"), "_se_reduce": ("squeeze", "fc1"), "_se_expand": ("squeeze", "fc2"),
    "_project_conv": ("project", "0"), "_bn2": ("project", "1"),
}  # fmt: skip
"""Names in a block of the PyTorch ports that number all blocks (efficientnet_pytorch, efficientnet_lite_pytorch)."""
PORT_ENDS = {"_conv_stem": "0.0", "_bn0": "0.1", "_conv_head": "-1.0", "_bn1": "-1.1"}


def rename_port(model: nn.Module, name: str) -> str | None:
    """Return the name here of what the PyTorch ports of the authors' code call `name`."""
    features = model.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    first, _, rest = name.partition(".")
    if first == "_fc":
        return f"classifier.1.{rest}"
    if first in PORT_ENDS:
        place, inner = PORT_ENDS[first].split(".")
        return f"features.{int(place) % len(features)}.{inner}.{rest}"
    found = re.fullmatch(r"(\d+)\.(\w+)\.(.+)", rest)
    if first != "_blocks" or found is None or found[2] not in PORT_CONVOLUTIONS:
        return None
    blocks = [key for key, module in features.named_modules() if isinstance(module, MBConv)]
    if int(found[1]) >= len(blocks):
        return None
    block = features.get_submodule(blocks[int(found[1])])
    assert isinstance(block, MBConv)
    part, inner = PORT_CONVOLUTIONS[found[2]]
    parts = ["expand"] * block.expands + ["depthwise"] + ["squeeze"] * block.squeezes + ["project"]
    return f"features.{blocks[int(found[1])]}.block.{parts.index(part)}.{inner}.{found[3]}" if part in parts else None


def _build(
    *, width: float, depth: float, num_classes: int, in_channels: int, dropout: float, drop_path: float, lite: bool,
    padding: str, bn_eps: float, bn_momentum: float, **layers: Any,
) -> EfficientNet:  # fmt: skip
    model = EfficientNet(width, depth, num_classes, in_channels, dropout, drop_path, lite, padding, bn_eps, bn_momentum)
    return configure_convolutions(model, **layers)


def _config(scale: Scale, padding: str, bn_eps: float, bn_momentum: float) -> dict[str, Any]:
    return {
        "num_classes": 1000, "in_channels": 3, "width": scale.width, "depth": scale.depth, "dropout": scale.dropout,
        "drop_path": 0.2, "padding": padding, "bn_eps": bn_eps, "bn_momentum": bn_momentum, **CONVOLUTION_CONFIG,
    }  # fmt: skip


def _register(name: str, scale: Scale) -> None:
    # torchvision trained B0 to B4 with PyTorch's batch normalisation, and took B5 to B7 from the authors.
    theirs = name in ("b5", "b6", "b7")

    def build(**config: Any) -> EfficientNet:
        return _build(lite=False, **config)

    register(
        f"efficientnet_{name}",
        description=f"EfficientNet-{name.upper()}, {MILLIONS[name]} M parameters",
        paper=PAPER,
        input_shape=(3, scale.resolution, scale.resolution),
        config=_config(scale, "symmetric", 1e-3 if theirs else 1e-5, 0.01 if theirs else 0.1),
        renamings=[rename_port],
    )(build)


for _name, _scale in SCALES.items():
    _register(_name, _scale)


@register(
    "efficientnet_lite0",
    description="EfficientNet-Lite0, 4.7 M parameters; ReLU6, no squeeze-and-excitation, TensorFlow's padding",
    paper=PAPER + "; Lite0: the authors' code, tensorflow/tpu, efficientnet/lite, 2020",
    input_shape=(3, 224, 224),
    config=_config(SCALES["b0"], "same", 1e-3, 0.01),
    renamings=[rename_port],
)
def efficientnet_lite0(**config: Any) -> EfficientNet:
    """Build EfficientNet-Lite0; see `EfficientNet` and `CONVOLUTION_CONFIG`."""
    return _build(lite=True, **config)
