"""The configuration keys that turn an architecture's convolutions into kervolutions, shared by all architectures."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import nn

from edgeconv.nn import Kerv2d, convert

KERNEL_CONFIG: Mapping[str, Any] = MappingProxyType(
    {
        "kernel": "linear",
        "where": "all",
        "degree": 3,
        "balance": 1.0,
        "gamma": 1.0,
        "scale": 1.0,
        "learnable": False,
        "precision": "float32",
        "init_gain": 1.0,
    }
)
"""kernel: as in `edgeconv.nn.Kerv2d` ("linear" is a plain convolution). where: which convolutions become kervolutions:
"all", "first" (the one nearest the input) or "3x3" (those of that size). degree to learnable: parameters of the kernel.
precision: see `Kerv2d`. init_gain: factor on the initial weights of the layers that become kervolutions; below 1, a
polynomial kernel starts in its nearly linear range, where deep networks train stably."""

WHERE = ("all", "first", "3x3")

_Module = TypeVar("_Module", bound=nn.Module)


def apply_kernel(model: _Module, *, kernel: str, where: str, init_gain: float, **parameters: Any) -> _Module:
    """Replace the convolutions that `where` selects, keeping names; "linear" changes nothing.

    Args:
        model: A module whose convolutions are plain `nn.Conv2d`.
        kernel: See `KERNEL_CONFIG`.
        where: See `KERNEL_CONFIG`.
        init_gain: See `KERNEL_CONFIG`.
        **parameters: degree, balance, gamma, scale, learnable and precision.

    Raises:
        ValueError: A value is out of range, or `where` selects no layer.
    """
    if where not in WHERE:
        raise ValueError(f"where must be one of {', '.join(WHERE)}; got {where!r}")
    if not init_gain > 0:
        raise ValueError(f"init_gain must be positive; got {init_gain!r}")
    if kernel == "linear":
        return model
    first: str = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))

    def selected(name: str, module: nn.Module) -> bool:
        if where == "first":
            return name == first
        return where == "all" or bool(isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3))

    model = convert(model, kernel, where=selected, **parameters)
    if init_gain != 1:
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, Kerv2d):
                    module.weight.mul_(init_gain)
    return model
