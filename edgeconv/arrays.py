"""Arrays in files, `.npy` and `.npz`: what can be wrong with them, and reading them whole."""

from __future__ import annotations

import os
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeconv.errors import InputError

UNREADABLE = (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged file raises."""

_BEGINNINGS = (b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06")


def unreadable(path: str | os.PathLike[str], error: BaseException) -> InputError:
    """Return the error that says that a file is damaged, and how."""
    reason = str(error).rstrip(".") or type(error).__name__
    return InputError(f"cannot read {os.fspath(path)}: {reason}.", "Write it again with numpy.save or numpy.savez.")


def read_arrays(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a ``.npz`` by name, or that of a ``.npy`` under the empty name.

    Raises:
        InputError: There is no such file, or it is damaged, foreign, or holds pickled objects.
    """
    try:
        with open(path, "rb") as stream:
            if not stream.read(6).startswith(_BEGINNINGS):
                raise InputError(f"{os.fspath(path)} is neither a .npy nor a .npz file.", "Write it with numpy.save.")
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.lib.npyio.NpzFile):
            with content:
                return {name: np.asarray(content[name]) for name in content.files}
    except FileNotFoundError as error:
        raise InputError(f"{os.fspath(path)} does not exist.", "Give a .npy or .npz of inputs.") from error
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    return {"": content}
