"""`fuse_model`: what it writes, what it counts, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console

from edgeconv.errors import InputError
from edgeconv.fusion.api import fuse_model
from edgeconv.fusion.passes import fuse_graph
from edgeconv.fusion.steps import StepCounter
from edgeconv.runtime.ort import OrtSession

SIZE = "3, 21, 18"


def qdq_model(batch: str = "N") -> onnx.ModelProto:
    """Expand, depthwise, project, + x, and a 3x3 convolution of two groups, which has no 8-bit operator."""
    generator = np.random.default_rng(3)
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[{batch}, {SIZE}] x) => (float[{batch}, 4, 19, 16] y) {{
            xq = QuantizeLinear (x, xs, xz)
            a = DequantizeLinear (xq, xs, xz)
            we = DequantizeLinear <axis = 0> (we_q, we_s, we_z)
            [expand] b = Conv (a, we)
            c = Clip (b, zero, six)
            cq = QuantizeLinear (c, cs, cz)
            d = DequantizeLinear (cq, cs, cz)
            wd = DequantizeLinear <axis = 0> (wd_q, wd_s, wd_z)
            [depthwise] e = Conv <group = 22, pads = [1, 1, 1, 1]> (d, wd)
            f = Clip (e, zero, six)
            fq = QuantizeLinear (f, cs, cz)
            h = DequantizeLinear (fq, cs, cz)
            wp = DequantizeLinear <axis = 0> (wp_q, wp_s, wp_z)
            [project] i = Conv (h, wp)
            iq = QuantizeLinear (i, is, iz)
            j = DequantizeLinear (iq, is, iz)
            k = Add (a, j)
            kq = QuantizeLinear (k, is, iz)
            l = DequantizeLinear (kq, is, iz)
            [float] y = Conv (l, wf)
        }}""")
    arrays: dict[str, object] = {
        "xs": np.float32(0.02), "xz": np.uint8(128), "zero": np.float32(0), "six": np.float32(6),
        "cs": np.float32(6 / 255), "cz": np.uint8(0), "is": np.float32(0.09), "iz": np.uint8(120),
        "wf": generator.standard_normal((4, 3, 3, 3)).astype(np.float32),
    }  # fmt: skip
    for name, shape in {"we": (22, 3, 1, 1), "wd": (22, 1, 3, 3), "wp": (3, 22, 1, 1)}.items():
        arrays[f"{name}_q"] = generator.integers(-127, 128, shape).astype(np.int8)
        arrays[f"{name}_s"] = generator.uniform(0.01, 0.02, shape[0]).astype(np.float32)
        arrays[f"{name}_z"] = np.zeros(shape[0], np.int8)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items())
    return model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.int8.onnx"
    onnx.save(qdq_model(), path)
    np.save(tmp_path / "images.npy", np.random.default_rng(1).integers(0, 256, (5, 3, 21, 18), dtype=np.uint8))
    return path


def test_writes_and_counts(model: Path) -> None:
    told: list[str] = []
    report = fuse_model(
        model, inputs=model.with_name("images.npy"), progress=lambda what, done: told.append(f"{what} {done:g}")
    )
    written = model.with_name("net.int8.fused.onnx")
    assert report.path == str(written)
    assert sorted(path.name for path in model.parent.iterdir()) == [
        "images.npy", "net.int8.fused.onnx", "net.int8.onnx",
    ]  # fmt: skip
    kinds = [node.op_type for node in onnx.load(written).graph.node]
    assert kinds == ["QuantizeLinear", "QLinearInvertedResidual", "DequantizeLinear", "Conv"]
    assert report.nodes == (20, 4)
    assert [each.layers for each in report.operators] == [("expand", "depthwise", "project")]
    assert list(report.left) == ["float"]
    total = report.total
    assert total is not None
    assert total.elements == 5 * 3 * 21 * 18
    assert total.different < total.elements / 100
    assert total.largest <= 1
    assert "5 of the given inputs" in report.verdict()
    assert told[0] == "fusing 0"
    shown = json.loads(json.dumps(report.to_dict()))
    assert shown["total"]["elements"] == total.elements
    console = Console(width=100, record=True)
    report.render(console)
    assert "QLinearInvertedResidual" in console.export_text()


def test_same_results(model: Path) -> None:
    """The float output of the whole file, with the op library, is the QDQ file's but for a step here and there."""
    fuse_model(model, check=False)
    feeds = {"x": np.random.default_rng(2).uniform(-2.5, 2.5, (2, 3, 21, 18)).astype(np.float32)}
    before = OrtSession(model, op_library=False).run(feeds)["y"]
    for library in (True, False):
        after = OrtSession(model.with_name("net.int8.fused.onnx"), op_library=library).run(feeds)["y"]
        assert np.count_nonzero(np.abs(after - before) > 1e-4 * np.abs(before).max()) < before.size / 50


def test_finds_a_difference() -> None:
    """A body that saturates otherwise is told from the kernel."""
    fused, operators, _ = fuse_graph(qdq_model())
    (function,) = fused.functions
    clip = [node for node in function.node if node.op_type == "Clip"][-1]
    clip.op_type = "Max"  # of the value and both limits
    counter = StepCounter(fused, {operators[0].node})
    counter.add({"x": np.random.default_rng(2).uniform(-2.5, 2.5, (1, 3, 21, 18)).astype(np.float32)})
    (steps,) = counter.found.values()
    assert steps.different > steps.elements / 2
    assert steps.largest > 5


def test_random_inputs_and_fixed_batch(tmp_path: Path) -> None:
    path = tmp_path / "two.onnx"
    onnx.save(qdq_model("2"), path)
    first, second = (fuse_model(path, tmp_path / "out.onnx", seed=seed) for seed in (0, 0))
    assert first.total == second.total
    assert first.total is not None
    assert first.total.elements == 2 * 3 * 21 * 18
    assert first.inputs == "on random values"
    np.save(tmp_path / "five.npy", np.zeros((5, 3, 21, 18), np.uint8))
    assert fuse_model(path, tmp_path / "out.onnx", inputs=tmp_path / "five.npy").inputs == "on 4 of the given inputs"
    np.save(tmp_path / "one.npy", np.zeros((1, 3, 21, 18), np.uint8))
    with pytest.raises(InputError, match="takes 2 at a time"):
        fuse_model(path, tmp_path / "out.onnx", inputs=tmp_path / "one.npy")


def test_without_functions(model: Path) -> None:
    """They are left out of the file, and compared with all the same."""
    report = fuse_model(model, functions=False)
    written = onnx.load(report.path)
    assert not written.functions
    assert report.total is not None
    assert report.total.elements


def test_without_check_and_library(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not compared with the QDQ file: it was not asked for" in fuse_model(model, check=False).verdict()
    monkeypatch.setattr("edgeconv.runtime.ort.find_op_library", lambda _wanted: (None, "no op library is installed"))
    report = fuse_model(model)
    assert report.total is None
    assert "no op library is installed" in report.verdict()
    assert Path(report.path).is_file()


def test_refuses(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a file that is read"):
        fuse_model(model, model)
    with pytest.raises(InputError, match="does not exist"):
        fuse_model(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(InputError):
        fuse_model(tmp_path / "text.onnx")
    floats = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[1, 3, 8, 8] x, float[4, 3, 3, 3] w) => (float[1, 4, 6, 6] y) { [only] y = Conv (x, w) }""")
    onnx.save(floats, tmp_path / "float.onnx")
    with pytest.raises(InputError, match=r"no quantised layer .* computes: only: its input") as caught:
        fuse_model(tmp_path / "float.onnx")
    assert "edgeconv quantize" in str(caught.value.remedy)
    with pytest.raises(InputError, match=r"absent\.npy does not exist"):
        fuse_model(model, tmp_path / "out.onnx", inputs=tmp_path / "absent.npy")
    np.save(tmp_path / "wrong.npy", np.zeros((1, 3, 20, 18), np.uint8))
    with pytest.raises(InputError, match="20"):
        fuse_model(model, tmp_path / "out.onnx", inputs=tmp_path / "wrong.npy")
    assert not (tmp_path / "out.onnx").exists()
    assert not [path for path in tmp_path.iterdir() if "fused" in path.name]
