"""Files in runtimes that know nothing of edgeconv: OpenVINO computes the same, TensorRT-RTX's builder takes them.

TensorRT-RTX compiles an engine without a GPU; running what it built would take one.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from kervolution_cases import WINDOWS
from networks import Quantized, Small
from onnx.inliner import inline_local_functions
from tolerances import assert_close
from torch import nn

import edgeconv
from edgeconv.models.registry import create
from edgeconv.nn import Kerv2d
from edgeconv.ops.kervolution import OPERATOR_OF_KERNEL

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="TensorRT-RTX and OpenVINO are tested on x86-64 only"
)


def openvino(path: Path, feeds: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Run a file in OpenVINO with exact float32."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled(feeds)[0])


def parse(path: Path) -> Any:
    """Parse a file with TensorRT-RTX; return the network's first output, or None if it does not load."""
    import tensorrt_rtx_bindings.tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    network = trt.Builder(logger).create_network()
    return tuple(network.get_output(0).shape) if trt.OnnxParser(network, logger).parse(path.read_bytes()) else None


def tensorrt_engine(path: Path, shapes: dict[str, tuple[int, ...]] | None = None) -> bytes:
    """Build an engine for a GPU that need not be there; shapes are for inputs with dynamic axes."""
    import tensorrt_rtx_bindings.tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(path.read_bytes()), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    if shapes:
        profile = builder.create_optimization_profile()
        for name, shape in shapes.items():
            profile.set_shape(name, (1, *shape[1:]), shape, (2 * shape[0], *shape[1:]))
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None
    return bytes(engine)


@pytest.mark.parametrize("kernel", OPERATOR_OF_KERNEL)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_networks(kernel: str, dynamic: bool, tmp_path: Path) -> None:
    torch.manual_seed(3)
    network, image = Small(kernel).eval(), torch.randn(2, 3, 10, 13)
    path = tmp_path / "small.onnx"
    edgeconv.to_onnx(network, image, path, form="inlined", dynamic=dynamic)
    actual = openvino(path, {"image": image.numpy()})
    assert_close(actual, network(image).detach().numpy(), np.float32, kernel)
    shapes = {"image": (2, 3, 10, 13)} if dynamic else None
    assert len(tensorrt_engine(path, shapes)) > 1000


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: window.name)
def test_every_geometry(window: Any, tmp_path: Path) -> None:
    top, left, bottom, right = window.pads
    layer = nn.Sequential(
        nn.ZeroPad2d((left, right, top, bottom)),
        Kerv2d(
            window.channels, window.filters, window.window, window.strides, 0, window.dilations, window.group,
            kernel="chebyshev",
        ),
    )  # fmt: skip
    x, path = torch.randn(window.batch, window.channels, *window.size), tmp_path / "layer.onnx"
    edgeconv.to_onnx(layer, x, path, form="inlined", dynamic=False, verify=False, input_names=["x"])
    assert_close(openvino(path, {"x": x.numpy()}), layer(x).detach().numpy(), np.float32)
    assert tensorrt_engine(path)


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: window.name)
@pytest.mark.parametrize("kernel", ["polynomial", "gaussian", "manhattan"])
def test_functions_load_in_tensorrt_with_the_right_shape_or_not_at_all(
    kernel: str, window: Any, tmp_path: Path
) -> None:
    # Its parser loses strides and dilations on their way through a function: that must not go unnoticed.
    layer = Kerv2d(
        window.channels, window.filters, window.window, window.strides, window.pads[:2], window.dilations, window.group,
        kernel=kernel,
    )  # fmt: skip
    x, path = torch.randn(window.batch, window.channels, *window.size), tmp_path / "layer.onnx"
    edgeconv.to_onnx(layer, x, path, dynamic=False, verify=False)
    plain = set(window.strides) | set(window.dilations) == {1}
    assert parse(path) == (tuple(layer(x).shape) if plain else None)


@pytest.mark.parametrize("kernel", ["polynomial", "gaussian", "sigmoid", "euclidean"])
def test_precision_does_not_keep_a_file_from_loading(kernel: str, tmp_path: Path) -> None:
    layer = Kerv2d(3, 4, (3, 2), padding=(1, 0), kernel=kernel, gamma=0.1, degree=2)
    x, path = torch.randn(2, 3, 8, 7), tmp_path / "layer.onnx"
    edgeconv.to_onnx(layer, x, path, dynamic=False, verify=False, precision="bf16x3", input_names=["x"])
    assert parse(path) == tuple(layer(x).shape)
    assert tensorrt_engine(path)
    onnx.save(inline_local_functions(onnx.load(path)), path)
    assert_close(openvino(path, {"x": x.numpy()}), layer(x).detach().numpy(), np.float32)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8], ids=["uint8", "int8"])
def test_an_8_bit_operator(dtype: torch.dtype, tmp_path: Path) -> None:
    """OpenVINO takes it inlined, TensorRT where every zero-point is 0."""
    torch.manual_seed(5)
    network, image, path = Quantized(dtype).eval(), torch.randn(2, 4, 7, 9), tmp_path / "quantized.onnx"
    if dtype == torch.int8:
        for point in (network.x_zero_point, network.w_zero_point, network.y_zero_point):
            point.zero_()
    edgeconv.to_onnx(network, image, path, form="inlined", dynamic=False, opset=19)
    expected = network(image).numpy()
    off = np.abs(openvino(path, {"image": image.numpy()}) - expected) / float(network.y_scale)
    assert len(np.unique(expected)) > 30
    assert off.max() < 1.01
    assert np.mean(off > 0.5) < 0.01
    if dtype == torch.int8:
        assert len(tensorrt_engine(path)) > 1000
    else:
        assert parse(path) is None


@pytest.mark.parametrize("architecture", ["lenet5", "resnet20"])
def test_architectures(architecture: str, tmp_path: Path) -> None:
    network = create(architecture, kernel="gaussian", gamma=0.02, in_channels=1).eval()
    image, path = torch.randn(1, 1, 28, 28), tmp_path / "net.onnx"
    edgeconv.to_onnx(network, image, path, form="inlined", dynamic=False, input_names=["x"])
    assert_close(openvino(path, {"x": image.numpy()}), network(image).detach().numpy(), np.float32)
    assert tensorrt_engine(path)


def test_fp16(tmp_path: Path) -> None:
    network, image = Small("manhattan").eval(), torch.randn(2, 3, 10, 13)
    path = tmp_path / "half.onnx"
    edgeconv.to_onnx(network, image, path, form="inlined", dynamic=False, fp16=True)
    assert_close(openvino(path, {"image": image.numpy()}), network(image).detach().numpy(), np.float16)
    assert tensorrt_engine(path)
