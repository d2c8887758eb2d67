"""edgeconv's operators in a quantised network: the 8-bit form where there is one, float where there is none, said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import edgeconv
from edgeconv.nn import Kerv2d
from edgeconv.runtime.ort import OrtSession

from .models import image_batch, kinds, sqnr

HALF = {"edgeconv.normalization": '{"mean": [0.5], "std": [0.5]}'}


class Mixed(nn.Module):
    """A convolution, a kervolution, a convolution."""

    def __init__(self, kernel: str) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.kerv = Kerv2d(6, 8, 3, padding=1, kernel=kernel, gamma=0.05)
        self.last = nn.Conv2d(8, 5, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return (N, 5)."""
        middle: Tensor = self.last(self.kerv(torch.relu(self.norm(self.stem(image)))))
        return middle.mean((2, 3))


@pytest.mark.parametrize(
    ("kernel", "target"), [("manhattan", "ort"), ("manhattan", "tensorrt"), ("gaussian", "ort"), ("chebyshev", "ort")]
)
def test_kervolutions(kernel: str, target: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    edgeconv.to_onnx(Mixed(kernel), torch.zeros(2, 3, 20, 26), path, metadata=HALF, verify=False, input_names=["x"])
    np.save(tmp_path / "calib.npy", image_batch(12))
    report = edgeconv.quantize_model(
        path, tmp_path / "calib.npy", output=tmp_path / "out.onnx", target=target, latency=False
    )
    written, images = onnx.load(tmp_path / "out.onnx"), image_batch(6, seed=9)
    for library in (True, False):
        expected, actual = (
            OrtSession(each, op_library=library).run({"x": images}).popitem()[1]
            for each in (path, tmp_path / "out.onnx")
        )
        assert sqnr(expected, actual) > 15, library
    if (kernel, target) == ("manhattan", "ort"):
        assert "QLinearManhattanKervolution" in kinds(written)
        assert "ManhattanKervolution" not in kinds(written)
        assert report.left == {}
        assert any("put on the grid of their inputs" in warning for warning in report.warnings)
        return
    if kernel == "gaussian":
        assert "QLinearGaussianKervolution" in kinds(written)
        assert "GaussianKervolution" not in kinds(written)
        assert report.left == {}
        return
    operator = "ManhattanKervolution" if kernel == "manhattan" else "ChebyshevKervolution"
    assert operator in kinds(written)
    (reason,) = report.left.values()
    assert reason == (
        f"the 8-bit form of edgeconv::{operator} runs in ONNX Runtime only"
        if kernel == "manhattan"
        else f"edgeconv::{operator} has no 8-bit form"
    )


@pytest.mark.parametrize("kernel", ["manhattan", "gaussian"])
def test_excluded_kervolutions_stay_in_float(kernel: str, tmp_path: Path) -> None:
    """One of two, so that the other is quantised and its neighbour has Q and DQ on both sides."""
    torch.manual_seed(3)
    first, second = (Kerv2d(c, 6, 3, padding=1, kernel=kernel, gamma=0.05) for c in (4, 6))
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), first, nn.Conv2d(6, 6, 1), second, nn.Conv2d(6, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    path = tmp_path / "net.onnx"
    edgeconv.to_onnx(network, torch.zeros(2, 3, 20, 26), path, metadata=HALF, verify=False, input_names=["x"])
    operator = f"{kernel.capitalize()}Kervolution"
    names = [node.name for node in onnx.load(path).graph.node if node.op_type == operator]
    np.save(tmp_path / "calib.npy", image_batch(12))
    report = edgeconv.quantize_model(
        path, tmp_path / "calib.npy", output=tmp_path / "out.onnx", exclude=[f"^{names[0]}$"], latency=False
    )
    written = [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node]
    assert (written.count(operator), written.count(f"QLinear{operator}")) == (1, 1)
    assert list(report.left) == [names[0]]


def test_a_checkpoint_in_one_step(tmp_path: Path) -> None:
    from edgeconv.models.registry import create

    torch.manual_seed(0)
    edgeconv.save_checkpoint(
        tmp_path / "net.pt", create("lenet5", kernel="linear"), architecture="lenet5", config={"kernel": "linear"},
        input_shape=(1, 28, 28), normalization={"mean": [0.2], "std": [0.3]},
    )  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 256, (4, 1, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "calib.npz", images=pixels)
    report = edgeconv.quantize_model(
        tmp_path / "net.pt", tmp_path / "calib.npz", latency=False, rounding="nearest", bias_correction=False
    )
    assert report.path == str(tmp_path / "net.int8.onnx")
    assert report.quantized["layers"] == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calib.npz", "net.int8.onnx", "net.pt"]
