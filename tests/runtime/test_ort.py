from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeconv.errors import EdgeconvError, InputError, MissingDependencyError
from edgeconv.runtime.ort import STOP_SPINNING, OrtSession, TensorInfo, find_op_library, require_provider

MODEL = """
<ir_version: 9, opset_import: ["" : 17]>
tiny (float[N, 3, 9, 7] x, float[5] b) => (float[N, 5, 9, 6] y, float[N, 5, 9, 6] z) {
  c = Conv <kernel_shape = [3, 2], pads = [1, 0, 1, 0]> (x, w, b)
  y = Relu (c)
  z = Sigmoid (c)
}
"""

FUNCTION = """
<ir_version: 9, opset_import: ["" : 17, "edgeconv" : 1]>
kerv (float[N] x) => (float[N] y) { y = edgeconv.EuclideanKervolution (x, x) }
<domain: "edgeconv", opset_import: ["" : 17]>
EuclideanKervolution (X, W) => (Y) { Y = Add (X, W) }
"""


@pytest.fixture
def model() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(MODEL)
    values = np.random.default_rng(3).standard_normal((5, 3, 3, 2)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(values, "w"))
    onnx.helper.set_model_props(proto, {"edgeconv.version": "7"})
    return proto


@pytest.fixture
def path(model: onnx.ModelProto, tmp_path: Path) -> Path:
    onnx.save(model, tmp_path / "tiny.onnx")
    return tmp_path / "tiny.onnx"


@pytest.fixture
def feeds() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(4)
    return {
        "x": generator.standard_normal((2, 3, 9, 7)).astype(np.float32),
        "b": generator.standard_normal(5).astype(np.float32),
    }


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], str]], None]:
    """Replace the search for the installed op library."""

    def replace(op_library: Callable[[], str]) -> None:
        module = types.ModuleType("edgeconv.runtime.op_library")
        module.op_library = op_library  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "edgeconv.runtime.op_library", module)

    return replace


def missing() -> str:
    raise MissingDependencyError("the op library is not installed.", "Build it.")


@pytest.mark.parametrize("source", ["path", "text", "bytes"])
@pytest.mark.parametrize("threads", [None, 1])
def test_outputs_agree_with_the_reference(
    model: onnx.ModelProto, path: Path, feeds: dict[str, np.ndarray], source: str, threads: int | None
) -> None:
    given = {"path": path, "text": str(path), "bytes": model.SerializeToString()}[source]
    session = OrtSession(given, threads=threads, op_library=False)
    outputs = session.run(feeds)
    expected = dict(zip(["y", "z"], ReferenceEvaluator(model).run(None, feeds), strict=True))
    assert list(outputs) == ["y", "z"]
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, rtol=1e-5, atol=1e-5)


def test_description(path: Path) -> None:
    session = OrtSession(path, op_library=False)
    assert session.inputs == (
        TensorInfo("x", "tensor(float)", ("N", 3, 9, 7)),
        TensorInfo("b", "tensor(float)", (5,)),
    )
    assert session.inputs[0].dtype == np.float32
    assert [output.name for output in session.outputs] == ["y", "z"]
    assert session.metadata == {"edgeconv.version": "7"}
    assert session.creation_seconds > 0
    assert not session.native


def test_bound_run_keeps_its_memory(path: Path, feeds: dict[str, np.ndarray]) -> None:
    session = OrtSession(path, op_library=False, options=STOP_SPINNING)
    run = session.bind({name: array.copy() for name, array in feeds.items()})
    del session
    gc.collect()
    for _ in range(50):
        run()


def test_bound_run_computes_into_its_buffers(
    path: Path, feeds: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[onnxruntime.OrtValue] = []
    original = onnxruntime.OrtValue.ortvalue_from_numpy

    def remember(array: np.ndarray) -> onnxruntime.OrtValue:
        made.append(original(array))
        return made[-1]

    session = OrtSession(path, op_library=False)
    expected = session.run(feeds)
    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", remember)
    run = session.bind(feeds)
    _x, _b, y, z = made
    for buffer in (y, z):
        buffer.update_inplace(np.zeros((2, 5, 9, 6), np.float32))
    run()
    np.testing.assert_array_equal(y.numpy(), expected["y"])
    np.testing.assert_array_equal(z.numpy(), expected["z"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": None}, "has the inputs x, b; got x"),
        ({"extra": np.zeros(1)}, "has the inputs x, b; got x, b, extra"),
        ({"b": np.zeros(5)}, "input b of .* takes float32, got float64"),
        ({"b": np.zeros(4, np.float32)}, "has the shape 5, got 4"),
        ({"x": np.zeros((1, 3, 9, 8), np.float32)}, r"has the shape Nx3x9x7 \(.*\), got 1x3x9x8"),
        ({"x": np.zeros((3, 9, 7), np.float32)}, "got 3x9x7"),
    ],
)
def test_wrong_feeds(
    path: Path, feeds: dict[str, np.ndarray], change: dict[str, np.ndarray | None], message: str
) -> None:
    session = OrtSession(path, op_library=False)
    given = {name: array for name, array in {**feeds, **change}.items() if array is not None}
    for call in (session.run, session.bind):
        with pytest.raises(InputError, match=message):
            call(given)


def test_failure_inside_an_operator_is_one_message(capfd: pytest.CaptureFixture[str]) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[N] x, int64[M] s) => (float[A, B] y) { y = Reshape (x, s) }'
    )
    session = OrtSession(model.SerializeToString(), op_library=False)
    with pytest.raises(InputError, match=r"fails while running: .*Reshape"):
        session.run({"x": np.zeros(5, np.float32), "s": np.array([2, 2])})
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04 and so on", "is a zip archive, as PyTorch writes them, not an ONNX model"),
        (b"this is no model" * 20, "not an ONNX model, or is damaged"),
        ("truncated", "not an ONNX model, or is damaged"),
        ("directory", "is a directory"),
        (None, "does not exist"),
    ],
)
def test_unusable_file(
    path: Path, content: bytes | str | None, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = path.with_name("bad.onnx")
    if content == "truncated":
        bad.write_bytes(path.read_bytes()[:-100])
    elif content == "directory":
        bad.mkdir()
    elif isinstance(content, bytes):
        bad.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        OrtSession(bad, op_library=False)
    assert "bad.onnx" in caught.value.message
    assert capfd.readouterr().err == ""


def test_newer_ir_version_is_explained(model: onnx.ModelProto) -> None:
    model.ir_version = 99
    with pytest.raises(InputError, match="cannot load the model: Unsupported model IR version: 99"):
        OrtSession(model.SerializeToString(), op_library=False)


@pytest.mark.parametrize(("domain", "remedy"), [("edgeconv", "Build it"), ("acme", "only edgeconv's own operators")])
def test_operator_that_is_nowhere(domain: str, remedy: str, installed: Callable[[Callable[[], str]], None]) -> None:
    installed(missing)
    text = FUNCTION.split("<domain")[0].replace("edgeconv", domain)
    proto = onnx.parser.parse_model(text)
    with pytest.raises(InputError, match="EuclideanKervolution, which is neither native nor a function") as caught:
        OrtSession(proto.SerializeToString())
    assert remedy in caught.value.remedy


def test_functions_run_where_no_library_is_installed(installed: Callable[[Callable[[], str]], None]) -> None:
    installed(missing)
    session = OrtSession(onnx.parser.parse_model(FUNCTION).SerializeToString())
    assert not session.native
    assert "not installed" in session.missing_library
    x = np.array([1.0, 2.0], np.float32)
    np.testing.assert_array_equal(session.run({"x": x})["y"], 2 * x)


def test_a_broken_installation_is_not_hidden(installed: Callable[[Callable[[], str]], None]) -> None:
    def foreign() -> str:
        raise InputError("EDGECONV_OP_LIBRARY names a file that does not exist.")

    installed(foreign)
    with pytest.raises(InputError, match="EDGECONV_OP_LIBRARY"):
        find_op_library(True)


def test_library_that_does_not_exist(path: Path) -> None:
    with pytest.raises(InputError, match=r"op library .*nowhere\.so does not exist"):
        OrtSession(path, op_library="nowhere.so")


def test_library_that_does_not_load(path: Path) -> None:
    library = path.with_name("junk.so")
    library.write_text("not a shared object")
    with pytest.raises(InputError, match=r"junk\.so cannot be used with ONNX Runtime"):
        OrtSession(path, op_library=library)


def test_unknown_provider() -> None:
    with pytest.raises(InputError, match="unknown provider 'npu'") as caught:
        require_provider("npu")
    assert "cpu, cuda" in caught.value.remedy


def test_provider_that_is_not_here(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingDependencyError, match="provider cuda is not in the installed ONNX Runtime") as caught:
        OrtSession(path, provider="cuda")
    assert "edgeconv[gpu]" in caught.value.remedy


def test_threads_must_be_positive(path: Path) -> None:
    with pytest.raises(InputError, match="threads must be 1 or more, at most 1024, got 0"):
        OrtSession(path, threads=0, op_library=False)


def test_without_onnxruntime_the_remedy_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError) as caught:
        OrtSession(path)
    assert "pip install 'edgeconv[cpu]'" in caught.value.remedy


def test_onnxruntime_is_imported_lazily() -> None:
    code = (
        "import sys, edgeconv.runtime.ort, edgeconv.bench.api\nassert not {'onnxruntime', 'torch'} & set(sys.modules)"
    )
    environment = {"PYTHONPATH": ":".join(entry for entry in sys.path if entry)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_profile(path: Path, feeds: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    session = OrtSession(path, op_library=False, profile=True)
    for _ in range(3):
        session.run(feeds)
    events = session.profile_events()
    assert sum(event["name"] == "model_run" for event in events) == 3
    operators = {event.get("args", {}).get("op_name") for event in events}
    assert "Conv" in operators
    assert "Sigmoid" in operators
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.onnx"]
    with pytest.raises(EdgeconvError, match="records no profile"):
        session.profile_events()


def test_an_abandoned_profile_leaves_nothing(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    session = OrtSession(path, op_library=False, profile=True)
    assert len(list(tmp_path.iterdir())) == 2
    del session
    gc.collect()
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.onnx"]
