"""Image classification data in IDX files, the format of MNIST.

An IDX file is a big-endian header (two zero bytes, a type code, the number of dimensions, each dimension as 32 bits)
followed by the values; source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits".
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeconv.errors import InputError

_UINT8 = 0x08
FETCH_REMEDY = "Fetch the data anew with scripts/fetch_mnist.sh, or point --data-dir at the directory that holds it."


@dataclass(frozen=True)
class DatasetSpec:
    """A data set's files, and how its images become a network's input.

    Args:
        name: As the commands take it.
        input_shape: (C, H, W).
        mean: Of the pixels scaled to [0, 1], one value a channel; the network sees (pixel / 255 - mean) / std.
        std: Likewise.
        class_names: In label order.
        train_files: Names of the training images and labels, without ".gz".
        test_files: Names of the test images and labels.
        train_count: Number of training images.
        test_count: Number of test images.
    """

    name: str
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    train_files: tuple[str, str]
    test_files: tuple[str, str]
    train_count: int
    test_count: int

    @property
    def normalization(self) -> dict[str, list[float]]:
        """Mean and standard deviation as a checkpoint stores them."""
        return {"mean": list(self.mean), "std": list(self.std)}


@dataclass(frozen=True)
class Dataset:
    """A data set in memory: images uint8 (N, C, H, W), labels int64 (N)."""

    spec: DatasetSpec
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


DATASETS = {
    "mnist": DatasetSpec(
        name="mnist",
        input_shape=(1, 28, 28),
        # Mean and standard deviation of the 60,000 training images' pixels, to four digits.
        mean=(0.1307,),
        std=(0.3081,),
        class_names=tuple("0123456789"),
        train_files=("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        test_files=("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        train_count=60_000,
        test_count=10_000,
    )
}
"""The data sets that `train_model` knows."""


def load_dataset(spec: DatasetSpec | str, directory: str | os.PathLike[str]) -> Dataset:
    """Read and check a data set's four files.

    Args:
        spec: The data set, or its name in `DATASETS`.
        directory: Where the files lie, each plain or with ".gz" appended.

    Raises:
        InputError: No such data set, a file is missing or damaged, or its counts, sizes or labels are wrong.
    """
    if isinstance(spec, str):
        if spec not in DATASETS:
            raise InputError(f"no data set is named {spec!r}.", f"Data sets: {', '.join(DATASETS)}.")
        spec = DATASETS[spec]
    train = _read_split(spec, Path(directory), spec.train_files, spec.train_count)
    test = _read_split(spec, Path(directory), spec.test_files, spec.test_count)
    return Dataset(spec, *train, *test)


def _read_split(
    spec: DatasetSpec, directory: Path, files: tuple[str, str], count: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    channels, height, width = spec.input_shape
    image_shape = (count, height, width) if channels == 1 else (count, channels, height, width)
    arrays = []
    for name, shape in zip(files, (image_shape, (count,)), strict=True):
        path = _find(directory, name)
        array = read_idx(path)
        if array.shape != shape:
            raise InputError(f"{path} holds an array of shape {array.shape}; {spec.name} has {shape}.", FETCH_REMEDY)
        arrays.append(array)
    images, labels = arrays
    if labels.max() >= len(spec.class_names):
        raise InputError(
            f"{directory / files[1]} holds label {labels.max()}; {spec.name} has {len(spec.class_names)} classes.",
            FETCH_REMEDY,
        )
    return images.reshape(count, channels, height, width), labels.astype(np.int64)


def _find(directory: Path, name: str) -> Path:
    if not directory.is_dir():
        raise InputError(f"the data directory {directory} does not exist.", FETCH_REMEDY)
    for candidate in (directory / name, directory / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise InputError(f"{directory} holds neither {name} nor {name}.gz.", FETCH_REMEDY)


def read_idx(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, plain or gzip-compressed (told by content, not by name).

    Returns:
        The array, in the shape that the header gives.

    Raises:
        InputError: The file cannot be read, is not such a file, or is longer or shorter than its header says.
    """
    try:
        data = Path(path).read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path}: {error}.", FETCH_REMEDY) from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[3] == 0:
        raise InputError(f"{path} is not an IDX file: it begins with {data[:4].hex() or 'nothing'}.", FETCH_REMEDY)
    if data[2] != _UINT8:
        raise InputError(f"{path} holds IDX type 0x{data[2]:02x}; only unsigned bytes (0x08) are read.", FETCH_REMEDY)
    header = 4 + 4 * data[3]
    if len(data) < header:
        raise InputError(f"{path} is truncated: it ends within its header.", FETCH_REMEDY)
    shape = struct.unpack(f">{data[3]}I", data[4:header])
    expected = math.prod(shape)
    if len(data) - header != expected:
        state = "truncated" if len(data) - header < expected else "too long"
        raise InputError(
            f"{path} is {state}: {len(data) - header:,} bytes of data where its header promises {expected:,}.",
            FETCH_REMEDY,
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
