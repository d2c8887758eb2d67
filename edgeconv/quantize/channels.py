"""Which tensors of a network share their channels, so that a channel can be scaled in all of them and nothing changes.

A factor s a channel may be moved through everything that is positively homogeneous: with x = s·x' for every tensor of a
family, the layers that make one divide their filters (and biases) by s, and those that read one multiply the columns of
their filters by s. An Add puts its operands and its result into one family; a depthwise layer has one on each side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeconv.inspection.nodes import domain_of
from edgeconv.quantize.canonical import clip_bounds
from edgeconv.quantize.prepare import PreparedModel
from edgeconv.rewrite.graph import Graph, attribute

Array = NDArray[Any]

Shift = Literal["any", "positive", "none"]

_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Add", "Clip"})
"""Operators that keep channels apart, and for which f(s·x) = s·f(x) with s > 0; a Clip within its bounds."""


@dataclass
class Family:
    """Tensors with common channels.

    Attributes:
        tensors: Their names.
        channels: How many.
        makers: Nodes whose filters make one of them.
        readers: Nodes whose filters read one of them.
        limit: The upper bound of the Clip(0, limit) among them, infinite without.
        shift: What constants a channel can be moved through them as well (`edgeconv.quantize.absorb`): "any", if no
            activation is among them; "positive", if Relu is; or "none".
    """

    tensors: list[str]
    channels: int
    makers: list[str] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)
    limit: float = np.inf
    shift: Shift = "any"


@dataclass(frozen=True)
class Filter:
    """A Conv or Gemm of constants.

    Attributes:
        node: It.
        weights: Float weights as (M, C/group, …).
        bias: (M), or None.
        group: Of the Conv.
        transposed: Whether the initialiser holds (C, M): a Gemm without transB.
    """

    node: onnx.NodeProto
    weights: NDArray[np.float64]
    bias: NDArray[np.float64] | None
    group: int
    transposed: bool

    @property
    def depthwise(self) -> bool:
        """Whether each filter reads one channel."""
        return self.group > 1 and self.weights.shape[1] == 1

    def columns(self, factors: Array) -> Array:
        """Return a value a channel of the input in the shape of the weights: what each weight meets."""
        filters, depth = self.weights.shape[:2]
        first = np.arange(filters) // (filters // self.group) * depth
        return np.asarray(factors[first[:, None] + np.arange(depth)]).reshape(
            filters, depth, *[1] * (self.weights.ndim - 2)
        )


def read_filters(graph: Graph) -> dict[str, Filter]:
    """Return the Conv and Gemm nodes of constants, by name."""
    found = {}
    for node in graph.nodes:
        kind = node.op_type
        if domain_of(node) or kind not in ("Conv", "Gemm"):
            continue
        weights = graph.constant(node.input[1])
        has_bias = len(node.input) > 2 and bool(node.input[2])
        bias = graph.constant(node.input[2]) if has_bias else None
        plain = all(attribute(node, name, 1.0) == 1 for name in ("alpha", "beta")) and not attribute(node, "transA", 0)
        if weights is None or (has_bias and (bias is None or bias.ndim != 1)) or (kind == "Gemm" and not plain):
            continue
        transposed = kind == "Gemm" and not attribute(node, "transB", 0)
        array = (weights.T if transposed else weights).astype(np.float64)
        real = None if bias is None else bias.astype(np.float64)
        found[node.name] = Filter(node, array, real, int(attribute(node, "group", 1)), transposed)
    return found


def find_families(prepared: PreparedModel) -> list[Family]:
    """Return the families whose channels can be scaled, in the order of the graph."""
    graph = Graph(prepared.model)
    filters = read_filters(graph)
    forest = _Forest(prepared, graph)
    outputs = graph.outputs
    for value in prepared.model.graph.input:
        forest.fix(value.name)
    for node in graph.nodes:
        if node.name in filters:
            forest.use(node)
            continue
        names = [*(name for name in node.input if name and graph.constant(name) is None), *filter(None, node.output)]
        if _keeps_channels(prepared, graph, node):
            forest.join(names, node)
        else:
            for name in names:
                forest.fix(name)
    for name in outputs:
        forest.fix(name)
    return forest.families(filters)


def _keeps_channels(prepared: PreparedModel, graph: Graph, node: onnx.NodeProto) -> bool:
    if domain_of(node):
        return False
    if node.op_type in ("Flatten", "Reshape", "Squeeze"):
        before, after = (prepared.shapes.get(name, ()) for name in (node.input[0], node.output[0]))
        # (N, C, 1, 1) to (N, C): the channels stay where they are.
        return (
            len(before) == 4
            and before[2:] == (1, 1)
            and before[1] > 0
            and after[1:2] == before[1:2]
            and (len(after) == 2 or after[2:] == (1, 1))
        )
    if node.op_type not in _HOMOGENEOUS:
        return False
    if node.op_type == "Clip":
        bounds = clip_bounds(graph, node)
        return bounds is not None and bounds[0] == 0 and bounds[1] > 0
    if node.op_type == "Add":
        shapes = [prepared.shapes.get(name) for name in node.input]
        return all(graph.constant(name) is None for name in node.input) and shapes[0] == shapes[1] is not None
    return len([name for name in node.output if name]) == 1


class _Forest:
    def __init__(self, prepared: PreparedModel, graph: Graph) -> None:
        self.prepared, self.graph = prepared, graph
        self.parents: dict[str, str] = {}
        self.fixed: set[str] = set()
        self.clips: list[tuple[str, float]] = []
        self.shifts: list[tuple[str, Shift]] = []
        self.makers: list[tuple[str, str]] = []
        self.readers: list[tuple[str, str]] = []

    def root(self, name: str) -> str:
        self.parents.setdefault(name, name)
        while self.parents[name] != name:
            name = self.parents[name]
        return name

    def fix(self, name: str) -> None:
        self.root(name)
        self.fixed.add(name)

    def use(self, node: onnx.NodeProto) -> None:
        self.root(node.input[0])
        self.root(node.output[0])
        self.readers.append((node.input[0], node.name))
        self.makers.append((node.output[0], node.name))

    def join(self, names: list[str], node: onnx.NodeProto) -> None:
        for name in names[1:]:
            self.parents[self.root(name)] = self.root(names[0])
        if node.op_type == "Clip":
            bounds = clip_bounds(self.graph, node)
            assert bounds is not None
            self.clips.append((names[0], bounds[1]))
        if node.op_type == "Relu":
            self.shifts.append((names[0], "positive"))
        elif node.op_type in ("Clip", "LeakyRelu", "Add") or any(attribute(node, "pads", [])):
            # The operands of an Add would have shifts of their own, and padding is 0 wherever the values are shifted.
            self.shifts.append((names[0], "none"))

    def families(self, filters: dict[str, Filter]) -> list[Family]:
        fixed = {self.root(name) for name in self.fixed}
        grouped: dict[str, Family] = {}
        for name in self.parents:
            root = self.root(name)
            if root not in fixed:
                shape = self.prepared.shapes.get(name, ())
                family = grouped.setdefault(root, Family([], shape[1] if len(shape) > 1 else 0))
                family.tensors.append(name)
                family.channels = family.channels or (shape[1] if len(shape) > 1 else 0)
        for pairs, kind in ((self.makers, "makers"), (self.readers, "readers")):
            for tensor, node in pairs:
                if self.root(tensor) in grouped:
                    getattr(grouped[self.root(tensor)], kind).append(node)
        for tensor, limit in self.clips:
            if self.root(tensor) in grouped:
                grouped[self.root(tensor)].limit = min(grouped[self.root(tensor)].limit, limit)
        for tensor, shift in self.shifts:
            known = grouped.get(self.root(tensor))
            if known is not None and known.shift != "none":
                known.shift = shift
        return [
            family
            for family in grouped.values()
            if family.channels
            and family.makers
            and family.readers
            and all(len(filters[name].weights) == family.channels for name in family.makers)
        ]
