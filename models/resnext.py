"""ResNeXt: Xie, Girshick, Dollár, Tu, He, "Aggregated residual transformations for deep neural networks", CVPR 2017.

Bottlenecks whose 3x3 convolution is grouped (figure 3c). ResNeXt-50 is table 1's, with torchvision's and timm's
state-dict names; ResNeXt-29 is section 5.3's network for CIFAR: three stages behind a 3x3 convolution. Initialisation:
He et al., ICCV 2015, fan-out mode.
"""

from __future__ import annotations

from typing import Any

from edgeconv.models.registry import register
from edgeconv.models.residual import Bottleneck
from edgeconv.models.resnet import IMAGENET_CONFIG, ImageNetResNet, build_imagenet

PAPER = 'Xie et al., "Aggregated residual transformations for deep neural networks", CVPR 2017 (arXiv 1611.05431)'

BLOCKS = {29: (3, 3, 3), 50: (3, 4, 6, 3)}
"""Blocks of each stage by depth."""


def _register(depth: int, groups: int, base_width: int, parameters: str, note: str, weights: tuple[str, ...]) -> None:
    def build(**config: Any) -> ImageNetResNet:
        return build_imagenet(Bottleneck, BLOCKS[depth], {"groups": groups, "base_width": base_width}, config)

    small = {"num_classes": 10, "stem": "cifar"} if depth == 29 else {}
    size = 32 if small else 224
    register(
        f"resnext{depth}_{groups}x{base_width}d",
        description=f"ResNeXt-{depth} ({groups}x{base_width}d), {parameters} M parameters; {note}",
        paper=PAPER,
        input_shape=(3, size, size),
        config={**IMAGENET_CONFIG, **small},
        weights=dict.fromkeys(weights),
    )(build)


_register(29, 8, 64, "34.4", "CIFAR form, the paper's", ())
_register(29, 32, 4, "4.8", "CIFAR form, as in the experiments of network deconvolution", ())
_register(50, 32, 4, "25.0", "ImageNet form", ("torchvision resnext50_32x4d", "timm resnext50_32x4d"))
