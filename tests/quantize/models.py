"""Small networks as ONNX text and numpy arrays; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

from edgeconv.normalization import Normalization
from edgeconv.quantize.images import InputSpec

Array = NDArray[Any]
SHAPE = (3, 20, 26)
HALF = Normalization((0.5,), (0.5,))
SPEC = InputSpec("x", SHAPE, HALF)

INVERTED = """
    <ir_version: 8, opset_import: ["" : 18]>
    mobile (float[N, 3, 20, 26] x) => (float[N, 7] y) {
        [stem] a = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (x, w0, b0)
        [stem_clip] ac = Clip (a, zero, six)
        [dw1] d = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 6> (ac, w1, b1)
        [dw1_clip] dc = Clip (d, zero, six)
        [project1] p = Conv <kernel_shape = [1, 1]> (dc, w2, b2)
        [expand2] e = Conv <kernel_shape = [1, 1]> (p, w3, b3)
        [expand2_clip] ec = Clip (e, zero, six)
        [dw2] f = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 10> (ec, w4, b4)
        [dw2_clip] fc = Clip (f, zero, six)
        [project2] q = Conv <kernel_shape = [1, 1]> (fc, w5, b5)
        [add] s = Add (p, q)
        [head] h = Conv <kernel_shape = [1, 1]> (s, w6, b6)
        [head_clip] hc = Clip (h, zero, six)
        [pool] m = ReduceMean <keepdims = 0> (hc, axes)
        [classifier] y = Gemm <transB = 1> (m, w7, b7)
    }
"""
"""A stem, two inverted residuals of ReLU6 of which the second has an Add, a head and a classifier."""

SHAPES = {
    0: (6, 3, 3, 3), 1: (6, 1, 3, 3), 2: (5, 6, 1, 1), 3: (10, 5, 1, 1), 4: (10, 1, 3, 3), 5: (5, 10, 1, 1),
    6: (11, 5, 1, 1), 7: (7, 11),
}  # fmt: skip


def build(text: str, constants: dict[str, Array]) -> onnx.ModelProto:
    """Parse a model and add initialisers."""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items())
    onnx.checker.check_model(model, full_check=True)
    return model


def inverted_residuals(seed: int = 0, **changed: Array) -> onnx.ModelProto:
    """A trained-like network: filters of unlike scale, outputs within and beyond ReLU6's bounds."""
    generator = np.random.default_rng(seed)
    constants: dict[str, Array] = {
        "zero": np.float32(0), "six": np.float32(6), "axes": np.array([2, 3], np.int64),
    }  # fmt: skip
    for index, shape in SHAPES.items():
        spread = np.exp(generator.normal(0, 0.7, (shape[0], *[1] * (len(shape) - 1))))
        fan = np.prod(shape[1:])
        constants[f"w{index}"] = (generator.standard_normal(shape) * spread * 2 / np.sqrt(fan)).astype(np.float32)
        constants[f"b{index}"] = generator.normal(0.5, 1, shape[0]).astype(np.float32)
    return build(INVERTED, {**constants, **changed})


def image_batch(count: int = 24, seed: int = 1, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    """Smooth images in [-1, 1]: neighbouring pixels are alike, as in photographs."""
    generator = np.random.default_rng(seed)
    channels, height, width = shape
    coarse = generator.uniform(-1, 1, (count, channels, height // 4 + 2, width // 4 + 2))
    fine = coarse.repeat(4, 2).repeat(4, 3)[:, :, :height, :width]
    return np.clip(fine + generator.normal(0, 0.05, fine.shape), -1, 1).astype(np.float32)


def write_pictures(directory: Path, count: int = 6, seed: int = 2, size: tuple[int, int] = (31, 40)) -> Path:
    """PNG files of (height, width) in a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(image_batch(count, seed, (3, *size))):
        pixels = ((image + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(pixels).save(directory / f"{index:03d}.png")
    return directory


def run(model: onnx.ModelProto, x: Array, *, optimized: bool = True) -> Array:
    """The first output in ONNX Runtime, with or without its optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def sqnr(expected: Array, actual: Array) -> float:
    error = np.asarray(actual, np.float64) - expected
    noise = float(np.sum(error**2))
    return float("inf") if noise == 0 else float(10 * np.log10(np.sum(np.square(expected, dtype=np.float64)) / noise))
