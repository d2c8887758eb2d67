"""Quantised files in the runtimes that they are for: TensorRT-RTX's builder, OpenVINO, the reference evaluator."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import edgeconv
from edgeconv.runtime.engine_build import build_engine

from .models import image_batch, inverted_residuals, run, sqnr

HERE = platform.machine() == "x86_64"
needs_x86 = pytest.mark.skipif(not HERE, reason="TensorRT-RTX and OpenVINO have wheels for x86-64 only")


def engine_size(path: Path) -> int:
    """Bytes of the engine that TensorRT-RTX builds for three generations of GPUs."""
    report = build_engine(
        path, provider="tensorrt-rtx", compute_capabilities=("8.6", "8.9", "12.0"), output=path.with_suffix(".engine")
    )
    return report.bytes


def fixed(model: onnx.ModelProto, batch: int = 1) -> onnx.ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return model


def written(tmp_path: Path, target: str) -> Path:
    onnx.save(fixed(inverted_residuals()), tmp_path / "net.onnx")
    np.save(tmp_path / "calib.npy", image_batch(12))
    edgeconv.quantize_model(
        tmp_path / "net.onnx", tmp_path / "calib.npy", output=tmp_path / "out.onnx", target=target, latency=False
    )
    return tmp_path / "out.onnx"


@needs_x86
@pytest.mark.parametrize("target", ["tensorrt", "portable"])
def test_tensorrt_builds_it(target: str, tmp_path: Path) -> None:
    assert engine_size(written(tmp_path, target)) > 1000


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MobileNetV2, narrow and small, for TensorRT."""
    import torch

    from edgeconv.models.registry import create

    directory = tmp_path_factory.mktemp("mobilenet")
    torch.manual_seed(0)
    network = create("mobilenet_v2", num_classes=10, width=0.35).eval()
    edgeconv.to_onnx(network, torch.randn(1, 3, 64, 64), directory / "net.onnx", dynamic=False, verify=False)
    np.save(directory / "calib.npy", image_batch(4, shape=(3, 64, 64)))
    report = edgeconv.quantize_model(
        directory / "net.onnx", directory / "calib.npy", output=directory / "out.onnx", target="tensorrt",
        latency=False, rounding="nearest", bias_correction=False, equalize=False,
    )  # fmt: skip
    assert report.quantized["layers"] == 53
    assert report.left == {}
    return directory / "out.onnx"


def test_the_tensorrt_graph_of_mobilenet_v2(mobilenet: Path) -> None:
    """Every layer, the first and the last included, has pairs where TensorRT wants them, and none elsewhere."""
    model = onnx.load(mobilenet)
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def made_by(name: str) -> str:
        return makers[name].op_type if name in makers else ""

    def read_by(node: onnx.NodeProto) -> list[str]:
        return [each.op_type for each in readers.get(node.output[0], [])]

    counts = {"Conv": 52, "Gemm": 1, "Clip": 35, "Add": 10}
    found = [node for node in model.graph.node if node.op_type in counts]
    assert {kind: sum(node.op_type == kind for node in found) for kind in counts} == counts
    for node in found:
        operands = [made_by(name) for name in node.input]
        if node.op_type in ("Conv", "Gemm"):
            assert operands[:2] == ["DequantizeLinear", "DequantizeLinear"], node.name
            assert all(constants[bias].dtype == np.float32 for bias in node.input[2:])
            weights = makers[node.input[1]]
            assert constants[weights.input[0]].dtype == np.int8
            assert constants[weights.input[1]].shape == (len(constants[weights.input[0]]),)
            # A projection's result goes into the Add as it is: TensorRT adds the other branch to its accumulator.
            assert read_by(node) in (["Clip"], ["QuantizeLinear"], ["Add"], []), node.name
        elif node.op_type == "Clip":
            assert operands[0] in ("Conv", "Gemm")
            assert read_by(node) == ["QuantizeLinear"]
        else:
            assert sorted(operands) == ["Conv", "DequantizeLinear"]
            assert read_by(node) == ["QuantizeLinear"]
    for node in (node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")):
        zero_point = constants[node.input[2]]
        assert zero_point.dtype == np.int8
        assert not zero_point.any()


@needs_x86
def test_tensorrt_builds_mobilenet_v2(mobilenet: Path) -> None:
    assert engine_size(mobilenet) > 100_000


@needs_x86
@pytest.mark.parametrize("target", ["ort", "tensorrt", "portable"])
def test_openvino_computes_the_same(target: str, tmp_path: Path) -> None:
    import openvino

    path, images = written(tmp_path, target), image_batch(1, seed=8)
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    actual = np.asarray(next(iter(compiled({"x": images}).values())))
    assert sqnr(run(onnx.load(path), images), actual) > 25


def test_the_reference_evaluator_computes_the_same(tmp_path: Path) -> None:
    model = onnx.load(written(tmp_path, "ort"))
    images = image_batch(1, seed=8)
    # It has QuantizeLinear from opset 19 on.
    newer = onnx.version_converter.convert_version(model, 21)
    (actual,) = ReferenceEvaluator(newer).run(None, {"x": images})
    assert sqnr(run(model, images, optimized=False), np.asarray(actual)) > 32
