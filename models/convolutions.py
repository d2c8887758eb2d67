"""The configuration keys that turn an architecture's convolutions into other layers, shared by all architectures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import nn

from edgeconv.nn import Kerv2d, convert
from edgeconv.nn.blocks import make_divisible
from edgeconv.ops.deconv_whitening import EPS, N_ITER, SAMPLING_STRIDE

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
"""kernel: as in `edgeconv.nn.Kerv2d` ("linear" is a plain convolution). where: which convolutions become kervolutions
or deconvolutions: "all", "first" (the one nearest the input) or "3x3" (those of that size). degree to learnable:
parameters of the kernel. precision: see `Kerv2d`. init_gain: factor on the initial weights of the layers that become
kervolutions; below 1, a polynomial kernel starts in its nearly linear range, where deep networks train stably."""

DECONV_CONFIG: Mapping[str, Any] = MappingProxyType(
    {
        "deconv_block": 0,
        "deconv_block_linear": 512,
        "deconv_eps": EPS,
        "deconv_n_iter": N_ITER,
        "deconv_sampling_stride": SAMPLING_STRIDE,
    }
)
"""deconv_block: channels that `edgeconv.nn.Deconv2d` whitens together; 0 leaves convolutions as they are (the authors
use 64). Batch normalisations behind the convolutions that become deconvolutions disappear. deconv_block_linear:
features that linear layers whiten together; 0 leaves those plain, and so does a `where` other than "all". deconv_eps,
deconv_n_iter, deconv_sampling_stride: as in `Deconv2d`."""

CONVOLUTION_CONFIG: Mapping[str, Any] = MappingProxyType({**KERNEL_CONFIG, **DECONV_CONFIG})
"""What every architecture adds to its own configuration keys."""

WHERE = ("all", "first", "3x3")

STEMS = ("imagenet", "cifar")
"""imagenet: 7x7 with a stride of 2, then pooling. cifar: 3x3 and no pooling, for small images, as usual on CIFAR."""

_Module = TypeVar("_Module", bound=nn.Module)


def check_choice(key: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a value of a configuration key that is none of its choices.

    Raises:
        ValueError: With the choices.
    """
    if value not in (names := list(choices)):
        raise ValueError(f"{key} must be one of {', '.join(names)}; got {value!r}")


def scale_channels(channels: int, width: float, divisor: int = 8) -> int:
    """Return how many channels a layer has at a width multiplier; at 1 exactly those of the paper.

    Raises:
        ValueError: The multiplier is not positive.
    """
    if not width > 0:
        raise ValueError(f"width must be positive; got {width!r}")
    return channels if width == 1 else make_divisible(channels * width, divisor)


def configure_convolutions(
    model: _Module,
    *,
    kernel: str,
    where: str,
    init_gain: float,
    deconv_block: int,
    deconv_block_linear: int,
    deconv_eps: float,
    deconv_n_iter: int,
    deconv_sampling_stride: int,
    **parameters: Any,
) -> _Module:
    """Replace the convolutions that `where` selects, keeping names; with "linear" and no block nothing changes.

    Args:
        model: A module whose convolutions are plain `nn.Conv2d`.
        kernel: See `KERNEL_CONFIG`.
        where: See `KERNEL_CONFIG`.
        init_gain: See `KERNEL_CONFIG`.
        deconv_block: See `DECONV_CONFIG`.
        deconv_block_linear: See `DECONV_CONFIG`.
        deconv_eps: See `DECONV_CONFIG`.
        deconv_n_iter: See `DECONV_CONFIG`.
        deconv_sampling_stride: See `DECONV_CONFIG`.
        **parameters: degree, balance, gamma, scale, learnable and precision.

    Raises:
        ValueError: A value is out of range, `where` selects no layer, or both a kernel and a block are asked for.
    """
    check_choice("where", where, WHERE)
    if not init_gain > 0:
        raise ValueError(f"init_gain must be positive; got {init_gain!r}")
    for name, block in (("deconv_block", deconv_block), ("deconv_block_linear", deconv_block_linear)):
        if not isinstance(block, int) or isinstance(block, bool) or block < 0:
            raise ValueError(f"{name} must be a whole number, 0 for none; got {block!r}")
    if kernel != "linear" and deconv_block:
        raise ValueError(
            f"a layer is a kervolution or a deconvolution, not both; got kernel={kernel!r} and "
            f"deconv_block={deconv_block}: leave one of them out"
        )
    first = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))

    def selected(name: str, module: nn.Module) -> bool:
        if isinstance(module, nn.Linear):
            return where == "all" and deconv_block_linear > 0
        if where == "first":
            return bool(name == first)
        return where == "all" or bool(isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3))

    if deconv_block:
        return convert(
            model,
            to="deconvolution",
            where=selected,
            block=deconv_block,
            block_linear=deconv_block_linear,
            eps=deconv_eps,
            n_iter=deconv_n_iter,
            sampling_stride=deconv_sampling_stride,
        )
    if kernel == "linear":
        return model
    model = convert(model, kernel, where=selected, **parameters)
    if init_gain != 1:
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, Kerv2d):
                    module.weight.mul_(init_gain)
    return model
