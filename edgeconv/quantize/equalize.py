"""Cross-layer equalisation: channels of a tensor are scaled to use its common steps alike; the network stays the same.

Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019, section 4.1. There,
factors even out the ranges of the weights on both sides, because each tensor of weights has one step. Here filters have
a step each, so that a factor on the filters that *make* a channel costs nothing. What is left to gain is in the
activations, which have one step a tensor, and a factor is taken from the ranges that the channels really have:

    s_i = (r_i / max r)^alpha,     x_i = s_i·x'_i,    r_i: the largest magnitude of channel i on the calibration images

With alpha = 1 every channel fills the range. That is free where the reader is depthwise too; where a filter sums over
channels, columns of small factor lose digits, and alpha weighs the two.

**ReLU6.** y = clip(x, 0, 6) of a scaled channel is clip(x', 0, 6/s): a bound a channel, which no integer quantiser
saturates at. For s_i in [r_i / 6, 1] the common bound 6 may stay: channel i is then clipped at 6·s_i ≥ r_i, above all
that it was seen to give and below what ReLU6 lets through. On the calibration images the network is exactly the same;
beyond them a channel that rarely fires is cut, which is why there is headroom, and why it is done on request only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeconv.quantize.channels import Family, Filter, read_filters
from edgeconv.quantize.editing import EditableGraph
from edgeconv.quantize.observe import Observation
from edgeconv.quantize.prepare import PreparedModel, infer

Array = NDArray[Any]

ALPHA = 0.75
HEADROOM = 2.0
"""How many times what was seen a bounded channel must be able to hold."""
_SMALLEST = 2.0**-6
"""Of a factor: a channel that hardly ever gives anything must not become all."""
_SMALLEST_BOUNDED = 2.0**-1
"""Likewise where a channel is cut: one that never fired may do so on other images."""


@dataclass(frozen=True)
class Equalization:
    """What was done to a family.

    Attributes:
        tensors: Its tensors.
        smallest: The least factor.
        median: The median factor.
    """

    tensors: tuple[str, ...]
    smallest: float
    median: float


def tensors_to_observe(families: list[Family]) -> list[str]:
    """Return the tensors whose channels' ranges decide."""
    return [name for family in families for name in family.tensors]


def equalize(
    prepared: PreparedModel,
    families: list[Family],
    seen: dict[str, Observation],
    *,
    alpha: float = ALPHA,
    headroom: float = HEADROOM,
) -> tuple[PreparedModel, list[Equalization]]:
    """Scale the channels of a copy of the network.

    Args:
        prepared: The network.
        families: `edgeconv.quantize.channels.find_families` of it.
        seen: Observations of their tensors.
        alpha: Exponent for families that a filter over several channels reads.
        headroom: Of bounded channels.
    """
    model = onnx.ModelProto()
    model.CopyFrom(prepared.model)
    graph = EditableGraph(model)
    filters = read_filters(graph)
    done = []
    for family in families:
        factors = _factors(family, filters, seen, alpha, headroom)
        if factors is None or np.allclose(factors, 1):
            continue
        for name in family.makers:
            item = filters[name]
            shape = (-1, *[1] * (item.weights.ndim - 1))
            bias = None if item.bias is None else item.bias / factors
            filters[name] = Filter(item.node, item.weights / factors.reshape(shape), bias, item.group, item.transposed)
        for name in family.readers:
            item = filters[name]
            weights = item.weights * item.columns(factors)
            filters[name] = Filter(item.node, weights, item.bias, item.group, item.transposed)
        done.append(Equalization(tuple(family.tensors), float(factors.min()), float(np.median(factors))))
    for name in {name for family in families for name in (*family.makers, *family.readers)}:
        item = filters[name]
        node = next(node for node in graph.nodes if node.name == name)
        graph.set_constant(node, 1, item.weights.T if item.transposed else item.weights)
        if item.bias is not None:
            graph.set_constant(node, 2, item.bias)
    return infer(model), done


def _factors(
    family: Family, filters: dict[str, Filter], seen: dict[str, Observation], alpha: float, headroom: float
) -> Array | None:
    ranges = np.zeros(family.channels)
    for name in family.tensors:
        observation = seen.get(name)
        if observation is None or observation.low.size != family.channels:
            continue
        bounded = np.minimum(observation.high, family.limit)
        if np.isfinite(family.limit):
            ranges = np.maximum(ranges, np.maximum(bounded, 0) * headroom)
        else:
            ranges = np.maximum(ranges, np.maximum(observation.high, -observation.low))
    top = family.limit if np.isfinite(family.limit) else float(ranges.max(initial=0))
    if top <= 0:
        return None
    free = all(filters[name].depthwise for name in family.readers)
    least = _SMALLEST_BOUNDED if np.isfinite(family.limit) else _SMALLEST
    relative = np.clip(ranges / top, least, 1)
    return np.asarray(relative ** (1.0 if free else alpha))
