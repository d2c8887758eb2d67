"""Inputs to compare runtimes on: random ones at several sizes, and real ones from a checkpoint or a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgeconv.arrays import read_arrays
from edgeconv.errors import InputError
from edgeconv.export.parity import Feeds, Trial
from edgeconv.normalization import Normalization

Array = npt.NDArray[Any]

_SLOW_BATCH = 4  # samples that the reference evaluator, an interpreter, is asked to run at a time
_LARGE_BATCH = 64


def graph_inputs(model: onnx.ModelProto) -> dict[str, tuple[int | str, ...]]:
    """Return the inputs a caller feeds: name -> sizes, dynamic axes by their names."""
    constants = {initializer.name for initializer in model.graph.initializer}
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
            for dim in value.type.tensor_type.shape.dim
        )
        for value in model.graph.input
        if value.name not in constants
    }


def random_trials(model: onnx.ModelProto, examples: Mapping[str, Array], seed: int = 0) -> list[Trial]:
    """Random inputs at several batch sizes, and at other sizes where the file says that they may change.

    Args:
        model: Its inputs say which axes are dynamic.
        examples: An array for each input. Floating ones are replaced by standard normal values, others (indices,
            masks) keep the values of the example, repeated as far as needed.
        seed: Of the random generator.
    """
    generator = np.random.default_rng(seed)
    inputs = graph_inputs(model)
    first = next(iter(inputs.values()))
    batch_axis = first[0] if first and isinstance(first[0], str) else None

    def draw(batch: int | None, grow: int) -> Feeds:
        feeds = {}
        for name, axes in inputs.items():
            example = examples[name]
            shape = list(example.shape)
            for axis, size in enumerate(axes):
                if isinstance(size, str):
                    shape[axis] = batch if batch is not None and size == batch_axis else shape[axis] + grow
            if np.issubdtype(example.dtype, np.floating):
                feeds[name] = generator.standard_normal(shape).astype(example.dtype)
            else:
                feeds[name] = np.resize(example, shape)
        return feeds

    trials = [Trial("random", draw(1, 0))]
    if batch_axis is not None:
        trials.append(Trial("random", draw(3, 0), slow=False))
    if any(isinstance(size, str) and size != batch_axis for axes in inputs.values() for size in axes):
        trials.append(Trial("random, larger", draw(1 if batch_axis else None, 3)))
    return trials


def real_trials(model: onnx.ModelProto, images: Array | None) -> list[Trial]:
    """Real inputs for a file with one input: a few for every runtime, all of them for the fast ones.

    Args:
        model: Its first axis is dynamic or says the batch.
        images: (N, C, H, W), prepared as the network takes them.
    """
    inputs = graph_inputs(model)
    if images is None or len(inputs) != 1:
        return []
    name, axes = next(iter(inputs.items()))
    fits = len(axes) == images.ndim and all(
        isinstance(size, str) or size == actual for size, actual in zip(axes[1:], images.shape[1:], strict=True)
    )
    if not fits:
        raise InputError(
            f"the real inputs have shape {_text(images.shape[1:])}, the model takes {_text(axes[1:])}.",
            "Give inputs of the model's size, or none.",
        )
    if isinstance(axes[0], int):
        whole = images[: len(images) // axes[0] * axes[0]]
        batches = [whole[start : start + axes[0]] for start in range(0, min(len(whole), _LARGE_BATCH), axes[0])]
        return [Trial("real", {name: batch}, slow=index == 0) for index, batch in enumerate(batches)]
    small = [Trial("real", {name: images[:_SLOW_BATCH]})]
    return small if len(images) <= _SLOW_BATCH else [*small, Trial("real", {name: images}, slow=False)]


def prepare(images: Array, normalization: Mapping[str, Sequence[float]] | None) -> Array:
    """Turn uint8 images (N, C, H, W) into the network's float32 input: `Normalization`, or to [0, 1] without one."""
    mean, std = (tuple(normalization[key]) for key in ("mean", "std")) if normalization else ((0.0,), (1.0,))
    return Normalization(mean, std).apply(images)


def load_inputs(path: str | Path, normalization: Mapping[str, Sequence[float]] | None) -> Array:
    """Read real inputs from a `.npy`, or a `.npz` with `images`.

    Args:
        path: Either uint8 images, (N, H, W) or (N, C, H, W), which are normalised, or float32, taken as they are.
        normalization: Mean and standard deviation per channel.

    Raises:
        InputError: The file cannot be read or holds something else.
    """
    arrays = read_arrays(path)
    images = arrays.get("", arrays.get("images"))
    if images is None:
        raise InputError(f"{path} has no array named images.", "numpy.savez(FILE, images=ARRAY)")
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or not len(images):
        raise InputError(f"inputs in {path} have shape {images.shape}, not (N, C, H, W).", "Stack images first.")
    if images.dtype == np.uint8:
        return prepare(images, normalization)
    if not np.issubdtype(images.dtype, np.floating):
        raise InputError(f"inputs in {path} are {images.dtype}.", "Give uint8 images or float32 inputs.")
    return np.asarray(images, np.float32)


def _text(sizes: Sequence[int | str]) -> str:
    return "x".join(map(str, sizes))
