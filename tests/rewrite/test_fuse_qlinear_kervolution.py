"""Quantised kervolutions on x·w become 8-bit operators: results, layouts, what is left and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from edgeconv.export.forms import apply_form
from edgeconv.fusion.passes import fuse_graph
from edgeconv.fusion.steps import StepCounter
from edgeconv.rewrite import fuse_qlinear_kervolution

PARAMETERS = {"Polynomial": ["p"], "Gaussian": ["g"], "Sigmoid": ["q", "p"], "Euclidean": []}


def qdq_model(kernel: str, bias: str = "b", attributes: str = "pads = [1, 1, 1, 1]") -> onnx.ModelProto:
    """A kervolution, a 1x1 convolution behind it, and its float function body."""
    generator = np.random.default_rng(3)
    parameters = "".join(f", {name}" for name in PARAMETERS[kernel])
    last = f", {bias}" if bias else ""
    node = f"edgeconv.{kernel}Kervolution <{attributes}> (a, wa{parameters}{last})"
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 18, "edgeconv" : 1]>
        g (float[2, 6, 11, 9] x) => (float[2, 5, H, W] y) {{
            xq = QuantizeLinear (x, xs, xz)
            a = DequantizeLinear (xq, xs, xz)
            wa = DequantizeLinear <axis = 0> (w_q, w_s, w_z)
            bd = DequantizeLinear (b_q, bs, bz)
            [first] c = {node}
            cq = QuantizeLinear (c, cs, cz)
            d = DequantizeLinear (cq, cs, cz)
            va = DequantizeLinear <axis = 0> (v_q, v_s, v_z)
            [second] e = Conv (d, va)
            eq = QuantizeLinear (e, es, ez)
            y = DequantizeLinear (eq, es, ez)
        }}""")
    distance = kernel in ("Gaussian", "Euclidean")
    arrays: dict[str, Any] = {
        "xs": np.float32(0.02), "xz": np.uint8(120), "p": np.float32(0.4), "g": np.float32(0.01), "q": np.float32(1.5),
        "b": generator.uniform(-0.1, 0.1, 20).astype(np.float32), "bs": np.float32(0.01), "bz": np.uint8(128),
        "b_q": generator.integers(118, 138, 20).astype(np.uint8),
        "cs": np.float32({"Euclidean": 0.8, "Polynomial": 0.02}.get(kernel, 0.008)),
        "cz": np.uint8(255 if kernel == "Euclidean" else 12 if distance else 128),
        "es": np.float32({"Euclidean": 2.0, "Polynomial": 0.02}.get(kernel, 0.008)), "ez": np.uint8(110),
        "w_q": generator.integers(-127, 128, (20, 6, 3, 3)).astype(np.int8), "w_z": np.zeros(20, np.int8),
        "w_s": generator.uniform(0.001, 0.003, 20).astype(np.float32),
        "v_q": generator.integers(-127, 128, (5, 20, 1, 1)).astype(np.int8), "v_z": np.zeros(5, np.int8),
        "v_s": generator.uniform(0.001, 0.003, 5).astype(np.float32),
    }  # fmt: skip
    used = {name for each in model.graph.node for name in each.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items() if name in used
    )
    if bias != "bd":
        model.graph.node.remove(next(each for each in model.graph.node if each.output[0] == "bd"))
        for name in ("b_q", "bs", "bz"):
            model.graph.initializer.remove(next(each for each in model.graph.initializer if each.name == name))
    return apply_form(model, "functions")


def run(model: onnx.ModelProto, x: Any) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


@pytest.mark.parametrize("bias", ["b", "bd", ""])
@pytest.mark.parametrize("kernel", PARAMETERS)
def test_rewrites(kernel: str, bias: str) -> None:
    """The file gives the same by function bodies, and kernels give what these do but for a step here and there."""
    before = qdq_model(kernel, bias)
    kept = before.SerializeToString(deterministic=True)
    alone, report = fuse_qlinear_kervolution(before)
    assert before.SerializeToString(deterministic=True) == kept
    assert [(each.node, each.operator) for each in report.rewritten] == [("first", f"QLinear{kernel}Kervolution")]
    assert not report.left
    assert [function.name for function in alone.functions] == [f"QLinear{kernel}Kervolution"]
    x = np.random.default_rng(1).uniform(-2.4, 2.6, (2, 6, 11, 9)).astype(np.float32)
    expected = run(before, x)
    assert len(np.unique(expected)) > 30
    np.testing.assert_array_equal(run(alone, x), expected)

    fused, operators, left = fuse_graph(before)
    onnx.checker.check_model(fused, full_check=True)
    assert [node.op_type for node in fused.graph.node] == [
        "QuantizeLinear", f"QLinear{kernel}Kervolution", "QLinearConvolution", "DequantizeLinear",
    ]  # fmt: skip
    orders = [{each.name: list(each.ints) for each in node.attribute} for node in fused.graph.node[1:3]]
    assert [orders[0]["y_perm"], orders[1]["x_perm"]] == [[0, 2, 3, 1], [0, 3, 1, 2]]
    assert not left
    counter = StepCounter(fused, {each.node for each in operators})
    counter.add({"x": x})
    for steps in counter.found.values():
        assert steps.largest <= 1
        assert steps.different < steps.elements / 50


def test_degree() -> None:
    given = 'pads = [1, 1, 1, 1], degree = 2, strides = [2, 1], precision = "bf16x3"'
    before = qdq_model("Polynomial", attributes=given)
    after, report = fuse_qlinear_kervolution(before)
    assert report.rewritten
    (node,) = (each for each in after.graph.node if each.domain == "edgeconv")
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    assert attributes["degree"] == 2
    assert attributes["strides"] == [2, 1]
    assert "precision" not in attributes


def change(model: onnx.ModelProto, name: str, value: Any) -> onnx.ModelProto:
    (tensor,) = (each for each in model.graph.initializer if each.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))
    return model


def test_leaves() -> None:
    """Each with its reason, and the file as it was."""
    grouped = change(qdq_model("Sigmoid", attributes="pads = [1, 1, 1, 1], group = 2"), "w_q",
                     np.ones((20, 3, 3, 3), np.int8))  # fmt: skip
    shifted = change(qdq_model("Euclidean"), "w_z", np.ones(20, np.int8))
    mixed = change(change(qdq_model("Gaussian"), "cz", np.int8(0)), "ez", np.int8(0))
    wide = qdq_model("Euclidean")
    del wide.graph.input[0].type.tensor_type.shape.dim[:]
    wide = change(wide, "w_q", np.ones((20, 33_030, 1, 1), np.int8))
    floats = qdq_model("Polynomial")
    next(node for node in floats.graph.node if node.name == "first").input[0] = "x"
    output = qdq_model("Sigmoid")
    output.graph.output.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, None))
    for model, reason in (
        (grouped, "it has 2 groups; the operator takes one"),
        (shifted, "its weights are not int8 with zero-points of 0"),
        (mixed, "its input is uint8, its output int8; they must be the same"),
        (wide, "its sums of squares may not fit into 32 bits"),
        (floats, "its input does not come from DequantizeLinear"),
        (output, "its float result is an output of the graph"),
    ):
        after, report = fuse_qlinear_kervolution(model)
        assert [each.reason for each in report.left] == [reason]
        assert not report.rewritten
        assert after == model


@pytest.mark.parametrize("kernel", PARAMETERS)
def test_float_weights(kernel: str) -> None:
    """They are rounded when asked for: by half a step of their filter at most, 0 and the largest exactly."""
    before = qdq_model(kernel)
    real = np.random.default_rng(8).standard_normal((20, 6, 3, 3)).astype(np.float32) * np.float32(0.03)
    real[3] = 0
    before.graph.initializer.append(numpy_helper.from_array(real, "real"))
    next(node for node in before.graph.node if node.name == "first").input[1] = "real"
    left, report = fuse_qlinear_kervolution(before)
    assert [each.reason for each in report.left] == ["its weights are not quantised constants"]
    assert left == before
    after, report = fuse_qlinear_kervolution(before, quantize_weights=True)
    assert len(report.rewritten) == 1
    (node,) = (each for each in after.graph.node if each.domain == "edgeconv")
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in after.graph.initializer}
    steps, scale = found[node.input[3]], found[node.input[4]][:, None, None, None]
    assert steps.dtype == np.int8
    assert np.abs(steps * scale - real).max() <= scale.max() / 2 * 1.001
    assert not steps[3].any()
    assert (np.abs(np.delete(steps, 3, 0)).reshape(19, -1).max(1) == 127).all()
    x = np.random.default_rng(1).uniform(-2.4, 2.6, (2, 6, 11, 9)).astype(np.float32)
    expected, actual = run(before, x), run(after, x)
    assert np.abs(actual - expected).mean() < 0.1 * expected.std()
    same, report = fuse_qlinear_kervolution(before, quantize_weights=True, only=["other"])
    assert same == before
    assert not report.rewritten
    assert not report.left
    real[0, 0, 0, 0] = np.nan
    change(before, "real", real)
    assert "not finite" in fuse_qlinear_kervolution(before, quantize_weights=True)[1].left[0].reason
