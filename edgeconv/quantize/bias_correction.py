"""Layers corrected in order, each on what the corrected layers before it give: rounding of weights, and biases.

Rounded weights meet inputs of large mean, so their error is mostly a constant of each channel:

    b' = b + E[y] - E[ŷ]

with y of the float network and ŷ of the quantised one, before the activation, over images and positions. Nagel et al.,
"Data-free quantization through weight equalization and bias correction", ICCV 2019, section 4.2; the means are
measured, not derived.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeconv.quantize.layerwise import Feeds, channel_sum, fixed_batch, means_of, run_layerwise
from edgeconv.quantize.parameters import LayerParameters, Parameters
from edgeconv.quantize.placement import Layer, Placement
from edgeconv.quantize.prepare import PreparedModel
from edgeconv.quantize.quantized_graph import Write
from edgeconv.quantize.rounding import SAMPLES, covariance, patch_covariance, round_weights
from edgeconv.rewrite.graph import attribute

Array = NDArray[Any]

IMAGES = 64
"""At most; the means need no more."""


def correct_layers(
    prepared: PreparedModel,
    placement: Placement,
    parameters: Parameters,
    write: Write,
    images: Array,
    *,
    batch: int,
    biases: bool = True,
    rounding: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> None:
    """Correct the parameters of every quantised layer, in place.

    Args:
        prepared: The float network.
        placement: Its layers.
        parameters: What is changed; a layer without bias gets one, a MatMul excepted.
        write: Makes the QDQ graph of parameters.
        images: To measure on, (N, C, H, W).
        batch: Images at a time.
        biases: Correct biases.
        rounding: Round the weights anew by what errors do to the layer's output (`edgeconv.quantize.rounding`).
        progress: Called with what is done and how much of it.
    """
    layers = placement.layers
    fixed = fixed_batch(prepared.model)
    if fixed:  # whole batches; the images are repeated to fill one
        images = np.resize(images, (max(len(images) // fixed, 1) * fixed, *images.shape[1:]))
    wanted = means_of(prepared, [layer.result for layer in layers.values()], images, batch) if biases else {}
    graph = write(parameters)
    layer_of = {value: name for name, value in graph.results.items()}
    weights = {tensor.name: tensor for tensor in prepared.model.graph.initializer}
    done = 0

    def visit(node: onnx.NodeProto, feeds: Feeds, compute: Callable[[Feeds], list[Array]]) -> list[Array]:
        nonlocal done
        name = layer_of.get(node.output[0])
        if name is None:
            return compute(feeds)
        layer, numbers = layers[name], parameters.layers[name]
        if rounding:
            real = onnx.numpy_helper.to_array(weights[layer.weights])
            if _round(layer, node, numbers, real, feeds[node.input[0]]):
                feeds = {**feeds, node.input[1]: numbers.grid.dequantize(numbers.values)}
        result = compute(feeds)[0]
        if biases and layer.kind != "MatMul":
            total, count = channel_sum(result)
            shift = wanted[layer.result] - total / count
            numbers.bias = shift if numbers.bias is None else numbers.bias + shift
            result = result + shift.astype(np.float32).reshape(1, -1, *[1] * (result.ndim - 2))
        done += 1
        if progress is not None:
            progress("correcting layers", done / len(layers))
        return [result]

    run_layerwise(graph.model, images, visit, batch=batch)


def _round(layer: Layer, node: onnx.NodeProto, numbers: LayerParameters, real: Array, x: Array) -> bool:
    """Round a layer's weights by the covariance of its inputs; False for a layer whose patches are not known."""
    if layer.kind == "Conv" and real.ndim == 4 and attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID"):
        strides = tuple(attribute(node, "strides", [1, 1]))
        pads, dilations = tuple(attribute(node, "pads", [0] * 4)), tuple(attribute(node, "dilations", [1, 1]))
        moments = patch_covariance(x, real.shape[2:], strides, pads, dilations, attribute(node, "group", 1))
    elif layer.kind in ("Gemm", "MatMul") and x.ndim == 2:
        moments = covariance(x[None, :SAMPLES].astype(np.float32))
    else:
        return False
    turned = layer.axis == 1
    filters, start = (real.T, numbers.values.T) if turned else (real, numbers.values)
    shape = (len(filters), -1)
    values = round_weights(filters.reshape(shape), numbers.grid.scale, start.reshape(shape), moments)
    numbers.values = (values.T if turned else values.reshape(real.shape)).copy()
    return True
