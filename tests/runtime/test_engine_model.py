"""The form in which the parser gets a file: inlined, or with plugin nodes alone, and the same results."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tolerances import assert_close

from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.inspection.nodes import walk
from edgeconv.ops.kervolution import DOMAIN
from edgeconv.runtime.engine_model import EngineModel, prepare_model
from edgeconv.runtime.ort import OrtSession

GAUSSIAN = "GaussianKervolution"
LAYERS = ["features.0/GaussianKervolution", "features.3/GaussianKervolution"]


def nodes(model: EngineModel, domain: str = DOMAIN) -> list[onnx.NodeProto]:
    return [node for node in onnx.load_from_string(model.content).graph.node if node.domain == domain]


def agree(path: Path, model: EngineModel) -> None:
    """Compare the prepared model with the file, both in ONNX Runtime."""
    image = np.random.default_rng(2).standard_normal((3, 3, 10, 13)).astype(np.float32)
    expected = OrtSession(path).run({"image": image})
    actual = OrtSession(model.content).run({"image": image})
    for name, value in expected.items():
        assert np.ptp(value) > 0.01
        assert_close(actual[name], value, np.float32, "gaussian")


@pytest.mark.parametrize("form", ["functions", "inlined", "nodes"])
def test_without_plugins_every_form_is_inlined(form: str, small: dict[str, Path]) -> None:
    model = prepare_model(small[form])
    whole = onnx.load_from_string(model.content)
    onnx.checker.check_model(whole, full_check=True)
    assert not whole.functions
    assert [entry.domain for entry in whole.opset_import] == [""]
    assert model.plugins == {}
    assert model.inlined == ({} if form == "inlined" else {GAUSSIAN: 2})
    agree(small["functions"], model)


@pytest.mark.parametrize("form", ["functions", "nodes"])
def test_a_plugin_leaves_the_node_without_a_body(form: str, small: dict[str, Path]) -> None:
    model = prepare_model(small[form], {GAUSSIAN, "PolynomialKervolution"})
    assert not onnx.load_from_string(model.content).functions
    assert [node.name for node in nodes(model)] == LAYERS
    assert model.plugins == {GAUSSIAN: 2}
    assert model.inlined == {}
    agree(small["functions"], model)


def test_inlined_nodes_are_named_after_their_layer(small: dict[str, Path]) -> None:
    made = [node for node in walk(onnx.load_from_string(prepare_model(small["functions"]).content).graph.node)]
    convolutions = [node.name for node in made if node.op_type == "Conv"]
    assert len(convolutions) == 6
    assert [name.rpartition("/Conv_")[0] for name in convolutions] == [LAYERS[0]] * 3 + [LAYERS[1]] * 3
    assert len({node.name for node in made}) == len(made)
    assert "head/Gemm" in {node.name for node in made}


def test_inputs_outputs_metadata_and_precisions(small: dict[str, Path]) -> None:
    model = prepare_model(small["functions"])
    session = OrtSession(small["functions"])
    assert [(info.name, info.type, info.shape) for info in model.inputs] == [
        ("image", "tensor(float)", ("batch", 3, 10, 13))
    ]
    assert [(info.name, info.type) for info in model.outputs] == [(info.name, info.type) for info in session.outputs]
    assert model.metadata == session.metadata
    assert (model.precisions, model.is_half) == ({"float32": 3}, False)
    half = prepare_model(small["half"])
    assert (half.precisions, half.is_half) == ({"float16": 3}, True)


def test_a_node_without_the_plugin_attributes_gets_them(small: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(small["functions"])
    for node in model.graph.node:
        kept = [attribute for attribute in node.attribute if not attribute.name.startswith("plugin_")]
        del node.attribute[:]
        node.attribute.extend(kept)
    onnx.save(model, tmp_path / "bare.onnx")
    for node in nodes(prepare_model(tmp_path / "bare.onnx", {GAUSSIAN})):
        given = {attribute.name: attribute.s for attribute in node.attribute if attribute.name.startswith("plugin_")}
        assert given == {"plugin_version": b"1", "plugin_namespace": b"edgeconv"}


def test_a_foreign_function_is_inlined_with_what_it_calls(small: dict[str, Path], tmp_path: Path) -> None:
    """Plugins or not: the parser loses strides in it."""
    model = onnx.load(small["functions"])
    layer = next(node for node in model.graph.node if node.domain == DOMAIN)
    outer = helper.make_function(
        "mine", "Outer", list(layer.input), list(layer.output), [layer],
        [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)],
    )  # fmt: skip
    call = helper.make_node("Outer", layer.input, layer.output, name="outer", domain="mine")
    layer.CopyFrom(call)
    model.functions.append(outer)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path)
    for plugins in ((), (GAUSSIAN,)):
        prepared = prepare_model(path, plugins)
        assert len(nodes(prepared)) == 2 * len(plugins)
        assert nodes(prepared, "mine") == []
        agree(path, prepared)


def test_external_weights_stay_outside(small: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "external.onnx"
    model = onnx.load(small["functions"])
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=64)
    prepared = prepare_model(path)
    stored = onnx.load_from_string(prepared.content).graph.initializer
    assert any(tensor.data_location == TensorProto.EXTERNAL for tensor in stored)
    before = prepared.sha256
    content = bytearray((tmp_path / "weights.bin").read_bytes())
    content[100] ^= 1
    (tmp_path / "weights.bin").write_bytes(bytes(content))
    assert prepare_model(path).sha256 != before


def test_missing_bodies_without_onnxscript(small: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> dict[str, onnx.FunctionProto]:
        raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")

    monkeypatch.setattr("edgeconv.runtime.engine_model.onnx_functions", missing)
    with pytest.raises(MissingDependencyError, match="edgeconv::GaussianKervolution without its function"):
        prepare_model(small["nodes"])
    assert prepare_model(small["nodes"], {GAUSSIAN}).plugins == {GAUSSIAN: 2}
    assert prepare_model(small["functions"]).inlined == {GAUSSIAN: 2}


@pytest.mark.parametrize(
    ("content", "message"), [(None, "does not exist"), (b"", "is empty"), (b"PK\x03\x04abc", "is a zip archive")]
)
def test_files_that_are_none(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        prepare_model(path)


def test_a_truncated_file(small: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(small["functions"].read_bytes()[:-1000])
    with pytest.raises(InputError, match="truncated"):
        prepare_model(path)


def test_modules_of_engines_need_no_runtime(small: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    names = ("build", "cache", "session", "device", "model", "stamp", "log", "shapes", "report", "binding", "backend")
    modules = [*(f"edgeconv.runtime.engine_{name}" for name in names), "edgeconv.runtime.tensorrt"]
    modules += ["edgeconv.runtime.tensorrt_rtx", "edgeconv.runtime.plugin_library"]
    code = f"""
import sys
for name in ("torch", "onnxscript", "onnxruntime", "tensorrt", "tensorrt_rtx_bindings", "cuda"):
    sys.modules[name] = None
import importlib
for name in {modules!r}:
    importlib.import_module(name)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert shutil.which(sys.executable)
