"""High-bias absorption: a constant that a channel always carries moves from its bias to the biases of its readers.

    y = act(W·x + b),  z = V·y + d     →     y' = act(W·x + b - c),  z = V·y' + (d + V·c)

so that the steps of y need not span what never changes. Nagel et al., "Data-free quantization through weight
equalization and bias correction", ICCV 2019, section 4.1.3; there c is guessed from batch statistics, here it is what
the calibration images show:

- Without an activation, c is the middle of the channel's range, and the network is the same everywhere.
- With Relu, c is the least value of a channel that is never off; on the calibration images the network is the same.

Readers must not pad (a padded 0 would not be shifted), and a Clip's upper bound would have to move, so neither is
touched.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeconv.quantize.channels import Family, Filter, read_filters
from edgeconv.quantize.editing import EditableGraph
from edgeconv.quantize.observe import Observation
from edgeconv.quantize.prepare import PreparedModel, infer
from edgeconv.rewrite.graph import attribute

Array = NDArray[Any]


def absorb_biases(prepared: PreparedModel, families: list[Family], seen: dict[str, Observation]) -> PreparedModel:
    """Move constants in a copy of the network.

    Args:
        prepared: The network.
        families: `edgeconv.quantize.channels.find_families` of it.
        seen: Observations of their tensors; those of what was shifted are replaced by what they would be now.

    Returns:
        The network; the one that was given where nothing is moved.
    """
    model = onnx.ModelProto()
    model.CopyFrom(prepared.model)
    graph = EditableGraph(model)
    filters = read_filters(graph)
    moved = False
    for family in families:
        shift = _shift(family, filters, seen)
        if shift is None:
            continue
        (maker,) = family.makers
        _add(graph, filters, maker, -shift)
        for name in family.readers:
            item = filters[name]
            moved = (item.weights * item.columns(shift)).reshape(len(item.weights), -1).sum(1)
            _add(graph, filters, name, moved)
        for name in family.tensors:
            before = seen[name]
            seen[name] = replace(before, low=before.low - shift, high=before.high - shift)
        moved = True
    return infer(model) if moved else prepared


def _shift(family: Family, filters: dict[str, Filter], seen: dict[str, Observation]) -> Array | None:
    if family.shift == "none" or len(family.makers) != 1 or any(_pads(filters[name]) for name in family.readers):
        return None
    if any(name not in seen or seen[name].low.size != family.channels for name in family.tensors):
        return None
    low = np.min([seen[name].low for name in family.tensors], axis=0)
    high = np.max([seen[name].high for name in family.tensors], axis=0)
    shift = np.maximum(low, 0) if family.shift == "positive" else (low + high) / 2
    # What is lost in the precision of the sums must be less than what is won.
    return shift if np.abs(shift).max() > 1e-3 * max(float(high.max() - low.min()), 1e-30) else None


def _pads(item: Filter) -> bool:
    automatic = attribute(item.node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
    return automatic or any(attribute(item.node, "pads", []))


def _add(graph: EditableGraph, filters: dict[str, Filter], name: str, shift: Array) -> None:
    """Add to the bias of a layer."""
    item = filters[name]
    bias = shift if item.bias is None else item.bias + shift
    filters[name] = replace(item, bias=bias)
    node = next(node for node in graph.nodes if node.name == name)
    graph.set_constant(node, 2, bias)
