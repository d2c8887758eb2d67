"""The 8-bit Manhattan kervolution in a report: its operations, parameters and bytes, and where it runs."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from qdq_models import ONE_LAYER, build, fuse, values

from edgeconv.inspection import ModelReport, inspect_model
from edgeconv.inspection.runtimes import FUNCTION, NATIVE, NO_LOAD, STANDARD

from .conftest import InspectText, MakeQuantized
from .test_inspect_model import text_of
from .test_runtimes import LOADERS, ROWS, check_promise, paths

FUSED = "edgeconv::QLinearManhattanKervolution"
# H' = (9+2-3)//2+1 = 5, W' = (7+1-2)//1+1 = 7; 8 filters, 3 channels a group, 3x2 taps.
DIFFERENCES = 8 * 5 * 7 * 3 * 3 * 2
WEIGHTS = 8 * 3 * 3 * 2


def inspect(model: onnx.ModelProto, directory: Path) -> ModelReport:
    onnx.save(model, directory / "model.onnx")
    return inspect_model(directory / "model.onnx")


@pytest.mark.parametrize("form", ["functions", "no_functions"])
def test_what_it_counts_and_holds(form: str, make_quantized: MakeQuantized, tmp_path: Path) -> None:
    report = inspect(make_quantized(form), tmp_path)
    assert (report.macs, report.absolute_differences, report.operations_8bit) == (0, DIFFERENCES, DIFFERENCES)
    assert report.complete
    (layer,) = report.layers
    assert (layer.name, layer.op, layer.dtype, layer.output_shape) == ("kerv", FUSED, "uint8", (1, 8, 5, 7))
    assert (layer.parameters, layer.operand_type, layer.precision) == (WEIGHTS + 8, "int8", None)
    assert report.parameters == WEIGHTS + 8  # scales and zero-points are none
    stored = {"weights": WEIGHTS, "bias": 4 * 8, "scales": 4 * (8 + 2), "zero-points": 8 + 2}
    function = sum(tensor_bytes for tensor_bytes in function_bytes(make_quantized(form)))
    assert report.weights_bytes == sum(stored.values()) + function


def function_bytes(model: onnx.ModelProto) -> list[int]:
    """Bytes of the constants in a file's functions, their loops' bodies included."""

    def of_nodes(nodes: list[onnx.NodeProto]) -> list[int]:
        found = []
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    found.append(numpy_helper.to_array(attribute.t).nbytes)
                found += of_nodes(list(attribute.g.node))
        return found

    return [size for function in model.functions for size in of_nodes(list(function.node))]


def test_json_and_tables(make_quantized: MakeQuantized, tmp_path: Path) -> None:
    report = inspect(make_quantized(), tmp_path)
    data = json.loads(json.dumps(report.to_dict()))
    assert data["operations_8bit"] == data["absolute_differences"] == DIFFERENCES
    assert data["layers"][0]["operand_type"] == "int8"
    assert data["custom_operators"] == [
        {"domain": "edgeconv", "op_type": FUSED[10:], "count": 1, "function": True, "native": True}
    ]
    assert data["kervolution_precisions"] == {}
    text = text_of(report)
    for shown in (FUSED, "5.04 k abs. differences in 8 bits", "152", "[1, 8, 5, 7]", "uint8 [batch, 6, 9, 7]"):
        assert shown in text
    for row in data["runtimes"]:
        assert row["runtime"] in text


def test_shapes_and_parameters_of_the_inlined_form(make_quantized: MakeQuantized, tmp_path: Path) -> None:
    model = make_quantized("inlined")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    report = inspect(model, tmp_path)
    assert (report.outputs[0].dtype, report.outputs[0].shape) == ("uint8", (1, 8, 5, 7))
    assert report.parameters == WEIGHTS + 8
    assert (report.absolute_differences, report.operations_8bit, report.complete) == (0, 0, True)


def test_a_call_inside_another_function_counts(make_quantized: MakeQuantized, tmp_path: Path) -> None:
    model = make_quantized()
    inputs = list(model.graph.node[0].input)
    body = helper.make_function("acme", "Block", inputs, ["y"], [model.graph.node[0]], list(model.opset_import))
    model.functions.append(body)
    model.opset_import.append(helper.make_opsetid("acme", 1))
    model.graph.node[0].CopyFrom(helper.make_node("Block", inputs, ["y"], domain="acme"))
    report = inspect(model, tmp_path)
    assert report.absolute_differences == DIFFERENCES
    assert report.layers[0].output_shape == (1, 8, 5, 7)
    assert {custom.op_type for custom in report.custom_operators if custom.native} == {FUSED[10:]}


def test_before_and_after_the_rewrite(tmp_path: Path) -> None:
    """Fusing changes where the operations are done, not how many; parameters and bytes stay."""
    before = build(ONE_LAYER, values())
    after, _ = fuse(before, 1)
    (one, two) = (inspect(model, tmp_path) for model in (before, after))
    assert one.absolute_differences == two.absolute_differences == two.operations_8bit > 0
    assert one.operations_8bit == 0
    assert one.parameters == two.parameters == values()["W"].size + values()["B"].size
    assert {layer.op: layer.operand_type for layer in one.layers if layer.operand_type} == {
        "edgeconv::ManhattanKervolution": "float"
    }


def test_operand_types_of_standard_operators(inspect_text: InspectText) -> None:
    report = inspect_text("""<ir_version: 8, opset_import: ["" : 17]>
    g (uint8[1,3,6,5] x, float[2,3] a) => (int32[1,2,6,5] y, float[2,2] b, float[2,3] c)
    <uint8[2,3,1,1] w = {1,2,3,4,5,6}, float[3,2] v = {1,2,3,4,5,6}>
    { y = ConvInteger (x, w)  b = MatMul (a, v)  c = Relu (a) }""")
    assert [layer.operand_type for layer in report.layers] == ["uint8", "float", None]
    assert (report.macs, report.operations_8bit) == (2 * 6 * 5 * 3 + 2 * 3 * 2, 2 * 6 * 5 * 3)
    text = text_of(report)
    assert "192 MACs, 180 of them in 8 bits" in text
    assert "180 MACs in 8 bits" in text
    assert "int32 [1, 2, 6, 5]" in text.split("Layers")[1]  # types differ among the layers shown


FORMS = {
    ("functions", "uint8", 0): (NATIVE, FUNCTION, FUNCTION, NATIVE, NO_LOAD, NO_LOAD, NO_LOAD, NO_LOAD),
    ("unstrided", "uint8", 0): (NATIVE, FUNCTION, FUNCTION, NATIVE, NO_LOAD, NO_LOAD, NO_LOAD, NO_LOAD),
    ("unstrided", "int8", 3): (NATIVE, FUNCTION, FUNCTION, NATIVE, NO_LOAD, NO_LOAD, NO_LOAD, NO_LOAD),
    ("unstrided", "int8", 0): (NATIVE, FUNCTION, FUNCTION, NATIVE, FUNCTION, FUNCTION, FUNCTION, NO_LOAD),
    ("functions", "int8", 0): (NATIVE, FUNCTION, FUNCTION, NATIVE, NO_LOAD, NO_LOAD, NO_LOAD, NO_LOAD),
    ("no_functions", "uint8", 0): (NATIVE, NO_LOAD, NO_LOAD, NATIVE, NO_LOAD, NATIVE, NO_LOAD, NO_LOAD),
    ("inlined", "int8", 0): (STANDARD,) * 8,
}


@pytest.mark.parametrize(("form", "dtype", "zero_point"), FORMS)
def test_paths(form: str, dtype: str, zero_point: int, make_quantized: MakeQuantized) -> None:
    model = make_quantized(form, dtype=dtype, zero_point=zero_point)
    found = paths(model)
    assert {name: path for name, (path, _, _) in found.items()} == dict(
        zip(ROWS, FORMS[form, dtype, zero_point], strict=True)
    )
    for path, reason, remedy in found.values():
        assert remedy or path != NO_LOAD, reason


@pytest.mark.parametrize(("form", "dtype", "zero_point"), [each for each in FORMS if each[0] != "no_functions"])
@pytest.mark.parametrize("runtime", [name for name in LOADERS if "op library" not in name])
def test_the_runtime_agrees(
    runtime: str, form: str, dtype: str, zero_point: int, make_quantized: MakeQuantized, tmp_path: Path
) -> None:
    if runtime in ("OpenVINO", "TensorRT-RTX") and platform.machine() != "x86_64":
        pytest.skip("its wheels are for x86-64")
    check_promise(runtime, make_quantized(form, dtype=dtype, zero_point=zero_point), dtype, tmp_path)


@pytest.mark.parametrize("opset", [18, 19])
def test_the_reference_evaluator_dequantises_from_opset_19_on(
    opset: int, make_quantized: MakeQuantized, tmp_path: Path
) -> None:
    runtime = "ONNX reference evaluator"
    model = make_quantized(opset=opset)
    path, _, remedy = paths(model)[runtime]
    assert (path, "opset 19" in remedy) == ((NO_LOAD, True) if opset == 18 else (FUNCTION, False))
    check_promise(runtime, model, "uint8", tmp_path)


def test_remedies_do_not_send_back_to_the_float_file(make_quantized: MakeQuantized) -> None:
    """An exported file that a rewrite fused has the metadata of its export; exporting again would give a float file."""
    full, bare = paths(make_quantized(exported=True)), paths(make_quantized("no_functions", exported=True))
    assert full["OpenVINO"][2] == "inline the functions (onnx.inliner.inline_local_functions)"
    assert "symmetrically" in full["TensorRT-RTX"][2]
    for runtime in ("ONNX reference evaluator", "OpenVINO", "TensorRT-RTX"):
        assert "with_function=True" in bare[runtime][2], runtime
    strided = paths(make_quantized(dtype="int8", zero_point=0, exported=True))
    assert "onnx.inliner" in strided["TensorRT-RTX"][2]


def test_zero_points_for_each_filter_count(make_quantized: MakeQuantized) -> None:
    model = make_quantized("unstrided", dtype="int8", zero_point=0)
    assert paths(model)["TensorRT-RTX"][0] == FUNCTION
    (points,) = (tensor for tensor in model.graph.initializer if tensor.name == "w_zero_point")
    points.CopyFrom(numpy_helper.from_array(np.int8([0] * 7 + [1]), points.name))
    path, reason, _ = paths(model)["TensorRT-RTX"]
    assert path == NO_LOAD
    assert FUSED in reason
