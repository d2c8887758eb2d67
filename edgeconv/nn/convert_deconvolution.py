"""Replace convolutions, and the batch normalisations behind them, by deconvolutions: part of `edgeconv.nn.convert`."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from edgeconv.nn.deconvolution import Deconv2d, DeconvLinear

Selected = Callable[[str, nn.Module], bool]

_BLOCK_LINEAR = 512
"""Features that a classifier's layer whitens together, as in the authors' networks."""


def deconvolution_replacements(
    model: nn.Module, selected: Selected, *, block_linear: int = _BLOCK_LINEAR, **parameters: Any
) -> dict[int, nn.Module]:
    """Return what takes the place of which module, by the module's id.

    Args:
        model: Any module.
        selected: Whether a layer of that name is to be replaced.
        block_linear: Block of the linear layers.
        **parameters: Of `Deconv2d`: block, eps, n_iter, momentum, sampling_stride, freeze, freeze_iter.
    """
    shared = {key: parameters[key] for key in ("eps", "n_iter", "momentum") if key in parameters}
    followers = _batch_norms(model)
    replacements: dict[int, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if id(module) in replacements or not selected(name, module):
            continue
        if type(module) is nn.Conv2d:
            if module.padding_mode != "zeros":
                raise ValueError(f"{name} pads with {module.padding_mode!r}; a deconvolution pads with zeros")
            norm = followers.get(id(module))
            replacements[id(module)] = _deconv2d(module, norm, parameters)
            if norm is not None:
                replacements[id(norm)] = nn.Identity()
        elif type(module) is nn.Linear:
            new = DeconvLinear(
                module.in_features,
                module.out_features,
                module.bias is not None,
                block=block_linear,
                device=module.weight.device,
                dtype=module.weight.dtype,
                **shared,
            )
            new.weight, new.bias = module.weight, module.bias
            replacements[id(module)] = new.train(module.training)
    return replacements


def _deconv2d(conv: nn.Conv2d, norm: nn.BatchNorm2d | None, parameters: dict[str, Any]) -> Deconv2d:
    new = Deconv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        conv.bias is not None or norm is not None,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
        **parameters,
    )
    new.weight.requires_grad_(conv.weight.requires_grad)
    with torch.no_grad():
        new.weight.copy_(conv.weight)
        if new.bias is not None:
            new.bias.copy_(conv.bias if conv.bias is not None else torch.zeros_like(new.bias))
        if norm is not None:
            assert new.bias is not None
            _fold_batch_norm(new.weight, new.bias, norm)
    return new.train(conv.training)


def _fold_batch_norm(weight: torch.Tensor, bias: torch.Tensor, norm: nn.BatchNorm2d) -> None:
    """Take the normalisation's evaluation into weight and bias: γ(y - μ)/√(σ² + ε) + β."""
    if norm.running_var is not None and norm.running_mean is not None:
        scale = (norm.running_var + norm.eps).rsqrt()
        shift = -norm.running_mean * scale
    else:
        scale, shift = torch.ones_like(bias), torch.zeros_like(bias)
    if norm.affine:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    weight.mul_(scale.to(weight.dtype)[:, None, None, None])
    bias.mul_(scale.to(bias.dtype)).add_(shift.to(bias.dtype))


def _batch_norms(model: nn.Module) -> dict[int, nn.BatchNorm2d]:
    """Return the batch normalisation that takes a convolution's output, and alone does, by the convolution's id."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = fx.Tracer().trace(model)
    except Exception:  # the tracer runs the model's code, which may raise anything on symbolic values
        return _batch_norms_by_order(model)
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    pairs: dict[int, nn.BatchNorm2d] = {}
    for name, nodes in calls.items():
        conv = model.get_submodule(name)
        users = list(nodes[0].users)
        if type(conv) is not nn.Conv2d or len(nodes) != 1 or len(users) != 1 or users[0].op != "call_module":
            continue
        norm = model.get_submodule(str(users[0].target))
        if type(norm) is nn.BatchNorm2d and len(calls[str(users[0].target)]) == 1:
            pairs[id(conv)] = norm
    return pairs


def _batch_norms_by_order(model: nn.Module) -> dict[int, nn.BatchNorm2d]:
    """The same for models that cannot be traced: a normalisation registered next to a convolution of its width."""
    pairs: dict[int, nn.BatchNorm2d] = {}
    for parent in model.modules():
        children = [child for child in parent.children() if not isinstance(child, nn.Dropout | nn.Identity)]
        for conv, norm in itertools.pairwise(children):
            if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.num_features == conv.out_channels:
                pairs[id(conv)] = norm
    return pairs
