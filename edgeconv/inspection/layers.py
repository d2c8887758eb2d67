"""The table of layers: one row a node of the main graph, with what it gives, holds and costs."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx.inliner import inline_selected_functions

from edgeconv.inspection.costs import UNKNOWN, Cost, node_cost, operand_type
from edgeconv.inspection.nodes import (
    FunctionKey,
    elem_type,
    function_key,
    functions_of,
    is_edgeconv_operator,
    node_label,
    subgraphs,
    tensor_elements,
)
from edgeconv.inspection.parameters import Parameters, find_parameters
from edgeconv.inspection.reading import SMALL
from edgeconv.inspection.report import Layer
from edgeconv.inspection.shapes import Value, infer_values, known_values
from edgeconv.ops.kervolution import DOMAIN, precision_of
from edgeconv.ops.registry import OPERATORS


class LayerTable:
    """Costs and parameters of a model whose shapes have been inferred.

    A call of one of edgeconv's operators is one operation, whether or not its function is in the file; a call of
    another function costs what its body costs. Values that follow from constants alone cost nothing, because runtimes
    compute them once. Of an `If`, the costlier branch counts; of a `Loop` or `Scan`, one pass.

    Args:
        model: The model, after shape inference.

    Attributes:
        layers: The rows, in the order of the graph.
        parameters: Number of parameters; a tensor that several nodes share counts once.
        cost: Total cost.
        notes: What the totals leave out.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._functions = functions_of(model)
        self._constants_of: dict[FunctionKey, int] = {}
        values = known_values(model.graph)
        parameters = find_parameters(model.graph)
        self.layers = [self._layer(index, node, values, parameters) for index, node in enumerate(model.graph.node)]
        self.parameters = sum(parameters.elements.values()) + sum(self._constants_of.values())
        self.cost = sum((Cost(row.macs, row.absolute_differences, row.complete) for row in self.layers), Cost())
        partial = sorted({row.op for row in self.layers if not row.complete})
        self.notes = [f"operations not counted, or only in part: {', '.join(partial)}."] if partial else []

    def _layer(self, index: int, node: onnx.NodeProto, values: Mapping[str, Value], parameters: Parameters) -> Layer:
        cost, inside = self._cost(node, values, parameters.constant)
        output = values.get(next((name for name in node.output if name), ""), Value("unknown", None))
        return Layer(
            name=node.name or next((name for name in node.output if name), ""),
            op=node_label(node),
            dtype=output.dtype,
            output_shape=output.shape,
            parameters=parameters.of_node(index) + inside,
            macs=cost.macs,
            absolute_differences=cost.absolute_differences,
            complete=cost.complete,
            precision=precision_of(node),
            operand_type=operand_type(node, values) if cost.macs or cost.absolute_differences else None,
        )

    def _cost(self, node: onnx.NodeProto, values: Mapping[str, Value], constant: set[str]) -> tuple[Cost, int]:
        """Return a node's cost, and the parameters in the body of the function that it calls."""
        if all(name in constant for name in node.output if name):
            return Cost(), 0
        key = function_key(node)
        if key in self._functions and not is_edgeconv_operator(node):
            return self._call(node, values)
        cost = node_cost(node, values)
        inner = [self._graph_cost(graph, values) for graph in subgraphs(node)]
        if inner and node.op_type == "If":
            cost += max(inner, key=lambda branch: branch.macs + branch.absolute_differences)
        elif inner:
            one_pass = sum(inner, Cost())
            # The number of passes is data; a body without products costs the same (nothing) however often it runs.
            cost += Cost(one_pass.macs, one_pass.absolute_differences, complete=one_pass == Cost())
        return cost, 0

    def _graph_cost(self, graph: onnx.GraphProto, outer: Mapping[str, Value]) -> Cost:
        values = known_values(graph, outer)
        constant = find_parameters(graph).constant
        return sum((self._cost(node, values, constant)[0] for node in graph.node), Cost())

    def _call(self, node: onnx.NodeProto, values: Mapping[str, Value]) -> tuple[Cost, int]:
        body = self._body(node, values)
        if body is None:
            return UNKNOWN, 0
        given = {tensor.name for tensor in body.graph.initializer}
        held = sum(n for name, n in find_parameters(body.graph).elements.items() if name not in given)
        self._constants_of[function_key(node)] = held
        return self._graph_cost(body.graph, {}), held

    def _body(self, node: onnx.NodeProto, values: Mapping[str, Value]) -> onnx.ModelProto | None:
        """Return a model of this one call, down to edgeconv's operators, with its shapes; None if it is not valid."""
        stored = {tensor.name: tensor for tensor in self._model.graph.initializer}
        read = sorted({name for name in node.input if name})
        graph = onnx.GraphProto(name="call", node=[node])
        for name in read:
            value = values.get(name, Value("unknown", None))
            graph.input.append(onnx.helper.make_tensor_value_info(name, elem_type(value.dtype), value.shape))
            if name in stored and tensor_elements(stored[name]) <= SMALL:
                graph.initializer.append(stored[name])
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name)
        call = onnx.ModelProto(
            ir_version=self._model.ir_version,
            opset_import=self._model.opset_import,
            functions=self._model.functions,
            graph=graph,
        )
        try:
            whole = [(DOMAIN, name) for name in OPERATORS]
            return infer_values(inline_selected_functions(call, whole, exclude=True))[0]
        except Exception:  # onnx reports an invalid function in many types; its cost is then unknown, as the row says
            return None
