"""`edgeconv quantize` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner, Result

from edgeconv.cli import app


def program(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["quantize", *map(str, arguments)], env={"COLUMNS": "120"})
    assert result.exit_code == code, f"{result.stdout}\n{result.stderr}\n{result.exception}"
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two convolutions with a ReLU6 between."""
    built = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 3, 16, 12] x) => (float[N, 4] y) {
            [first] a = Conv (x, w)
            [clip] b = Clip (a, zero, six)
            [second] c = Conv (b, v)
            [pool] p = GlobalAveragePool (c)
            [flat] y = Flatten (p)
        }""")
    generator = np.random.default_rng(0)
    for name, value in {
        "w": generator.standard_normal((5, 3, 3, 3)), "v": generator.standard_normal((4, 5, 1, 1)),
        "zero": 0, "six": 6,
    }.items():  # fmt: skip
        built.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    onnx.save(built, tmp_path / "net.onnx")
    np.save(tmp_path / "calib.npy", generator.integers(0, 256, (20, 3, 16, 12), dtype=np.uint8))
    return tmp_path / "net.onnx"


def test_tables(model: Path) -> None:
    result = program(
        model, "--calib", model.with_name("calib.npy"), "--mean", "0.5", "--std", "0.25,0.25,0.3", "--no-latency",
        "--sensitivity", "--exclude", "^second$",
    )  # fmt: skip
    for text in ("Layers in 8 bits, worst first", "Sensitivity", "In float", "excluded", "same class", "SQNR"):
        assert text in result.stdout, text
    assert "net.int8.onnx" in result.stdout
    assert (model.with_name("net.int8.onnx")).is_file()


def test_json_and_targets(model: Path) -> None:
    out = model.with_name("trt.onnx")
    result = program(
        model, "--calib", model.with_name("calib.npy"), "--mean", "127", "--std", "128", "--target", "tensorrt",
        "--method", "mse", "--round", "nearest", "--no-equalize", "--no-bias-correction", "--calib-limit", "8", "-o",
        out, "--no-latency", "--json",
    )  # fmt: skip
    report = json.loads(result.stdout)
    assert report["target"] == "tensorrt"
    assert report["settings"]["method"] == "mse"
    assert report["calibration"]["images"] == 8
    assert report["agreement"]["sqnr_db"] > 15
    assert "Clip" in [node.op_type for node in onnx.load(out).graph.node]


def test_everything_that_can_be_asked_for(model: Path) -> None:
    images = model.with_name("calib.npy")
    result = program(
        model, "--calib", images, "--mean", "0.5", "--std", "0.25", "--round", "learned", "--relax-relu6",
        "--method", "percentile", "--percentile", "99.9", "--compare", images, "--batch", "5", "--int8-io",
        "--target", "portable", "--plot", model.with_name("ranges.svg"), "--target-sqnr", "60", "--sensitivity",
    )  # fmt: skip
    for text in ("float32", "float16", "int8", "latency in ONNX Runtime", "the float latency", "--exclude"):
        assert text in result.stdout, text
    assert (model.with_name("ranges.svg")).read_text().startswith("<?xml")
    assert (
        onnx.load(model.with_name("net.int8.onnx")).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT8
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--mean", "a,b", "--std", "1"], "cannot read --mean"),
        (["--size", "224"], "cannot read --size"),
        ([], "does not say how they are normalised"),
        (["--mean", "0.5", "--std", "0.5", "--target", "phone"], "unknown target 'phone'"),
        (["--mean", "0.5", "--std", "0.5", "--exclude", "("], "is not a regular expression"),
    ],
)
def test_one_message_and_no_file(options: list[str], text: str, model: Path) -> None:
    result = program(model, "--calib", model.with_name("calib.npy"), *options, code=1)
    assert text in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not model.with_name("net.int8.onnx").exists()


def test_a_missing_model(tmp_path: Path) -> None:
    result = program(tmp_path / "none.onnx", "--calib", tmp_path, code=1)
    assert "does not exist" in " ".join(result.stderr.split())
