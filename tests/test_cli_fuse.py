"""`edgeconv fuse` as a user meets it."""

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
    result = CliRunner().invoke(app, ["fuse", *map(str, arguments)], env={"COLUMNS": "120"})
    assert result.exit_code == code, f"{result.stdout}\n{result.stderr}\n{result.exception}"
    return result


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A quantised convolution."""
    built = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 3, H, W] x) => (float[N, 5, H, W] y) {
            q = QuantizeLinear (x, s, z)
            a = DequantizeLinear (q, s, z)
            w = DequantizeLinear (wq, ws, wz)
            [only] b = Conv <pads = [1, 1, 1, 1]> (a, w)
            r = QuantizeLinear (b, s, z)
            y = DequantizeLinear (r, s, z)
        }""")
    arrays = {
        "s": np.float32(0.03), "z": np.uint8(128), "ws": np.float32(0.004), "wz": np.int8(0),
        "wq": np.random.default_rng(0).integers(-127, 128, (5, 3, 3, 3)).astype(np.int8),
    }  # fmt: skip
    built.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items())
    onnx.save(built, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_tables(model: Path) -> None:
    result = program(model, "--shapes", "1x3x9x7")
    text = " ".join(result.stdout.split())
    for expected in ("QLinearConvolution", "1 layers in 1 8-bit operators", "315", "on random values", "before, 3 now"):
        assert expected in text, expected
    assert model.with_name("net.fused.onnx").is_file()


def test_json(model: Path) -> None:
    np.save(model.with_name("x.npy"), np.random.default_rng(1).standard_normal((2, 3, 9, 7)).astype(np.float32))
    out = model.with_name("out.onnx")
    result = program(model, "-o", out, "--inputs", model.with_name("x.npy"), "--json")
    shown = json.loads(result.stdout)
    assert shown["path"] == str(out)
    assert shown["total"]["elements"] == 2 * 5 * 9 * 7
    assert shown["total"]["largest"] <= 1
    assert not json.loads(program(model, "-o", out, "--no-functions", "--no-check", "--json").stdout)["functions"]
    assert not onnx.load(out).functions


def test_errors(model: Path) -> None:
    message = program(model, code=1).stderr
    assert "--shapes" in message
    assert not model.with_name("net.fused.onnx").exists()
