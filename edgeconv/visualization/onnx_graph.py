"""The projection as one ONNX graph of standard operators: image in; activation, position and reconstruction out.

    image (N, C, H, W), feature (scalar, with a default)
      → the layers, MaxPool with its Indices            → maps (N, M, h, w)
      → Gather, ArgMax, OneHot                          → activation (N), position (N, 2), one activation alone
      → MaxUnpool or ScatterElements, Relu, ConvTranspose → reconstruction (N, C, H, W)

Windows that tile their input are undone by MaxUnpool; others by ScatterElements with reduction "add" on the flat
tensor, into which MaxPool's indices point (they count over the whole batch). Paddings are explicit, with what ceil_mode
adds at the end, because runtimes differ in how they round. The sizes are those that the layers were traced for.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

from edgeconv.errors import InputError
from edgeconv.visualization.operations import (
    AveragePooling,
    ChannelScale,
    Convolution,
    MaxPooling,
    Operation,
    Rectifier,
    ResponseNormalization,
    ZeroPadding,
)
from edgeconv.visualization.stack import Stack
from edgeconv.visualization.window import Pair, Window

OPSET = 18
"""ScatterElements adds, and ReduceMax takes its axes as an input, from 18 on."""
IR_VERSION = 10
IMAGE, FEATURE = "image", "feature"
ACTIVATION, POSITION, RECONSTRUCTION = "activation", "position", "reconstruction"


class _Graph:
    """Nodes and constants under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._taken = {IMAGE, FEATURE, ACTIVATION, POSITION, RECONSTRUCTION}

    def constant(self, name: str, value: ArrayLike) -> str:
        name = self._free(name)
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, operator: str, inputs: Sequence[str], name: str, *, outputs: int = 1, **attributes: Any) -> str:
        """Add a node; return its first output. A second one is called NAME:1."""
        return self._node(operator, inputs, self._free(name), outputs, attributes)

    def output(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node that gives an output of the graph, under that very name."""
        return self._node(operator, inputs, name, 1, attributes)

    def _node(self, operator: str, inputs: Sequence[str], name: str, outputs: int, attributes: dict[str, Any]) -> str:
        names = [name, *(f"{name}:{index}" for index in range(1, outputs))]
        self.nodes.append(helper.make_node(operator, list(inputs), names, name, **attributes))
        return name

    def _free(self, name: str) -> str:
        free, number = name, 1
        while free in self._taken:
            free, number = f"{name}_{number}", number + 1
        self._taken.add(free)
        return free


class _Step:
    """An operation in the graph: what the way down needs of the way up."""

    def __init__(self, operation: Operation, source: str, size: Pair, channels: int) -> None:
        self.operation, self.source, self.size, self.channels = operation, source, size, channels
        self.switches = ""
        self.weights = ""
        self.counts: Pair = (0, 0)


def build_projection(stack: Stack, feature: int, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Return the graph.

    Args:
        stack: Of the layer, in float32.
        feature: The default of the input `feature`.
        metadata: Properties to store.

    Raises:
        InputError: An operation has no counterpart in ONNX.
    """
    graph = _Graph()
    value, steps = IMAGE, []
    for index, (operation, shape) in enumerate(zip(stack.operations, stack.shapes[:-1], strict=True)):
        step = _Step(operation, value, shape[1:], shape[0])
        step.counts = stack.shapes[index + 1][1:]
        value = _UP[type(operation)](graph, step)
        steps.append(step)
    value = _select(graph, stack, value)
    for step in reversed(steps):
        value = _DOWN[type(step.operation)](graph, step, value)
    graph.output("Identity", [value], RECONSTRUCTION)

    channels, height, width = stack.input_shape
    floats, integers = TensorProto.FLOAT, TensorProto.INT64
    built = helper.make_graph(
        graph.nodes,
        "projection",
        [
            helper.make_tensor_value_info(IMAGE, floats, ["batch", channels, height, width]),
            helper.make_tensor_value_info(FEATURE, integers, []),
        ],
        [
            helper.make_tensor_value_info(ACTIVATION, floats, ["batch"]),
            helper.make_tensor_value_info(POSITION, integers, ["batch", 2]),
            helper.make_tensor_value_info(RECONSTRUCTION, floats, ["batch", channels, height, width]),
        ],
        [*graph.constants, numpy_helper.from_array(np.array(feature, np.int64), FEATURE)],
    )
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name, model.producer_version = "edgeconv", importlib.metadata.version("edgeconv")
    helper.set_model_props(model, {"edgeconv.version": model.producer_version, **metadata})
    onnx.checker.check_model(model, full_check=True)
    return model


def switch_outputs(model: onnx.ModelProto) -> list[str]:
    """Return the names of the switches: MaxPool's indices, in the order of the layers."""
    return [node.output[1] for node in model.graph.node if node.op_type == "MaxPool"]


def with_feature(model: onnx.ModelProto, feature: int) -> onnx.ModelProto:
    """Return a copy with another default of the input `feature`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    default = next(each for each in copy.graph.initializer if each.name == FEATURE)
    default.CopyFrom(numpy_helper.from_array(np.array(feature, np.int64), FEATURE))
    return copy


def _select(graph: _Graph, stack: Stack, maps: str) -> str:
    """From the maps to the activation, its position, and maps that hold it alone."""
    features, height, width = stack.output_shape
    ones = graph.constant("off_on", np.array([0, 1], np.float32))
    chosen = graph.add("Gather", [maps, FEATURE], "chosen_map", axis=1)
    flat = graph.add("Flatten", [chosen], "chosen_flat", axis=1)
    axis = graph.constant("axis_1", np.array([1], np.int64))
    graph.output("ReduceMax", [flat, axis], ACTIVATION, keepdims=0)
    place = graph.add("ArgMax", [flat], "place", axis=1, keepdims=0)
    columns = graph.constant("columns", np.array(width, np.int64))
    row, column = graph.add("Div", [place, columns], "row"), graph.add("Mod", [place, columns], "column")
    pair = [graph.add("Unsqueeze", [each, axis], f"{each}_1") for each in (row, column)]
    graph.output("Concat", pair, POSITION, axis=1)
    here = graph.add("OneHot", [place, graph.constant("places", np.array(height * width, np.int64)), ones], "here")
    strength = graph.add("Mul", [here, graph.add("Unsqueeze", [ACTIVATION, axis], "strength")], "alone_flat")
    one = graph.add("Reshape", [strength, graph.constant("map_shape", np.array([-1, 1, height, width]))], "alone")
    number = graph.add("Unsqueeze", [FEATURE, graph.constant("axis_0", np.array([0], np.int64))], "feature_1")
    which = graph.add("OneHot", [number, graph.constant("features", np.array(features, np.int64)), ones], "which")
    which = graph.add("Reshape", [which, graph.constant("which_shape", np.array([1, features, 1, 1]))], "which_map")
    return graph.add("Mul", [one, which], "top")


def _end_pads(window: Window, size: Pair, counts: Pair) -> list[int]:
    """Pads of a pooling or convolution that make so many positions, without rounding up."""
    return [*window.before, *(max(0, -window.missing(axis, size[axis], counts[axis])) for axis in (0, 1))]


def _transpose(graph: _Graph, step: _Step, window: Window, value: str, weights: str, groups: int) -> str:
    """ConvTranspose with the paddings that make the input's size exactly."""
    missing = [window.missing(axis, step.size[axis], step.counts[axis]) for axis in (0, 1)]
    return graph.add(
        "ConvTranspose", [value, weights], f"{step.operation.layer}/filter", kernel_shape=list(window.kernel),
        strides=list(window.stride), dilations=list(window.dilation), group=groups,
        pads=[*window.before, *(max(0, -rest) for rest in missing)], output_padding=[max(0, rest) for rest in missing],
    )  # fmt: skip


def _convolve(graph: _Graph, step: _Step) -> str:
    operation = step.operation
    assert isinstance(operation, Convolution)
    name, window = operation.layer, operation.window
    step.weights = graph.constant(f"{name}.weight", operation.weight.numpy(force=True))
    inputs = [step.source, step.weights]
    if operation.bias is not None:
        inputs.append(graph.constant(f"{name}.bias", operation.bias.numpy(force=True)))
    return graph.add(
        "Conv", inputs, name, kernel_shape=list(window.kernel), strides=list(window.stride),
        dilations=list(window.dilation), pads=list(operation.pads), group=operation.groups,
    )  # fmt: skip


def _filter(graph: _Graph, step: _Step, value: str) -> str:
    operation = step.operation
    assert isinstance(operation, Convolution)
    return _transpose(graph, step, operation.window, value, step.weights, operation.groups)


def _rectify(graph: _Graph, step: _Step) -> str:
    operation = step.operation
    assert isinstance(operation, Rectifier)
    if operation.ceiling is None:
        return graph.add("Relu", [step.source], operation.layer)
    bounds = [graph.constant(f"{operation.layer}/bound", np.array(each, np.float32)) for each in (0, operation.ceiling)]
    return graph.add("Clip", [step.source, *bounds], operation.layer)


def _rectify_down(graph: _Graph, step: _Step, value: str) -> str:
    return graph.add("Relu", [value], f"{step.operation.layer}/rectify")


def _max_pool(graph: _Graph, step: _Step) -> str:
    operation = step.operation
    assert isinstance(operation, MaxPooling)
    window = operation.pooling
    pooled = graph.add(
        "MaxPool", [step.source], operation.layer, outputs=2, kernel_shape=list(window.kernel),
        strides=list(window.stride), dilations=list(window.dilation), pads=_end_pads(window, step.size, step.counts),
    )  # fmt: skip
    step.switches = f"{pooled}:1"
    return pooled


def _unpool(graph: _Graph, step: _Step, value: str) -> str:
    operation = step.operation
    assert isinstance(operation, MaxPooling)
    name, window = operation.layer, operation.pooling
    shape = graph.add("Shape", [step.source], f"{name}/shape")
    if window.tiles(step.size):
        return graph.add(
            "MaxUnpool", [value, step.switches, shape], f"{name}/unpool", kernel_shape=list(window.kernel),
            strides=list(window.stride),
        )  # fmt: skip
    line = graph.constant(f"{name}/line", np.array([-1], np.int64))
    count = graph.add("ReduceProd", [shape], f"{name}/count", keepdims=1)
    empty = graph.add("ConstantOfShape", [count], f"{name}/empty", value=helper.make_tensor("", 1, [1], [0.0]))
    flat = [graph.add("Reshape", [each, line], f"{name}/flat") for each in (step.switches, value)]
    added = graph.add("ScatterElements", [empty, *flat], f"{name}/add", axis=0, reduction="add")
    return graph.add("Reshape", [added, shape], f"{name}/unpool")


def _average(graph: _Graph, step: _Step) -> str:
    operation = step.operation
    assert isinstance(operation, AveragePooling)
    window = operation.pooling
    mean = graph.add(
        "AveragePool", [step.source], operation.layer, kernel_shape=list(window.kernel), strides=list(window.stride),
        pads=_end_pads(window, step.size, step.counts), count_include_pad=1,
    )  # fmt: skip
    shares = operation.shares(step.size).numpy() * window.kernel[0] * window.kernel[1]
    if np.allclose(shares, 1, atol=1e-12):
        return mean
    counts = graph.constant(f"{operation.layer}/count", shares.astype(np.float32))
    return graph.add("Mul", [mean, counts], f"{mean}/mean")


def _spread(graph: _Graph, step: _Step, value: str) -> str:
    operation = step.operation
    assert isinstance(operation, AveragePooling)
    shares = graph.constant(f"{operation.layer}/shares", operation.shares(step.size).numpy().astype(np.float32))
    value = graph.add("Mul", [value, shares], f"{operation.layer}/share")
    ones = graph.constant(f"{operation.layer}/ones", np.ones((step.channels, 1, *operation.pooling.kernel), np.float32))
    return _transpose(graph, step, operation.pooling, value, ones, step.channels)


def _scale(graph: _Graph, step: _Step) -> str:
    operation = step.operation
    assert isinstance(operation, ChannelScale)
    scale, shift = (each.numpy(force=True).reshape(-1, 1, 1) for each in (operation.scale, operation.shift))
    step.weights = graph.constant(f"{operation.layer}/scale", scale)
    scaled = graph.add("Mul", [step.source, step.weights], f"{operation.layer}/scaled")
    return graph.add("Add", [scaled, graph.constant(f"{operation.layer}/shift", shift)], operation.layer)


def _scale_down(graph: _Graph, step: _Step, value: str) -> str:
    return graph.add("Mul", [value, step.weights], f"{step.operation.layer}/down")


def _normalize(graph: _Graph, step: _Step) -> str:
    operation = step.operation
    assert isinstance(operation, ResponseNormalization)
    if operation.size % 2 == 0:
        raise InputError(
            f"{operation.layer} normalises over {operation.size} channels; ONNX's LRN takes odd numbers.",
            "Leave out --export-onnx.",
        )
    return graph.add(
        "LRN", [step.source], operation.layer, size=operation.size, alpha=operation.alpha, beta=operation.beta,
        bias=operation.k,
    )  # fmt: skip


def _pass(graph: _Graph, step: _Step, value: str) -> str:
    return value


def _pad(graph: _Graph, step: _Step, value: str | None = None) -> str:
    operation = step.operation
    assert isinstance(operation, ZeroPadding)
    top, left, bottom, right = operation.pads if value is None else (-each for each in operation.pads)
    name = operation.layer if value is None else f"{operation.layer}/cut"
    pads = graph.constant(f"{name}/pads", np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
    return graph.add("Pad", [step.source if value is None else value, pads], name)


_UP: dict[type[Operation], Callable[[_Graph, _Step], str]] = {
    Convolution: _convolve,
    Rectifier: _rectify,
    MaxPooling: _max_pool,
    AveragePooling: _average,
    ChannelScale: _scale,
    ResponseNormalization: _normalize,
    ZeroPadding: _pad,
}

_DOWN: dict[type[Operation], Callable[[_Graph, _Step, str], str]] = {
    Convolution: _filter,
    Rectifier: _rectify_down,
    MaxPooling: _unpool,
    AveragePooling: _spread,
    ChannelScale: _scale_down,
    ResponseNormalization: _pass,
    ZeroPadding: _pad,
}
