"""MACs and parameters: against figures reckoned by hand, and against the sum of an operator's output over ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeconv.inspection import ModelReport, inspect_model
from edgeconv.inspection.costs import node_cost
from edgeconv.inspection.shapes import infer_values, known_values
from edgeconv.ops.kervolution import OPERATORS

from .conftest import InspectText, MakeKervolution

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
network (float[1,4,10,7] x) => (float[1,5] y)
<float[6,2,3,2] w1, float[6] b1, float[6] scale, float[6] shift, float[6] mean, float[6] variance,
 float[6,3,2,3] w2, float[5,54] w3, float[5] b3>
{
  a = Conv <group = 2, kernel_shape = [3,2], strides = [2,1], pads = [1,0,1,1], dilations = [1,2]> (x, w1, b1)
  n = BatchNormalization (a, scale, shift, mean, variance)
  r = Relu (n)
  t = ConvTranspose <group = 2, kernel_shape = [2,3], strides = [2,1]> (r, w2)
  p = AveragePool <kernel_shape = [4,3], strides = [3,2]> (t)
  f = Flatten (p)
  y = Gemm <transB = 1> (f, w3, b3)
}
"""


def with_weights(text: str) -> onnx.ModelProto:
    """Parse a model; the typed names after the signature, which carry no value, become initialisers of zeros."""
    model = onnx.parser.parse_model(text)
    for info in model.graph.value_info:
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, dtype), info.name))
    del model.graph.value_info[:]
    return model


def inspect(model: onnx.ModelProto, directory: Path, **options: Any) -> ModelReport:
    onnx.save(model, directory / "model.onnx")
    return inspect_model(directory / "model.onnx", **options)


def test_a_network_by_hand(tmp_path: Path) -> None:
    report = inspect(with_weights(NETWORK), tmp_path)
    rows = {layer.op: layer for layer in report.layers}
    # Conv: H' = (10+2-3)//2+1 = 5, W' = (7+1-3)//1+1 = 6 (the window covers 3 columns); 2 channels a group, 3x2 taps.
    assert rows["Conv"].output_shape == (1, 6, 5, 6)
    assert rows["Conv"].macs == 6 * 5 * 6 * 2 * 3 * 2 == 2160
    assert rows["Conv"].parameters == 6 * 2 * 3 * 2 + 6 == 78
    assert rows["BatchNormalization"].parameters == 4 * 6
    assert rows["BatchNormalization"].macs == 0
    # ConvTranspose: each of 6*5*6 inputs meets 3 filters of a group with 2x3 taps.
    assert rows["ConvTranspose"].output_shape == (1, 6, 10, 8)
    assert rows["ConvTranspose"].macs == 6 * 5 * 6 * 3 * 2 * 3 == 3240
    assert rows["ConvTranspose"].parameters == 6 * 3 * 2 * 3 == 108
    assert rows["Gemm"].macs == 5 * 54
    assert rows["Gemm"].parameters == 5 * 54 + 5
    assert report.macs == 2160 + 3240 + 270
    assert report.parameters == 78 + 24 + 108 + 275
    assert report.weights_bytes == 4 * (78 + 24 + 108 + 275)
    assert report.complete
    assert report.absolute_differences == 0
    assert [layer.name for layer in report.layers] == ["a", "n", "r", "t", "p", "f", "y"]


# An operator over ones, without padding, adds 1·1 for each multiply-accumulate: its output sums to the count.
def count_over_ones(model: onnx.ModelProto) -> int:
    feeds = {
        info.name: np.ones([d.dim_value for d in info.type.tensor_type.shape.dim], np.float32)
        for info in model.graph.input
    }
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return int(np.asarray(session.run(None, feeds)[0]).sum(dtype=np.float64))


def one_node(op: str, shapes: list[list[int]], **attributes: Any) -> onnx.ModelProto:
    names = ["a", "b"][: len(shapes)]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def counted(model: onnx.ModelProto) -> int:
    inferred, notes = infer_values(model)
    assert not notes
    cost = node_cost(model.graph.node[0], known_values(inferred.graph))
    assert cost.complete
    return cost.macs


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_convolutions_count_as_ones_add_up(data: st.DataObject) -> None:
    draw = data.draw
    op = draw(st.sampled_from(["Conv", "ConvTranspose"]))
    group, depth, filters = (draw(st.integers(1, 3)) for _ in range(3))
    kernel = [draw(st.integers(1, 3)) for _ in range(2)]
    dilations = [draw(st.integers(1, 2)) for _ in range(2)]
    size = [d * (k - 1) + 1 + draw(st.integers(0, 4)) for k, d in zip(kernel, dilations, strict=True)]
    x = [draw(st.integers(1, 2)), group * depth, *size]
    w = [group * filters, depth, *kernel] if op == "Conv" else [group * depth, filters, *kernel]
    strides = [draw(st.integers(1, 3)) for _ in range(2)]
    model = one_node(op, [x, w], group=group, kernel_shape=kernel, dilations=dilations, strides=strides)
    assert counted(model) == count_over_ones(model)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_matmul_counts_as_ones_add_up(data: st.DataObject) -> None:
    draw = data.draw
    rows, inner, columns = (draw(st.integers(1, 5)) for _ in range(3))
    batch = draw(st.lists(st.integers(1, 3), max_size=3))
    left = [1 if draw(st.booleans()) else n for n in batch][draw(st.integers(0, len(batch))) :]
    right = list(batch)
    a = draw(st.sampled_from([[inner], [*left, rows, inner]]))
    b = draw(st.sampled_from([[inner], [*right, inner, columns]]))
    model = one_node("MatMul", [a, b])
    assert counted(model) == count_over_ones(model)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm_counts_as_ones_add_up(trans_a: int, trans_b: int) -> None:
    a, b = [3, 7], [7, 5]
    shapes = [a[::-1] if trans_a else a, b[::-1] if trans_b else b]
    model = one_node("Gemm", shapes, transA=trans_a, transB=trans_b)
    assert counted(model) == count_over_ones(model) == 3 * 7 * 5


@pytest.mark.parametrize("name", OPERATORS)
def test_a_kervolution_counts_as_the_convolution_of_its_shape(
    name: str, make_kervolution: MakeKervolution, tmp_path: Path
) -> None:
    # H' = (9+2-3)//2+1 = 5, W' = (7+1-2)//1+1 = 7; 8 filters, 3 channels a group, 3x2 taps.
    operations = 8 * 5 * 7 * 3 * 3 * 2
    differences = name in ("ManhattanKervolution", "ChebyshevKervolution")
    for form in ("functions", "no_functions"):
        report = inspect(make_kervolution(name, form), tmp_path)
        assert (report.macs, report.absolute_differences) == ((0, operations) if differences else (operations, 0))
        assert report.parameters == 8 * 3 * 3 * 2 + 8
        (layer,) = report.layers
        assert (layer.name, layer.op, layer.output_shape) == ("kerv", f"edgeconv::{name}", (1, 8, 5, 7))
        assert report.complete


@pytest.mark.parametrize("name", OPERATORS)
def test_an_inlined_kervolution_keeps_its_shape_and_parameters(
    name: str, make_kervolution: MakeKervolution, tmp_path: Path
) -> None:
    model = make_kervolution(name, "inlined")
    model.graph.output[0].type.tensor_type.ClearField("shape")  # to be inferred from inside the body
    report = inspect(model, tmp_path)
    assert report.outputs[0].shape == (1, 8, 5, 7)
    assert report.parameters == 8 * 3 * 3 * 2 + 8
    product = 0 if name in ("ManhattanKervolution", "ChebyshevKervolution") else 8 * 5 * 7 * 3 * 3 * 2
    # A box sum over each group's patches: of x² for the squared distance, of NaN for the loops over taps.
    box = 0 if name in ("PolynomialKervolution", "SigmoidKervolution") else 2 * 5 * 7 * 3 * 2
    assert report.macs == product + box
    assert report.complete


FUNCTION = """
<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
network (float[2,3,5] x) => (float[2,3,4] y)
<float[5,5] w, float[5,4] v>
{
  a = acme.Twice <bias = 1.0> (x, w)
  y = MatMul (a, v)
}
<domain: "acme", opset_import: ["" : 17]>
Twice <bias> (x, w) => (y)
{
  first = MatMul (x, w)
  constant = Constant <value_float: float = @bias> ()
  moved = Add (first, constant)
  y = MatMul (moved, w)
}
"""


def test_a_function_call_costs_its_body_once(tmp_path: Path) -> None:
    report = inspect(with_weights(FUNCTION), tmp_path)
    call, product = report.layers
    assert (call.op, call.output_shape, call.macs, call.parameters) == ("acme::Twice", (2, 3, 5), 2 * 2 * 3 * 5 * 5, 25)
    assert product.macs == 2 * 3 * 5 * 4
    assert report.macs == call.macs + product.macs
    assert {(count.op_type, count.count) for count in report.operators} == {("Twice", 1), ("MatMul", 1)}
    (custom,) = report.custom_operators
    assert (custom.domain, custom.op_type, custom.count, custom.function, custom.native) == (
        "acme", "Twice", 1, True, False,
    )  # fmt: skip


def test_a_kervolution_inside_another_function_is_found_and_counted(
    make_kervolution: MakeKervolution, tmp_path: Path
) -> None:
    model = make_kervolution("EuclideanKervolution")
    block = helper.make_function(
        "acme", "Block", ["x", "w", "b"], ["y"], [model.graph.node[0]], list(model.opset_import)
    )
    model.functions.append(block)
    model.opset_import.append(helper.make_opsetid("acme", 1))
    model.graph.node[0].CopyFrom(helper.make_node("Block", ["x", "w", "b"], ["h"], domain="acme"))
    model.graph.node.append(helper.make_node("Relu", ["h"], ["y"]))
    report = inspect(model, tmp_path)
    assert report.macs == 8 * 5 * 7 * 3 * 3 * 2
    assert report.layers[0].output_shape == (1, 8, 5, 7)
    assert {(c.op_type, c.count, c.function) for c in report.custom_operators} == {
        ("Block", 1, True), ("EuclideanKervolution", 1, True),
    }  # fmt: skip


def test_a_shared_tensor_is_one_set_of_parameters(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[2,3] x) => (float[2,3] y) <float[3,3] w>
    { a = MatMul (x, w)  y = MatMul (a, w) }"""
    report = inspect(with_weights(text), tmp_path)
    assert [layer.parameters for layer in report.layers] == [9, 0]
    assert report.parameters == 9
    assert report.macs == 2 * 2 * 3 * 3


def test_quantised_weights_are_parameters_and_their_scales_are_not(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,6,5] x) => (float[1,4,6,5] y)
    <float s, uint8 z, int8[4,3,1,1] w, float[4] ws, int8[4] wz, int32[4] b, float[4] bs>
    { q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)
      wd = DequantizeLinear <axis = 0> (w, ws, wz)  bd = DequantizeLinear <axis = 0> (b, bs)
      y = Conv (d, wd, bd) }"""
    report = inspect(with_weights(text), tmp_path)
    assert report.parameters == 12 + 4
    assert {layer.op: layer.parameters for layer in report.layers}["Conv"] == 16
    assert report.macs == 4 * 6 * 5 * 3
    assert report.weights_bytes == 4 + 1 + 12 + 16 + 4 + 16 + 16


def test_integer_operators_count_as_their_float_forms(inspect_text: InspectText) -> None:
    report = inspect_text("""<ir_version: 8, opset_import: ["" : 17]> g (uint8[1,3,6,5] x) => (int32[1,2,6,5] y)
    <uint8[2,3,1,1] w = {1,2,3,4,5,6}> { y = ConvInteger (x, w) }""")
    assert (report.macs, report.parameters) == (2 * 6 * 5 * 3, 6)


def test_small_constants_are_no_parameters_but_constant_weights_are(inspect_text: InspectText) -> None:
    report = inspect_text("""<ir_version: 8, opset_import: ["" : 17]> g (float[2,3] x) => (float[3,2] y)
    { low = Constant <value = float {0.0}> ()  high = Constant <value = float {6.0}> ()
      target = Constant <value = int64[2] {3, 2}> ()
      w = Constant <value = float[3,3] {1,2,3,4,5,6,7,8,9}> ()
      c = Clip (x, low, high)  m = MatMul (c, w)  y = Reshape (m, target) }""")
    assert report.parameters == 9
    assert {layer.op: layer.parameters for layer in report.layers}["MatMul"] == 9


def test_the_costlier_branch_of_an_if_counts(inspect_text: InspectText) -> None:
    report = inspect_text("""<ir_version: 8, opset_import: ["" : 17]> g (bool c, float[2,3] x) => (float[2,3] y)
    <float[3,3] w = {1,2,3,4,5,6,7,8,9}> {
      y = If (c) <then_branch = t () => (float[2,3] u) { v = MatMul (x, w)  u = MatMul (v, w) },
                  else_branch = e () => (float[2,3] o) { o = MatMul (x, w) }> }""")
    (layer,) = report.layers
    assert (layer.macs, layer.parameters, layer.complete) == (2 * 2 * 3 * 3, 9, True)


def test_a_loop_counts_one_pass_and_says_so(inspect_text: InspectText) -> None:
    report = inspect_text("""<ir_version: 8, opset_import: ["" : 17]> g (int64 n, float[3,3] x) => (float[3,3] y)
    <bool go = {1}> {
      y = Loop (n, go, x) <body = b (int64 i, bool c, float[3,3] s) => (bool d, float[3,3] u)
                           { d = Identity (c)  u = MatMul (s, s) }> }""")
    assert (report.macs, report.complete) == (27, False)
    assert any("Loop" in note for note in report.notes)


def test_what_is_not_counted_is_said(inspect_text: InspectText) -> None:
    report = inspect_text("""<ir_version: 8, opset_import: ["" : 17]> g (float[2,3] x) => (float[2,2] y)
    { y = Einsum <equation = "ij,kj->ik"> (x, x) }""")
    assert (report.macs, report.complete) == (0, False)
    assert any("Einsum" in note for note in report.notes)


def test_what_follows_from_constants_alone_costs_nothing(inspect_text: InspectText) -> None:
    report = inspect_text("""<ir_version: 8, opset_import: ["" : 17]> g (float[2,3] x) => (float[2,3] y)
    <float[3,3] w = {1,2,3,4,5,6,7,8,9}> { square = MatMul (w, w)  y = MatMul (x, square) }""")
    assert [layer.macs for layer in report.layers] == [0, 2 * 3 * 3]
    assert [layer.parameters for layer in report.layers] == [0, 9]


def test_every_rank_of_convolution(inspect_text: InspectText) -> None:
    report = inspect_text("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[2,3,9] x, float[4,3,5] w) => (float[2,4,7] y) { y = Conv <pads = [1,1]> (x, w) }""")
    assert report.macs == math.prod((2, 4, 7, 3, 5))
    assert report.parameters == 0
