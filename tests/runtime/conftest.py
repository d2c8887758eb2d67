"""Exported files for the tests of engines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from networks import Small

import edgeconv


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A network of two gaussian kervolutions, one of them strided, by form ("half": functions, in float16)."""
    directory = tmp_path_factory.mktemp("small")
    torch.manual_seed(7)
    network, image = Small("gaussian").eval(), torch.randn(2, 3, 10, 13)
    paths = {}
    for form in ("functions", "inlined", "nodes"):
        paths[form] = directory / f"{form}.onnx"
        edgeconv.to_onnx(network, image, paths[form], form=form, verify=False)  # type: ignore[arg-type]
    paths["half"] = directory / "half.onnx"
    edgeconv.to_onnx(network, image, paths["half"], fp16=True, verify=False)
    return paths
