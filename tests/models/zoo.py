"""Small forms of every architecture, and weights and inputs in which no random generator plays a part."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from edgeconv.models import create
from edgeconv.models.registry import model_info

Config = dict[str, Any]

TINY: dict[str, tuple[Config, tuple[int, int, int]]] = {
    # architecture: configuration, input (C, H, W); one of each class. H and W differ, and most are odd.
    "lenet5": ({}, (1, 28, 28)),
    "alexnet": ({"width": 0.05}, (3, 67, 75)),
    "zfnet": ({"width": 0.05}, (3, 67, 75)),
    "nin": ({"width": 0.05}, (3, 29, 34)),
    "googlenet": ({"width": 0.1}, (3, 41, 50)),
    "vgg13": ({"width": 0.05}, (3, 33, 40)),
    "vgg11": ({"width": 0.05, "form": "cifar"}, (2, 33, 40)),
    "resnet20": ({}, (3, 13, 18)),
    "resnet18": ({"width": 0.1}, (3, 33, 40)),
    "preact_resnet18": ({"width": 0.1}, (3, 33, 40)),
    "resnext29_8x64d": ({"width": 0.1}, (3, 13, 10)),
    "senet18": ({"width": 0.25, "stem": "cifar"}, (3, 13, 10)),
    "densenet121": ({"growth": 4, "blocks": [2, 2, 1]}, (2, 33, 40)),
    "dpn92": ({"width": 0.05, "blocks": [2, 1, 1, 1]}, (3, 33, 40)),
    "pnasnet": ({"planes": 4, "cells": 1, "cell": "B"}, (3, 13, 18)),
    "mobilenet_v1": ({"width": 0.25}, (3, 33, 40)),
    "mobilenet_v2": ({"width": 0.1}, (3, 33, 40)),
    "efficientnet_b0": ({"width": 0.1, "depth": 0.3}, (3, 33, 40)),
    "deeplabv3_resnet50": ({"width": 0.1, "blocks": [1, 1, 2, 1]}, (3, 33, 40)),
}


def pattern(shape: Sequence[int], seed: int) -> Tensor:
    """Numbers in [-1, 1) in which no random generator plays a part: quadratic residues."""
    index = torch.arange(torch.Size(shape).numel(), dtype=torch.int64) + 1
    return (((index * index * 40503 + index * (1013 + seed)) % 65521) * (2 / 65521) - 1).double().reshape(shape)


def patterned(model: nn.Module, gain: float = 2.0) -> nn.Module:
    """Fill a model so that the numbers keep their size from layer to layer, whatever its initialisation.

    Args:
        model: Its parameters and buffers.
        gain: Of the squares; 2 makes up for ReLU (He et al., ICCV 2015).
    """
    with torch.no_grad():
        for index, (name, tensor) in enumerate(model.state_dict().items()):
            if name.endswith(("running_deconv", "num_batches_tracked")):
                continue
            if tensor.dim() > 1:
                tensor.copy_(pattern(tensor.shape, index) * (3 * gain / tensor[0].numel()) ** 0.5)
            elif tensor.dim() == 1:
                offset = 1.0 if name.endswith(("weight", "running_var")) else 0.0
                tensor.copy_(offset + 0.25 * pattern(tensor.shape, index))
    return model.eval()


def parameters(model: nn.Module) -> int:
    """Count them."""
    return sum(parameter.numel() for parameter in model.parameters())


@cache
def default_figures(name: str) -> tuple[int, int]:
    """Return parameters and multiply-accumulates of an architecture as it is by default."""
    with torch.device("meta"):
        model = create(name)
    return parameters(model), count_macs(model, model_info(name).input_shape)


def count_macs(model: nn.Module, shape: Sequence[int]) -> int:
    """Return the multiply-accumulates of convolutions and linear layers for one input; on any device, meta too."""
    total = 0

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            rows, columns = layer.kernel_size
            total += output.numel() * layer.in_channels // layer.groups * rows * columns
        elif isinstance(layer, nn.Linear):
            total += output.numel() * layer.in_features

    for layer in model.modules():
        layer.register_forward_hook(count)
    device = next(model.parameters()).device
    with torch.no_grad():
        model.eval()(torch.empty(1, *shape, device=device))
    return total
