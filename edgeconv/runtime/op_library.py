"""Finding the installed library of native operators."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path

import edgeconv
from edgeconv.errors import MissingDependencyError

FILE_NAME = "libedgeconv_ort.so"
VARIABLE = "EDGECONV_OP_LIBRARY"


def op_library() -> str:
    """Return the path of edgeconv's native operators for ONNX Runtime.

    It is the argument of `onnxruntime.SessionOptions.register_custom_ops_library`. With it the fused kernels run;
    without it the same files run on ONNX Runtime's standard operators. One library serves ONNX Runtime 1.18 and later.

    Two environment variables matter. `EDGECONV_OP_LIBRARY` names another library file and wins over the installed one.
    `EDGECONV_CPU_ISA` (`baseline`, `avx2` or `avx512`) is read by the library itself: it holds the kernels to an
    instruction set below the best one that the CPU has.

    Returns:
        The absolute path of `libedgeconv_ort.so`.

    Raises:
        MissingDependencyError: `EDGECONV_OP_LIBRARY` names no file, or the library was not built with the package.
    """
    found = find_native_library(FILE_NAME, VARIABLE)
    if found is not None:
        return found
    raise MissingDependencyError(
        f"edgeconv's native operators ({FILE_NAME}) are not installed.",
        "Install edgeconv with a C++ compiler at hand (pip install .), or build the library (cmake -S custom_ops -B "
        f"build/native && cmake --build build/native) and set EDGECONV_OP_LIBRARY to build/native/{FILE_NAME}.",
    )


def find_native_library(name: str, variable: str) -> str | None:
    """Return the path of a native library of edgeconv's, None if it is not installed.

    Args:
        name: Its file name.
        variable: The environment variable that names another file, which wins over the installed one.

    Raises:
        MissingDependencyError: The variable names no file.
    """
    override = os.environ.get(variable)
    if override:
        path = Path(override).expanduser()
        if not path.is_file():
            raise MissingDependencyError(
                f"{variable} is {override}, which is not a file.",
                f"Set it to a {name}, or unset it to use the installed one.",
            )
        return str(path.resolve())
    return next((str(path.resolve()) for path in installed_files(name) if path.is_file()), None)


def installed_files(name: str) -> Iterator[Path]:
    """Yield where an installation may have put a native library of this file name."""
    for directory in edgeconv.__path__:
        yield Path(directory) / "lib" / name
    # An editable install leaves the package in the checkout and puts built files into site-packages: the record of
    # installed files knows where.
    try:
        distribution = importlib.metadata.distribution("edgeconv")
    except importlib.metadata.PackageNotFoundError:
        return
    for file in distribution.files or ():
        if file.name == name:
            yield Path(str(distribution.locate_file(file)))
