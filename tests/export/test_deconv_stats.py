"""Exporting deconvolutions: folded where the statistics are frozen, on the device where they are not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import edgeconv
from edgeconv.cli import app
from edgeconv.errors import InputError
from edgeconv.export.deconvolution import parse_deconv_stats
from edgeconv.models.registry import create
from edgeconv.nn import convert, set_deconv_stats
from edgeconv.runtime.ort import OrtSession


def trained(architecture: str = "lenet5", **config: Any) -> nn.Module:
    torch.manual_seed(0)
    model = convert(create(architecture, in_channels=1, **config), to="deconvolution", block=4, sampling_stride=2)
    for seed in range(2):
        model(torch.randn(6, 1, 28, 28, generator=torch.Generator().manual_seed(seed)) * 2 + 0.5)
    return model.eval()


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("architecture", ["lenet5", "resnet20"])
def test_frozen_is_the_plain_network(tmp_path: Path, architecture: str) -> None:
    model = trained(architecture)
    report = edgeconv.to_onnx(model, torch.randn(2, 1, 28, 28), tmp_path / "frozen.onnx")
    plain = create(architecture, in_channels=1).eval()
    for module in plain.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    edgeconv.to_onnx(plain, torch.randn(2, 1, 28, 28), tmp_path / "plain.onnx", verify=False)
    assert operators(tmp_path / "frozen.onnx") == operators(tmp_path / "plain.onnx")
    assert report.parity is not None
    assert report.parity.passed
    assert report.deconvolution is not None
    assert report.deconvolution.stats == "frozen"
    assert "folded into plain weights" in report.deconvolution.describe()
    size = (tmp_path / "frozen.onnx").stat().st_size
    assert size < 1.1 * (tmp_path / "plain.onnx").stat().st_size + 8192  # no covariance travels along


@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize(("asked", "stats"), [("batch", "batch"), ("blend=0.25", "blend=0.25"), (0.25, "blend=0.25")])
def test_statistics_on_the_device(tmp_path: Path, asked: str | float, stats: str, fp16: bool) -> None:
    """The file whitens with what it is fed: PyTorch with the same statistics agrees, and so does any batch size."""
    model, path = trained(), tmp_path / "model.onnx"
    report = edgeconv.to_onnx(model, torch.randn(2, 1, 28, 28), path, deconv_stats=asked, fp16=fp16)
    assert report.parity is not None
    assert report.parity.passed
    assert report.to_dict()["deconvolution"]["stats"] == stats
    assert operators(path)["DeconvWhitening"] == 3
    if fp16:
        return
    images = torch.randn(7, 1, 28, 28) * 3 - 1
    set_deconv_stats(model, parse_deconv_stats(stats))
    (y,) = OrtSession(path.read_bytes(), threads=1, op_library=False).run({"x": images.numpy()}).values()
    np.testing.assert_allclose(y, model(images).detach().numpy(), rtol=0, atol=2e-3 * np.abs(y).max())
    set_deconv_stats(model, "frozen")
    assert np.abs(y - model(images).detach().numpy()).max() > 0.01 * np.abs(y).max()


def test_inlined(tmp_path: Path) -> None:
    report = edgeconv.to_onnx(
        trained(), torch.randn(2, 1, 28, 28), tmp_path / "inlined.onnx", deconv_stats="batch", form="inlined"
    )
    assert report.parity is not None
    assert report.parity.passed
    assert not onnx.load(tmp_path / "inlined.onnx").functions


def test_what_is_refused(tmp_path: Path) -> None:
    x, path = torch.randn(2, 1, 28, 28), tmp_path / "model.onnx"
    with pytest.raises(InputError, match="has no Deconv2d"):
        edgeconv.to_onnx(create("lenet5"), x, path, deconv_stats="batch")
    for wrong in ("running", "blend", "blend=2", "blend=x", "0.5"):
        with pytest.raises(InputError, match="is not known"):
            edgeconv.to_onnx(trained(), x, path, deconv_stats=wrong)
    program = torch.export.export(trained(), (x,))
    with pytest.raises(InputError, match="fixed"):
        edgeconv.to_onnx(program, x, path, deconv_stats="batch")
    assert not path.exists()


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """export --deconv-stats and verify, from a checkpoint."""
    monkeypatch.chdir(tmp_path)
    config = {"in_channels": 1, "deconv_block": 4}
    torch.manual_seed(0)
    model = create("lenet5", **config)
    model(torch.randn(6, 1, 28, 28))
    edgeconv.save_checkpoint("lenet.pt", model, architecture="lenet5", config=config, input_shape=(1, 28, 28))
    runner = CliRunner()
    result = runner.invoke(app, ["export", "lenet.pt", "--deconv-stats", "blend=0.5", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["deconvolution"] | {"folded": 0} == {
        "layers": 5,
        "measured": 3,
        "stats": "blend=0.5",
        "folded": 0,
    }
    result = runner.invoke(app, ["verify", "lenet.onnx", "--against", "lenet.pt"])
    assert result.exit_code == 0, result.output
    result = runner.invoke(app, ["export", "lenet.pt", "--deconv-stats", "sometimes"])
    assert result.exit_code != 0
    assert "blend=0.3" in result.output
