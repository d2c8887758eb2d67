"""What every option that draws a picture checks before the work is done."""

from __future__ import annotations

import os
from collections.abc import Iterable

from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.files import check_output

FORMATS = (".png", ".svg", ".pdf")


def check_picture(option: str, path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Check that a picture can be written.

    Args:
        option: Which asks for it, for messages.
        path: The picture; its ending says the format.
        inputs: The files that are read.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        InputError: The kind of file is not known, or it cannot be written (`edgeconv.files.check_output`).
    """
    if not os.fspath(path).lower().endswith(FORMATS):
        raise InputError(
            f"{option} {os.fspath(path)} is not a picture.", f"Give a name that ends in one of {', '.join(FORMATS)}."
        )
    check_output(option, path, inputs)
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"{option} needs matplotlib, which is not installed.", "pip install 'edgeconv[plot]'"
        ) from error
