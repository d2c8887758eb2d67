"""`DeconvWhitening` in a file: its name, its cost, and which runtime takes which path, with the runtimes' verdict."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from onnx.inliner import inline_local_functions
from whitening_cases import CASES, Case
from whitening_oracle import samples

from edgeconv.inspection import ModelReport, inspect_model
from edgeconv.inspection.runtimes import FUNCTION, NATIVE, NO_LOAD, STANDARD
from edgeconv.ops.deconv_whitening import NAME
from edgeconv.ops.deconv_whitening_function import FUNCTION as BODY
from edgeconv.ops.kervolution import DOMAIN, PLUGIN_ATTRIBUTES, VERSION

FORMS = {
    "functions": (NATIVE, FUNCTION, FUNCTION, NATIVE, FUNCTION, FUNCTION, FUNCTION, NO_LOAD),
    "nodes": (NATIVE, NO_LOAD, NO_LOAD, NATIVE, NO_LOAD, NATIVE, NO_LOAD, NO_LOAD),
    "inlined": (STANDARD,) * 8,
}
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
STRIDED = next(case for case in CASES if case.name == "dilation")


def model_of(case: Case, form: str = "functions", **more: Any) -> onnx.ModelProto:
    given = case.attributes | PLUGIN_ATTRIBUTES | more
    graph = helper.make_graph(
        [helper.make_node(NAME, ["x"], ["mean", "deconv"], name="whiten", domain=DOMAIN, **given)],
        "whitening",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [case.batch, case.channels, *case.size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("mean", "deconv")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=[BODY] if form != "nodes" else [])
    return inline_local_functions(model) if form == "inlined" else model


def inspect(model: onnx.ModelProto, directory: Path) -> ModelReport:
    onnx.save(model, directory / "whitening.onnx")
    return inspect_model(directory / "whitening.onnx")


def covariance_macs(case: Case) -> int:
    return sum(len(group) for group in samples(case.input(), case.attributes)) * case.features**2


@cases
@pytest.mark.parametrize("form", ["functions", "nodes"])
def test_cost(case: Case, form: str, tmp_path: Path) -> None:
    steps = max(0, case.attributes["n_iter"] - 1)
    products = 3 * steps * case.features**3 * case.attributes["group"]
    report = inspect(model_of(case, form), tmp_path)
    assert report.macs == covariance_macs(case) + products
    assert report.complete
    assert (report.parameters, report.absolute_differences, report.operations_8bit) == (0, 0, 0)
    (layer,) = report.layers
    assert (layer.name, layer.op, layer.operand_type) == ("whiten", f"edgeconv::{NAME}", "float")
    assert layer.output_shape == (case.attributes["group"], case.features)
    assert [output.shape for output in report.outputs] == [layer.output_shape, (*layer.output_shape, case.features)]
    assert report.kervolution_precisions == {}
    (custom,) = report.custom_operators
    assert (custom.op_type, custom.count, custom.native, custom.function) == (NAME, 1, True, form == "functions")


@cases
def test_cost_inlined(case: Case, tmp_path: Path) -> None:
    """The mean is a product there, and the loop of the steps is said not to be counted."""
    report = inspect(model_of(case, "inlined"), tmp_path)
    covariance = covariance_macs(case)
    assert report.macs == covariance + covariance // case.features
    assert not report.complete
    assert any("Loop" in note for note in report.notes)
    assert report.parameters == 0
    group = case.attributes["group"]
    assert [output.shape for output in report.outputs] == [
        (group, case.features), (group, case.features, case.features)
    ]  # fmt: skip


def test_float16_inputs_are_multiplied_in_float32(tmp_path: Path) -> None:
    model = model_of(CASES[0])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    assert inspect(model, tmp_path).layers[0].operand_type == "float"


@pytest.mark.parametrize(
    "more", [{"block": 3}, {"kernel_shape": [9]}, {"strides": [0, 1]}, {"dilations": [9, 9]}], ids=str
)
def test_a_node_that_breaks_its_contract(more: dict[str, Any], tmp_path: Path) -> None:
    report = inspect(model_of(CASES[0], "nodes", **more), tmp_path)
    (attribute,) = more
    assert any("whiten" in note and attribute.rstrip("s") in note for note in report.notes)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_the_file(form: str, tmp_path: Path) -> None:
    report = inspect(model_of(STRIDED, form), tmp_path)
    assert tuple(row.path for row in report.runtimes) == FORMS[form]
    for row in report.runtimes:
        assert row.remedy or row.path != NO_LOAD, row


@pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorRT-RTX is tested on x86-64 only")
@cases
@pytest.mark.parametrize("form", ["functions", "inlined"])
def test_tensorrt_reads_every_attribute(case: Case, form: str) -> None:
    """Strides, pads, dilations and sampling are in the number of samples, which its parser must know."""
    import tensorrt_rtx_bindings.tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    network = trt.Builder(logger).create_network()
    assert trt.OnnxParser(network, logger).parse(model_of(case, form).SerializeToString())
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    products = [layer for layer in layers if layer.type == trt.LayerType.MATRIX_MULTIPLY]
    group, count = case.attributes["group"], len(samples(case.input(), case.attributes)[0])
    assert tuple(products[0].get_input(0).shape) == (group, case.features, count)
    assert [tuple(network.get_output(i).shape) for i in range(2)] == [
        (group, case.features), (group, case.features, case.features)
    ]  # fmt: skip
