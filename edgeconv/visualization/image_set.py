"""The images that are searched: pictures, directories of them and arrays, one after another, none of them kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeconv.errors import InputError
from edgeconv.quantize.images import SUFFIXES, ImageDirectory, ImageSource, InputSpec, no_image, open_images

Array = NDArray[Any]
Key = tuple[int, int]
"""Where an image is: the number of its source, and its number there."""


class ImageSet:
    """Images of several places in a row.

    Args:
        paths: Pictures, directories of pictures, `.npy` or `.npz` files; see `edgeconv.quantize.images`.
        spec: What the network takes.

    Raises:
        InputError: There is nothing at a path, or nothing that the network can take.
        MissingDependencyError: Pictures need pillow.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], spec: InputSpec) -> None:
        if not paths:
            raise InputError("no images are given.", "Give --image: a picture, a directory of them, a .npy or a .npz.")
        self.sources = [_open(Path(path), spec) for path in paths]

    def __len__(self) -> int:
        """How many there are, at most (unreadable ones included)."""
        return sum(map(len, self.sources))

    @property
    def skipped(self) -> dict[str, str]:
        """What was unreadable, and why."""
        return {name: why for source in self.sources for name, why in source.skipped.items()}

    def images(self) -> Iterator[tuple[Key, str, Array]]:
        """Yield each image: where it is, its name, and (C, H, W), float32, prepared.

        Raises:
            InputError: Not one of a place can be read, or one does not fit the network.
        """
        for number, source in enumerate(self.sources):
            found = False
            for name, image in source.images():
                found = True
                yield (number, source.position - 1), name, image
            if not found:
                raise no_image(source)

    def batches(self, batch: int) -> Iterator[tuple[list[Key], list[str], Array]]:
        """Yield where the images are, their names, and arrays (≤ batch, C, H, W)."""
        keys: list[Key] = []
        names: list[str] = []
        chunk: list[Array] = []
        for key, name, image in self.images():
            keys.append(key)
            names.append(name)
            chunk.append(image)
            if len(chunk) == batch:
                yield keys, names, np.stack(chunk)
                keys, names, chunk = [], [], []
        if chunk:
            yield keys, names, np.stack(chunk)

    def read(self, key: Key) -> Array:
        """Return an image again, by where `images` found it."""
        number, position = key
        _, image = next(iter(self.sources[number].images(position)))
        return image


def _open(path: Path, spec: InputSpec) -> ImageSource:
    if path.suffix.lower() in SUFFIXES and path.is_file():
        picture = ImageDirectory(path.parent, spec, None, [path])
        picture.name = str(path)
        return picture
    return open_images(path, spec)
