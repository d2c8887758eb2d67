"""Which of a file's constants are parameters, and which node each belongs to.

A parameter is an element of a stored floating-point tensor with at least one dimension, or of an integer tensor that
stands for weights (behind a DequantizeLinear, or as the weight or bias of an integer operator). Not counted are
scalars, scales and zero points of quantisation, and the sizes and scales that only shape a Resize: the constants of
arithmetic. So a file has the same count with its functions, without them, and inlined.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto

from edgeconv.inspection.nodes import consumed, domain_of, is_edgeconv_operator, subgraphs, tensor_elements, walk
from edgeconv.ops.kervolution import KervolutionOperator
from edgeconv.ops.qlinear_mobile import OPERATORS as MOBILE_OPERATORS
from edgeconv.ops.registry import OPERATORS

_FLOATING = frozenset(
    value for name, value in TensorProto.DataType.items() if name.startswith(("FLOAT", "BFLOAT", "DOUBLE", "COMPLEX"))
)
# Inputs that carry settings rather than weights, and inputs that carry weights even as integers.
_SETTINGS = {
    "QuantizeLinear": {1, 2},
    "DequantizeLinear": {1, 2},
    "QLinearConv": {1, 2, 4, 5, 6, 7},
    "QLinearMatMul": {1, 2, 4, 5, 6, 7},
    "ConvInteger": {2, 3},
    "MatMulInteger": {2, 3},
    "Resize": {1, 2, 3},
    "Upsample": {1},
    **{
        name: {i for i, each in enumerate(operator.inputs) if each.endswith(("_scale", "_zero_point"))}
        for name, operator in OPERATORS.items()
    },
}
_INTEGER_WEIGHTS = {
    "DequantizeLinear": {0},
    "QLinearConv": {3, 8},
    "QLinearMatMul": {0, 3},
    "ConvInteger": {1},
    "MatMulInteger": {0, 1},
    **{name: {each.weights} for name, each in OPERATORS.items() if isinstance(each, KervolutionOperator)},
    **{
        name: {i for i, each in enumerate(operator.inputs) if each.endswith(("W", "B"))}
        for name, operator in MOBILE_OPERATORS.items()
    },
}


@dataclass
class Parameters:
    """The parameters of a graph.

    Attributes:
        elements: Number of elements of each parameter tensor, by name.
        constant: Names whose values follow from stored tensors alone: runtimes compute them once.
        owner: For each parameter tensor, the index of the first node that applies it to data.
    """

    elements: dict[str, int] = field(default_factory=dict)
    constant: set[str] = field(default_factory=set)
    owner: dict[str, int] = field(default_factory=dict)

    def of_node(self, index: int) -> int:
        """Return the number of parameters that belong to a node of the graph."""
        return sum(self.elements[name] for name, owner in self.owner.items() if owner == index)


def find_parameters(graph: onnx.GraphProto) -> Parameters:
    """Find the parameters of a graph, those that its subgraphs hold included."""
    stored = _stored(graph)
    roles = _roles(walk(graph.node))
    found = Parameters()
    for name, (tensor_type, rank, elements) in stored.items():
        uses = roles.get(name, set())
        if rank and ("weight" in uses or (tensor_type in _FLOATING and "other" in uses)):
            found.elements[name] = elements
    sources: dict[str, set[str]] = {name: {name} & found.elements.keys() for name in stored}
    for index, node in enumerate(graph.node):
        names = [name for name in consumed(node) if name]
        reached = set().union(*(sources.get(name, ()) for name in names), *(_held(g, found) for g in subgraphs(node)))
        if _is_constant(node, names, sources):
            # What is computed from a weight stands for it; what only measures it does not.
            carried = set() if node.op_type in ("Shape", "Size") else reached
            for output in node.output:
                sources.setdefault(output, carried)
        else:
            for name in reached:
                found.owner.setdefault(name, index)
    found.constant = set(sources)
    return found


def _is_constant(node: onnx.NodeProto, names: list[str], sources: dict[str, set[str]]) -> bool:
    if any(True for _ in subgraphs(node)) or node.op_type.startswith("Random"):
        return False
    return node.op_type == "Constant" or (bool(names) and all(name in sources for name in names))


def _held(graph: onnx.GraphProto, found: Parameters) -> set[str]:
    return _stored(graph).keys() & found.elements.keys()


def _stored(graph: onnx.GraphProto) -> dict[str, tuple[int, int, int]]:
    """Type, rank and elements of each tensor that the graph and its subgraphs store."""
    stored: dict[str, tuple[int, int, int]] = {}
    for tensor in graph.initializer:
        stored[tensor.name] = (tensor.data_type, len(tensor.dims), tensor_elements(tensor))
    for sparse in graph.sparse_initializer:
        stored[sparse.values.name] = (sparse.values.data_type, len(sparse.dims), tensor_elements(sparse.values))
    for node in graph.node:
        if node.op_type == "Constant" and domain_of(node) == "":
            for attribute in node.attribute:
                tensor = attribute.t
                known = (tensor.data_type, len(tensor.dims), tensor_elements(tensor))
                # Short lists in a Constant (a threshold, an axis' factors) are arithmetic, not weights.
                stored[node.output[0]] = known if attribute.name == "value" and known[2] > 1 else (0, 0, 0)
        for inner in subgraphs(node):
            stored.update(_stored(inner))
    return stored


def _roles(nodes: Iterable[onnx.NodeProto]) -> dict[str, set[str]]:
    roles: dict[str, set[str]] = {}
    for node in nodes:
        known = domain_of(node) == "" or is_edgeconv_operator(node)
        for position, name in enumerate(node.input):
            if known and position in _SETTINGS.get(node.op_type, ()):
                role = "setting"
            elif known and position in _INTEGER_WEIGHTS.get(node.op_type, ()):
                role = "weight"
            else:
                role = "other"
            roles.setdefault(name, set()).add(role)
    return roles
