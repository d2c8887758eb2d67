"""The IDX reader against files written here byte by byte, whole and damaged."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from edgeconv.errors import InputError
from edgeconv.training import DATASETS, DatasetSpec, load_dataset, read_idx


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("shape", [(7,), (3, 5, 4), (2, 1, 3, 2)])
@pytest.mark.parametrize("compress", [False, True])
def test_read_idx(tmp_path: Path, shape: tuple[int, ...], compress: bool) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(idx(array)) if compress else idx(array))
    read = read_idx(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)


WHOLE = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x08", "not an IDX file"),
        (b"PK\x03\x04" + WHOLE, "not an IDX file"),
        (b"\0\0\x08\0", "not an IDX file"),
        (b"\0\0\x0d" + WHOLE[3:], "type 0x0d"),
        (WHOLE[:9], "within its header"),
        (WHOLE[:-1], "is truncated: 23 bytes"),
        (WHOLE + b"\0", "is too long: 25 bytes"),
        (gzip.compress(WHOLE, mtime=0)[:-9], "cannot read"),
        (b"\x1f\x8b" + WHOLE, "cannot read"),
    ],
)
def test_damaged_idx(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with pytest.raises(InputError, match=cause) as raised:
        read_idx(path)
    assert str(path) in raised.value.message
    assert "fetch_mnist.sh" in raised.value.remedy


def test_missing_idx(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_idx(tmp_path / "none")


SPEC = DatasetSpec(
    name="tiny", input_shape=(1, 4, 3), mean=(0.5,), std=(0.25,), class_names=("a", "b"),
    train_files=("ti", "tl"), test_files=("ei", "el"), train_count=6, test_count=2,
)  # fmt: skip


def write(directory: Path, **replaced: bytes) -> None:
    rng = np.random.default_rng(1)
    files = {
        "ti": idx(rng.integers(0, 256, (6, 4, 3), np.uint8)),
        "tl": idx(np.array([0, 1, 0, 1, 1, 0], np.uint8)),
        "ei": idx(rng.integers(0, 256, (2, 4, 3), np.uint8)),
        "el": idx(np.array([1, 0], np.uint8)),
    }
    for name, content in {**files, **replaced}.items():
        (directory / name).write_bytes(content)


def test_load_dataset(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "ti.gz").write_bytes(gzip.compress((tmp_path / "ti").read_bytes()))
    expected = read_idx(tmp_path / "ti")
    (tmp_path / "ti").unlink()
    dataset = load_dataset(SPEC, tmp_path)
    assert dataset.train_images.shape == (6, 1, 4, 3)
    np.testing.assert_array_equal(dataset.train_images[:, 0], expected)
    np.testing.assert_array_equal(dataset.train_labels, [0, 1, 0, 1, 1, 0])
    assert dataset.test_labels.dtype == np.int64


@pytest.mark.parametrize(
    ("replaced", "cause"),
    [
        ({"ti": idx(np.zeros((5, 4, 3), np.uint8))}, r"shape \(5, 4, 3\); tiny has \(6, 4, 3\)"),
        ({"ti": idx(np.zeros((6, 3, 4), np.uint8))}, "shape"),
        ({"tl": idx(np.zeros((6, 4, 3), np.uint8))}, "shape"),
        ({"el": idx(np.array([1, 2], np.uint8))}, "label 2; tiny has 2 classes"),
    ],
)
def test_wrong_dataset(tmp_path: Path, replaced: dict[str, bytes], cause: str) -> None:
    write(tmp_path, **replaced)
    with pytest.raises(InputError, match=cause):
        load_dataset(SPEC, tmp_path)


def test_dataset_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist") as raised:
        load_dataset("mnist", tmp_path / "nowhere")
    assert "fetch_mnist.sh" in raised.value.remedy
    with pytest.raises(InputError, match="holds neither train-images-idx3-ubyte nor"):
        load_dataset("mnist", tmp_path)
    with pytest.raises(InputError, match="no data set is named 'mnits'"):
        load_dataset("mnits", tmp_path)


def test_mnist_spec() -> None:
    spec = DATASETS["mnist"]
    assert spec.normalization == {"mean": [0.1307], "std": [0.3081]}
    assert spec.class_names == tuple("0123456789")
    assert (spec.train_count, spec.test_count, spec.input_shape) == (60_000, 10_000, (1, 28, 28))
