"""Paths by the form of the file; and the same verdicts from the runtimes themselves, where they are installed."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from edgeconv.inspection import inspect_model
from edgeconv.inspection.runtimes import FUNCTION, NATIVE, NO_LOAD, NOT_KNOWN, STANDARD, find_usage, runtime_paths

from .conftest import InspectText, MakeKervolution

ROWS = (
    "ONNX Runtime, edgeconv op library",
    "ONNX Runtime, no op library",
    "ONNX reference evaluator",
    "TensorRT >= 10.7, edgeconv plugin",
    "TensorRT >= 10.7, no plugin",
    "TensorRT < 10.7 (JetPack 6.1, 6.2)",
    "TensorRT-RTX",
    "OpenVINO",
)
FORMS = {
    "functions": (NATIVE, FUNCTION, FUNCTION, NATIVE, NO_LOAD, NO_LOAD, NO_LOAD, NO_LOAD),
    "unstrided": (NATIVE, FUNCTION, FUNCTION, NATIVE, FUNCTION, FUNCTION, FUNCTION, NO_LOAD),
    "no_functions": (NATIVE, NO_LOAD, NO_LOAD, NATIVE, NO_LOAD, NATIVE, NO_LOAD, NO_LOAD),
    "inlined": (STANDARD,) * 8,
}


def paths(model: onnx.ModelProto) -> dict[str, tuple[str, str, str]]:
    return {row.runtime: (row.path, row.reason, row.remedy) for row in runtime_paths(find_usage(model))}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_the_file(form: str, make_kervolution: MakeKervolution, tmp_path: Path) -> None:
    onnx.save(make_kervolution(form=form), tmp_path / "k.onnx")
    report = inspect_model(tmp_path / "k.onnx")
    assert {row.runtime: row.path for row in report.runtimes} == dict(zip(ROWS, FORMS[form], strict=True))
    for row in report.runtimes:
        assert row.remedy or row.path != NO_LOAD, row


def test_operators_without_cuda_kernels_are_named(make_kervolution: MakeKervolution) -> None:
    usage = find_usage(make_kervolution())
    everywhere = runtime_paths(usage)[0]
    assert everywhere.reason.endswith("on GPUs too, if the library is built with CUDA")
    (path,) = (row for row in runtime_paths(replace(usage, native=usage.native | {"edgeconv::NoKernel"}))[:1])
    assert path.path == NATIVE
    assert path.reason.endswith("on the CPU only: edgeconv::NoKernel")


def test_remedies_name_the_option_that_helps(make_kervolution: MakeKervolution) -> None:
    full, bare = paths(make_kervolution()), paths(make_kervolution(form="no_functions"))
    assert "--inline" in full["OpenVINO"][2]
    unstrided = paths(make_kervolution(form="unstrided"))
    assert "--no-functions" in unstrided["TensorRT < 10.7 (JetPack 6.1, 6.2)"][2]
    for runtime in ("TensorRT >= 10.7, no plugin", "TensorRT < 10.7 (JetPack 6.1, 6.2)", "TensorRT-RTX"):
        assert "--inline" in full[runtime][2], runtime
    assert "register_custom_ops_library" in bare["ONNX Runtime, no op library"][2]
    assert "without --no-functions" in bare["ONNX reference evaluator"][2]
    for runtime in ("TensorRT >= 10.7, no plugin", "TensorRT-RTX", "OpenVINO"):
        assert "--inline" in bare[runtime][2], runtime
    foreign = paths(make_kervolution(exported=False))
    assert "onnx.inliner" in foreign["OpenVINO"][2]  # edgeconv export has no checkpoint to inline it from


def test_without_the_plugin_attributes_the_plugin_is_not_promised(make_kervolution: MakeKervolution) -> None:
    path, reason, _ = paths(make_kervolution(form="unstrided", attributes=False))["TensorRT >= 10.7, edgeconv plugin"]
    assert path == FUNCTION
    assert "plugin_namespace" in reason
    path, _, remedy = paths(make_kervolution(form="no_functions", attributes=False))[
        "TensorRT >= 10.7, edgeconv plugin"
    ]
    assert path == NO_LOAD
    assert "attributes" in remedy


def test_another_domains_function(make_kervolution: MakeKervolution) -> None:
    model = onnx.parser.parse_model(FOREIGN)
    assert [found[0] for found in paths(model).values()] == [FUNCTION] * 7 + [NO_LOAD]
    del model.functions[:]
    found = paths(model)
    assert {path for path, _, _ in found.values()} == {NO_LOAD}
    assert "acme::Negate" in found["OpenVINO"][1]


def with_a_missing_operator(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add an operator that nothing defines to the body of the first function."""
    secret = helper.make_opsetid("acme", 1)
    model.functions[0].node.append(helper.make_node("Secret", ["X"], ["unused"], domain="acme"))
    model.functions[0].opset_import.append(secret)
    model.opset_import.append(secret)
    return model


def test_an_operator_missing_inside_a_body_is_seen(make_kervolution: MakeKervolution) -> None:
    model = with_a_missing_operator(make_kervolution())
    found = paths(model)
    for runtime in ("ONNX Runtime, no op library", "ONNX reference evaluator", "TensorRT >= 10.7, no plugin"):
        assert found[runtime][0] == NO_LOAD
        assert "acme::Secret" in found[runtime][1]
    assert found["ONNX Runtime, edgeconv op library"][0] == NATIVE  # it never looks into the function


def test_onnx_runtimes_own_operators(inspect_text: InspectText) -> None:
    report = inspect_text("""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[2,3] x) => (float[2,3] y) { y = com.microsoft.Gelu (x) }""")
    assert [row.path for row in report.runtimes] == [STANDARD] * 2 + [NOT_KNOWN] * 6
    assert not report.complete


FOREIGN = """
<ir_version: 8, opset_import: ["" : 18, "acme" : 1]>
g (float[batch,6,9,7] x) => (float[batch,6,9,7] y) { y = acme.Negate (x) }
<domain: "acme", opset_import: ["" : 18]>
Negate (a) => (b) { r = Relu (a)  b = Neg (r) }
"""

# Each program loads the file in argv[1] in one runtime, and runs it on inputs of the type in argv[2] or builds it; it
# ends with 0 if that works.
LOADERS = {
    "ONNX Runtime, edgeconv op library": """
import edgeconv, numpy, onnxruntime, sys
options = onnxruntime.SessionOptions()
options.register_custom_ops_library(edgeconv.op_library())
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, {"x": numpy.ones((2, 6, 9, 7), sys.argv[2])})
""",
    "ONNX Runtime, no op library": """
import numpy, onnxruntime, sys
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, {"x": numpy.ones((2, 6, 9, 7), sys.argv[2])})
""",
    "ONNX reference evaluator": """
import numpy, onnx, onnx.reference, sys
onnx.reference.ReferenceEvaluator(sys.argv[1]).run(None, {"x": numpy.ones((2, 6, 9, 7), sys.argv[2])})
""",
    "OpenVINO": """
import numpy, openvino, sys
core = openvino.Core()
core.compile_model(core.read_model(sys.argv[1]), "CPU")(numpy.ones((2, 6, 9, 7), sys.argv[2]))
""",
    "TensorRT-RTX": """
import sys, tensorrt_rtx_bindings as trt
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network()
parser = trt.OnnxParser(network, logger)
sys.exit(0 if parser.parse_from_file(sys.argv[1]) else 1)
""",
}


@pytest.mark.parametrize("form", [*FORMS, "foreign", "missing"])
@pytest.mark.parametrize("runtime", LOADERS)
def test_the_runtime_agrees(runtime: str, form: str, make_kervolution: MakeKervolution, tmp_path: Path) -> None:
    if runtime in ("OpenVINO", "TensorRT-RTX") and platform.machine() != "x86_64":
        pytest.skip("its wheels are for x86-64")
    model = onnx.parser.parse_model(FOREIGN)
    if form == "missing":
        model = with_a_missing_operator(make_kervolution())
    elif form != "foreign":
        model = make_kervolution(form=form)
    check_promise(runtime, model, "float32", tmp_path)


def check_promise(runtime: str, model: onnx.ModelProto, dtype: str, directory: Path) -> None:
    """Load a file in a runtime, and see that it works where the report says so, and only there."""
    onnx.save(model, directory / "k.onnx")
    # A process of its own: a parser may abort, and no operator library that another test registered is in it.
    command: list[Any] = [sys.executable, "-c", LOADERS[runtime], directory / "k.onnx", dtype]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    promised = paths(model)[runtime][0] != NO_LOAD
    assert (ended.returncode == 0) == promised, ended.stderr
    assert "ModuleNotFoundError" not in ended.stderr
