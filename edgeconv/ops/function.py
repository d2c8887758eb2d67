"""From an onnxscript function to the `FunctionProto` that travels in a file. Needs onnxscript (the `export` extra)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass
from onnxscript import OnnxFunction


def build_function(
    name: str, function: OnnxFunction[..., Any], parts: Sequence[OnnxFunction[..., Any]], opset: int, doc: str
) -> onnx.FunctionProto:
    """Turn an onnxscript function into one self-contained ONNX function.

    Args:
        name: The operator's name, which the function gets.
        function: The operator's definition.
        parts: Functions that it may call; they are inlined, because runtimes differ in how they take nested functions.
        opset: Version of the standard operators in the body.
        doc: What it computes, in one line.

    Returns:
        The function, with explicit loop conditions: TensorRT's parser does not take an omitted one.
    """
    body = function.to_function_proto()
    body.name = name
    model = onnx.ModelProto(
        ir_version=8,
        opset_import=[onnx.helper.make_opsetid("", opset)],
        functions=[body, *(part.to_function_proto() for part in parts)],
        graph=onnx.GraphProto(name="empty"),
    )
    module = ir.from_proto(model)
    InlinePass(criteria=lambda candidate: candidate.domain != body.domain)(module)
    inlined = ir.to_proto(module.functions[(body.domain, name, "")])
    _make_loop_conditions_explicit(inlined.node)
    for imported in list(inlined.opset_import):
        if imported.domain:
            inlined.opset_import.remove(imported)
    inlined.doc_string = doc
    return inlined


def _make_loop_conditions_explicit(nodes: Sequence[onnx.NodeProto]) -> None:
    """Give every `Loop` without a condition the constant true, outside and inside its body."""
    true = onnx.helper.make_tensor("true", onnx.TensorProto.BOOL, [], [True])
    index = 0
    while index < len(nodes):
        node = nodes[index]
        if node.op_type == "Loop" and not node.input[1]:
            condition = f"{node.output[0]}_condition"
            node.input[1] = condition
            nodes.insert(index, onnx.helper.make_node("Constant", [], [condition], value=true))  # type: ignore[attr-defined]
            index += 1
            body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
            _make_loop_conditions_explicit(body.node)
            for inner in body.node:
                if list(inner.input) == [body.input[1].name] and list(inner.output) == [body.output[0].name]:
                    inner.CopyFrom(onnx.helper.make_node("Constant", [], list(inner.output), value=true))
        index += 1
