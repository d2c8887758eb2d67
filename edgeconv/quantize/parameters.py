"""The numbers of a quantised network, apart from its graph, so that each step can improve on the one before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeconv.quantize.grids import quantize_weights, weight_grid
from edgeconv.quantize.placement import Placement
from edgeconv.rewrite.qdq import Quantization

Array = NDArray[Any]


@dataclass
class LayerParameters:
    """Weights and bias of a layer.

    Attributes:
        values: The weights in int8.
        grid: Their steps, one a channel.
        bias: Real values (channels), or None for a layer without.
    """

    values: NDArray[np.int8]
    grid: Quantization
    bias: NDArray[np.float64] | None


@dataclass
class Parameters:
    """Of a whole network.

    Attributes:
        activations: Grid of each tensor that has a Q/DQ pair; per tensor.
        layers: By node name.
    """

    activations: dict[str, Quantization] = field(default_factory=dict)
    layers: dict[str, LayerParameters] = field(default_factory=dict)


def initial_parameters(
    model: onnx.ModelProto, placement: Placement, activations: dict[str, Quantization]
) -> Parameters:
    """Round every layer's weights to the nearest step."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    parameters = Parameters(activations)
    for name, layer in placement.layers.items():
        weights = numpy_helper.to_array(constants[layer.weights])
        bias = numpy_helper.to_array(constants[layer.bias]).astype(np.float64).ravel() if layer.bias else None
        if bias is not None and bias.size == 1:
            bias = np.broadcast_to(bias, weights.shape[layer.axis]).copy()
        grid = weight_grid(weights, layer.axis, bias, float(activations[layer.x].scale))
        parameters.layers[name] = LayerParameters(quantize_weights(weights, grid), grid, bias)
    return parameters
