"""The best graphs of standard ONNX operators for each kernel: what a user has without native kernels.

With x·w from a Conv, the polynomial and sigmoid kernels cost little more than that Conv. So do the two that need the
squared distance, ‖x‖² + ‖w‖² - 2x·w: constants go into the filters and the bias, and ‖x‖² over a patch is a one-channel
Conv of the squares summed over channels. Manhattan and chebyshev have no such form. There the input is unfolded to
columns, and a block of taps at a time is subtracted from all filters (or compared with them, by |x - w| =
2 max(x, w) - x - w) and reduced: blocks that stay in the cache are the fastest form found, and which is best depends on
the layer, so every candidate is offered. A depthwise layer needs no columns: its filters meet one shifted input a tap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from layers import Array, Layer, parameters
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper

from edgeconv.ops.kervolution import OPERATOR_OF_KERNEL
from edgeconv.ops.kervolution_function import FUNCTIONS

BLOCKS = (8, 32)
DISTANCES = ("manhattan", "chebyshev")
"""The kernels that are not made of x·w."""


@dataclass
class Graph:
    """Nodes and initialisers in the making; methods return the name of what they add."""

    layer: Layer
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Add an initialiser."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(np.asarray(value, dtype)).reshape(np.shape(value))
        return name

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; returns the name of its output, or a list of names."""
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def conv(self, x: str, w: Array, bias: Array | None = None) -> str:
        """Add a Conv with the layer's geometry."""
        constants = [self.constant(array) for array in (w, bias) if array is not None]
        layer = self.layer
        name: str = self.add(
            "Conv", x, *constants, pads=[layer.pad] * 4, strides=[layer.stride] * 2, group=layer.group
        )  # fmt: skip
        return name

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """Add a Reshape."""
        name: str = self.add("Reshape", x, self.constant(shape, np.int64))
        return name

    def model(
        self,
        result: str,
        functions: Sequence[FunctionProto] = (),
        x_type: int = TensorProto.FLOAT,
        y_type: int = TensorProto.FLOAT,
    ) -> bytes:
        """The finished model, whose output Y is `result`."""
        self.nodes.append(helper.make_node("Identity", [result], ["Y"]))
        x = helper.make_tensor_value_info("X", x_type, self.layer.x_shape)
        y = helper.make_tensor_value_info("Y", y_type, self.layer.y_shape)
        initializers = [numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        graph = helper.make_graph(self.nodes, "graph", [x], [y], initializers)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("edgeconv", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions)
        serialized: bytes = model.SerializeToString()
        return serialized


def plain_conv(layer: Layer) -> bytes:
    """The Conv of the same shape, to which everything is compared."""
    graph = Graph(layer)
    return graph.model(graph.conv("X", layer.tensors()[1]))


def operator(kernel: str, layer: Layer, *, functions: bool = True, **attributes: Any) -> bytes:
    """One node of edgeconv's operator.

    Args:
        kernel: Its kernel.
        layer: Its geometry.
        functions: Put its function into the file, as an export does. Without it nothing but the library runs it.
        **attributes: Further attributes of the node.
    """
    graph, name = Graph(layer), OPERATOR_OF_KERNEL[kernel].name
    values = [graph.constant(value) for value in parameters(kernel, layer).values()]
    if kernel == "polynomial":
        attributes["degree"] = 3
    result = graph.add(
        name, "X", graph.constant(layer.tensors()[1]), *values, domain="edgeconv",
        kernel_shape=[layer.window] * 2, strides=[layer.stride] * 2, pads=[layer.pad] * 4, group=layer.group,
        **attributes,
    )  # fmt: skip
    return graph.model(result, functions=[FUNCTIONS[name]] if functions else [])


def standard_graphs(kernel: str, layer: Layer) -> Iterator[tuple[str, bytes]]:
    """Every candidate for the best graph of standard operators, by name; the first is the function in our own files."""
    yield "function in the file", operator(kernel, layer)
    if kernel not in DISTANCES:
        yield "Conv and elementwise", _from_conv(kernel, layer)
        return
    forms = ("difference", "maximum") if kernel == "manhattan" else ("difference",)
    for form in forms:
        if layer.depthwise:
            yield f"{form}, tap by tap", _tap_by_tap(kernel, layer, form)
        for block in BLOCKS:
            yield f"{form}, blocks of {block}", _blocked(kernel, layer, form, block)


def _from_conv(kernel: str, layer: Layer) -> bytes:
    graph = Graph(layer)
    w = layer.tensors()[1]
    values = parameters(kernel, layer)
    if kernel == "polynomial":
        base = graph.conv("X", w, np.full(layer.filters, values["balance"], np.float32))
        return graph.model(graph.add("Mul", graph.add("Mul", base, base), base))
    if kernel == "sigmoid":
        bias = np.full(layer.filters, values["balance"], np.float32)
        return graph.model(graph.add("Tanh", graph.conv("X", np.float32(values["scale"]) * w, bias)))
    scale = np.float32(values.get("gamma", 1.0))
    norms = (w.reshape(layer.filters, -1) ** 2).sum(1)
    cross, energy = graph.conv("X", 2 * scale * w, -scale * norms), _patch_energy(graph, -scale)
    if 1 < layer.group < layer.filters:  # a group's filters share its energy
        spatial = [layer.output_height, layer.output_width]
        cross = graph.reshape(cross, [layer.batch, layer.group, layer.filters // layer.group, *spatial])
        energy = graph.reshape(energy, [layer.batch, layer.group, 1, *spatial])
        result = graph.reshape(graph.add("Add", cross, energy), layer.y_shape)
    else:
        result = graph.add("Add", cross, energy)
    return graph.model(graph.add("Exp", result) if kernel == "gaussian" else result)


def _patch_energy(graph: Graph, scale: np.floating[Any]) -> str:
    """scale·‖x‖² of every patch: (N, group, H', W')."""
    layer = graph.layer
    if layer.depth == 1:
        squares = graph.add("Mul", "X", "X")
    elif layer.group == 1:
        squares = graph.add("ReduceSumSquare", "X", graph.constant([1], np.int64), keepdims=1)
    else:
        grouped = graph.reshape("X", [layer.batch, layer.group, layer.depth, layer.height, layer.width])
        squares = graph.add("ReduceSumSquare", grouped, graph.constant([2], np.int64), keepdims=0)
    return graph.conv(squares, np.full((layer.group, 1, layer.window, layer.window), scale, np.float32))


def _shifted_inputs(graph: Graph) -> list[str]:
    """What each tap of the window reads, (N, C, H', W'), in the order window row, window column."""
    layer = graph.layer
    if layer.window == layer.stride == 1:
        return ["X"]
    padded = graph.add("Pad", "X", graph.constant([0, 0, layer.pad, layer.pad] * 2, np.int64))
    axes, steps = graph.constant([2, 3], np.int64), graph.constant([layer.stride] * 2, np.int64)
    extents = [layer.stride * (size - 1) + 1 for size in (layer.output_height, layer.output_width)]
    taps = []
    for row in range(layer.window):
        for column in range(layer.window):
            begin = graph.constant([row, column], np.int64)
            end = graph.constant([row + extents[0], column + extents[1]], np.int64)
            taps.append(graph.add("Slice", padded, begin, end, axes, steps))
    return taps


def _columns(graph: Graph) -> tuple[str, Array]:
    """The unfolded input and the filters, with taps in the order window row, window column, channel.

    Returns:
        The name of (1, taps, positions), or with groups or a batch of (N, group, 1, taps, positions); and (filters,
        taps, 1), or (group, filters of a group, taps, 1).
    """
    layer = graph.layer
    w = layer.tensors()[1].transpose(0, 2, 3, 1).reshape(layer.filters, layer.taps, 1)
    taps = _shifted_inputs(graph)
    if layer.group == layer.batch == 1:
        joined = graph.add("Concat", *taps, axis=1) if len(taps) > 1 else taps[0]
        return graph.reshape(joined, [1, layer.taps, layer.positions]), w
    grouped = [graph.reshape(tap, [layer.batch, layer.group, layer.depth, layer.positions]) for tap in taps]
    joined = graph.add("Concat", *grouped, axis=2) if len(taps) > 1 else grouped[0]
    columns = graph.reshape(joined, [layer.batch, layer.group, 1, layer.taps, layer.positions])
    return columns, w.reshape(layer.group, -1, layer.taps, 1)


def _blocked(kernel: str, layer: Layer, form: str, block: int) -> bytes:
    graph = Graph(layer)
    columns, w = _columns(graph)
    axis = graph.constant([-2], np.int64)
    sizes = [min(block, layer.taps - first) for first in range(0, layer.taps, block)]
    parts = [columns]
    if len(sizes) > 1:
        parts = graph.add("Split", columns, graph.constant(sizes, np.int64), outputs=len(sizes), axis=-2)
    total, first = "", 0
    for part, size in zip(parts, sizes, strict=True):
        weights = graph.constant(w[..., first : first + size, :])
        first += size
        reduced = graph.add(_reduction(kernel), _compared(graph, form, part, weights), axis, keepdims=0)
        total = graph.add(_combination(kernel), total, reduced) if total else reduced
    if form == "maximum":
        sums = graph.add("Add", graph.add("ReduceSum", columns, axis, keepdims=0), graph.constant(w.sum(-2)))
        total = graph.add("Sub", graph.add("Mul", total, graph.constant(2.0)), sums)
    return graph.model(graph.add("Neg", graph.reshape(total, layer.y_shape)))


def _tap_by_tap(kernel: str, layer: Layer, form: str) -> bytes:
    """A depthwise layer: a filter's tap is a number a channel, which broadcasts."""
    graph = Graph(layer)
    w = layer.tensors()[1].reshape(layer.channels, layer.taps)
    total, inputs = "", ""
    for index, tap in enumerate(_shifted_inputs(graph)):
        compared = _compared(graph, form, tap, graph.constant(w[:, index, None, None]))
        total = graph.add(_combination(kernel), total, compared) if total else compared
        inputs = graph.add("Add", inputs, tap) if inputs else tap
    if form == "maximum":
        sums = graph.add("Add", inputs, graph.constant(w.sum(1)[:, None, None]))
        total = graph.add("Sub", graph.add("Mul", total, graph.constant(2.0)), sums)
    return graph.model(graph.add("Neg", total))


def _compared(graph: Graph, form: str, x: str, w: str) -> str:
    name: str = graph.add("Max", x, w) if form == "maximum" else graph.add("Abs", graph.add("Sub", x, w))
    return name


def _reduction(kernel: str) -> str:
    return "ReduceMax" if kernel == "chebyshev" else "ReduceSum"


def _combination(kernel: str) -> str:
    return "Max" if kernel == "chebyshev" else "Add"
