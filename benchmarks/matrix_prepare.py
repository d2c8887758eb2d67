"""An untrained network whose outputs can tell right from wrong.

With fresh weights a deep network of unusual layers computes nothing that a comparison could fail on: a gaussian kernel
of distant vectors is 0 everywhere, a polynomial one overflows, a distance is so negative that the next ReLU cuts it
off. One pass over noise sets what training would have set: every kernel's scale by the inputs that its layer sees, and
the running statistics of normalisation and whitening. Normalisations get random signs and offsets: what a layer's
outputs have in common (a distance's |x|²) then cannot cut off all of its channels at once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.nn import Kerv2d
from edgeconv.nn.whitening import Whitening

OFFSETS = (-1.0, 2.0)
"""Range of the means of a layer's channels, in their standard deviations."""

DEVIATIONS = {"linear": 1.0, "polynomial": 0.05, "sigmoid": 1.0}
"""Standard deviation that x·w is given. A polynomial stays in its nearly linear range: powers grow layer by layer."""

DISTANCES = {"euclidean": 10.0, "manhattan": 3.0}
"""Rms of weights, in that of inputs: where weights are small, a distance is the norm of the input and little else."""

PLAIN = (nn.Conv2d, nn.Linear)
"""Layers that are fitted, too, in networks without batch normalisation."""

WHITENING_MOMENTUM = 0.5
"""Share of the noise in the running statistics; the rest is the identity they begin with."""


def prepare(model: nn.Module, noise: Tensor, seed: int = 0) -> nn.Module:
    """Set kernels' scales and running statistics by one pass over noise.

    What the network computes on other noise may be far out of the range of this one's: an untrained deep network of
    distances is chaotic. So the same noise is what runtimes are to be compared on.

    Args:
        model: Freshly initialised.
        noise: (N, C, H, W).
        seed: Of the random signs and offsets.

    Returns:
        The model, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                sign = torch.randint(0, 2, module.weight.shape, generator=generator) * 2.0 - 1
                module.weight.copy_(sign * torch.empty_like(module.weight).uniform_(0.5, 1.5, generator=generator))
                module.bias.uniform_(*OFFSETS, generator=generator)
    statistics = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm | Whitening)]
    before = [module.momentum for module in statistics]
    for module in statistics:
        module.train()
        module.momentum = WHITENING_MOMENTUM if isinstance(module, Whitening) else 1.0
    kinds = (Kerv2d,) if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in statistics) else (Kerv2d, *PLAIN)
    handles = [
        m.register_forward_pre_hook(lambda layer, inputs: _fit(layer, inputs[0], generator))
        for m in model.modules()
        if type(m) in kinds
    ]
    try:
        with torch.no_grad():
            model(noise)
    finally:
        for handle in handles:
            handle.remove()
        for module, momentum in zip(statistics, before, strict=True):
            module.momentum = momentum  # type: ignore[assignment]
    return model.eval()


def _fit(layer: nn.Module, x: Tensor, generator: torch.Generator) -> None:
    """Set a layer's scale by its inputs, and its bias (where it has one) so that the channels' means are near 0."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    kernel = getattr(layer, "kernel", "linear")
    if layer.bias is not None:
        layer.bias.zero_()
    if kernel in DEVIATIONS or kernel in DISTANCES:  # a mean that all inputs share, or none in the padding, ends here
        layer.weight.sub_(layer.weight.flatten(1).mean(1).reshape(-1, *[1] * (layer.weight.dim() - 1)))
    if kernel in DEVIATIONS:
        layer.weight.mul_(DEVIATIONS[kernel] / max(float(_inner(x, layer).std()), 1e-12))
    elif kernel in DISTANCES:
        rms = [max(float(values.square().mean().sqrt()), 1e-12) for values in (x, layer.weight)]
        layer.weight.mul_(DISTANCES[kernel] * rms[0] / rms[1])
    elif kernel == "gaussian":
        assert isinstance(layer, Kerv2d)
        layer.gamma.fill_(1 / max(float(_squared_distance(x, layer).mean()), 1e-12))  # type: ignore[operator]
    if layer.bias is not None:
        channels = layer.forward(x).movedim(-1 if isinstance(layer, nn.Linear) else 1, 0).flatten(1)
        offsets = torch.empty_like(layer.bias).uniform_(*OFFSETS, generator=generator)
        layer.bias.copy_(offsets * channels.std(1) - channels.mean(1))


def _inner(x: Tensor, layer: nn.Conv2d | nn.Linear, weight: Tensor | None = None) -> Tensor:
    w = layer.weight if weight is None else weight
    if isinstance(layer, nn.Linear):
        return F.linear(x, w)
    return F.conv2d(x, w, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def _squared_distance(x: Tensor, layer: Kerv2d) -> Tensor:
    """|x - w|² of every patch and filter."""
    taps = torch.ones(layer.groups, *layer.weight.shape[1:])
    norms = _inner(x * x, layer, taps).repeat_interleave(layer.out_channels // layer.groups, 1)
    return norms + layer.weight.square().sum((1, 2, 3))[:, None, None] - 2 * _inner(x, layer)


def spread(outputs: list[Tensor]) -> float:
    """How much a network's outputs differ from sample to sample, relative to their rms; 0 if they are not finite."""
    shares = []
    for output in outputs:
        rms = float(output.square().mean().sqrt())
        deviation = float((output - output.mean(0)).square().mean().sqrt())
        shares.append(deviation / rms if math.isfinite(rms) and rms > 0 else 0.0)
    return min(shares, default=0.0)


def rounding(model: nn.Module, x: Tensor, outputs: list[Tensor]) -> float:
    """How much the outputs change, relative to their rms, where the inputs change in their last digit."""
    with torch.inference_mode():
        changed = torch.utils._pytree.tree_leaves(model(x * (1 + torch.finfo(x.dtype).eps)))
    shares = [
        float((new - old).abs().max() / old.square().mean().sqrt()) for new, old in zip(changed, outputs, strict=True)
    ]
    return max(shares, default=0.0)
