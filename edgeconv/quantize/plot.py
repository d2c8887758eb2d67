"""A picture of the ranges of weights and activations, layer by layer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeconv.files import atomic_output
from edgeconv.quantize.pipeline import Result


def plot_ranges(result: Result, path: str | os.PathLike[str]) -> None:
    """Draw each layer's filters (largest magnitude of each), and its activations with the range that steps cover.

    Args:
        result: A quantised network.
        path: The picture; its ending says the format.
    """
    from matplotlib.figure import Figure

    layers = result.placement.layers
    weights = {tensor.name: tensor for tensor in result.prepared.model.graph.initializer}
    magnitudes = []
    for layer in layers.values():
        real = np.moveaxis(numpy_helper.to_array(weights[layer.weights]), layer.axis, 0)
        magnitudes.append(np.abs(real.reshape(len(real), -1)).max(1))
    figure = Figure(figsize=(max(8.0, 0.28 * len(layers)), 9.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    _boxes(above, magnitudes)
    above.set_yscale("log")
    above.set_ylabel("largest |w| of each filter")
    above.set_title("Weights: one step a filter")
    grids = result.parameters.activations
    for index, layer in enumerate(layers.values(), 1):
        seen = result.observations.get(layer.output)
        if seen is None or layer.output not in grids:
            continue
        below.vlines(index, seen.histogram.low, seen.histogram.high, colors="tab:gray", linewidth=6, alpha=0.5)
        grid = grids[layer.output]
        limits = np.iinfo(grid.zero_point.dtype)
        ends = grid.dequantize(np.array([limits.min, limits.max], grid.zero_point.dtype))
        below.hlines(ends, index - 0.4, index + 0.4, colors="tab:red")
        if seen.low.size:
            below.plot(np.full(seen.low.size, index), seen.high, ".", color="tab:blue", markersize=2)
            below.plot(np.full(seen.low.size, index), seen.low, ".", color="tab:blue", markersize=2)
    below.set_title("Activations: seen (grey), extremes of the channels (blue), range of the steps (red)")
    below.set_ylabel("value")
    below.set_xticks(range(1, len(layers) + 1), list(layers), rotation=90, fontsize=6)
    with atomic_output(path) as temporary:
        figure.savefig(temporary, format=os.fspath(path).rsplit(".", 1)[1], dpi=150)


def _boxes(axes: Any, values: Sequence[NDArray[Any]]) -> None:
    positive = [each[each > 0] if (each > 0).any() else np.array([np.nan]) for each in values]
    axes.boxplot(positive, showfliers=True, flierprops={"markersize": 2}, widths=0.6)
