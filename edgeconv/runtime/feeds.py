"""What a model is fed: arrays and images from files, or made-up values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgeconv.arrays import read_arrays
from edgeconv.bench.inputs import resolve_shapes, synthetic_feeds
from edgeconv.errors import InputError
from edgeconv.normalization import Normalization, read_normalization
from edgeconv.runtime.ort import Array, TensorInfo

StrPath = str | os.PathLike[str]


def read_feeds(
    path: StrPath | None,
    inputs: Sequence[TensorInfo],
    metadata: Mapping[str, str],
    batch: int,
    shapes: Mapping[str, Sequence[int]] | None,
    seed: int,
    model: StrPath,
) -> dict[str, Array]:
    """Return an array for every input of a model.

    Args:
        path: ``.npz`` with an array for each input by its name; or, for a model of one input, ``.npy`` or ``.npz`` with
            ``images``. uint8 images are prepared as the metadata says, other values are taken as they are. None: values
            are made up (`edgeconv.bench.inputs.synthetic_feeds`).
        inputs: The model's inputs.
        metadata: The model's metadata properties.
        batch: Size of dynamic batch dimensions of made-up values.
        shapes: Shapes of made-up values by name, where neither the model nor its metadata says them.
        seed: Of made-up values.
        model: The model, for messages.

    Raises:
        InputError: The file cannot be read or lacks an input, or a shape is unknown.
    """
    if path is None:
        unknown = sorted(set(shapes or {}) - {"", *(info.name for info in inputs)})
        if unknown:
            listed = ", ".join(info.name for info in inputs)
            raise InputError(f"{Path(model).name} has no input {unknown[0]!r}.", f"Its inputs: {listed}.")
        resolved = resolve_shapes(inputs, metadata, batch=batch, shapes=shapes, model=Path(model).name)
        return synthetic_feeds(inputs, resolved, seed)
    arrays = read_arrays(path)
    names = [info.name for info in inputs]
    if len(names) != 1:
        if set(names) <= set(arrays):
            return {name: arrays[name] for name in names}
        raise InputError(
            f"{path} has the arrays {', '.join(arrays)}; {Path(model).name} has the inputs {', '.join(names)}.",
            "Give a .npz with an array for each input, by its name: numpy.savez(FILE, NAME=ARRAY, …).",
        )
    (info,) = inputs
    array = next((arrays[name] for name in (info.name, "", "images") if name in arrays), None)
    if array is None:
        raise InputError(f"{path} has neither the array {info.name} nor images.", "numpy.savez(FILE, images=ARRAY)")
    if info.dtype is not None and info.dtype.kind == "f" and array.dtype == np.uint8:
        array = _prepare(array, metadata).astype(info.dtype)
    return {info.name: array}


def _prepare(images: Array, metadata: Mapping[str, str]) -> Array:
    """Turn uint8 images (N, C, H, W), or (N, H, W), into what the network takes."""
    normalization = read_normalization(dict(metadata), None, None) or Normalization((0.0,), (1.0,))
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or not len(images):
        raise InputError(
            f"the images have shape {'x'.join(map(str, images.shape))}, not (N, C, H, W).", "Stack images first."
        )
    return np.stack([normalization.apply(image) for image in images])
