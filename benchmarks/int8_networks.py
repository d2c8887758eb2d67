"""The networks of `int8_latency.py`: float32 files, QDQ files of them by `edgeconv quantize`, and those fused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from competitors import Output
from whole_networks import normalize

from edgeconv.fusion.passes import fuse_graph
from edgeconv.fusion.steps import StepCounter, Steps, sum_steps

if TYPE_CHECKING:
    from torch import Tensor

NETWORKS = {"MobileNetV2": "mobilenet_v2", "EfficientNet-Lite0": "efficientnet_lite0"}
INPUT = (1, 3, 224, 224)
IMAGES = 4
"""To calibrate with: the ranges do not change how long anything takes."""


@dataclass(frozen=True)
class QuantizedNetwork:
    """One network in three forms.

    Attributes:
        name: Its name.
        x: The image.
        floats: The float32 file.
        qdq: The QDQ file, uint8 activations and int8 weights by channel.
        fused: The same with the 8-bit operators in place of blocks.
        path: Of the fused file.
        expected: What the QDQ file gives, every operator in float32.
        expected_float: What the float32 file gives, in float64.
        macs: Multiply-adds by node of the fused file.
        steps: Values that its operators give, and how many are not what the QDQ file gives on the same input.
    """

    name: str
    x: Output
    floats: bytes
    qdq: bytes
    fused: bytes
    path: Path
    expected: Output
    expected_float: Output
    macs: dict[str, int]
    steps: Steps


def quantized_network(name: str, directory: Path, weights: Path | None = None) -> QuantizedNetwork:
    """Export, quantise and fuse a network.

    Args:
        name: Out of NETWORKS.
        directory: For the files.
        weights: A checkpoint of EfficientNet-Lite0; without one, networks have random weights and the statistics of
            the image that they are timed with, so that all layers work at an ordinary scale.
    """
    import torch

    import edgeconv
    from edgeconv.inspection.layers import LayerTable
    from edgeconv.models import create
    from edgeconv.quantize.api import quantize_model

    generator = torch.Generator().manual_seed(1)
    images: Tensor = torch.randn(IMAGES, *INPUT[1:], generator=generator)
    if weights is not None and name == "EfficientNet-Lite0":
        model = edgeconv.load_checkpoint(weights, architecture=NETWORKS[name]).module.eval()
    else:
        torch.manual_seed(0)
        model = normalize(create(NETWORKS[name]), images)
    floats, qdq, path = (directory / f"{name}{suffix}.onnx" for suffix in ("", "-qdq", "-fused"))
    edgeconv.to_onnx(model, images[:1], floats, dynamic=False, verify=False)
    np.save(directory / "images.npy", images.numpy())
    quantize_model(
        floats, directory / "images.npy", output=qdq, target="ort", equalize=False, bias_correction=False,
        rounding="nearest", latency=False,
    )  # fmt: skip
    quantized = onnx.load(qdq)
    fused, operators, _ = fuse_graph(quantized)
    onnx.save(fused, path)
    layers = LayerTable(onnx.shape_inference.infer_shapes(fused)).layers
    with torch.no_grad():
        expected_float = model.double()(images[:1].double()).numpy()
    x = images[:1].numpy()
    counter = StepCounter(fused, {each.node for each in operators})
    counter.add({fused.graph.input[0].name: x})
    return QuantizedNetwork(
        name, x, floats.read_bytes(), qdq.read_bytes(), path.read_bytes(), path,
        _in_floats(quantized, x), expected_float, {layer.name: layer.macs for layer in layers if layer.macs},
        sum_steps(counter.found.values()),
    )  # fmt: skip


def _in_floats(model: onnx.ModelProto, x: Output) -> Output:
    """Run a QDQ model as it is written: dequantise, compute in float32, quantise."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: Output = session.run(None, {session.get_inputs()[0].name: x})[0]
    return result
