"""An untrained network whose outputs can tell right from wrong.

With fresh weights a deep network of unusual layers computes nothing that a comparison could fail on: a gaussian kernel
of distant vectors is 0 everywhere, a polynomial one overflows, a distance is so negative that the next ReLU cuts it
off. One pass over noise sets what training would have set: every kernel's scale by the inputs that its layer sees, and
the running statistics of normalisation and whitening. Normalisations get random signs and offsets: what a layer's
outputs have in common (a distance's |x|²) then cannot cut off all of its channels at once.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.errors import InputError
from edgeconv.models.registry import create
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

STRENGTHS = {
    "polynomial": (1.0, 0.3),
    "gaussian": (1.0, 0.5, 0.25),
    "sigmoid": (1.0, 0.5, 0.25),
    "euclidean": (1.0, 0.6, 1.5, 0.3),
    "manhattan": (1.0, 0.7, 1.5, 0.3, 0.15),
}
"""Factors on a kernel's figures above (a gaussian's is on gamma), to be tried in this order."""

WHERE = ("all", "3x3", "first")
"""Which layers become kervolutions: the first of these with which an untrained network is not chaotic."""

SMALL_NOISE, LARGE_NOISE = 16, 3
"""Samples that networks are prepared on, of at most `SMALL_PIXELS` and of more pixels. Deconvolutions always take the
former: a layer that squeezes an image to one position (SENet's) would else whiten by the statistics of three."""
SMALL_PIXELS = 64 * 72

COMPARED = 3
"""Samples whose outputs are compared."""

LEAST_SPREAD = 2e-3
"""Outputs that differ less from sample to sample are no proof: the tolerance is a thousandth of their rms."""

MOST_ROUNDING = (1e-4, 3e-4)
"""Nor are outputs of which float32 loses a larger part of their rms: a tenth of the tolerance, or, where no way of
building the network keeps to that or a smaller input has shown which to take, a third."""

AGAIN, JITTER = 3, 1e-7
"""A network of Manhattan layers, and one that is to pass by the larger bound of `MOST_ROUNDING`, runs in float32 so
many times more, on inputs that differ by so much: of a chaotic one, one run may lose a twentieth of the next."""

STEADY = 2
"""The larger bound will do where no run loses more than so many times as much as another."""

LEAST_VARIANCE = 0.3
"""What a channel is taken to vary by at least, in shares of its layer's mean variance."""

WHITENING_MOMENTUM = 0.5
"""Share of the noise in the running statistics; the rest is the identity they begin with."""


def build(
    architecture: str, config: Mapping[str, Any], shape: Sequence[int], first: Sequence[Any] = ()
) -> tuple[nn.Module, Tensor, dict[str, Any]]:
    """Build an untrained network whose outputs on noise can tell right from wrong.

    Args:
        architecture: As the registry names it.
        config: What it is built with, besides its defaults.
        shape: C, H, W of its input.
        first: Which of `WHERE` and of the kernel's `STRENGTHS` to try before the others, where both are given; the
            larger bound of `MOST_ROUNDING` will do for it.

    Returns:
        The network, in evaluation mode; the noise, (N, C, H, W), of which the first `COMPARED` samples are to be
        compared; how it came about: "where" and "strength" of kervolutions, "spread" and "rounding".

    Raises:
        RuntimeError: None of the ways that are tried gives one.
    """
    kernel = config.get("kernel")
    places = WHERE if kernel else ("",)
    tried: dict[str, str] = {}
    trials = list(itertools.product(places, STRENGTHS.get(str(kernel), (1.0,))))
    bounded = sorted(
        itertools.product(MOST_ROUNDING, trials), key=lambda each: each != (MOST_ROUNDING[-1], tuple(first))
    )
    for most_rounding, (where, strength) in bounded:
        torch.manual_seed(0)
        many = shape[1] * shape[2] <= SMALL_PIXELS or "deconv_block" in config
        noise = torch.randn(SMALL_NOISE if many else LARGE_NOISE, *shape)
        try:
            model = create(architecture, **config, **({"where": where} if where else {}))
        except InputError:
            if where != "3x3":  # which a network need not have
                raise
            continue
        prepare(model, noise, strength)
        x = noise[:COMPARED]
        outputs = outputs_of(model, x)
        varied, what = spread(outputs), f"{where} {strength:g}" if kernel else "it"
        if varied < LEAST_SPREAD:
            tried[what] = f"varies by {varied:.0e}"
            continue
        exact = in_float64(model, x)
        lost = [rounding(outputs, exact)]
        if kernel == "manhattan" or MOST_ROUNDING[0] < lost[0] <= most_rounding:
            again = (outputs_of(model, x * (1 + JITTER * torch.randn_like(x))) for _ in range(AGAIN))
            lost += [rounding(found, exact) for found in again]
        if max(lost) <= (most_rounding if max(lost) <= STEADY * min(lost) else MOST_ROUNDING[0]):
            how = {"where": where, "strength": strength} if kernel else {}
            return model, noise, {**how, "spread": float(f"{varied:.1e}"), "rounding": float(f"{max(lost):.1e}")}
        tried[what] = f"loses {max(lost):.0e}"
    raise RuntimeError(
        "PyTorch's output proves nothing, by what it varies from sample to sample or loses in float32, in shares of "
        f"its rms: {', '.join(f'{what} {found}' for what, found in tried.items())}"
    )


def prepare(model: nn.Module, noise: Tensor, strength: float = 1.0, seed: int = 0) -> nn.Module:
    """Set kernels' scales and running statistics by one pass over noise.

    What the network computes on other noise may be far out of the range of this one's: an untrained deep network of
    distances is chaotic. So the same noise is what runtimes are to be compared on.

    Args:
        model: Freshly initialised.
        noise: (N, C, H, W).
        strength: One of its kernel's `STRENGTHS`.
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
    whitenings = [module for module in model.modules() if isinstance(module, Whitening)]
    normalizations = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [module.momentum for module in whitenings]
    for module in whitenings:
        module.train()
        module.momentum = WHITENING_MOMENTUM
    kinds = (Kerv2d,) if normalizations else (Kerv2d, *PLAIN)
    handles = [
        *(
            module.register_forward_pre_hook(lambda layer, inputs: _normalize(layer, inputs[0]))
            for module in normalizations
        ),
        *(
            module.register_forward_pre_hook(lambda layer, inputs: _fit(layer, inputs[0], strength, generator))
            for module in model.modules()
            if type(module) in kinds
        ),
    ]
    try:
        with torch.no_grad():
            model(noise)
    finally:
        for handle in handles:
            handle.remove()
        for module, momentum in zip(whitenings, before, strict=True):
            module.momentum = momentum
    return model.eval()


def _normalize(layer: nn.Module, x: Tensor) -> None:
    """Set the running statistics to those of the inputs.

    A channel that hardly varies (a maximum that the padding decides) is not made as loud as the others: that would
    multiply its rounding, layer by layer.
    """
    assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    channels = x.movedim(1, 0).flatten(1)
    variance = channels.var(1)
    layer.running_mean.copy_(channels.mean(1))
    layer.running_var.copy_(variance.clamp_min(LEAST_VARIANCE * float(variance.mean())))


def _fit(layer: nn.Module, x: Tensor, strength: float, generator: torch.Generator) -> None:
    """Set a layer's scale by its inputs, and its bias (where it has one) so that the channels' means are near 0."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    kernel = getattr(layer, "kernel", "linear")
    if layer.bias is not None:
        layer.bias.zero_()
    if kernel in DEVIATIONS or kernel in DISTANCES:  # a mean that all inputs share, or none in the padding, ends here
        layer.weight.sub_(layer.weight.flatten(1).mean(1).reshape(-1, *[1] * (layer.weight.dim() - 1)))
    if kernel in DEVIATIONS:
        layer.weight.mul_(strength * DEVIATIONS[kernel] / max(float(_inner(x, layer).std()), 1e-12))
    elif kernel in DISTANCES:
        rms = [max(float(values.square().mean().sqrt()), 1e-12) for values in (x, layer.weight)]
        layer.weight.mul_(strength * DISTANCES[kernel] * rms[0] / rms[1])
    elif kernel == "gaussian":
        assert isinstance(layer, Kerv2d)
        layer.gamma.fill_(strength / max(float(_squared_distance(x, layer).mean()), 1e-12))  # type: ignore[operator]
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


def outputs_of(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What a network computes, as a list."""
    with torch.inference_mode():
        return list(torch.utils._pytree.tree_leaves(model(x)))


def in_float64(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What a network computes in float64."""
    return outputs_of(copy.deepcopy(model).double(), x.double())


def spread(outputs: list[Tensor]) -> float:
    """How much a network's outputs differ from sample to sample, relative to their rms; 0 if they are not finite."""
    shares = []
    for output in outputs:
        rms = float(output.square().mean().sqrt())
        deviation = float((output - output.mean(0)).square().mean().sqrt())
        shares.append(deviation / rms if math.isfinite(rms) and rms > 0 else 0.0)
    return min(shares, default=0.0)


def rounding(outputs: list[Tensor], exact: list[Tensor]) -> float:
    """How far outputs are from those in float64 (which may be out of all range), relative to their own rms."""
    shares = [
        float((found - want).abs().max() / found.square().mean().sqrt())
        for found, want in zip(outputs, exact, strict=True)
    ]
    return max((share if math.isfinite(share) else math.inf for share in shares), default=0.0)
