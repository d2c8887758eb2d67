"""Stacks whose geometry hurts: H ≠ W, odd channels, groups, strides, dilation, overlapping and hanging windows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgeconv.nn.blocks import LocalResponseNorm


def _overlapping() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(5, 4, 3, padding=1), nn.ReLU())


def _hanging() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, (3, 2), stride=(1, 2)), nn.ReLU6(), nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
        *(nn.Conv2d(4, 3, 2, bias=False), nn.ReLU()),
    )


def _grouped() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(4, 6, 3, stride=2, padding=(0, 1), groups=2), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 9, (1, 3), groups=3, padding="same"), nn.BatchNorm2d(9), nn.ReLU6()),
    )


def _dilated() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(2, 5, 3, dilation=(2, 1), padding="same"), nn.ReLU(), nn.MaxPool2d(2, 1, dilation=(1, 3))),
        *(nn.Conv2d(5, 3, 3, stride=3, dilation=2), nn.ReLU()),
    )


def _averaged() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)),
        *(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(4, 5, 2), nn.ReLU(), nn.AvgPool2d((2, 3), 1, (1, 0), False, True, 5)),
    )


def _columns() -> nn.Sequential:
    """AlexNet in small: overlapping pooling, response normalisation, two columns, dropout."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(inplace=True), LocalResponseNorm(3, alpha=0.1), nn.MaxPool2d(3, 2)),
        *(nn.Dropout(), nn.Conv2d(8, 6, 3, padding=1, groups=2), nn.ReLU(inplace=True), nn.LocalResponseNorm(5)),
        nn.Conv2d(6, 4, 1),
    )


def _gaps() -> nn.Sequential:
    """Strides that leave pixels out, and a rest at the end."""
    return nn.Sequential(nn.Conv2d(3, 4, 2, stride=3), nn.ReLU(), nn.MaxPool2d(2, 3), nn.Conv2d(4, 3, 1), nn.ReLU())


CASES: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, int, int], str]] = {
    "overlapping": (_overlapping, (3, 15, 18), "3"),
    "hanging": (_hanging, (1, 14, 21), "3"),
    "grouped": (_grouped, (4, 17, 20), "4"),
    "dilated": (_dilated, (2, 16, 19), "3"),
    "averaged": (_averaged, (3, 13, 16), "6"),
    "columns": (_columns, (3, 30, 27), "8"),
    "gaps": (_gaps, (3, 31, 27), "3"),
}
"""Name: how it is built, (C, H, W), and the layer to show."""


def build(name: str, dtype: torch.dtype = torch.float32, *, seed: int = 0) -> tuple[nn.Sequential, Tensor, str]:
    """Return a case's module in evaluation mode, three images, and the layer."""
    builder, shape, layer = CASES[name]
    torch.manual_seed(seed)
    module = builder().to(dtype).eval()
    with torch.no_grad():
        for each in module.modules():
            if isinstance(each, nn.BatchNorm2d):
                each.running_mean.normal_()
                each.running_var.uniform_(0.5, 2)
                each.weight.normal_()
                each.bias.normal_()
    return module, torch.randn(3, *shape, dtype=dtype), layer
