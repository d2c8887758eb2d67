"""The index that passes stand on: what counts as constant, which types are known, and edits without leftovers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeconv.rewrite.graph import Graph, add_function, nested_nodes, remove_function_if_unused

TEXT = """
<ir_version: 10, opset_import: ["": 19]>
g (float[2, 4] x, float overridable) => (float[2, 4] y, float[2, 2] z)
<float[2, 4] t, float[2, 4] s, float overridable = {1.0}, float[1] one = {1.0}, float[1] extra = {3.0}>
{
    floats = Constant <value_floats = [1.5, 2.5]> ()
    whole = Constant <value_int = 7> ()
    t = Neg (x)
    a, b = Split <axis = 1, num_outputs = 2> (t)
    z = Abs (b)
    s = Sub (x, one)
    r = Mul (s, one)
    y = Neg (r)
}
"""


def parsed() -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT)
    annotation = model.graph.quantization_annotation.add()
    annotation.tensor_name = "s"
    return model


def test_constants() -> None:
    model = parsed()
    model.graph.initializer.add().CopyFrom(numpy_helper.from_array(np.ones(2, np.int8), "elsewhere"))
    model.graph.initializer[-1].data_location = TensorProto.EXTERNAL
    graph = Graph(model)
    floats, whole, one = (graph.constant(name) for name in ("floats", "whole", "one"))
    assert floats is not None
    assert whole is not None
    assert one is not None
    assert (floats.tolist(), floats.dtype) == ([1.5, 2.5], np.float32)
    assert (whole.tolist(), whole.shape, whole.dtype) == (7, (), np.int64)
    assert one.tolist() == [1]
    for name in ("overridable", "elsewhere", "x", "t", "nowhere"):
        assert graph.constant(name) is None
    model.ir_version = 3  # there every initialiser had to be an input too
    assert Graph(model).constant("overridable") == 1


def test_types_are_inferred() -> None:
    graph = Graph(parsed())
    found = [graph.element_type(name) for name in ("one", "x", "a", "whole", "nowhere")]
    assert found == [TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64, TensorProto.UNDEFINED]


def test_what_only_the_old_nodes_needed_goes() -> None:
    model = parsed()
    graph = Graph(model)
    pair = [node for node in graph.nodes if node.output[0] in ("r", "y")]
    graph.replace(pair, helper.make_node("Identity", ["x"], ["y"]))
    assert [node.op_type for node in graph.nodes] == ["Constant", "Constant", "Neg", "Split", "Abs", "Identity"]
    # What was unused before stays, as does what an output needs and what is an input.
    assert [tensor.name for tensor in model.graph.initializer] == ["overridable", "extra"]
    assert [value.name for value in model.graph.value_info] == ["t"]
    assert not model.graph.quantization_annotation
    onnx.checker.check_model(model, full_check=True)


def test_a_node_stays_while_one_of_its_outputs_is_read() -> None:
    model = parsed()
    model.graph.node.add().CopyFrom(helper.make_node("Neg", ["a"], ["c"]))
    model.graph.output.add().CopyFrom(helper.make_tensor_value_info("c", TensorProto.FLOAT, [2, 2]))
    graph = Graph(model)
    graph.replace([graph.nodes[-1]], helper.make_node("Identity", ["floats"], ["c"]))
    assert "Split" in [node.op_type for node in graph.nodes]
    abs_node = next(node for node in graph.nodes if node.op_type == "Abs")
    graph.replace([abs_node], helper.make_node("Identity", ["floats"], ["z"]))
    assert "Split" not in [node.op_type for node in graph.nodes]


def test_subgraphs_read_from_outside() -> None:
    model = onnx.parser.parse_model("""
    <ir_version: 10, opset_import: ["": 19]>
    g (float[2] x, bool c) => (float[2] y)
    {
        s = Neg (x)
        t = Abs (x)
        y = If (c) <then_branch = yes () => (float[2] p) { p = Add (s, x) },
                    else_branch = no () => (float[2] q) { q = Neg (t) }>
    }
    """)
    graph = Graph(model)
    assert [node.op_type for node in graph.consumers("s")] == ["If"]
    assert {(place, node.op_type) for place, node in nested_nodes(model)} == {
        ("a subgraph of y", "Add"),
        ("a subgraph of y", "Neg"),
    }
    assert graph.add_constant(np.zeros(1), "q") == "q_2"
    graph.replace([graph.nodes[-1]], helper.make_node("Neg", ["s"], ["y"]))
    assert [node.op_type for node in graph.nodes] == ["Neg", "Neg"]


@pytest.mark.parametrize("used_by", ["graph", "function", "nothing"])
def test_functions(used_by: str) -> None:
    model = parsed()
    model.ir_version = 7
    function = onnx.parser.parse_function('<opset_import: ["": 18], domain: "d"> F (a) => (b) { b = Neg (a) }')
    for _ in range(2):
        add_function(model, function)
    assert len(model.functions) == 1
    assert model.functions[0].opset_import[0].version == 19
    assert model.ir_version == 8
    call = helper.make_node("F", ["x"], ["never"], domain="d")
    if used_by == "graph":
        model.graph.node.add().CopyFrom(call)
    elif used_by == "function":
        other = onnx.parser.parse_function('<opset_import: ["d": 1], domain: "e"> G (x) => (never) { never = d.F (x) }')
        model.functions.append(other)
    remove_function_if_unused(model, "d", "F")
    assert ("F" in [each.name for each in model.functions]) == (used_by != "nothing")
