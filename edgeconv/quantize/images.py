"""Calibration and test images: a directory, a `.npy` or a `.npz`, read in batches and never held as a whole."""

from __future__ import annotations

import hashlib
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.normalization import Normalization

if TYPE_CHECKING:
    from PIL import Image

Array = NDArray[Any]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
"""Of the files in a directory that count as images."""
CROP_RATIO = 0.875
"""Share of the shorter side that the centre crop keeps: 224 of 256, as ImageNet models are evaluated."""


@dataclass(frozen=True)
class InputSpec:
    """What the network takes.

    Attributes:
        name: Of the graph's input.
        shape: (C, H, W); None for a size that the file leaves open.
        normalization: How pixels become its values; None if the file does not say.
        batch: The fixed batch size, or None.
    """

    name: str
    shape: tuple[int | None, int | None, int | None]
    normalization: Normalization | None
    batch: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, where both are known."""
        _, height, width = self.shape
        assert height is not None
        assert width is not None
        return height, width


class ImageSource(ABC):
    """Images as the network takes them.

    Attributes:
        name: Where they are from, for messages.
        skipped: What was unreadable, with the reason; it grows while images are read.
        position: The number of the image that comes next while they are read.
    """

    def __init__(self, name: str, spec: InputSpec, limit: int | None) -> None:
        self.name = name
        self.spec = spec
        self.limit = limit
        self.skipped: dict[str, str] = {}
        self.position = 0

    @abstractmethod
    def __len__(self) -> int:
        """How many there are, at most (unreadable ones included)."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A digest that changes with the images and with how they are prepared."""

    @abstractmethod
    def images(self, start: int = 0) -> Iterator[tuple[str, Array]]:
        """Yield each image from number `start` on: its name and (C, H, W), float32, prepared and checked."""

    def batches(self, batch: int, start: int = 0) -> Iterator[Array]:
        """Yield arrays (≤ batch, C, H, W), from image number `start` on.

        Raises:
            InputError: Not one image can be read, or one does not fit the network.
        """
        stream = self.images(start)
        found = False
        while chunk := [array for _, array in itertools.islice(stream, batch)]:
            found = True
            yield np.stack(chunk)
        if not found and not start:
            raise no_image(self)

    def check(self, name: str, image: Array) -> Array:
        """Return an image as float32 if the network can take it.

        Raises:
            InputError: Its shape or its values do not fit.
        """
        expected = self.spec.shape
        if image.ndim != 3 or any(size not in (None, got) for size, got in zip(expected, image.shape, strict=True)):
            raise InputError(
                f"{name} has the shape {_text(image.shape)}; the model takes {_text(expected)} (channels, height, "
                "width).",
                "Give images of the model's size, or a directory of pictures, which are resized.",
            )
        values = np.ascontiguousarray(image, np.float32)
        if not np.isfinite(values).all():
            raise InputError(f"{name} has NaN or infinite values.", "Remove it, or correct how it was prepared.")
        if self.spec.normalization is not None:
            self.spec.normalization.check_range(name, values)
        return values


class ImageDirectory(ImageSource):
    """Pictures in a directory and those below, in the order of their names. Unreadable ones are skipped.

    They are made RGB (or grey), the shorter side is resized to the network's size / `CROP_RATIO`, and the centre is
    cut.
    """

    def __init__(self, path: Path, spec: InputSpec, limit: int | None, files: list[Path] | None = None) -> None:
        super().__init__(str(path), spec, limit)
        _require_pillow()
        found = sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES) if files is None else files
        if not found:
            raise InputError(
                f"there is no image in {path}.", f"It must hold files of these kinds: {', '.join(SUFFIXES)}."
            )
        if spec.normalization is None:
            raise InputError(
                "the model does not say how its inputs are normalised, so pictures cannot be prepared for it.",
                "Give --mean and --std: what is subtracted from the pixels, and what they are then divided by.",
            )
        if spec.shape[1] is None or spec.shape[2] is None:
            raise InputError(
                "the model leaves its input's height and width open, so pictures cannot be resized for it.",
                "Give --size HEIGHTxWIDTH.",
            )
        if spec.shape[0] not in (1, 3):
            raise InputError(
                f"the model takes {spec.shape[0]} channels; pictures have 1 or 3.", "Give the inputs as .npy or .npz."
            )
        self.files = found
        self.path = path

    def __len__(self) -> int:
        return min(len(self.files), self.limit or len(self.files))

    def fingerprint(self) -> str:
        """As in `ImageSource`, of names, sizes and times."""
        digest = hashlib.sha256(repr((self.spec, self.limit)).encode())
        for file in self.files:
            status = file.stat()
            digest.update(f"{file.relative_to(self.path)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def images(self, start: int = 0) -> Iterator[tuple[str, Array]]:
        """As in `ImageSource`."""
        for index, file in enumerate(self.files[start : len(self)], start):
            self.position = index + 1
            try:
                pixels = self._read(file)
            except Exception as error:  # damaged files raise anything, SyntaxError included
                self.skipped[str(file)] = f"{type(error).__name__}: {error}"
                continue
            assert self.spec.normalization is not None
            yield str(file), self.check(str(file), self.spec.normalization.apply(pixels))

    def _read(self, file: Path) -> NDArray[np.uint8]:
        from PIL import Image, ImageOps

        height, width = self.spec.size
        with Image.open(file) as opened:
            upright = _eight_bits(ImageOps.exif_transpose(opened), opened.format)
        picture = upright.convert("L" if self.spec.shape[0] == 1 else "RGB")
        scale = max(height / picture.height, width / picture.width) / CROP_RATIO
        cut_width, cut_height = width / scale, height / scale
        left, top = (picture.width - cut_width) / 2, (picture.height - cut_height) / 2
        box = (left, top, left + cut_width, top + cut_height)
        pixels = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box))
        return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)


class ImageArray(ImageSource):
    """The array of a `.npy`, or the one called `images` (or the only one) of a `.npz`; read piece by piece.

    uint8 images (N, H, W), (N, C, H, W) or (N, H, W, C) are normalised; float ones are taken as they are.
    """

    def __init__(self, path: Path, spec: InputSpec, limit: int | None) -> None:
        super().__init__(str(path), spec, limit)
        from edgeconv.quantize.array_file import open_array

        self.array = open_array(path, ("images", spec.name, "x"))
        shape, dtype = self.array.shape, self.array.dtype
        if len(shape) not in (3, 4) or not shape[0]:
            raise InputError(
                f"the array in {path} has the shape {_text(shape)}, not (N, C, H, W).", "Stack at least one image."
            )
        if dtype != np.uint8 and dtype.kind != "f":
            raise InputError(f"the array in {path} is {dtype}.", "Give uint8 pixels or prepared float32 values.")
        if dtype == np.uint8 and spec.normalization is None:
            raise InputError(
                f"{path} holds pixels (uint8), and the model does not say how they are normalised.",
                "Give --mean and --std, or prepared float32 values.",
            )
        self.path = path
        channels = spec.shape[0]
        self.channels_last = len(shape) == 4 and shape[1] != channels and shape[3] == channels

    def __len__(self) -> int:
        count = int(self.array.shape[0])
        return min(count, self.limit or count)

    def fingerprint(self) -> str:
        """As in `ImageSource`, of name, size and time."""
        status = self.path.stat()
        about = (self.spec, self.limit, self.path.name, status.st_size, status.st_mtime_ns)
        return hashlib.sha256(repr(about).encode()).hexdigest()

    def images(self, start: int = 0) -> Iterator[tuple[str, Array]]:
        """As in `ImageSource`."""
        for index, image in enumerate(self.array.rows(start, len(self)), start):
            self.position = index + 1
            values = image[None] if image.ndim == 2 else np.moveaxis(image, 2, 0) if self.channels_last else image
            if values.dtype == np.uint8:
                assert self.spec.normalization is not None
                values = self.spec.normalization.apply(values)
            name = f"image {index} of {self.name}"
            yield name, self.check(name, values)


@dataclass
class LabelledImages:
    """Images with the class of each.

    Attributes:
        source: The images.
        labels: The class of each image by the name that `ImageSource.images` gives it.
    """

    source: ImageSource
    labels: dict[str, int] = field(default_factory=dict)


def open_images(path: str | os.PathLike[str], spec: InputSpec, limit: int | None = None) -> ImageSource:
    """Open a directory of pictures, a `.npy` or a `.npz`.

    Args:
        path: Where they are.
        spec: What the network takes.
        limit: Use the first so many only.

    Raises:
        InputError: There is nothing there, or nothing that the network can take.
        MissingDependencyError: Pictures need pillow.
    """
    place = Path(path)
    if limit is not None and limit < 1:
        raise InputError(f"--calib-limit must be 1 or more, got {limit}.")
    if place.is_dir():
        return ImageDirectory(place, spec, limit)
    if not place.is_file():
        raise InputError(f"{place} does not exist.", "Give a directory of images, a .npy or a .npz.")
    if place.suffix.lower() not in (".npy", ".npz"):
        raise InputError(f"{place} is neither a directory of images nor a .npy or .npz file.")
    return ImageArray(place, spec, limit)


def no_image(source: ImageSource) -> InputError:
    """Return the error that says that not one image can be read, and why the first cannot."""
    why = next(iter(source.skipped.items()), None)
    detail = "" if why is None else f": {why[1]}" if why[0] == source.name else f"; {why[0]}: {why[1]}"
    return InputError(
        f"no image of {source.name} can be read ({len(source.skipped)} were tried{detail}).",
        "Give a directory of JPEG or PNG files, or a .npy or .npz array of images.",
    )


def _eight_bits(picture: Image.Image, kind: str | None) -> Image.Image:
    """Scale 16-bit grey to 8 bits: pillow's own conversion cuts off all above 255."""
    if not picture.mode.startswith(("I", "F")):
        return picture
    # PNG and PGM fill 16 bits in mode I, too.
    if not picture.mode.startswith("I;16") and not (picture.mode == "I" and kind in ("PNG", "PPM")):
        raise ValueError(f"the range of its pixels is not known (pillow's mode {picture.mode})")
    from PIL import Image

    return Image.fromarray(np.rint(np.asarray(picture) / 257).astype(np.uint8))


def _require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "pictures are read with pillow, which is not installed.",
            "pip install pillow, or give the images as .npy or .npz.",
        ) from error


def _text(shape: tuple[int | None, ...]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape)
