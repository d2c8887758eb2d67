"""`DeconvWhitening` in exported files: every layer of network deconvolution, in every form and runtime."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.inliner import inline_local_functions
from tolerances import assert_close
from torch import Tensor, nn

import edgeconv
from edgeconv.errors import InputError
from edgeconv.nn import ChannelDeconv, Deconv2d, DeconvLinear
from edgeconv.nn.whitening import Whitening
from edgeconv.ops.deconv_whitening import NAME
from edgeconv.ops.deconv_whitening_torch import deconv_whitening

from .test_other_runtimes import openvino, parse, tensorrt_engine

IS_X86 = platform.machine() == "x86_64"  # elsewhere TensorRT-RTX and OpenVINO are not installed


class Flat(nn.Module):
    """A linear layer behind an average over pixels."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, image: Tensor) -> Tensor:
        return torch.as_tensor(self.layer(image.mean(3).flatten(1)))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: Deconv2d(6, 5, 3, padding=1),
    "blocks": lambda: Deconv2d(6, 5, (3, 2), padding=(1, 0), block=2),
    "no bias": lambda: Deconv2d(6, 4, 3, bias=False, block=3),
    "stride": lambda: Deconv2d(6, 4, (2, 3), stride=(2, 1), padding=(0, 2), sampling_stride=1),
    "dilation": lambda: Deconv2d(6, 4, 3, dilation=(1, 2), padding="same", sampling_stride=2),
    "group": lambda: Deconv2d(6, 9, 3, padding=1, groups=3),
    "depthwise": lambda: Deconv2d(6, 6, 3, padding=1, groups=6, n_iter=3),
    "pointwise": lambda: Deconv2d(6, 7, 1, stride=2, block=3),
    "channel": lambda: ChannelDeconv(3),
    "channel, with a rest": lambda: ChannelDeconv(4, sampling_stride=2),
    "linear": lambda: Flat(DeconvLinear(6 * 10, 4, block=4)),
}


class Network(nn.Module):
    """Every layer in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.whiten = ChannelDeconv(3)
        self.conv = Deconv2d(3, 8, 3, padding=1)
        self.group = Deconv2d(8, 8, 3, stride=2, groups=2)
        self.point = Deconv2d(8, 6, 1, block=4)
        self.classify = DeconvLinear(6, 5, block=3)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.conv(self.whiten(image)))
        x = self.point(torch.relu(self.group(x)))
        return torch.as_tensor(self.classify(x.mean((2, 3))))


def prepared(layer: nn.Module, stats: str | float = "batch") -> nn.Module:
    """The layer in evaluation, with running statistics that are not its input's."""
    torch.manual_seed(0)
    layer.train()
    layer(2 * torch.randn(4, 3 if isinstance(layer, Network) else 6, 10, 13) + 1)
    for module in layer.modules():
        if isinstance(module, Whitening):  # the linear layer too, which set_deconv_stats() leaves alone
            module.set_deconv_stats(stats)  # type: ignore[arg-type]
    return layer.eval()


def run(path: Path, x: Tensor) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def whitenings(path: Path) -> list[onnx.NodeProto]:
    return [node for node in onnx.load(path).graph.node if node.op_type == NAME]


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_with_dynamic_batch(name: str, tmp_path: Path) -> None:
    layer, path = prepared(LAYERS[name]()), tmp_path / "layer.onnx"
    report = edgeconv.to_onnx(layer, torch.randn(2, 6, 10, 13), path, dynamic=True, input_names=["x"])
    assert report.parity is not None
    assert report.parity.passed
    assert len(whitenings(path)) == 1
    inputs = [torch.randn(batch, 6, 10, 13) for batch in (1, 2, 5)]
    for x in inputs:
        assert_close(run(path, x), layer(x).detach().numpy(), np.float32)
    if IS_X86:
        onnx.save(inline_local_functions(onnx.load(path)), path)
        for x in inputs[1:]:
            assert_close(openvino(path, {"x": x.numpy()}), layer(x).detach().numpy(), np.float32)
        assert len(tensorrt_engine(path, {"x": (2, 6, 10, 13)})) > 1000


@pytest.mark.parametrize(("form", "stats"), [("functions", 0.25), ("inlined", "batch")])
def test_a_network_in_every_form(form: Any, stats: str | float, tmp_path: Path) -> None:
    network, path = prepared(Network(), stats), tmp_path / "network.onnx"
    report = edgeconv.to_onnx(network, torch.randn(4, 3, 20, 17), path, form=form, input_names=["x"])
    assert report.parity is not None
    assert report.parity.passed
    assert len(whitenings(path)) == (5 if form == "functions" else 0)
    for batch in (1, 6):
        x = torch.randn(batch, 3, 20, 17)
        assert_close(run(path, x), network(x).detach().numpy(), np.float32)
    if IS_X86:  # TensorRT takes the functions, too
        assert parse(path) == (-1, 5)
        assert len(tensorrt_engine(path, {"x": (4, 3, 20, 17)})) > 1000


def test_dynamic_height_and_width(tmp_path: Path) -> None:
    layer, path = prepared(nn.Sequential(Deconv2d(6, 4, 3, padding=1, block=2))), tmp_path / "any.onnx"
    axes = {"input": {0: "batch", 2: "height", 3: "width"}}
    edgeconv.to_onnx(layer, torch.randn(2, 6, 10, 13), path, dynamic=axes, verify=False)
    for size in ((2, 6, 10, 13), (1, 6, 23, 8), (3, 6, 5, 31)):
        x = torch.randn(size)
        assert_close(run(path, x), layer(x).detach().numpy(), np.float32)


class OneOperator(nn.Module):
    """The operator alone."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return deconv_whitening(
            x, block=3, kernel_shape=(3, 2), strides=(2, 1), pads=(1, 0, 2, 3), dilations=(1, 2), eps=0.01, n_iter=4,
            sampling_stride=2, centered=False,
        )  # fmt: skip


def test_every_attribute_is_written(tmp_path: Path) -> None:
    edgeconv.to_onnx(OneOperator(), torch.randn(2, 6, 9, 8), tmp_path / "one.onnx", output_names=["mean", "deconv"])
    (node,) = whitenings(tmp_path / "one.onnx")
    found = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert found.pop("eps") == pytest.approx(0.01)
    assert found == {
        "block": 3, "kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 2, 3], "dilations": [1, 2], "group": 1,
        "n_iter": 4, "sampling_stride": 2, "centered": 0, "plugin_version": b"1", "plugin_namespace": b"edgeconv",
    }  # fmt: skip
    assert len(node.input) == 1
    assert list(node.output) == ["mean", "deconv"]


def test_float64_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="input x is float64"):
        edgeconv.to_onnx(OneOperator().double(), torch.randn(2, 6, 9, 8).double(), tmp_path / "one.onnx")
    assert not (tmp_path / "one.onnx").exists()


def test_fp16(tmp_path: Path) -> None:
    network, path = prepared(Network()), tmp_path / "half.onnx"
    report = edgeconv.to_onnx(network, torch.randn(4, 3, 20, 17), path, fp16=True)
    assert report.parity is not None
    assert report.parity.passed
    assert len(whitenings(path)) == 5
