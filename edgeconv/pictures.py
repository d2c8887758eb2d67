"""What every option that draws a picture checks before the work is done."""

from __future__ import annotations

import os

from edgeconv.errors import InputError, MissingDependencyError

FORMATS = (".png", ".svg", ".pdf")


def require_matplotlib(option: str, path: str | os.PathLike[str]) -> None:
    """Check that a picture can be written.

    Args:
        option: Which asks for it, for messages.
        path: The picture; its ending says the format.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        InputError: The kind of file is not known.
    """
    if not os.fspath(path).lower().endswith(FORMATS):
        raise InputError(
            f"{option} {os.fspath(path)} is not a picture.", f"Give a name that ends in one of {', '.join(FORMATS)}."
        )
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"{option} needs matplotlib, which is not installed.", "pip install 'edgeconv[plot]'"
        ) from error
