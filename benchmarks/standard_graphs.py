"""The best graphs of standard ONNX operators for each kernel: what a user has without native kernels.

With x·w from a Conv, the polynomial and sigmoid kernels cost little more than that Conv. So do the two that need the
squared distance, ‖x‖² + ‖w‖² - 2x·w: constants go into the filters and the bias, and ‖x‖² over a patch is a one-channel
Conv of the squares summed over channels. Manhattan and chebyshev have no such form. There the input is unfolded to
columns, and a block of taps at a time is subtracted from all filters (or compared with them, by |x - w| =
2 max(x, w) - x - w) and reduced: blocks that stay in the cache are the fastest form found, and which is best depends on
the layer, so every candidate is offered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper

from edgeconv.ops.kervolution import OPERATOR_OF_KERNEL
from edgeconv.ops.kervolution_function import FUNCTIONS

Array = npt.NDArray[np.float32]
BLOCKS = (8, 32)


@dataclass(frozen=True)
class Layer:
    """A square convolution layer, batch 1, padded by half the window."""

    name: str
    channels: int
    size: int
    filters: int
    window: int
    stride: int

    @property
    def pad(self) -> int:
        """Rows and columns of padding on each side."""
        return self.window // 2

    @property
    def output_size(self) -> int:
        """Rows and columns of the output."""
        return (self.size + 2 * self.pad - self.window) // self.stride + 1

    @property
    def taps(self) -> int:
        """Taps of one filter."""
        return self.channels * self.window**2

    def tensors(self) -> tuple[Array, Array]:
        """X and W, seeded."""
        generator = np.random.default_rng(1)
        x = generator.standard_normal((1, self.channels, self.size, self.size)).astype(np.float32)
        w = generator.standard_normal((self.filters, self.channels, self.window, self.window)) / np.sqrt(self.taps)
        return x, w.astype(np.float32)


LAYERS = {
    layer.name: layer
    for layer in (
        Layer("56", 64, 56, 64, 3, 1),
        Layer("28", 128, 28, 128, 3, 1),
        Layer("14", 256, 14, 256, 3, 1),
        Layer("7", 512, 7, 512, 3, 1),
        Layer("224s2", 3, 224, 64, 7, 2),
    )
}


@dataclass
class Graph:
    """Nodes and initialisers in the making; methods return the name of what they add."""

    layer: Layer
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Add an initialiser."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(value, dtype)
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
        name: str = self.add("Conv", x, *constants, pads=[layer.pad] * 4, strides=[layer.stride] * 2)
        return name

    def model(self, result: str, functions: Sequence[FunctionProto] = ()) -> bytes:
        """The finished model, whose output Y is `result`."""
        self.nodes.append(helper.make_node("Identity", [result], ["Y"]))
        layer = self.layer
        shapes = (
            ("X", (1, layer.channels, layer.size, layer.size)),
            ("Y", (1, layer.filters, layer.output_size, layer.output_size)),
        )
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes)
        initializers = [numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        graph = helper.make_graph(self.nodes, "graph", [x], [y], initializers)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("edgeconv", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions)
        serialized: bytes = model.SerializeToString()
        return serialized


def parameters(kernel: str, layer: Layer) -> dict[str, float]:
    """Values of the kernel's parameters; gamma of a size at which no output is subnormal."""
    values = {
        "polynomial": {"balance": 1.0},
        "gaussian": {"gamma": 2 / layer.taps},
        "sigmoid": {"scale": 0.1, "balance": 1.0},
    }
    return values.get(kernel, {})


def plain_conv(layer: Layer) -> bytes:
    """The Conv of the same shape, to which everything is compared."""
    graph = Graph(layer)
    return graph.model(graph.conv("X", layer.tensors()[1]))


def operator(kernel: str, layer: Layer) -> bytes:
    """One node of edgeconv's operator with its function in the file, as an export writes it."""
    graph, name = Graph(layer), OPERATOR_OF_KERNEL[kernel].name
    values = [graph.constant(value) for value in parameters(kernel, layer).values()]
    attributes: dict[str, Any] = {"degree": 3} if kernel == "polynomial" else {}
    result = graph.add(
        name, "X", graph.constant(layer.tensors()[1]), *values, domain="edgeconv",
        kernel_shape=[layer.window] * 2, strides=[layer.stride] * 2, pads=[layer.pad] * 4, **attributes,
    )  # fmt: skip
    return graph.model(result, functions=[FUNCTIONS[name]])


def standard_graphs(kernel: str, layer: Layer) -> Iterator[tuple[str, bytes]]:
    """Every candidate for the best graph of standard operators, by name; the first is the function in our own files."""
    yield "function in the file", operator(kernel, layer)
    if kernel in ("manhattan", "chebyshev"):
        forms = ("difference", "maximum") if kernel == "manhattan" else ("difference",)
        for form in forms:
            for block in BLOCKS:
                yield f"{form}, blocks of {block}", _blocked(kernel, layer, form, block)
        return
    graph = Graph(layer)
    w = layer.tensors()[1]
    values = parameters(kernel, layer)
    if kernel == "polynomial":
        base = graph.conv("X", w, np.full(layer.filters, values["balance"], np.float32))
        result = graph.add("Mul", graph.add("Mul", base, base), base)
    elif kernel == "sigmoid":
        bias = np.full(layer.filters, values["balance"], np.float32)
        result = graph.add("Tanh", graph.conv("X", np.float32(values["scale"]) * w, bias))
    else:
        scale = np.float32(values.get("gamma", 1.0))
        norms = (w.reshape(layer.filters, -1) ** 2).sum(1)
        squares = graph.add("ReduceSumSquare", "X", graph.constant([1], np.int64), keepdims=1)
        patches = graph.conv(squares, np.full((1, 1, layer.window, layer.window), -scale, np.float32))
        result = graph.add("Add", graph.conv("X", 2 * scale * w, -scale * norms), patches)
        if kernel == "gaussian":
            result = graph.add("Exp", result)
    yield "Conv and elementwise", graph.model(result)


def _columns(graph: Graph) -> str:
    """The unfolded input (1, taps, positions), in the order window row, window column, channel."""
    layer = graph.layer
    pads = graph.constant([0, 0, layer.pad, layer.pad] * 2, np.int64)
    padded = graph.add("Pad", "X", pads)
    axes, steps = graph.constant([2, 3], np.int64), graph.constant([layer.stride] * 2, np.int64)
    extent = layer.stride * (layer.output_size - 1) + 1
    taps = []
    for row in range(layer.window):
        for column in range(layer.window):
            begin = graph.constant([row, column], np.int64)
            end = graph.constant([row + extent, column + extent], np.int64)
            taps.append(graph.add("Slice", padded, begin, end, axes, steps))
    shape = graph.constant([1, layer.taps, layer.output_size**2], np.int64)
    name: str = graph.add("Reshape", graph.add("Concat", *taps, axis=1), shape)
    return name


def _blocked(kernel: str, layer: Layer, form: str, block: int) -> bytes:
    graph = Graph(layer)
    w = layer.tensors()[1].transpose(0, 2, 3, 1).reshape(layer.filters, layer.taps)
    columns = _columns(graph)
    axis = graph.constant([1], np.int64)
    sizes = [min(block, layer.taps - first) for first in range(0, layer.taps, block)]
    parts = graph.add("Split", columns, graph.constant(sizes, np.int64), outputs=len(sizes), axis=1)
    total, first = "", 0
    for part, size in zip(parts, sizes, strict=True):
        weights = graph.constant(w[:, first : first + size, None])
        first += size
        if form == "maximum":
            values = graph.add("Max", part, weights)
        else:
            values = graph.add("Abs", graph.add("Sub", part, weights))
        reduced = graph.add("ReduceMax" if kernel == "chebyshev" else "ReduceSum", values, axis, keepdims=0)
        total = graph.add("Max" if kernel == "chebyshev" else "Add", total, reduced) if total else reduced
    if form == "maximum":
        sums = graph.add("Add", graph.add("ReduceSum", columns, axis, keepdims=0), graph.constant(w.sum(1)[:, None]))
        total = graph.add("Sub", graph.add("Mul", total, graph.constant(2.0)), sums)
    shape = graph.constant([1, layer.filters, layer.output_size, layer.output_size], np.int64)
    return graph.model(graph.add("Neg", graph.add("Reshape", total, shape)))
