"""The error of each layer inside the quantised network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeconv.quantize.compare import Noise
from edgeconv.quantize.pipeline import Result
from edgeconv.quantize.report import LayerReport
from edgeconv.quantize.running import ModelRunner, output_groups, with_outputs

Array = NDArray[Any]

IMAGES = 16


def report_layers(result: Result, images: Array, batch: int) -> tuple[LayerReport, ...]:
    """Compare every layer with the float network's, worst first.

    Args:
        result: The quantised network.
        images: To measure on, (N, C, H, W).
        batch: Images at a time.
    """
    graph, placement = result.graph, result.placement
    weights = {tensor.name: tensor for tensor in result.prepared.model.graph.initializer}
    stands_for = {
        layer.output if layer.output in placement.bounds else layer.result: graph.dequantized.get(
            layer.output, graph.results[name]
        )
        for name, layer in placement.layers.items()
    }
    noise = {tensor: Noise() for tensor in stands_for}
    extremes: dict[str, tuple[float, float]] = {}
    for group in output_groups(result.prepared, list(stands_for), 2 * batch, int(np.prod(images.shape[1:]))):
        expected = ModelRunner(with_outputs(result.prepared.model, group, result.prepared.types), batch)
        names = list(dict.fromkeys(stands_for[tensor] for tensor in group))
        actual = ModelRunner(with_outputs(graph.model, names, {}), batch)
        for start in range(0, len(images), expected.batch):
            part = images[start : start + expected.batch]
            want, got = expected.run(part), actual.run(part)
            for tensor in group:
                noise[tensor].add(want[tensor], got[stands_for[tensor]])
                low, high = extremes.get(tensor, (np.inf, -np.inf))
                extremes[tensor] = (min(low, float(want[tensor].min())), max(high, float(want[tensor].max())))
    rows = []
    for name, layer in placement.layers.items():
        numbers = result.parameters.layers[name]
        tensor = layer.output if layer.output in placement.bounds else layer.result
        real = numpy_helper.to_array(weights[layer.weights])
        grid = result.parameters.activations.get(layer.output) if layer.output in placement.bounds else None
        ends = None
        if grid is not None:
            limits = np.iinfo(grid.zero_point.dtype)
            low, high = grid.dequantize(np.array([limits.min, limits.max], grid.zero_point.dtype))
            ends = (float(low), float(high))
        rows.append(
            LayerReport(
                name,
                noise[tensor].db,
                (float(real.min()), float(real.max())),
                (float(numbers.grid.scale.min()), float(numbers.grid.scale.max())),
                extremes[tensor],
                None if grid is None else float(grid.scale),
                ends,
            )
        )
    return tuple(sorted(rows, key=lambda row: row.sqnr_db))
