"""What users get wrong: one message with cause and remedy, or a warning where it can be done; nothing half-written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgeconv
from edgeconv.errors import InputError

from .models import SHAPE, build, image_batch, inverted_residuals, write_pictures

METADATA = {"edgeconv.normalization": '{"mean": [0.5], "std": [0.5]}'}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model and pictures."""
    model = inverted_residuals()
    onnx.helper.set_model_props(model, METADATA)
    onnx.save(model, tmp_path / "net.v1.onnx")
    write_pictures(tmp_path / "pictures", 5)
    return tmp_path


def quantize(place: Path, calibration: str = "pictures", **options: Any) -> Any:
    return edgeconv.quantize_model(
        place / "net.v1.onnx", place / calibration,
        **{"latency": False, "rounding": "nearest", "bias_correction": False, "equalize": False, **options},
    )  # fmt: skip


def refused(place: Path, *arguments: Any, **options: Any) -> InputError:
    """The error; nothing was written."""
    before = {file: file.stat().st_mtime_ns for file in place.rglob("*")}
    with pytest.raises(InputError) as caught:
        quantize(place, *arguments, **options)
    assert {file: file.stat().st_mtime_ns for file in place.rglob("*")} == before
    assert caught.value.remedy
    assert "\n" not in caught.value.message
    return caught.value


def test_the_name_of_the_file_that_is_written(place: Path) -> None:
    assert quantize(place).path == str(place / "net.v1.int8.onnx")


def test_the_model_itself_is_not_overwritten(place: Path) -> None:
    assert "is a file that is read" in refused(place, output=place / "net.v1.onnx").message


def test_an_output_that_cannot_be_written_is_found_before_the_work(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeconv.quantize.api.run_pipeline", None)
    assert "there is no directory" in refused(place, output=place / "none" / "net.onnx").message
    assert "there is no directory" in refused(place, plot=place / "none" / "ranges.png").message


def test_no_images(place: Path) -> None:
    (place / "empty").mkdir()
    assert "there is no image in" in refused(place, "empty").message
    assert "does not exist" in refused(place, "nowhere").message


def test_unreadable_images_are_skipped_and_counted(place: Path) -> None:
    (place / "pictures" / "000.png").write_bytes(b"not a picture")
    report = quantize(place)
    assert report.calibration["images"] == 4
    assert report.calibration["skipped"] == 1
    (warning,) = (each for each in report.warnings if "could not be read" in each)
    assert warning.startswith("1 images could not be read and were skipped, ")
    assert "000.png" in warning


def test_not_one_readable_image(place: Path) -> None:
    for file in (place / "pictures").iterdir():
        file.write_bytes(b"not a picture")
    error = refused(place)
    assert "can be read (5 were tried" in error.message
    assert "JPEG" in error.remedy


def test_images_to_compare_on_that_cannot_be_read(place: Path) -> None:
    shutil.copytree(place / "pictures", place / "others")
    for file in (place / "others").iterdir():
        file.write_bytes(b"not a picture")
    assert "no image of" in refused(place, compare=place / "others").message


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (image_batch(2, shape=(3, 8, 8)), "has the shape 3x8x8; the model takes 3x20x26"),
        (image_batch(2, shape=(1, *SHAPE[1:])), "has the shape 1x20x26"),
        (image_batch(2) * 127 + 127, "has values from"),
        (np.full((2, *SHAPE), np.nan, np.float32), "has NaN or infinite values"),
        (np.full((2, *SHAPE), "a"), "is <U1"),
    ],
    ids=["size", "channels", "range", "nan", "type"],
)
def test_wrong_shapes_and_ranges(images: Any, text: str, place: Path) -> None:
    np.save(place / "x.npy", images)
    assert text in refused(place, "x.npy").message


def test_activations_that_are_not_finite(place: Path) -> None:
    model = build(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 3, 20, 26] x) => (float[N, 3, 20, 26] y) {
            [first] a = Conv (x, w)
            [root] b = Sqrt (a)
            [second] y = Conv (b, w)
        }""",
        {"w": np.eye(3, dtype=np.float32)[:, :, None, None]},
    )
    onnx.helper.set_model_props(model, METADATA)
    onnx.save(model, place / "net.v1.onnx")
    error = refused(place)
    assert "root gives NaN or infinite values" in error.message
    assert "--mean" in error.remedy


def test_one_image_is_warned_about(place: Path) -> None:
    np.save(place / "one.npy", image_batch(1))
    report = quantize(place, "one.npy")
    assert any("a single image" in warning for warning in report.warnings)


def test_a_quantised_model(place: Path) -> None:
    quantize(place, output=place / "net.int8.onnx")
    (place / "net.int8.onnx").rename(place / "net.v1.onnx")
    assert "is quantised already" in refused(place).message


def test_open_sizes(place: Path) -> None:
    model = onnx.load(place / "net.v1.onnx")
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size{axis}"
    onnx.save(model, place / "net.v1.onnx")
    error = refused(place)
    assert "leaves its input's height and width open" in error.message
    assert "--size" in error.remedy
    assert quantize(place, size=SHAPE[1:]).calibration["images"] == 5


def test_images_of_unlike_sizes_for_open_sizes(place: Path) -> None:
    """An array has one size; it is taken, and the file stays open."""
    model = onnx.load(place / "net.v1.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"
    onnx.save(model, place / "net.v1.onnx")
    np.save(place / "x.npy", image_batch(6, shape=(3, 20, 40)))
    assert quantize(place, "x.npy").calibration["images"] == 6
