"""Where Q/DQ pairs go, which layers compute in 8 bits, and which stay in float and why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto

from edgeconv.errors import InputError
from edgeconv.inspection.nodes import domain_of, node_label
from edgeconv.ops.kervolution import DOMAIN, OPERATOR_OF_KERNEL
from edgeconv.ops.qlinear_mobile import KERVOLUTIONS
from edgeconv.quantize.canonical import clip_bounds
from edgeconv.quantize.prepare import PreparedModel
from edgeconv.quantize.ranges import Bounds
from edgeconv.quantize.targets import ARITHMETIC, PASS_THROUGH, Target
from edgeconv.rewrite.graph import Graph, attribute

FREE: Bounds = (-np.inf, np.inf)
_BOUNDED: dict[str, Bounds] = {"Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0)}
_MANHATTAN = "ManhattanKervolution"
_ON_DOTS = frozenset(OPERATOR_OF_KERNEL[operator.kernel].name for operator in KERVOLUTIONS.values())
"""Kervolutions on x·w."""


@dataclass(frozen=True)
class Layer:
    """A layer with weights that computes in 8 bits.

    Attributes:
        node: Its name.
        kind: Its operator.
        x: The tensor that it takes.
        weights: The initialiser of its weights.
        axis: Of the output channels in the weights.
        bias: The initialiser of its bias, or empty.
        result: What it gives.
        output: What the activation after it gives, or `result` if there is none.
        depthwise: Whether each filter reads one input channel alone (depthwise).
    """

    node: str
    kind: str
    x: str
    weights: str
    axis: int
    bias: str
    result: str
    output: str
    depthwise: bool


@dataclass
class Placement:
    """The plan.

    Attributes:
        layers: By node name, in the order of the graph.
        operators: Other nodes that compute in 8 bits.
        bounds: Tensors with a Q/DQ pair, and what an activation holds each to.
        groups: Tensor -> name of the group that shares its grid; a group is named after one of its tensors.
        left: Nodes that stay in float, of those that cost something, and why.
        activations: Activation nodes after an operator in 8 bits: name -> the tensor that it gives.
    """

    layers: dict[str, Layer] = field(default_factory=dict)
    operators: list[str] = field(default_factory=list)
    bounds: dict[str, Bounds] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    activations: dict[str, str] = field(default_factory=dict)


def place(
    prepared: PreparedModel,
    target: Target,
    exclude: Sequence[str] = (),
    *,
    exact: bool = False,
    match_adds: bool = False,
) -> Placement:
    """Plan the quantisation of a model.

    Args:
        prepared: The float model.
        target: Its rules.
        exclude: Regular expressions, of which none may be found in the name of a node that is quantised.
        exact: They are whole names, not expressions.
        match_adds: One grid for the operands and the result of an Add or Concat.

    Raises:
        InputError: An expression is not one, or fits no node.
    """
    return _Planner(prepared, target, _excluded(prepared, exclude, exact), match_adds).plan()


def _excluded(prepared: PreparedModel, exclude: Sequence[str], exact: bool) -> set[str]:
    names = [node.name for node in prepared.model.graph.node]
    if exact:
        return set(exclude)
    found: set[str] = set()
    for text in exclude:
        try:
            matching = {name for name in names if re.search(text, name)}
        except re.error as error:
            raise InputError(f"--exclude {text!r} is not a regular expression: {error}.") from error
        if not matching:
            raise InputError(
                f"--exclude {text!r} fits no node of the model.", "`edgeconv inspect --all-layers` lists their names."
            )
        found |= matching
    return found


class _Planner:
    def __init__(self, prepared: PreparedModel, target: Target, excluded: set[str], match_adds: bool) -> None:
        self.prepared, self.target, self.excluded, self.match_adds = prepared, target, excluded, match_adds
        self.graph = Graph(prepared.model)
        self.placement = Placement()
        self.parents: dict[str, str] = {}

    def plan(self) -> Placement:
        for node in self.graph.nodes:
            self._classify(node)
        for node in self.graph.nodes:
            if node.name in self.placement.layers or node.name in self.placement.operators:
                self._place(node)
        self._pass_through()
        placement = self.placement
        placement.groups = {name: self._root(name) for name in placement.bounds}
        return placement

    # Which nodes

    def _classify(self, node: onnx.NodeProto) -> None:
        kind, domain = node.op_type, domain_of(node)
        if domain == DOMAIN:
            self._classify_own(node)
        elif domain or kind not in self.target.weighted | ARITHMETIC:
            return
        elif node.name in self.excluded:
            self.placement.left[node.name] = "excluded"
        elif kind in self.target.weighted:
            layer = self._layer(node)
            if isinstance(layer, str):
                self.placement.left[node.name] = layer
            else:
                self.placement.layers[node.name] = layer
        elif self._arithmetic(node):
            self.placement.operators.append(node.name)

    def _classify_own(self, node: onnx.NodeProto) -> None:
        if node.name in self.excluded:
            self.placement.left[node.name] = "excluded"
        elif node.op_type != _MANHATTAN and node.op_type not in _ON_DOTS:
            self.placement.left[node.name] = f"{node_label(node)} has no 8-bit form"
        elif not self.target.everywhere or self.target.symmetric:
            self.placement.left[node.name] = f"the 8-bit form of {node_label(node)} runs in ONNX Runtime only"
        elif self.graph.constant(node.input[1]) is None:
            self.placement.left[node.name] = "its weights are not constant"
        elif node.op_type in _ON_DOTS and attribute(node, "group", 1) != 1:
            self.placement.left[node.name] = f"the 8-bit form of {node_label(node)} takes no groups"
        else:
            self.placement.operators.append(node.name)

    def _layer(self, node: onnx.NodeProto) -> Layer | str:
        kind, weights = node.op_type, self.graph.constant(node.input[1])
        if weights is None:
            return "its weights are not constant"
        if (
            weights.dtype != np.float32
            or self.prepared.types.get(node.input[0], TensorProto.FLOAT) != TensorProto.FLOAT
        ):
            return f"it computes in {weights.dtype}"
        if self.graph.constant(node.input[0]) is not None:
            return "its input is constant"
        if not np.isfinite(weights).all():
            return "its weights are not finite"
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and self.graph.constant(bias) is None:
            return "its bias is not constant"
        axis = 0
        if kind == "MatMul":
            if weights.ndim != 2:
                return f"its weights have {weights.ndim} dimensions"
            axis = 1
        if kind == "Gemm":
            if attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1 or attribute(node, "transA", 0):
                return "it scales or transposes its operands"
            axis = 0 if attribute(node, "transB", 0) else 1
        if kind == "ConvTranspose":
            if attribute(node, "group", 1) != 1:
                return "it is a grouped ConvTranspose, whose channels are on no axis of their own"
            axis = 1
        group = attribute(node, "group", 1)
        depthwise = kind == "Conv" and group > 1 and weights.shape[1] == 1
        result = node.output[0]
        return Layer(node.name, kind, node.input[0], node.input[1], axis, bias, result, self._output(node), depthwise)

    def _arithmetic(self, node: onnx.NodeProto) -> bool:
        """Tell whether an operator without weights is computed in 8 bits."""
        inputs = [name for name in node.input if name]
        if node.op_type in ("AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu", "Resize"):
            inputs = inputs[:1]
        if any(self.prepared.types.get(name, TensorProto.FLOAT) != TensorProto.FLOAT for name in inputs):
            return False
        if any(self.graph.constant(name) is not None for name in inputs):
            self.placement.left[node.name] = f"{node.op_type} of a constant"
            return False
        if node.op_type == "Resize" and attribute(node, "mode", b"nearest") not in (b"nearest", b"linear"):
            return False
        return self.target.everywhere or node.op_type in ("Add", "AveragePool", "GlobalAveragePool")

    def _output(self, node: onnx.NodeProto) -> str:
        """Return what a node gives after the activation that it is fused with."""
        result = node.output[0]
        readers = self.graph.consumers(result)
        if len(readers) == 1 and result not in self.graph.outputs and clip_bounds(self.graph, readers[0]) is not None:
            self.placement.activations[readers[0].name] = readers[0].output[0]
            return str(readers[0].output[0])
        return str(result)

    # Which tensors

    def _place(self, node: onnx.NodeProto) -> None:
        kind = node.op_type
        layer = self.placement.layers.get(node.name)
        if layer is not None:
            self._mark(layer.x)
        elif kind == "Add" and not self.target.everywhere:
            for name in self._skips(node):
                self._mark(name)
            return
        else:
            count = 1 if kind not in ("Add", "Mul", "Concat") else len(node.input)
            for name in node.input[:count]:
                self._mark(name)
        if not self.target.everywhere:
            return
        output = layer.output if layer is not None else self._output(node)
        if kind not in ("Gemm", "MatMul") or self._read_in_8_bits(output):
            self._mark(output)
            if self.match_adds and kind in ("Add", "Concat") and output == node.output[0]:
                for name in node.input:
                    if self.placement.bounds[name] == FREE:
                        self._join(name, output)

    def _skips(self, node: onnx.NodeProto) -> list[str]:
        """Return the operands of an Add that TensorRT wants quantised: all but one that a layer makes for it alone."""
        for name in reversed(node.input):
            producer = self.graph.producer(name)
            if producer is not None and producer.name in self.placement.layers and len(self.graph.consumers(name)) == 1:
                return [other for other in node.input if other != name]
        return list(node.input)

    def _read_in_8_bits(self, name: str) -> bool:
        """Tell whether an operator in 8 bits reads a tensor, possibly through others that pass it on."""
        for reader in self.graph.consumers(name):
            if reader.name in self.placement.layers or reader.name in self.placement.operators:
                return True
            if self._passes(reader) and self._read_in_8_bits(reader.output[0]):
                return True
        return False

    def _passes(self, node: onnx.NodeProto) -> bool:
        return not domain_of(node) and node.op_type in PASS_THROUGH and node.name not in self.excluded

    def _mark(self, name: str) -> None:
        self.placement.bounds.setdefault(name, self._bounds(name))
        self.parents.setdefault(name, name)

    def _bounds(self, name: str) -> Bounds:
        node = self.graph.producer(name)
        if node is None or domain_of(node):
            return FREE
        bounds = clip_bounds(self.graph, node) or _BOUNDED.get(node.op_type)
        if bounds is None and node.op_type in PASS_THROUGH | {"GlobalAveragePool", "AveragePool"}:
            return self._bounds(node.input[0])
        return bounds or FREE

    def _pass_through(self) -> None:
        """Let a tensor keep its grid where it is passed on to something in 8 bits, or comes from there."""
        if not self.target.everywhere:
            return
        changed = True
        while changed:
            changed = False
            for node in self.graph.nodes:
                if not self._passes(node) or node.name in self.placement.operators or not node.input:
                    continue
                ends = [node.input[0], *(name for name in node.output if name)]
                known = [name for name in ends if name in self.placement.bounds]
                last = all(name in self.graph.outputs for name in node.output)
                if not known or (known == [node.input[0]] and last and not self._read_in_8_bits(node.output[0])):
                    continue
                for name in ends:
                    self._mark(name)
                    self._join(name, ends[0])
                self.placement.operators.append(node.name)
                changed = True

    # Groups: a forest of parents

    def _root(self, name: str) -> str:
        while self.parents[name] != name:
            name = self.parents[name]
        return name

    def _join(self, name: str, other: str) -> None:
        self.parents[self._root(name)] = self._root(other)
