"""`run_model`: inputs from files and made up, outputs in the report and in a file, on every kind of runtime."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from fake_gpu import FakeGpu
from fake_gpu import install as install_gpu
from fake_tensorrt import FakeCuda, FakeTensorRt, install
from rich.console import Console
from tolerances import assert_close

from edgeconv.errors import EdgeconvError, InputError, MissingDependencyError
from edgeconv.json_text import json_text
from edgeconv.runtime.engine_build import build_engine
from edgeconv.runtime.ort import OrtSession
from edgeconv.runtime.run import RunReport, run_model

TWO_INPUTS = """
<ir_version: 9, opset_import: ["" : 17]>
two (float[N, 3] a, int64[N, 3] b) => (float[N, 3] y, bool[N, 3] z) {
  c = Cast <to = 1> (b)
  y = Div (a, c)
  z = Greater (a, c)
}
"""
NORMALIZED = """
<ir_version: 9, opset_import: ["" : 17]>
one (float[N, 2, H, W] image) => (float[N, 2, H, W] y) {
  y = Identity (image)
}
"""


@pytest.fixture
def two(tmp_path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(TWO_INPUTS), tmp_path / "two.onnx")
    return tmp_path / "two.onnx"


@pytest.fixture
def normalized(tmp_path: Path) -> Path:
    model = onnx.parser.parse_model(NORMALIZED)
    onnx.helper.set_model_props(model, {"edgeconv.normalization": json.dumps({"mean": [0.5, 0.25], "std": [0.5, 2]})})
    onnx.save(model, tmp_path / "normalized.onnx")
    return tmp_path / "normalized.onnx"


def text_of(report: RunReport) -> str:
    output = io.StringIO()
    report.render(Console(file=output, width=120))
    return output.getvalue()


def test_arrays_by_name_and_outputs_in_a_file(two: Path, tmp_path: Path) -> None:
    a, b = np.array([[1, -2, 3], [0, 5, 6]], np.float32), np.array([[2, 4, 0], [0, 5, 12]], np.int64)
    np.savez(tmp_path / "in.npz", a=a, b=b, other=b)
    report = run_model(two, tmp_path / "in.npz", output=tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as written, np.errstate(all="ignore"):
        np.testing.assert_array_equal(written["y"], a / b.astype(np.float32))
        np.testing.assert_array_equal(written["z"], a > b)
    y, z = report.outputs
    assert (y.least, y.largest, y.not_finite) == (-0.5, 1.0, 2)  # 3 / 0 and 0 / 0
    assert y.mean == pytest.approx((0.5 - 0.5 + 1 + 0.5) / 4)
    assert (z.dtype, z.shape, z.mean) == ("bool", (2, 3), pytest.approx(1 / 6))
    assert not report.synthetic
    assert json.loads(json.dumps(report.to_dict()))["outputs"][0]["not_finite"] == 2
    assert "out.npz" in text_of(report)


def test_the_largest_classes_come_first(tmp_path: Path, two: Path) -> None:
    np.savez(tmp_path / "in.npz", a=np.array([[1, 3, 2]], np.float32), b=np.ones((1, 3), np.int64))
    report = run_model(two, tmp_path / "in.npz")
    assert report.outputs[0].top == (((1, 3.0), (2, 2.0), (0, 1.0)),)
    assert "y[0]: classes 1 (3), 2 (2), 0 (1)" in text_of(report)


@pytest.mark.parametrize("name", ["images.npy", "images.npz"])
def test_images_are_prepared_as_the_file_says(normalized: Path, tmp_path: Path, name: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 5, 4), dtype=np.uint8)
    if name.endswith("npy"):
        np.save(tmp_path / name, images)
    else:
        np.savez(tmp_path / name, images=images)
    run_model(normalized, tmp_path / name, output=tmp_path / "out.npz")
    expected = (images / 255.0 - np.array([0.5, 0.25])[:, None, None]) / np.array([0.5, 2])[:, None, None]
    with np.load(tmp_path / "out.npz") as written:
        assert_close(written["y"], expected, np.float32, "linear")
    np.save(tmp_path / "floats.npy", expected.astype(np.float32))
    run_model(normalized, tmp_path / "floats.npy", output=tmp_path / "again.npz")
    with np.load(tmp_path / "again.npz") as written:
        np.testing.assert_array_equal(written["y"], expected.astype(np.float32))


def test_pixels_under_the_inputs_own_name(normalized: Path, tmp_path: Path) -> None:
    pixels = np.arange(2 * 2 * 3 * 4, dtype=np.uint8).reshape(2, 2, 3, 4)
    np.savez(tmp_path / "named.npz", image=pixels)
    np.save(tmp_path / "alone.npy", pixels)
    for name in ("named.npz", "alone.npy"):
        run_model(normalized, tmp_path / name, output=tmp_path / f"{name}.out.npz")
    with np.load(tmp_path / "named.npz.out.npz") as named, np.load(tmp_path / "alone.npy.out.npz") as alone:
        np.testing.assert_array_equal(named["y"], alone["y"])
        assert named["y"].min() < 0


def test_values_that_are_not_finite_have_no_rank(two: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", a=np.array([[1, 0, 3]], np.float32), b=np.array([[1, 0, 0]], np.int64))
    report = run_model(two, tmp_path / "in.npz")
    assert report.outputs[0].top == (((0, 1.0),),)  # 0 / 0 and 3 / 0 are none
    assert json.loads(json_text({"a": [float("nan"), (1.5, float("-inf"))]})) == {"a": [None, [1.5, None]]}


def test_made_up_inputs(two: Path) -> None:
    first, second, other = (run_model(two, batch=4, seed=seed) for seed in (1, 1, 2))
    assert first.inputs == {"a": (4, 3), "b": (4, 3)}
    assert first.synthetic
    assert first.outputs == second.outputs != other.outputs
    assert "made-up values" in text_of(first)
    assert run_model(two, shapes={"a": (2, 3), "b": (2, 3)}).inputs == {"a": (2, 3), "b": (2, 3)}


def test_inputs_that_do_not_fit(two: Path, normalized: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.ones((1, 3), np.float32))
    np.save(tmp_path / "flat.npy", np.ones((3, 3), np.uint8)[0])
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "double.npy", np.ones((1, 2, 3, 3)))
    np.savez(tmp_path / "flipped.npz", image=np.ones((1, 2, 30, 30), np.float32))
    data = bytearray((tmp_path / "flipped.npz").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "flipped.npz").write_bytes(data)
    for model, file, message in (
        (two, "a.npz", r"has the arrays a; two\.onnx has the inputs a, b"),
        (normalized, "a.npz", "neither the array image nor images"),
        (normalized, "flat.npy", r"the images have shape 3, not"),
        (normalized, "none.npy", "does not exist"),
        (normalized, "text.npy", r"is neither a \.npy nor a \.npz"),
        (normalized, "pickled.npy", "cannot read"),
        (normalized, "flipped.npz", "cannot read"),
        (normalized, "double.npy", "takes float32, got float64"),
    ):
        with pytest.raises(InputError, match=message):
            run_model(model, tmp_path / file, output=tmp_path / "out.npz")
    with pytest.raises(InputError, match="inputs are given"):
        run_model(two, tmp_path / "a.npz", batch=2)
    with pytest.raises(InputError, match="there is no directory"):
        run_model(two, output=tmp_path / "nowhere" / "out.npz")
    for options, message in (
        ({"batch": 0}, "batch must be 1 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"threads": 100_000}, "threads must be 1 or more, at most"),
        ({"shapes": {"c": (2, 3)}}, r"two\.onnx has no input 'c'"),
        ({"output": two}, "is a file that is read"),
    ):
        with pytest.raises(InputError, match=message):
            run_model(two, **options)
    assert not (tmp_path / "out.npz").exists()


def test_engines(monkeypatch: pytest.MonkeyPatch, small: dict[str, Path], tmp_path: Path) -> None:
    fake = FakeTensorRt(FakeCuda())
    install(monkeypatch, fake.cuda, fake)
    monkeypatch.setenv("EDGECONV_ENGINE_CACHE", str(tmp_path / "cache"))
    image = np.random.default_rng(0).standard_normal((2, 3, 10, 13)).astype(np.float32)
    np.savez(tmp_path / "in.npz", image=image)
    (expected,) = OrtSession(small["functions"]).run({"image": image}).values()
    options: dict[str, Any] = {"provider": "tensorrt", "op_library": False, "output": tmp_path / "out.npz"}
    engine = build_engine(
        small["functions"], tmp_path / "own.engine", plugins=False, shapes={"": (2, 3, 10, 13)}
    ).engine
    for model in (small["functions"], engine):
        report = run_model(model, tmp_path / "in.npz", **options)
        assert (report.provider, report.runtime) == ("tensorrt", "TensorRT 10.14.1.48")
        assert report.placement is None
        with np.load(tmp_path / "out.npz") as written:
            (actual,) = written.values()
            assert_close(actual, expected, np.float32, "gaussian")
    with pytest.raises(InputError, match=r"own\.engine is an engine, which provider cpu does not run"):
        run_model(engine)


def test_nodes_on_the_cpu(monkeypatch: pytest.MonkeyPatch, two: Path, tmp_path: Path) -> None:
    gpu: FakeGpu = install_gpu(monkeypatch)
    report = run_model(two, provider="cuda", op_library=False)
    assert report.placement is not None
    assert set(report.placement.counts) == {"CUDA"}
    assert "nodes on CUDA" in text_of(report)
    gpu.cpu_operators = ("Div",)
    with pytest.raises(InputError, match="do not run on CUDA"):
        run_model(two, provider="cuda", op_library=False, output=tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()
    allowed = run_model(two, provider="cuda", op_library=False, allow_cpu_fallback=True)
    assert allowed.placement is not None
    assert allowed.placement.counts["CPU"] == 1


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "tensorrt-rtx"])
def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, two: Path, provider: str) -> None:
    install(monkeypatch, FakeCuda(gpu=None), None)
    with pytest.raises(MissingDependencyError) as caught:
        run_model(two, provider=provider)
    assert isinstance(caught.value, EdgeconvError)
    assert "no NVIDIA GPU can be used here" in caught.value.message
    assert caught.value.exit_code == 3
