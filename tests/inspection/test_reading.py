"""Files that cannot be inspected: one clear message each, with what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeconv.errors import InputError
from edgeconv.inspection import inspect_model
from edgeconv.inspection.reading import SMALL, read_model


def refusal(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        inspect_model(path)
    assert caught.value.remedy
    assert str(path) in caught.value.message
    return caught.value


def external(directory: Path) -> Path:
    """A MatMul of which the 40 x 50 weights, and the target of a Reshape, are in `weights.bin`."""
    weights = numpy_helper.from_array(np.ones((40, 50), np.float32), "w")
    target = numpy_helper.from_array(np.array([2, 5, 10], np.int64), "target")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Reshape", ["m", "target"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 40])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weights, target],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = directory / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_a_missing_file(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.onnx").message


def test_a_directory(tmp_path: Path) -> None:
    assert "is a directory" in refusal(tmp_path).message


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    assert "is empty" in refusal(tmp_path / "m.onnx").message


@pytest.mark.parametrize(
    ("content", "message", "remedy"),
    [
        (b"PK\x03\x04 and so on", "zip archive", "edgeconv export"),
        (b"\x80\x02 and so on", "pickle", "edgeconv export"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer", "git lfs pull"),
        (b"\x18\x00\x00\x00ORTM and so on", "ONNX Runtime's own format", ".onnx"),
        (b"<html><body>Not found</body></html>", "is not an ONNX model", ".onnx"),
        (bytes(range(255, 0, -1)), "is not an ONNX model", ".onnx"),
        (b"\x08\x08", "holds no graph", "again"),
    ],
)
def test_a_foreign_file(content: bytes, message: str, remedy: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    error = refusal(tmp_path / "m.onnx")
    assert message in error.message
    assert remedy in error.remedy


RELU = """<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x) => (float[2] y) { y = Relu (x) }"""


def test_a_file_cut_off_anywhere(tmp_path: Path) -> None:
    whole = onnx.parser.parse_model(RELU).SerializeToString()
    for length in range(1, len(whole)):
        (tmp_path / "m.onnx").write_bytes(whole[:length])
        assert "truncated" in refusal(tmp_path / "m.onnx").message, length
    (tmp_path / "m.onnx").write_bytes(whole)
    inspect_model(tmp_path / "m.onnx")


def test_a_graph_without_its_operator_sets(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(RELU)
    del model.opset_import[:]
    onnx.save(model, tmp_path / "m.onnx")
    assert "operator set" in refusal(tmp_path / "m.onnx").message


def test_external_data_is_counted_and_small_constants_are_read(tmp_path: Path) -> None:
    path = external(tmp_path)
    report = inspect_model(path)
    assert report.external_files == {"weights.bin": (tmp_path / "weights.bin").stat().st_size}
    assert report.size_bytes == path.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    assert report.parameters == 2000
    assert report.weights_bytes == 8000 + 24
    assert report.macs == 2 * 40 * 50
    assert report.outputs[0].shape == (2, 5, 10)


def test_missing_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    error = refusal(path)
    assert "weights.bin" in error.message
    assert "together" in error.remedy


def test_truncated_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[: len(data) // 2])
    assert "truncated" in refusal(path).message


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", ""])
def test_external_data_elsewhere(location: str, tmp_path: Path) -> None:
    path = external(tmp_path)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())
    assert "not a file in the model's directory" in refusal(path).message


def test_large_values_are_not_kept(tmp_path: Path) -> None:
    path = external(tmp_path)
    model = onnx.load(path)
    onnx.save(model, path)
    kept = read_model(path)
    by_name = {tensor.name: tensor for tensor in kept.model.graph.initializer}
    assert SMALL < 40 * 50
    assert not by_name["w"].raw_data
    assert list(by_name["w"].dims) == [40, 50]
    assert list(numpy_helper.to_array(by_name["target"])) == [2, 5, 10]
    assert kept.weights_bytes == 8024
