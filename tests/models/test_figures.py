"""Parameters and multiply-accumulates of every architecture against published figures: one table."""

from __future__ import annotations

import re

import pytest
import torch

from edgeconv.models import create, list_models
from edgeconv.models.registry import model_info

from .zoo import Config, count_macs, default_figures, parameters

TORCHVISION = "torchvision 0.28, num_params and _ops of its weights"
TIMM = "timm 1.0.31, the model's parameters"
SZE = "Sze et al., Efficient processing of deep neural networks, Proc. IEEE 105(12), 2017, table II"

# Name, configuration, parameters and MACs for one input of the registered size as published (None: not published),
# source. A figure counts with the digits that it is printed with. torchvision and timm count all parameters, those of
# auxiliary heads too; torchvision's MACs are of convolutions and linear layers, as they are here.
ROWS: list[tuple[str, Config, str | None, str | None, str]] = [
    # LeCun et al.: C1 156, C5 48,120, F6 10,164; C3 with every map 2,416; a linear output 850.
    ("lenet5", {}, "61,706", None, "LeCun et al. 1998, section II.B, term by term"),
    ("alexnet", {}, "60,965,224", "724 M", "Krizhevsky et al. 2012, figure 2, term by term; " + SZE),
    ("alexnet", {"columns": 1}, "61,100,840", "0.714 G", TORCHVISION),
    ("zfnet", {}, "62,357,608", None, "Zeiler and Fergus 2014, figure 3, term by term"),
    ("nin", {}, "966,986", None, "Lin et al. 2014, sections 3 and 4.1, term by term"),
    ("googlenet", {"aux": False}, "7.0 M", "1.58 G", "Szegedy et al. 2015, table 1 (params, ops), term by term"),
    ("googlenet", {"aux": False, "batch_norm": True}, "6,624,904", "1.498 G", TORCHVISION),
    ("vgg11", {}, "132,863,336", "7.609 G", TORCHVISION),
    ("vgg13", {}, "133,047,848", "11.308 G", TORCHVISION),
    ("vgg16", {}, "138,357,544", "15.470 G", TORCHVISION),
    ("vgg16", {"batch_norm": True}, "138,365,992", "15.470 G", TORCHVISION),
    ("vgg19", {}, "143,667,240", "19.632 G", TORCHVISION),
    ("resnet20", {}, "0.27 M", None, "He et al. 2016, table 6"),
    ("resnet32", {}, "0.46 M", None, "He et al. 2016, table 6"),
    ("resnet56", {}, "0.85 M", None, "He et al. 2016, table 6"),
    ("resnet18", {}, "11,689,512", "1.814 G", TORCHVISION),
    ("resnet34", {}, "21,797,672", "3.664 G", TORCHVISION),
    ("resnet50", {}, "25,557,032", "4.089 G", TORCHVISION),
    ("resnet101", {}, "44,549,160", "7.801 G", TORCHVISION),
    ("resnet152", {}, "60,192,808", "11.514 G", TORCHVISION),
    ("preact_resnet18", {}, "11,687,720", None, TIMM + " (resnetv2_18)"),
    ("resnext29_8x64d", {}, "34.4 M", None, "Xie et al. 2017, table 7"),
    ("resnext29_32x4d", {}, "4,775,754", None, "Xie et al. 2017, figure 3c and section 5.3, term by term"),
    ("resnext50_32x4d", {}, "25,028,904", "4.230 G", TORCHVISION),
    ("densenet121", {}, "7,978,856", "2.834 G", TORCHVISION),
    ("senet18", {}, "11,778,592", None, TIMM + " (legacy_seresnet18)"),
    ("se_resnet50", {}, "28,088,024", None, TIMM + " (seresnet50)"),
    ("dpn92", {}, "37,668,392", "6.5 G", TIMM + "; Chen et al. 2017, table 1 (FLOPs)"),
    ("pnasnet", {}, "130,646", None, "the code of Ye et al. 2020 (PNASNetA), term by term"),
    ("mobilenet_v1", {}, "4.2 M", "569 M", "Howard et al. 2017, table 6"),
    ("mobilenet_v1", {"width": 0.75}, "2.6 M", "325 M", "Howard et al. 2017, table 6"),
    ("mobilenet_v1", {"width": 0.5}, "1.3 M", "149 M", "Howard et al. 2017, table 6"),
    ("mobilenet_v1", {"width": 0.25}, "0.5 M", "41 M", "Howard et al. 2017, table 6"),
    ("mobilenet_v2", {}, "3,504,872", "0.301 G", TORCHVISION),
    ("efficientnet_b0", {}, "5,288,548", "0.386 G", TORCHVISION),
    ("efficientnet_b1", {}, "7,794,184", "0.687 G", TORCHVISION),
    ("efficientnet_b2", {}, "9,109,994", None, TORCHVISION),
    ("efficientnet_b3", {}, "12,233,232", "1.827 G", TORCHVISION),
    ("efficientnet_b4", {}, "19,341,616", "4.394 G", TORCHVISION),
    ("efficientnet_b5", {}, "30,389,784", "10.266 G", TORCHVISION),
    ("efficientnet_b6", {}, "43,040,704", "19.068 G", TORCHVISION),
    ("efficientnet_b7", {}, "66,347,960", "37.746 G", TORCHVISION),
    ("efficientnet_lite0", {}, "4.7 M", "0.4 G", "its authors' table (4.7 M, 407 M)"),
    ("deeplabv3_resnet50", {}, "42,004,074", None, TORCHVISION),
]


def agrees(value: int, published: str) -> bool:
    """Whether a count is the published figure, in the figure's own digits."""
    number, unit = re.fullmatch(r"([\d.,]+) ?([MG]?)", published).groups()  # type: ignore[union-attr]
    digits = len(number.partition(".")[2])
    return f"{value / {'': 1, 'M': 1e6, 'G': 1e9}[unit]:.{digits}f}" == number.replace(",", "")


@pytest.mark.parametrize(("name", "config", "published", "macs", "source"), ROWS)
def test_published_figures(name: str, config: Config, published: str | None, macs: str | None, source: str) -> None:
    if config:
        with torch.device("meta"):
            model = create(name, **config)
        counted, macs_counted = parameters(model), count_macs(model, model_info(name).input_shape)
    else:
        counted, macs_counted = default_figures(name)
    assert published is None or agrees(counted, published), (counted, source)
    assert macs is None or agrees(macs_counted, macs), (macs_counted, source)


def test_every_architecture_has_figures() -> None:
    assert {name for name, *_ in ROWS} == {info.name for info in list_models()}


def test_the_comparison_can_fail() -> None:
    assert agrees(45_678_901, "45.7 M")
    assert not agrees(45_678_901, "45.6 M")
    assert not agrees(61_100_841, "61,100,840")


def test_zfnet_term_by_term() -> None:
    """Figure 3: windows, channels, and maps of 6x6 before the linear layers."""
    widths = [3, 96, 256, 384, 384, 256]
    windows = [7, 5, 3, 3, 3]
    convolutions = sum(k * k * i * o + o for k, i, o in zip(windows, widths, widths[1:], strict=False))
    linear = (9216 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000
    assert convolutions + linear == 62_357_608


def test_auxiliary_heads_count() -> None:
    """torchvision's DeepLabV3 runs its auxiliary head in evaluation, too; its 178.722 G are the rest and that."""
    shape = model_info("deeplabv3_resnet50").input_shape
    with torch.device("meta"):
        model = create("deeplabv3_resnet50")
        head = model.aux_classifier
    macs = count_macs(model, shape) + count_macs(head, (1024, 65, 65))  # type: ignore[arg-type]
    assert agrees(macs, "178.722 G")
    with torch.device("meta"):
        assert parameters(create("googlenet")) == 13_378_280
        assert parameters(create("googlenet", batch_norm=True)) == 13_004_888  # torchvision's, with both classifiers


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("alexnet", [55, 27, 13, 13, 13]),  # Krizhevsky et al., figure 2: rows behind each convolution
        ("zfnet", [110, 26, 13, 13, 13]),  # Zeiler and Fergus, figure 3
    ],
)
def test_map_sizes(name: str, sizes: list[int]) -> None:
    rows: list[int] = []
    with torch.device("meta"):
        model = create(name).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(lambda _, __, y: rows.append(y.shape[2]))
        model.features.register_forward_hook(lambda _, __, y: rows.append(y.shape[2]))  # type: ignore[union-attr]
        model(torch.empty(1, 3, 224, 224))
    assert rows == [*sizes, 6]


def test_googlenet_map_sizes() -> None:
    """Table 1's output sizes."""
    seen: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        model = create("googlenet").eval()
        for name, module in model.named_modules():
            if name.startswith("inception") and "." not in name:
                module.register_forward_hook(lambda _, __, y, name=name: seen.update({name[9:]: tuple(y.shape[1:])}))
        model(torch.empty(1, 3, 224, 224))
    channels = {"3a": 256, "3b": 480, "4a": 512, "4b": 512, "4c": 512, "4d": 528, "4e": 832, "5a": 832, "5b": 1024}
    assert seen == {name: (c, *(2 * [{"3": 28, "4": 14, "5": 7}[name[0]]])) for name, c in channels.items()}
