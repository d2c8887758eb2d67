"""Replace the convolutions of any module by kervolutions or deconvolutions, keeping the weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar

from torch import nn

from edgeconv.nn.convert_deconvolution import deconvolution_replacements
from edgeconv.nn.kervolution import Kerv1d, Kerv2d

Where = str | Callable[[str, nn.Module], bool]
"""Which layers: a regular expression that matches somewhere in the dotted name, or a predicate of (name, module)."""

_LAYERS: dict[type[nn.Module], type[Kerv1d] | type[Kerv2d]] = {
    nn.Conv1d: Kerv1d,
    nn.Conv2d: Kerv2d,
    Kerv1d: Kerv1d,
    Kerv2d: Kerv2d,
}

_Module = TypeVar("_Module", bound=nn.Module)


def convert(
    model: _Module,
    kernel: str = "polynomial",
    *,
    to: Literal["kervolution", "deconvolution"] = "kervolution",
    where: Where | None = None,
    **parameters: Any,
) -> _Module:
    """Turn a model's convolutions into kervolutions or deconvolutions, in place.

    Kervolutions: of `Conv1d` and `Conv2d`. Weights, biases, device, dtype, training mode and `requires_grad` stay as
    they are; so do names, hence state dicts (plus the kernel's own parameters). Kervolutions are converted too (their
    kernel changes).

    Deconvolutions: of `Conv2d` and `Linear`. A batch normalisation that alone takes a convolution's output becomes
    `nn.Identity`, and its evaluation goes into the new layer's weight and bias. As the statistics of whitening begin
    with the identity, the converted model computes in evaluation what the model did, until it is trained.

    A layer used in two places stays shared; subclasses that others wrote are left alone.

    Args:
        model: The module to convert; if it is itself a layer to convert, its replacement is returned.
        kernel: As in `Kerv2d`; for kervolutions.
        to: What to convert to.
        where: Which layers to convert; all by default.
        **parameters: For kervolutions `degree`, `balance`, `gamma`, `scale`, `learnable` and `precision`, as in
            `Kerv2d`; for deconvolutions `block`, `eps`, `n_iter`, `momentum`, `sampling_stride`, `freeze` and
            `freeze_iter`, as in `Deconv2d`, and `block_linear`, the block of linear layers (512).

    Returns:
        The converted model.

    Raises:
        ValueError: No layer matches, or a parameter is out of range.
    """
    if isinstance(where, str):
        try:
            re.compile(where)
        except re.error as error:
            raise ValueError(f"where={where!r} is not a regular expression: {error}") from error
    if to == "deconvolution":
        replacements = deconvolution_replacements(model, partial(_selected, where), **parameters)
    elif to == "kervolution":
        replacements = {}
        for name, module in model.named_modules(remove_duplicate=False):  # any name of a shared layer may match
            if type(module) in _LAYERS and id(module) not in replacements and _selected(where, name, module):
                replacements[id(module)] = _replacement(module, kernel, parameters)
    else:
        raise ValueError(f'to must be "kervolution" or "deconvolution"; got {to!r}')
    if not replacements:
        kinds = "Conv1d or Conv2d" if to == "kervolution" else "Conv2d or Linear"
        raise ValueError(f"no {kinds} layer matches where={where!r}")
    if id(model) in replacements:
        return replacements[id(model)]  # type: ignore[return-value]
    for parent in list(model.modules()):
        for child_name, child in parent._modules.items():
            if child is not None and id(child) in replacements:
                setattr(parent, child_name, replacements[id(child)])
    return model


def _selected(where: Where | None, name: str, module: nn.Module) -> bool:
    if where is None:
        return True
    return re.search(where, name) is not None if isinstance(where, str) else bool(where(name, module))


def _replacement(layer: nn.Module, kernel: str, parameters: dict[str, Any]) -> nn.Module:
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    new = _LAYERS[type(layer)](
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        layer.groups,
        layer.bias is not None,
        layer.padding_mode,
        layer.weight.device,
        layer.weight.dtype,
        kernel=kernel,
        **parameters,
    )
    new.weight, new.bias = layer.weight, layer.bias
    return new.train(layer.training)
