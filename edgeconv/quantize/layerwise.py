"""Running a network node by node over a set of images, so that a layer can be changed before the next one runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeconv.inspection.nodes import consumed, is_edgeconv_operator
from edgeconv.quantize.prepare import PreparedModel
from edgeconv.quantize.running import PATIENT, ModelRunner, output_groups, with_outputs
from edgeconv.rewrite.graph import attribute, is_standard
from edgeconv.rewrite.qdq import Quantization
from edgeconv.runtime.ort import OrtSession

Array = NDArray[Any]
Feeds = dict[str, Array]
Visit = Callable[[onnx.NodeProto, Feeds, Callable[[Feeds], list[Array]]], list[Array]]
"""Gets a node, what it reads (constants apart), and a function that computes what it gives for such values; returns
what the nodes after it get."""

MEMORY = 2**30
"""Bytes that the values of one tensor over all images may take, times the number that are alive at once (about 3)."""
_ALIVE = 3


def fixed_batch(model: onnx.ModelProto) -> int:
    """Return the batch size that a model of one input fixes, 0 if it does not."""
    constants = {tensor.name for tensor in model.graph.initializer}
    first = next(value for value in model.graph.input if value.name not in constants)
    return int(first.type.tensor_type.shape.dim[0].dim_value)


def image_limit(prepared: PreparedModel, most: int) -> int:
    """Return how many images the values of the largest tensor leave room for, at most `most`."""
    sizes = [
        np.prod(shape[1:], dtype=np.int64) for shape in prepared.shapes.values() if len(shape) == 4 and all(shape[1:])
    ]
    largest = 4 * int(max(sizes, default=np.int64(1)))
    return max(1, min(most, MEMORY // (_ALIVE * largest)))


def run_layerwise(model: onnx.ModelProto, images: Array, visit: Visit, *, batch: int = 16) -> dict[str, Array]:
    """Run a model one node after the other.

    Args:
        model: Any model of one input.
        images: (N, C, H, W); of a model of fixed batch size, a multiple of it.
        visit: Called for each node.
        batch: Images at a time, where the model leaves that open.

    Returns:
        The graph's outputs.
    """
    graph = model.graph
    batch = fixed_batch(model) or batch
    constants = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in constants]
    values: dict[str, Array] = {inputs[0]: images}
    moving = {inputs[0]}  # values that depend on the images
    last = {name: index for index, node in enumerate(graph.node) for name in consumed(node)}
    kept = {value.name for value in graph.output}
    for index, node in enumerate(graph.node):
        reads = [name for name in dict.fromkeys(consumed(node)) if name not in constants]
        feeds = {name: values[name] for name in reads}
        compute = partial(_run_node, model, node, constants, moving.intersection(reads), batch)
        made = [name for name in node.output if name]
        if not moving.isdisjoint(reads):
            moving.update(made)
        values.update(zip(made, visit(node, feeds, compute), strict=True))
        for name in reads:
            if last[name] == index and name not in kept:
                values.pop(name, None)
    return {name: values[name] for name in kept}


def _run_node(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
    by_image: set[str],
    batch: int,
    feeds: Feeds,
) -> list[Array]:
    def info(name: str, array: Array, *, free: bool) -> onnx.ValueInfoProto:
        shape = ["n", *array.shape[1:]] if free and array.ndim else list(array.shape)
        return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), shape)

    single = onnx.ModelProto(ir_version=model.ir_version)
    single.opset_import.extend(model.opset_import)
    single.functions.extend(model.functions)
    single.graph.name = "node"
    single.graph.node.append(node)
    single.graph.initializer.extend(constants[name] for name in dict.fromkeys(consumed(node)) if name in constants)
    count = max((len(feeds[name]) for name in by_image), default=1)
    single.graph.input.extend(info(name, array, free=name in by_image) for name, array in feeds.items())
    made = [name for name in node.output if name]
    single.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    if is_standard(node, "DequantizeLinear") and all(name in constants for name in node.input):
        values, scale, zero_point = (numpy_helper.to_array(constants[name]) for name in node.input)
        return [Quantization(scale, zero_point, attribute(node, "axis", 1)).dequantize(values)]  # without a session
    session = OrtSession(single.SerializeToString(), options=PATIENT, op_library=is_edgeconv_operator(node))
    if not by_image:
        found = session.run(feeds)
        return [found[name] for name in made]
    parts: list[list[Array]] = [[] for _ in made]
    for start in range(0, count, batch):
        part = {name: array[start : start + batch] if name in by_image else array for name, array in feeds.items()}
        found = session.run(part)
        for store, name in zip(parts, made, strict=True):
            store.append(found[name])
    return [np.concatenate(store) for store in parts]


def means_of(prepared: PreparedModel, tensors: list[str], images: Array, batch: int) -> dict[str, Array]:
    """Return the mean of each channel (axis 1, or the last of a matrix) of tensors of a model over images."""
    sums: dict[str, Array] = {}
    counts: dict[str, int] = {}
    for group in output_groups(prepared, tensors, batch, int(np.prod(images.shape[1:]))):
        runner = ModelRunner(with_outputs(prepared.model, group, prepared.types), batch)
        for start in range(0, len(images), runner.batch):
            for name, array in runner.run(images[start : start + runner.batch]).items():
                total, count = channel_sum(array)
                sums[name] = sums.get(name, 0) + total
                counts[name] = counts.get(name, 0) + count
    return {name: np.asarray(total / counts[name]) for name, total in sums.items()}


def channel_sum(values: Array) -> tuple[Array, int]:
    """Return the sum of each channel in float64, and the values a channel. Channels are axis 1."""
    axes = tuple(axis for axis in range(values.ndim) if axis != 1)
    return values.sum(axes, dtype=np.float64), values.size // values.shape[1]
