"""Arrays on disk, read row by row: `.npy` is memory-mapped, a member of a `.npz` is streamed, compressed or not."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgeconv.arrays import UNREADABLE, unreadable
from edgeconv.errors import InputError

Array = NDArray[Any]
_SKIP = 1 << 24


@dataclass(frozen=True)
class ArrayFile:
    """An array of rows.

    Attributes:
        path: Of the file.
        member: Its name inside a `.npz`; empty for a `.npy`.
        shape: The first size is the number of rows.
        dtype: Of the elements.
    """

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def rows(self, start: int, stop: int) -> Iterator[Array]:
        """Yield the rows from `start` to `stop`, one at a time.

        Raises:
            InputError: The file is damaged.
        """
        try:
            yield from self._rows(start, stop)
        except UNREADABLE as error:
            raise unreadable(self.path, error) from error

    def _rows(self, start: int, stop: int) -> Iterator[Array]:
        if not self.member:
            mapped = np.load(self.path, mmap_mode="r", allow_pickle=False)
            for index in range(start, stop):
                yield np.array(mapped[index])
            return
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            _read_header(stream)
            row = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
            ahead = start * row
            while ahead:
                ahead -= len(_read(stream, min(ahead, _SKIP)))
            for _ in range(start, stop):
                yield np.frombuffer(_read(stream, row), self.dtype).reshape(self.shape[1:])


def open_array(path: Path, names: Sequence[str]) -> ArrayFile:
    """Open a `.npy`, or a `.npz` that holds an array of one of these names, or only one.

    Raises:
        InputError: The file cannot be read, or nothing says which array is meant.
    """
    try:
        if path.suffix.lower() == ".npy":
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            return ArrayFile(path, "", mapped.shape, mapped.dtype)
        with zipfile.ZipFile(path) as archive:
            members = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            chosen = next((name for name in names if name in members), members[0] if len(members) == 1 else None)
            if chosen is None:
                raise InputError(
                    f"{path} holds the arrays {', '.join(members) or 'none'}; which are the images is not clear.",
                    "Call the array `images`.",
                )
            with archive.open(f"{chosen}.npy") as stream:
                shape, fortran, dtype = _read_header(stream)
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    if fortran or dtype.hasobject:
        raise InputError(f"the array {chosen} of {path} is not a plain array in C order.", "Write a C-order array.")
    return ArrayFile(path, f"{chosen}.npy", shape, dtype)


def _read(stream: IO[bytes], count: int) -> bytes:
    found = stream.read(count)
    if len(found) < count:
        raise EOFError("it ends before its last row")
    return found


def _read_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)
