"""ResNet: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016.

The CIFAR form (section 4.2) and the ImageNet form (section 4.1, table 1). The ImageNet form's state dicts have
torchvision's names and shapes; its bottleneck strides in the 3x3 convolution, as torchvision's does ("v1.5"), where the
paper strides in the first 1x1. Initialisation: section 3.4's reference [13] (He et al., 2015), fan-out mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.models.convolutions import CONVOLUTION_CONFIG, configure_convolutions
from edgeconv.models.registry import register

PAPER = 'He et al., "Deep residual learning for image recognition", CVPR 2016 (arXiv 1512.03385)'


class ZeroPadShortcut(nn.Module):
    """Option A (section 4.2): subsample, then pad the new channels with zeros. It has no parameters.

    Args:
        extra: Number of channels to add.
        stride: Of the subsampling, both ways.
    """

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C + extra, ceil(H/stride), ceil(W/stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Option B: a 1x1 convolution with batch normalisation."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left)."""

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, downsample: nn.Module | None, activation: str
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = ACTIVATIONS[activation](inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, ceil(H/stride), ceil(W/stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        result: Tensor = self.relu(self.bn2(self.conv2(y)) + shortcut)
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (figure 5, right)."""

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int, downsample: nn.Module | None, activation: str
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = ACTIVATIONS[activation](inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 4 width, ceil(H/stride), ceil(W/stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        result: Tensor = self.relu(self.bn3(self.conv3(y)) + shortcut)
        return result


Shortcut = Callable[[int, int, int], nn.Module]


def _stage(
    block: type[BasicBlock | Bottleneck],
    in_channels: int,
    width: int,
    blocks: int,
    stride: int,
    shortcut: Shortcut,
    activation: str,
) -> nn.Sequential:
    out = width * block.expansion
    downsample = shortcut(in_channels, out, stride) if stride != 1 or in_channels != out else None
    first = block(in_channels, width, stride, downsample, activation)
    return nn.Sequential(first, *(block(out, width, 1, None, activation) for _ in range(blocks - 1)))


def _check_activation(activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {activation!r}")


def _initialize(model: nn.Module, zero_init_residual: bool) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual and isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)
        if zero_init_residual and isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)


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
        _check_activation(activation)
        if shortcut not in ("A", "B"):
            raise ValueError(f'shortcut must be "A" or "B"; got {shortcut!r}')
        make: Shortcut = (lambda i, o, s: ZeroPadShortcut(o - i, s)) if shortcut == "A" else _projection
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = ACTIVATIONS[activation](inplace=True)
        self.layer1 = _stage(BasicBlock, 16, 16, blocks, 1, make, activation)
        self.layer2 = _stage(BasicBlock, 16, 32, blocks, 2, make, activation)
        self.layer3 = _stage(BasicBlock, 32, 64, blocks, 2, make, activation)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)
        _initialize(self, zero_init_residual)

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
        blocks: Number of blocks in each stage.
        num_classes: Width of the output.
        in_channels: Channels of the input.
        activation: "relu" (the paper's) or "relu6", which bounds what each kernel sees.
        zero_init_residual: Start every block as its shortcut (Goyal et al., arXiv 1706.02677, section 5.1).
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: tuple[int, ...],
        num_classes: int,
        in_channels: int,
        activation: str,
        zero_init_residual: bool,
    ) -> None:
        super().__init__()
        _check_activation(activation)
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = ACTIVATIONS[activation](inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        wide = block.expansion
        self.layer1 = _stage(block, 64, 64, blocks[0], 1, _projection, activation)
        self.layer2 = _stage(block, 64 * wide, 128, blocks[1], 2, _projection, activation)
        self.layer3 = _stage(block, 128 * wide, 256, blocks[2], 2, _projection, activation)
        self.layer4 = _stage(block, 256 * wide, 512, blocks[3], 2, _projection, activation)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * wide, num_classes)
        _initialize(self, zero_init_residual)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for (N, in_channels, H, W) of any size."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


@register(
    "resnet20",
    description="ResNet-20 in the CIFAR form, 0.27 M parameters; 1 or 3 input channels, any size",
    paper=PAPER,
    input_shape=(3, 32, 32),
    config={
        "num_classes": 10,
        "in_channels": 3,
        "shortcut": "A",
        "activation": "relu",
        "zero_init_residual": False,
        **CONVOLUTION_CONFIG,
    },
)
def resnet20(
    *,
    num_classes: int,
    in_channels: int,
    shortcut: str,
    activation: str,
    zero_init_residual: bool,
    **layers: Any,
) -> CifarResNet:
    """Build ResNet-20; see `CifarResNet` and `CONVOLUTION_CONFIG`."""
    model = CifarResNet(3, num_classes, in_channels, shortcut, activation, zero_init_residual)
    return configure_convolutions(model, **layers)


_IMAGENET: dict[str, Any] = {
    "num_classes": 1000,
    "in_channels": 3,
    "activation": "relu",
    "zero_init_residual": False,
    **CONVOLUTION_CONFIG,
}


def _imagenet(block: type[BasicBlock | Bottleneck], blocks: tuple[int, ...], config: dict[str, Any]) -> ImageNetResNet:
    layers = {key: config.pop(key) for key in CONVOLUTION_CONFIG}
    return configure_convolutions(ImageNetResNet(block, blocks, **config), **layers)


@register(
    "resnet18",
    description="ResNet-18 in the ImageNet form, 11.7 M parameters, torchvision's state-dict names",
    paper=PAPER,
    input_shape=(3, 224, 224),
    config=_IMAGENET,
)
def resnet18(**config: Any) -> ImageNetResNet:
    """Build ResNet-18; see `ImageNetResNet` and `CONVOLUTION_CONFIG`."""
    return _imagenet(BasicBlock, (2, 2, 2, 2), config)


@register(
    "resnet34",
    description="ResNet-34 in the ImageNet form, 21.8 M parameters, torchvision's state-dict names",
    paper=PAPER,
    input_shape=(3, 224, 224),
    config=_IMAGENET,
)
def resnet34(**config: Any) -> ImageNetResNet:
    """Build ResNet-34; see `ImageNetResNet` and `CONVOLUTION_CONFIG`."""
    return _imagenet(BasicBlock, (3, 4, 6, 3), config)


@register(
    "resnet50",
    description="ResNet-50 in the ImageNet form, 25.6 M parameters, torchvision's state-dict names",
    paper=PAPER,
    input_shape=(3, 224, 224),
    config=_IMAGENET,
)
def resnet50(**config: Any) -> ImageNetResNet:
    """Build ResNet-50; see `ImageNetResNet` and `CONVOLUTION_CONFIG`."""
    return _imagenet(Bottleneck, (3, 4, 6, 3), config)
