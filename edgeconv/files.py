"""Writing files so that a failure, a full disk or Ctrl-C never leaves half a file behind."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgeconv.errors import InputError


@contextlib.contextmanager
def atomic_output(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in `path`'s directory; move it onto `path` if the block succeeds.

    If the block raises (KeyboardInterrupt included) the temporary file is removed and `path` stays as it was.

    Args:
        path: The file to write. Its directory must exist.

    Raises:
        InputError: The directory is missing, `path` is no regular file, or writing fails (permissions, full disk).
    """
    target = Path(path)
    try:
        if target.exists() and not target.is_file():
            raise InputError(f"cannot write {target}: it is not a regular file.", "Give the name of a file.")
        # Shortened, so that the temporary's name is not too long where the target's is not.
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:40]}.", suffix=".tmp", dir=target.parent)
    except OSError as error:
        raise _unwritable(target, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        # mkstemp makes the file private; a finished output gets the permissions any new file would get.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_output(option: str, path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Refuse what could not be written, or would overwrite what is read, before the work is done.

    Args:
        option: Which asks for the file, for messages.
        path: The file to write.
        inputs: The files that are read.

    Raises:
        InputError: `path` is a directory, its own directory is missing or closed, or it is one of `inputs`.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"{option} {target} is a directory.", "Give the name of a file.")
    if not target.parent.is_dir():
        raise InputError(f"cannot write {target}: there is no directory {target.parent}.", f"Choose another {option}.")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"cannot write {target}: its directory is closed.", f"Choose another {option}.")
    for given in inputs:
        if target.exists() and Path(given).exists() and target.samefile(given):
            raise InputError(f"{option} {target} is a file that is read.", "Name another file.")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` in UTF-8, whole or not at all."""
    with atomic_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _unwritable(target: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write {target}: {error.strerror or error}.",
        "Choose another --output, or make room and check the directory's permissions.",
    )
