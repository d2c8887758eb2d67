"""Synthetic inputs: shapes from the file, the command line and the export's metadata; values from a seed."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeconv.errors import InputError
from edgeconv.runtime.ort import Array, TensorInfo

INPUT_SHAPE_KEY = "edgeconv.input_shape"
"""Metadata property in which the export writes the input's shape, batch first, as a JSON list."""


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Parse ``NAME:1x3x32x32`` (or ``1x3x32x32`` where the model has one input, kept under the empty name).

    Raises:
        InputError: A text has another form, or a size is not a positive number.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, sizes = text.rpartition(":")
        try:
            shape = tuple(int(size) for size in sizes.lower().split("x"))
        except ValueError:
            shape = ()
        if not shape or min(shape) < 1:
            raise InputError(f"cannot read the shape {text!r}.", "Write it as NAME:1x3x32x32.")
        shapes[name] = shape
    return shapes


def resolve_shapes(
    inputs: Sequence[TensorInfo],
    metadata: Mapping[str, str],
    *,
    batch: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
    model: str = "the model",
) -> dict[str, tuple[int, ...]]:
    """Give every dimension of every input a size.

    A shape in `shapes` is taken as it is. Otherwise a dynamic first dimension is the batch, and a fixed one stays;
    other dynamic dimensions come from the metadata (first input), or from an input that uses the same symbol.

    Args:
        inputs: The model's inputs.
        metadata: The file's metadata properties.
        batch: Size of the dynamic first dimensions.
        shapes: Shapes by input name; the empty name means the only input.
        model: Name for messages.

    Raises:
        InputError: A size is unknown or contradicts the model or `batch`.
    """
    if batch < 1:
        raise InputError(f"batch must be 1 or more, got {batch}.")
    given = dict(shapes or {})
    if "" in given:
        if len(inputs) != 1:
            names = ", ".join(info.name for info in inputs)
            raise InputError(f"{model} has several inputs: {names}.", "Name each: --shapes NAME:1x3x32x32.")
        given[inputs[0].name] = given.pop("")
    symbols: dict[str, int] = {}
    resolved: dict[str, tuple[int, ...]] = {}
    for position, info in enumerate(inputs):
        if info.name in given:
            shape = _given_shape(info, given[info.name], batch, model)
        else:
            known = _exported_shape(metadata, info, model) if position == 0 else None
            shape = _declared_shape(info, known, symbols, batch, model)
        symbols.update({d: size for d, size in zip(info.shape, shape, strict=False) if isinstance(d, str)})
        resolved[info.name] = shape
    return resolved


def synthetic_feeds(
    inputs: Sequence[TensorInfo], shapes: Mapping[str, Sequence[int]], seed: int = 0
) -> dict[str, Array]:
    """Make an array for each input: standard normal numbers, whole uint8/int8 range, or 0 and 1 for other integers.

    Larger integers are usually indices, for which only small values are sure to be in range. Equal names, shapes and
    seeds give equal values, whichever model they are for.

    Args:
        inputs: The model's inputs.
        shapes: A shape for each.
        seed: Seed of the values.

    Raises:
        InputError: An input is of a type that cannot be made up (strings, sequences), or the seed is negative.
    """
    if seed < 0:
        raise InputError(f"seed must be 0 or more, got {seed}.")
    feeds: dict[str, Array] = {}
    for info in inputs:
        dtype = info.dtype
        if dtype is None:
            raise InputError(f"input {info.name} is a {info.type}, for which no synthetic values can be made.")
        generator = np.random.default_rng([seed, zlib.crc32(info.name.encode())])
        shape = tuple(shapes[info.name])
        values: Array
        if dtype.kind == "f":
            values = generator.standard_normal(shape, dtype=np.float32).astype(dtype)
        elif dtype.itemsize == 1 and dtype.kind in "iu":
            limits: Any = np.iinfo(dtype)
            values = generator.integers(limits.min, limits.max, size=shape, dtype=dtype, endpoint=True)
        else:
            values = generator.integers(0, 2, size=shape).astype(dtype)
        feeds[info.name] = values
    return feeds


def _given_shape(info: TensorInfo, given: Sequence[int], batch: int, model: str) -> tuple[int, ...]:
    shape = tuple(given)
    text = "x".join(map(str, shape))
    fits = not info.shape or len(shape) == len(info.shape)
    if not fits or any(isinstance(d, int) and d != size for d, size in zip(info.shape, shape, strict=False)):
        declared = "x".join("?" if d is None else str(d) for d in info.shape)
        raise InputError(f"the shape {text} does not fit input {info.name} of {model}, which is {declared}.")
    if batch != 1 and shape and shape[0] != batch:
        raise InputError(
            f"the shape {text} of input {info.name} contradicts --batch {batch}.", "Give the batch in one place only."
        )
    return shape


def _exported_shape(metadata: Mapping[str, str], info: TensorInfo, model: str) -> list[int] | None:
    text = metadata.get(INPUT_SHAPE_KEY)
    if text is None:
        return None
    try:
        shape = json.loads(text)
    except ValueError:
        shape = None
    if not isinstance(shape, list) or not shape or not all(isinstance(d, int) and d > 0 for d in shape):
        raise InputError(
            f"the metadata {INPUT_SHAPE_KEY} of {model} is not a list of sizes: {text}.",
            f"Give the shape: --shapes {info.name}:1x3x32x32.",
        )
    return shape if len(shape) == len(info.shape) else None


def _declared_shape(
    info: TensorInfo, known: list[int] | None, symbols: Mapping[str, int], batch: int, model: str
) -> tuple[int, ...]:
    shape: list[int] = []
    for axis, size in enumerate(info.shape):
        if isinstance(size, int):
            if axis == 0 and batch not in (1, size):
                raise InputError(
                    f"{model} has a fixed batch of {size}, not {batch}.",
                    f"Export it with --batch {batch}, or with --dynamic.",
                )
            shape.append(size)
        elif isinstance(size, str) and size in symbols:
            shape.append(symbols[size])
        elif axis == 0:
            shape.append(batch)
        elif known is not None:
            shape.append(known[axis])
        else:
            example = "x".join(
                str(d) if isinstance(d, int) else str(batch) if i == 0 else "SIZE" for i, d in enumerate(info.shape)
            )
            raise InputError(
                f"input {info.name} of {model} leaves the size of dimension {axis} open, and nothing says what it is.",
                f"Give it: --shapes {info.name}:{example}",
            )
    return tuple(shape)
