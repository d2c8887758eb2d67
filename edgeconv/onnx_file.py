"""Reads an `.onnx` file, and says plainly what is wrong with a file that is not one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgeconv.errors import InputError

if TYPE_CHECKING:
    import onnx

_FOREIGN = (
    (b"PK\x03\x04", "is a zip archive, as PyTorch writes them", "Turn the checkpoint into ONNX: edgeconv export {}"),
    (b"\x80\x02", "is a Python pickle", "Turn the checkpoint into ONNX: edgeconv export {}"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself", "Fetch the file: git lfs pull"),
)
_AGAIN = "Export it again, or copy it again in binary mode and compare sizes."


def read_onnx(path: str | os.PathLike[str]) -> tuple[onnx.ModelProto, bytes]:
    """Return the model in a file, without its external data, and the file's bytes.

    Raises:
        InputError: The file is missing, unreadable, truncated or not ONNX.
    """
    content = _content(path)
    return _parse(Path(path), content), content


def check_onnx_file(path: str | os.PathLike[str]) -> None:
    """Refuse what is evidently no ONNX file, by its first bytes; the rest is left to who reads it.

    Raises:
        InputError: The file is missing, unreadable, empty or of another format.
    """
    _check_kind(Path(path), _content(path, 64))


def _content(path: str | os.PathLike[str], size: int = -1) -> bytes:
    file = Path(path)
    try:
        with open(file, "rb") as stream:
            return stream.read(size)
    except FileNotFoundError:
        raise InputError(f"{file} does not exist.", "Check the path; `edgeconv export` writes .onnx files.") from None
    except IsADirectoryError:
        raise InputError(f"{file} is a directory, not an .onnx file.", "Name the .onnx file in it.") from None
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}.", "Check its permissions.") from error


def _check_kind(file: Path, content: bytes) -> None:
    if not content:
        raise InputError(f"{file} is empty.", "Export or copy it again.")
    for magic, kind, remedy in _FOREIGN:
        if content.startswith(magic):
            raise InputError(f"{file} {kind}, not an ONNX model.", remedy.format(file))
    if content[4:8] == b"ORTM":
        raise InputError(f"{file} is in ONNX Runtime's own format.", "Give the .onnx file that it was made from.")


def _parse(file: Path, content: bytes) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    _check_kind(file, content)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        # Every ONNX file begins with field 1, the IR version.
        if content[0] == 0x08:
            raise InputError(
                f"{file} is truncated or damaged: it begins as an ONNX model does, but does not parse to its end.",
                _AGAIN,
            ) from None
        raise InputError(
            f"{file} is not an ONNX model.", "Give an .onnx file; `edgeconv export` writes them."
        ) from None
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise InputError(
            f"{file} is not an ONNX model, or is truncated: it holds no graph.", "Export it again, or copy it again."
        )
    if not model.opset_import:
        raise InputError(f"{file} is truncated or invalid: it does not say which operator set it uses.", _AGAIN)
    return model
