"""ResNet: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016.

The CIFAR form (section 4.2) and the ImageNet form (section 4.1, table 1). The ImageNet form's state dicts have
torchvision's names and shapes, which are timm's too; its bottleneck strides in the 3x3 convolution, as torchvision's
does ("v1.5"), where the paper strides in the first 1x1. Initialisation: section 3.4's reference [13] (He et al., 2015),
fan-out mode. The blocks are in `residual.py`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from edgeconv.models.convolutions import (
    CONVOLUTION_CONFIG,
    STEMS,
    check_choice,
    configure_convolutions,
    scale_channels,
)
from edgeconv.models.registry import register
from edgeconv.models.residual import (
    ACTIVATIONS,
    BasicBlock,
    BlockStyle,
    Bottleneck,
    Shortcut,
    ZeroPadShortcut,
    initialize,
    projection,
    stage,
)

PAPER = 'He et al., "Deep residual learning for image recognition", CVPR 2016 (arXiv 1512.03385)'


class CifarResNet(nn.Module):
    """The CIFAR form: a 3x3 convolution, three stages of 16, 32 and 64 channels, `blocks` blocks each (6n+2 layers).

    Args:
        blocks: n of the paper.
        num_classes: Width of the output.
        in_channels: Channels of the input.
        shortcut: "A" (the paper's choice for CIFAR: zero padding, no parameters) or "B" (projection).
        activation: "relu" (the paper's) or "relu6", which bounds what each kernel sees.
        zero_init_residual: Start every block as its shortcut (Goyal et al., arXiv 1706.02677, section 5.1).
    """

    def __init__(
        self, blocks: int, num_classes: int, in_channels: int, shortcut: str, activation: str, zero_init_residual: bool
    ) -> None:
        super().__init__()
        style = BlockStyle(activation)
        if shortcut not in ("A", "B"):
            raise ValueError(f'shortcut must be "A" or "B"; got {shortcut!r}')
        make: Shortcut = (lambda i, o, s: ZeroPadShortcut(o - i, s)) if shortcut == "A" else projection
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = ACTIVATIONS[activation](inplace=True)
        self.layer1 = stage(BasicBlock, 16, 16, blocks, 1, style, make)
        self.layer2 = stage(BasicBlock, 16, 32, blocks, 2, style, make)
        self.layer3 = stage(BasicBlock, 32, 64, blocks, 2, style, make)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)
        initialize(self, zero_init_residual)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for (N, in_channels, H, W) of any size."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


class ImageNetResNet(nn.Module):
    """The ImageNet form: a 7x7 convolution, max pooling, four stages of 64 to 512 channels; projection shortcuts.

    Args:
        block: Of the stages.
        blocks: Number of blocks in each stage; the channels double from one to the next.
        num_classes: Width of the output.
        in_channels: Channels of the input.
        zero_init_residual: Start every block as its shortcut (Goyal et al., arXiv 1706.02677, section 5.1).
        stem: One of `STEMS`.
        width: Multiplier of all channels.
        style: What the blocks are made of.
        dilate: For each stage, whether to dilate its windows instead of its stride (for segmentation).
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: tuple[int, ...],
        num_classes: int,
        in_channels: int,
        zero_init_residual: bool = False,
        *,
        stem: str = "imagenet",
        width: float = 1.0,
        style: BlockStyle | None = None,
        dilate: tuple[bool, ...] = (),
    ) -> None:
        super().__init__()
        check_choice("stem", stem, STEMS)
        style = BlockStyle() if style is None else style
        first = scale_channels(64, width)
        large = stem == "imagenet"
        self.conv1 = nn.Conv2d(in_channels, first, *((7, 2, 3) if large else (3, 1, 1)), bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = ACTIVATIONS[style.activation](inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        channels, dilation = first, 1
        self.stages = [f"layer{index + 1}" for index in range(len(blocks))]
        for index, (name, count) in enumerate(zip(self.stages, blocks, strict=True)):
            stride, before = min(index + 1, 2), dilation
            if index < len(dilate) and dilate[index]:
                stride, dilation = 1, dilation * stride
            planes = scale_channels(64 * 2**index, width)
            self.add_module(
                name, stage(block, channels, planes, count, stride, style, dilation=dilation, first_dilation=before)
            )
            channels = planes * block.expansion
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        initialize(self, zero_init_residual)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return each stage's output."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        outputs = []
        for name in self.stages:
            x = self.get_submodule(name)(x)
            outputs.append(x)
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for (N, in_channels, H, W) of any size."""
        logits: Tensor = self.fc(self.avgpool(self.maps(x)[-1]).flatten(1))
        return logits


_CIFAR: dict[str, Any] = {
    "num_classes": 10,
    "in_channels": 3,
    "shortcut": "A",
    "activation": "relu",
    "zero_init_residual": False,
    **CONVOLUTION_CONFIG,
}


def _register_cifar(depth: int, parameters: str) -> None:
    def build(
        *,
        num_classes: int,
        in_channels: int,
        shortcut: str,
        activation: str,
        zero_init_residual: bool,
        **layers: Any,
    ) -> CifarResNet:
        model = CifarResNet((depth - 2) // 6, num_classes, in_channels, shortcut, activation, zero_init_residual)
        return configure_convolutions(model, **layers)

    register(
        f"resnet{depth}",
        description=f"ResNet-{depth} in the CIFAR form, {parameters} M parameters; 1 or 3 input channels, any size",
        paper=PAPER,
        input_shape=(3, 32, 32),
        config=_CIFAR,
    )(build)


for _depth, _parameters in ((20, "0.27"), (32, "0.46"), (56, "0.85")):
    _register_cifar(_depth, _parameters)


IMAGENET_CONFIG: dict[str, Any] = {
    "num_classes": 1000,
    "in_channels": 3,
    "activation": "relu",
    "zero_init_residual": False,
    "stem": "imagenet",
    "width": 1.0,
    **CONVOLUTION_CONFIG,
}
"""Keys of the networks that are built of the ImageNet form."""


def build_imagenet(
    block: type[BasicBlock | Bottleneck], blocks: tuple[int, ...], style: dict[str, Any], config: dict[str, Any]
) -> ImageNetResNet:
    """Build the ImageNet form.

    Args:
        block: Of the stages.
        blocks: Number of blocks in each stage.
        style: Arguments of `BlockStyle` but for the activation.
        config: As in `IMAGENET_CONFIG`.
    """
    own = {key: value for key, value in config.items() if key not in CONVOLUTION_CONFIG}
    layers = {key: config[key] for key in CONVOLUTION_CONFIG}
    own["style"] = BlockStyle(own.pop("activation"), **style)
    return configure_convolutions(ImageNetResNet(block, blocks, **own), **layers)


def _register_imagenet(
    depth: int, block: type[BasicBlock | Bottleneck], blocks: tuple[int, ...], parameters: str
) -> None:
    def build(**config: Any) -> ImageNetResNet:
        return build_imagenet(block, blocks, {}, config)

    register(
        f"resnet{depth}",
        description=f"ResNet-{depth} in the ImageNet form, {parameters} M parameters, torchvision's state-dict names",
        paper=PAPER,
        input_shape=(3, 224, 224),
        config=IMAGENET_CONFIG,
        weights={f"torchvision resnet{depth}": None, f"timm resnet{depth}": None},
    )(build)


_register_imagenet(18, BasicBlock, (2, 2, 2, 2), "11.7")
_register_imagenet(34, BasicBlock, (3, 4, 6, 3), "21.8")
_register_imagenet(50, Bottleneck, (3, 4, 6, 3), "25.6")
_register_imagenet(101, Bottleneck, (3, 4, 23, 3), "44.5")
_register_imagenet(152, Bottleneck, (3, 8, 36, 3), "60.2")
