"""Every function that takes an `.onnx` file says the same of one that is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builds import ROOT

import edgeconv
from edgeconv.errors import InputError
from edgeconv.runtime.ort import OrtSession

READERS: dict[str, Callable[[Path, Path], Any]] = {
    "inspect": lambda path, _: edgeconv.inspect_model(path),
    "run": lambda path, _: edgeconv.run_model(path),
    "session": lambda path, _: OrtSession(path),
    "bench": lambda path, _: edgeconv.benchmark([path]),
    "verify": lambda path, _: edgeconv.verify_model(path, ROOT / "examples" / "lenet_kerv.pt"),
    "fuse": lambda path, _: edgeconv.fuse_model(path),
    "quantize": lambda path, other: edgeconv.quantize_model(path, other),
    "tensorrt-rtx": lambda path, _: edgeconv.build_engine(path, provider="tensorrt-rtx", compute_capabilities=["8.6"]),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 and so on", "is a zip archive, as PyTorch writes them, not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"", "is empty"),
        (None, "does not exist"),
    ],
    ids=["checkpoint", "pointer", "empty", "missing"],
)
def test_a_file_of_another_kind(reader: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    path, images = tmp_path / "net.onnx", tmp_path / "images.npy"
    np.save(images, np.zeros((2, 1, 28, 28), np.float32))
    if content is not None:
        path.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError) as caught:
        READERS[reader](path, images)
    assert caught.value.message.startswith(f"{path} {message}")
    assert caught.value.remedy
    assert sorted(tmp_path.iterdir()) == before
