"""Every way to give images, and every way in which they do not fit: one message each."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeconv.errors import InputError
from edgeconv.normalization import Normalization, read_normalization
from edgeconv.quantize.images import InputSpec, open_images
from edgeconv.quantize.labels import open_labelled

from .models import HALF, SHAPE, SPEC, image_batch, write_pictures


def test_pictures_are_cut_to_size_and_normalised(tmp_path: Path) -> None:
    directory = write_pictures(tmp_path / "in", 5)
    source = open_images(directory, SPEC)
    batches = list(source.batches(2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert len(source) == 5
    assert all(batch.shape[1:] == SHAPE and batch.dtype == np.float32 for batch in batches)
    Image.fromarray(np.full((60, 90, 3), 255, np.uint8)).save(directory / "white.png")
    assert np.allclose(next(iter(open_images(directory, SPEC).batches(6)))[5], 1)


def test_the_centre_of_a_wide_picture_is_taken(tmp_path: Path) -> None:
    pixels = np.zeros((40, 200, 3), np.uint8)
    pixels[:, 90:110] = 255  # a bar in the middle, and nothing at the sides
    Image.fromarray(pixels).save(tmp_path / "bar.png")
    ((image,),) = open_images(tmp_path, SPEC).batches(1)
    columns = image.mean((0, 1))
    assert columns[:4].max() < -0.9
    assert columns[11:15].min() > 0.9
    assert columns[-4:].max() < -0.9


def test_grey_pictures_and_rotated_ones(tmp_path: Path) -> None:
    picture = Image.fromarray(np.tile(np.linspace(0, 255, 40).astype(np.uint8), (40, 1)))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture.convert("RGB").save(tmp_path / "turned.jpg", exif=exif, quality=98)
    ((image,),) = open_images(tmp_path, replace(SPEC, shape=(1, 20, 20))).batches(1)
    assert image.shape == (1, 20, 20)
    assert np.ptp(image.mean(2)) > 1.2  # brightness now runs from top to bottom
    assert np.ptp(image.mean(1)) < 0.1


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed", "only", "channels last", "grey"])
def test_arrays_are_read_row_by_row(kind: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (7, *SHAPE), dtype=np.uint8)
    spec, stored = SPEC, pixels
    if kind == "channels last":
        stored = pixels.transpose(0, 2, 3, 1).copy()
    if kind == "grey":
        spec, stored = replace(SPEC, shape=(1, *SHAPE[1:])), pixels[:, 0]
        pixels = pixels[:, :1]
    path = tmp_path / ("images.npz" if kind in ("npz", "compressed", "only") else "images.npy")
    if kind == "npz":
        np.savez(path, images=stored, labels=np.arange(7))
    elif kind == "compressed":
        np.savez_compressed(path, images=stored, labels=np.arange(7))
    elif kind == "only":
        np.savez(path, anything=stored)
    else:
        np.save(path, stored)
    source = open_images(path, spec)
    expected = (pixels / 255 - 0.5) / 0.5
    assert np.allclose(np.concatenate(list(source.batches(3))), expected, atol=1e-6)
    assert np.allclose(np.concatenate(list(source.batches(3, 5))), expected[5:], atol=1e-6)
    assert len(open_images(path, spec, limit=2)) == 2
    assert len(np.concatenate(list(open_images(path, spec, limit=2).batches(8)))) == 2


def test_float_arrays_are_taken_as_they_are(tmp_path: Path) -> None:
    images = image_batch(3)
    np.save(tmp_path / "x.npy", images.astype(np.float64))
    (batch,) = open_images(tmp_path / "x.npy", replace(SPEC, normalization=None)).batches(8)
    assert np.array_equal(batch, images)


def test_unreadable_pictures_are_skipped_and_counted(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    (tmp_path / "001.png").write_bytes(b"not a picture")
    (tmp_path / "zzz.jpg").write_bytes((tmp_path / "000.png").read_bytes()[:90])
    source = open_images(tmp_path, SPEC)
    assert len(np.concatenate(list(source.batches(2)))) == 2
    assert {Path(name).name for name in source.skipped} == {"001.png", "zzz.jpg"}


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_16_bit_grey_is_scaled(suffix: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    for name, each in (("8", pixels), ("16", pixels.astype(np.uint16) * 257)):
        (tmp_path / name).mkdir()
        Image.fromarray(each).save(tmp_path / name / f"picture{suffix}")
    (few,), (many,) = (next(iter(open_images(tmp_path / name, SPEC).batches(1))) for name in ("8", "16"))
    np.testing.assert_array_equal(few, many)
    assert np.ptp(many) > 1


def test_pictures_of_unknown_range_are_skipped(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    Image.fromarray(np.full((30, 40), 0.5, np.float32)).save(tmp_path / "float.tif")
    source = open_images(tmp_path, SPEC)
    assert len(np.concatenate(list(source.batches(2)))) == 1
    assert "range of its pixels is not known" in source.skipped[str(tmp_path / "float.tif")]


def message(error: pytest.ExceptionInfo[InputError]) -> str:
    assert error.value.remedy
    return error.value.message


def test_nothing_readable(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no")
    (tmp_path / "b.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"no image of .* can be read \(2 were tried; .*a\.png") as error:
        list(open_images(tmp_path, SPEC).batches(4))
    assert "JPEG" in error.value.remedy


@pytest.mark.parametrize(
    ("name", "text"),
    [("", "there is no image in"), ("nowhere", "does not exist"), ("notes.txt", "neither a directory of images nor")],
)
def test_no_images(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=text):
        open_images(tmp_path / name if name else tmp_path, SPEC)


BAD_ARRAYS = {
    "shape": (image_batch(2, shape=(3, 8, 8)), "has the shape 3x8x8; the model takes 3x20x26"),
    "nan": (np.full((1, *SHAPE), np.nan, np.float32), "has NaN or infinite values"),
    "range": (
        image_batch(2) * 127 + 127,
        "has values from .*; prepared as the model says, pixels lie between -1 and 1",
    ),
    "type": (np.zeros((2, *SHAPE), np.int64), "is int64"),
    "empty": (np.zeros((0, *SHAPE), np.float32), "has the shape 0x3x20x26"),
    "flat": (np.zeros((4, 12), np.float32), "not \\(N, C, H, W\\)"),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_arrays_that_do_not_fit(kind: str, tmp_path: Path) -> None:
    array, text = BAD_ARRAYS[kind]
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputError, match=text) as error:
        list(open_images(tmp_path / "x.npy", SPEC).batches(4))
    assert message(error)


def test_archives_that_do_not_fit(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    with pytest.raises(InputError, match="holds the arrays a, b"):
        open_images(tmp_path / "two.npz", SPEC)
    (tmp_path / "bad.npz").write_bytes(b"PK and then nothing")
    (tmp_path / "bad.npy").write_bytes(b"nothing at all")
    for name in ("bad.npz", "bad.npy"):
        with pytest.raises(InputError, match="cannot read"):
            open_images(tmp_path / name, SPEC)
    with zipfile.ZipFile(tmp_path / "readme.npz", "w") as archive:
        archive.writestr("readme.txt", "no array")
    with pytest.raises(InputError, match="holds the arrays none"):
        open_images(tmp_path / "readme.npz", SPEC)


@pytest.mark.parametrize("start", [0, 3])
def test_damaged_archives(start: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), dtype=np.uint8)
    np.savez(tmp_path / "flipped.npz", images=pixels)
    data = bytearray((tmp_path / "flipped.npz").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "flipped.npz").write_bytes(data)
    np.save(tmp_path / "images.npy", pixels)
    short = (tmp_path / "images.npy").read_bytes()[: -4 * pixels[0].size]  # the header promises five
    with zipfile.ZipFile(tmp_path / "short.npz", "w") as archive:
        archive.writestr("images.npy", short)
    for name in ("flipped.npz", "short.npz"):
        source = open_images(tmp_path / name, SPEC)
        with pytest.raises(InputError, match=f"cannot read .*{name}") as error:
            list(source.images(start))
        assert message(error)


def test_what_is_not_known_is_asked_for(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    np.save(tmp_path / "x.npy", np.zeros((2, *SHAPE), np.uint8))
    silent = replace(SPEC, normalization=None)
    for place in (tmp_path, tmp_path / "x.npy"):
        with pytest.raises(InputError, match="does not say how") as error:
            open_images(place, silent)
        assert "--mean" in error.value.remedy
    with pytest.raises(InputError, match="height and width open") as error:
        open_images(tmp_path, replace(SPEC, shape=(3, None, None)))
    assert "--size" in error.value.remedy
    with pytest.raises(InputError, match="4 channels"):
        open_images(tmp_path, replace(SPEC, shape=(4, 20, 26)))
    with pytest.raises(InputError, match="--calib-limit"):
        open_images(tmp_path, SPEC, limit=0)


def test_fingerprints_follow_images_and_preparation(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    first = open_images(tmp_path, SPEC).fingerprint()
    assert open_images(tmp_path, SPEC).fingerprint() == first
    assert open_images(tmp_path, SPEC, limit=1).fingerprint() != first
    assert open_images(tmp_path, replace(SPEC, normalization=Normalization((0.1,), (0.5,)))).fingerprint() != first
    write_pictures(tmp_path, 3)
    assert open_images(tmp_path, SPEC).fingerprint() != first


def test_normalisation_from_the_file_and_from_the_user() -> None:
    stored = {"edgeconv.normalization": '{"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}'}
    assert read_normalization(stored, None, None) == Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert read_normalization({}, None, None) is None
    assert read_normalization({"edgeconv.normalization": "null"}, None, None) is None
    assert read_normalization(stored, (0.5,), (0.25,)) == Normalization((0.5,), (0.25,))
    # EfficientNet-Lite's (x - 127) / 128 of pixels up to 255.
    assert read_normalization({}, (127,), (128,)) == Normalization((127 / 255,), (128 / 255,))
    for mean, std in (((0.5,), None), (None, (0.5,)), ((0.5,), (0.0,)), ((np.nan,), (1.0,))):
        with pytest.raises(InputError, match="--mean and --std"):
            read_normalization({}, mean, std)
    with pytest.raises(InputError, match="--mean has 2 values"):
        Normalization((0.1, 0.2), (1,)).apply(np.zeros((3, 2, 2), np.uint8))
    for mean in ((0.1, 0.2), ()):
        with pytest.raises(InputError, match=f"--mean has {len(mean)} values"):
            Normalization(mean, (1,) * len(mean)).check_range("x", np.zeros((3, 2, 2), np.float32))


def test_labels_by_directory_and_by_table(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_pictures(tmp_path / "tree" / name, 2)
    spec = InputSpec("x", SHAPE, HALF)
    by_name = open_labelled(tmp_path / "tree", spec, {})
    assert sorted(by_name.labels.values()) == [0, 0, 1, 1]
    listed = {"edgeconv.class_names": '["bird", "dog", "cat"]'}
    labels = open_labelled(tmp_path / "tree", spec, listed).labels
    assert {Path(file).parent.name: label for file, label in labels.items()} == {"cat": 2, "dog": 1}
    flat = write_pictures(tmp_path / "flat", 2)
    (flat / "labels.csv").write_text("file,class\n000.png,7\n001.png,3\n")
    assert sorted(open_labelled(flat, spec, {}).labels.values()) == [3, 7]
    names = [name for name, _ in open_labelled(flat, spec, {}).source.images()]
    assert set(names) == open_labelled(flat, spec, {}).labels.keys()
    with pytest.raises(InputError, match="the model has no class 'cat'"):
        open_labelled(tmp_path / "tree", spec, {"edgeconv.class_names": '["bird", "dog"]'})
    with pytest.raises(InputError, match="holds no labelled images"):
        open_labelled(write_pictures(tmp_path / "bare", 1), spec, {})
    with pytest.raises(InputError, match="is not a directory"):
        open_labelled(flat / "000.png", spec, {})
