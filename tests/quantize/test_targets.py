"""Quantised files in the runtimes that they are for: TensorRT-RTX's builder, OpenVINO, the reference evaluator."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import edgeconv

from .models import image_batch, inverted_residuals, run, sqnr

HERE = platform.machine() == "x86_64"
needs_x86 = pytest.mark.skipif(not HERE, reason="TensorRT-RTX and OpenVINO have wheels for x86-64 only")

ENGINE = """
import sys
import tensorrt_rtx_bindings as trt

logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(0)
parser = trt.OnnxParser(network, logger)
if not parser.parse_from_file(sys.argv[1]):
    sys.exit("; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
config = builder.create_builder_config()
config.num_compute_capabilities = 1
config.set_compute_capability(trt.ComputeCapability.SM89, 0)
engine = builder.build_serialized_network(network, config)
print(-1 if engine is None else engine.nbytes)
"""


def engine_size(path: Path) -> int:
    """Bytes of the engine that TensorRT-RTX builds, in a process of its own: its aborts cannot be caught."""
    done = subprocess.run([sys.executable, "-c", ENGINE, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


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


@needs_x86
def test_tensorrt_builds_mobilenet_v2(tmp_path: Path) -> None:
    import torch

    from edgeconv.models.registry import create

    torch.manual_seed(0)
    network = create("mobilenet_v2", num_classes=10, width=0.35).eval()
    edgeconv.to_onnx(network, torch.randn(1, 3, 64, 64), tmp_path / "net.onnx", dynamic=False, verify=False)
    np.save(tmp_path / "calib.npy", image_batch(4, shape=(3, 64, 64)))
    report = edgeconv.quantize_model(
        tmp_path / "net.onnx", tmp_path / "calib.npy", output=tmp_path / "out.onnx", target="tensorrt", latency=False,
        rounding="nearest", bias_correction=False, equalize=False,
    )  # fmt: skip
    assert report.quantized["layers"] == 53
    assert report.left == {}
    model = onnx.load(tmp_path / "out.onnx")
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "Clip":
            assert makers[node.input[0]].op_type == "Conv"
    assert engine_size(tmp_path / "out.onnx") > 10_000


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
