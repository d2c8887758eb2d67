"""`quantize_model` as a whole: what it writes, what it reports, and each thing that it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

import edgeconv
from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.quantize import api, pipeline
from edgeconv.quantize import observe as observing
from edgeconv.quantize.images import ImageArray
from edgeconv.quantize.report import QuantizationReport

from .models import SHAPE, image_batch, inverted_residuals, run, sqnr, write_pictures

METADATA = {"edgeconv.normalization": '{"mean": [0.5], "std": [0.5]}', "edgeconv.input_shape": "[1, 3, 20, 26]"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, pictures, and prepared arrays."""
    directory = tmp_path_factory.mktemp("quantize")
    model = inverted_residuals()
    onnx.helper.set_model_props(model, METADATA)
    onnx.save(model, directory / "net.onnx")
    np.save(directory / "calib.npy", image_batch(24))
    np.save(directory / "others.npy", image_batch(24, seed=50))
    np.save(directory / "one.npy", image_batch(1))
    write_pictures(directory / "pictures", 4)
    return directory


def quantize(place: Path, output: Path, calibration: str = "calib.npy", **options: Any) -> QuantizationReport:
    return edgeconv.quantize_model(
        place / "net.onnx", place / calibration, **{"output": output, "latency": False, **options}
    )


@pytest.mark.parametrize("target", ["ort", "tensorrt", "portable"])
def test_a_whole_run(target: str, place: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    report = quantize(
        place,
        tmp_path / "out.onnx",
        target=target,
        compare=place / "others.npy",
        progress=lambda *what: told.append(what),
    )
    written, images = onnx.load(tmp_path / "out.onnx"), image_batch(24, seed=50)
    onnx.checker.check_model(written, full_check=True)
    measured = sqnr(run(inverted_residuals(), images), run(written, images))
    assert report.agreement.sqnr_db == pytest.approx(measured, abs=0.1)
    assert measured > 22
    assert report.agreement.images == 24
    assert report.quantized["layers"] == len(report.layers) == 8
    assert [row.sqnr_db for row in report.layers] == sorted(row.sqnr_db for row in report.layers)
    assert report.bytes_after == (tmp_path / "out.onnx").stat().st_size
    assert report.left == {}
    metadata = {entry.key: entry.value for entry in written.metadata_props}
    assert metadata["edgeconv.precision"] == "int8"
    assert json.loads(metadata["edgeconv.quantization"])["target"] == target
    assert metadata["edgeconv.normalization"] == METADATA["edgeconv.normalization"]
    assert {"edgeconv.float_sha256", "edgeconv.calibration_sha256"} <= metadata.keys()
    assert json.loads(json.dumps(report.to_dict()))["verdict"] == report.verdict()
    assert told
    assert all(0 <= done <= 1 for _, done in told)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx"]


def test_each_step_helps(place: Path, tmp_path: Path) -> None:
    def measure(**options: Any) -> float:
        report = quantize(place, tmp_path / "x.onnx", compare=place / "others.npy", **options)
        return report.agreement.sqnr_db

    plain = {"equalize": False, "bias_correction": False, "rounding": "nearest"}
    least = measure(**plain)
    assert measure(**{**plain, "bias_correction": True}) > least
    assert measure() > least + 1


def test_pictures_and_labels(place: Path, tmp_path: Path) -> None:
    """Labels that are the float network's own classes: its accuracy is 1, the other's is the agreement."""
    labelled = write_pictures(tmp_path / "labelled", 8, seed=3)
    from edgeconv.quantize.images import open_images

    from .models import SPEC

    images = np.concatenate(list(open_images(labelled, SPEC).batches(8)))
    classes = run(inverted_residuals(), images).argmax(1)
    (labelled / "labels.csv").write_text("".join(f"{i:03d}.png,{c}\n" for i, c in enumerate(classes)))
    report = quantize(place, tmp_path / "out.onnx", "pictures", accuracy=labelled)
    assert report.agreement.accuracy is not None
    assert report.agreement.accuracy[0] == 1
    assert report.agreement.accuracy[1] == report.agreement.same_class
    assert report.agreement.images == 8
    assert "accuracy" in report.verdict()
    assert report.calibration["images"] == 4


def test_latency_and_plot(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeconv.quantize import verdict

    monkeypatch.setattr(verdict, "DURATION", 0.02)
    monkeypatch.setattr(verdict, "WARMUP", 0.0)
    report = quantize(place, tmp_path / "out.onnx", latency=True, plot=tmp_path / "ranges.png")
    assert report.latency is not None
    assert report.latency.ratio == pytest.approx(report.latency.int8_ms / report.latency.float_ms)
    assert report.verdict().startswith("INT8 ")
    assert (tmp_path / "ranges.png").read_bytes()[1:4] == b"PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "ranges.png"]
    with pytest.raises(InputError, match=r"--plot .* is not a picture"):
        quantize(place, tmp_path / "out.onnx", plot=tmp_path / "ranges.xyz")


def test_excluded_layers_are_reported(place: Path, tmp_path: Path) -> None:
    report = quantize(place, tmp_path / "out.onnx", exclude=["stem$", "classifier"])
    assert report.left == {"stem": "excluded", "classifier": "excluded"}
    assert report.quantized["layers"] == 6


def test_8_bit_inputs(place: Path, tmp_path: Path) -> None:
    report = quantize(place, tmp_path / "out.onnx", int8_io=True, latency=True)
    written = onnx.load(tmp_path / "out.onnx")
    assert written.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert report.latency is not None


def test_sensitivity_finds_the_bad_layer_and_proposes_it(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    weights = generator.standard_normal((10, 5, 1, 1)).astype(np.float32)
    weights[:, 1] *= 150  # one large column in every filter: the others have few steps left
    bias = generator.normal(0.5, 1, 5).astype(np.float32)
    projection = generator.standard_normal((5, 6, 1, 1)).astype(np.float32)
    projection[1] /= 150
    bias[1] /= 150
    onnx.save(inverted_residuals(w2=projection, b2=bias, w3=weights), tmp_path / "net.onnx")
    np.save(tmp_path / "calib.npy", image_batch(16))
    report = edgeconv.quantize_model(
        tmp_path / "net.onnx", tmp_path / "calib.npy", equalize=False, rounding="nearest", sensitivity=True,
        latency=False, target_sqnr=24,
    )  # fmt: skip
    found = report.sensitivity
    assert found is not None
    assert {layer.layer for layer in found.layers[:2]} & {"expand2", "project1"}
    assert [layer.gain for layer in found.layers] == sorted((layer.gain for layer in found.layers), reverse=True)
    if found.quantized_db < 24:
        assert found.proposal.met
        assert 0 < len(found.proposal.layers) < 8
        again = edgeconv.quantize_model(
            tmp_path / "net.onnx", tmp_path / "calib.npy", equalize=False, rounding="nearest", latency=False,
            exclude=[found.proposal.option.split("'")[1]],
        )  # fmt: skip
        assert set(again.left) == set(found.proposal.layers)
    assert (tmp_path / "net.int8.onnx").is_file()


def test_one_image_is_warned_about(place: Path, tmp_path: Path) -> None:
    report = quantize(place, tmp_path / "out.onnx", "one.npy")
    assert any("a single image" in warning for warning in report.warnings)


def edited(place: Path, tmp_path: Path, change: Any) -> Path:
    model = onnx.load(place / "net.onnx")
    change(model)
    onnx.save(model, tmp_path / "edited.onnx")
    return tmp_path / "edited.onnx"


def two_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("second", onnx.TensorProto.FLOAT, [1]))


def integer_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8


def open_size(model: onnx.ModelProto) -> None:
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size{axis}"


@pytest.mark.parametrize(
    ("change", "text"),
    [(two_inputs, r"has 2 inputs \(x, second\)"), (integer_input, "is not a float32 tensor"),
     (open_size, "leaves its input's height and width open")],
)  # fmt: skip
def test_models_that_are_refused(change: Any, text: str, place: Path, tmp_path: Path) -> None:
    model = edited(place, tmp_path, change)
    with pytest.raises(InputError, match=text) as error:
        edgeconv.quantize_model(model, place / "pictures", output=tmp_path / "out.onnx")
    assert error.value.remedy or "inputs" in error.value.message
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("how", ["size", "array"])
def test_open_sizes_that_the_calibration_settles(how: str, place: Path, tmp_path: Path) -> None:
    model = edited(place, tmp_path, open_size)
    images, options = (place / "pictures", {"size": SHAPE[1:]}) if how == "size" else (place / "calib.npy", {})
    report = edgeconv.quantize_model(model, images, output=tmp_path / "out.onnx", latency=False, **options)
    assert report.agreement.sqnr_db > 15
    dims = onnx.load(tmp_path / "out.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param for dim in dims][2:] == ["size2", "size3"]


def test_a_quantised_file_is_refused(place: Path, tmp_path: Path) -> None:
    quantize(place, tmp_path / "out.onnx")
    with pytest.raises(InputError, match=r"out\.onnx is quantised already"):
        edgeconv.quantize_model(tmp_path / "out.onnx", place / "calib.npy", output=tmp_path / "again.onnx")
    assert not (tmp_path / "again.onnx").exists()


def test_a_network_without_anything_to_quantise(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing in the model can be quantised: excluded"):
        quantize(place, tmp_path / "out.onnx", exclude=["."])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"target": "tpu"}, "unknown target 'tpu'"), ({"method": "best"}, "unknown method 'best'"),
        ({"rounding": "up"}, "unknown rounding 'up'"), ({"percentile": 20}, "percentile must lie"),
        ({"batch": 0}, "--batch"), ({"mean": [0.5]}, "--mean and --std are needed both"),
        ({"size": (10, 10)}, "--size 10x10 contradicts"),
        ({"relax_relu6": True, "equalize": False}, "--relax-relu6 is a part of"),
        ({"target_sqnr": float("nan")}, "--target-sqnr must be a number of dB, got nan"),
    ],
)  # fmt: skip
def test_options_that_are_refused(options: dict[str, Any], text: str, place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=text):
        quantize(place, tmp_path / "out.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out.onnx").write_bytes(b"as it was")

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "measure_latency", interrupt)
    with pytest.raises(KeyboardInterrupt):
        quantize(place, tmp_path / "out.onnx", latency=True)
    assert (tmp_path / "out.onnx").read_bytes() == b"as it was"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx"]


def test_both_passes_over_the_images_go_on(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second pass is interrupted: the first is not done again."""
    monkeypatch.setattr(observing, "_SAVE_SECONDS", 0.0)
    whole = ImageArray.images
    starts: list[int] = []

    def interrupted(self: ImageArray, start: int = 0) -> Iterator[tuple[str, Any]]:
        starts.append(start)
        for index, image in enumerate(whole(self, start), start):
            if len(starts) == 2 and index == 12:
                raise KeyboardInterrupt
            yield image

    monkeypatch.setattr(ImageArray, "images", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quantize(place, tmp_path / "out.onnx", batch=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx.equalize.resume", "out.onnx.resume"]
    report = quantize(place, tmp_path / "out.onnx", batch=4)
    assert starts[:4] == [0, 0, 24, 12]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx"]
    monkeypatch.undo()
    again = quantize(place, tmp_path / "again.onnx", batch=4)
    assert report.agreement == again.agreement


def test_learned_rounding_says_what_it_needs(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name}", name="torch")

    monkeypatch.setattr(pipeline, "importlib", SimpleNamespace(import_module=missing))
    with pytest.raises(MissingDependencyError, match="learned rounding needs torch"):
        quantize(place, tmp_path / "out.onnx", rounding="learned")
