"""SENet: Hu, Shen, Albanie, Sun, Wu, "Squeeze-and-excitation networks", CVPR 2018.

ResNet's blocks with squeeze-and-excitation on the residual (figure 3), at the paper's reduction of 16. State dicts have
timm's names. Initialisation: He et al., ICCV 2015, fan-out mode.
"""

from __future__ import annotations

from typing import Any

from edgeconv.models.registry import register
from edgeconv.models.residual import BasicBlock, Bottleneck
from edgeconv.models.resnet import IMAGENET_CONFIG, ImageNetResNet, build_imagenet

PAPER = 'Hu et al., "Squeeze-and-excitation networks", CVPR 2018 (arXiv 1709.01507)'

_CONFIG: dict[str, Any] = {**IMAGENET_CONFIG, "reduction": 16}


def _build(block: type[BasicBlock | Bottleneck], blocks: tuple[int, ...], config: dict[str, Any]) -> ImageNetResNet:
    reduction = config.pop("reduction")
    if not isinstance(reduction, int) or reduction < 1:
        raise ValueError(f"reduction must be a whole number from 1 up; got {reduction!r}")
    return build_imagenet(block, blocks, {"reduction": reduction}, config)


@register(
    "senet18",
    description="SENet-18: ResNet-18 with squeeze-and-excitation, 11.8 M parameters",
    paper=PAPER,
    input_shape=(3, 224, 224),
    config=_CONFIG,
)
def senet18(**config: Any) -> ImageNetResNet:
    """Build SENet-18; see `ImageNetResNet`, `BlockStyle` and `CONVOLUTION_CONFIG`."""
    return _build(BasicBlock, (2, 2, 2, 2), config)


@register(
    "se_resnet50",
    description="SE-ResNet-50, 28.1 M parameters",
    paper=PAPER,
    input_shape=(3, 224, 224),
    config=_CONFIG,
    weights={"timm seresnet50": None},
)
def se_resnet50(**config: Any) -> ImageNetResNet:
    """Build SE-ResNet-50; see `ImageNetResNet`, `BlockStyle` and `CONVOLUTION_CONFIG`."""
    return _build(Bottleneck, (3, 4, 6, 3), config)
