"""The inputs that `deconvolution_cpu.py` whitens: what ResNet-18's and ResNet-20's convolutions see, in blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from layers import Array, Layer
from onnx import TensorProto, helper

from edgeconv.ops.deconv_whitening import EPS, N_ITER, NAME, SAMPLING_STRIDE, choose_block
from edgeconv.ops.deconv_whitening_function import FUNCTION

RESNET18 = {
    layer.name: layer
    for layer in (
        Layer("224s2", 3, 224, 224, 64, 7, stride=2),
        Layer("56", 64, 56, 56, 64, 3),
        Layer("56s2", 64, 56, 56, 128, 3, stride=2),
        Layer("56s2k1", 64, 56, 56, 128, 1, stride=2),
        Layer("28", 128, 28, 28, 128, 3),
        Layer("28s2", 128, 28, 28, 256, 3, stride=2),
        Layer("28s2k1", 128, 28, 28, 256, 1, stride=2),
        Layer("14", 256, 14, 14, 256, 3),
        Layer("14s2", 256, 14, 14, 512, 3, stride=2),
        Layer("14s2k1", 256, 14, 14, 512, 1, stride=2),
        Layer("7", 512, 7, 7, 512, 3),
    )
}
"""Every kind of convolution in ResNet-18 at 224x224 (He et al., CVPR 2016, table 1), its 1x1 shortcuts included."""

RESNET20 = {
    layer.name: layer
    for layer in (
        Layer("32c3", 3, 32, 32, 16, 3),
        Layer("32", 16, 32, 32, 16, 3),
        Layer("32s2", 16, 32, 32, 32, 3, stride=2),
        Layer("16", 32, 16, 16, 32, 3),
        Layer("16s2", 32, 16, 16, 64, 3, stride=2),
        Layer("8", 64, 8, 8, 64, 3),
    )
}
"""Every kind of convolution in ResNet-20 at 32x32 (the same, section 4.2)."""

LAYERS = {**RESNET18, **RESNET20}
BLOCKS = (16, 64)


@dataclass(frozen=True)
class Whitening:
    """`DeconvWhitening` of a layer's input.

    Attributes:
        layer: The convolution that follows.
        block: Channels of a block; divides the layer's.
        sampling_stride: Every so many-th output position is a row, both ways.
    """

    layer: Layer
    block: int
    sampling_stride: int = SAMPLING_STRIDE

    @property
    def features(self) -> int:
        """F, the side of the covariance."""
        return self.block * self.layer.window**2

    @property
    def blocks(self) -> int:
        """Blocks of channels, each of which is a sample of a row."""
        return self.layer.channels // self.block

    @property
    def step(self) -> int:
        """Rows and columns from one sampled window to the next."""
        return self.sampling_stride * self.layer.stride

    @property
    def samples(self) -> int:
        """P, of which the covariance is the average."""
        layer = self.layer
        size, output = (layer.height, layer.width), (layer.output_height, layer.output_width)
        rows = sampled_rows(layer.window, size, output, layer.stride, self.sampling_stride)
        return layer.batch * rows * self.blocks

    @property
    def macs(self) -> int:
        """Useful multiply-adds: see `useful_macs`."""
        return useful_macs(self.features, self.samples, N_ITER)

    @property
    def attributes(self) -> dict[str, Any]:
        """The operator's attributes, which are the arguments of edgeconv's torch operator, too."""
        layer = self.layer
        return {
            "block": self.block, "kernel_shape": [layer.window] * 2, "strides": [layer.stride] * 2,
            "pads": [layer.pad] * 4, "dilations": [1, 1], "group": 1, "eps": EPS, "n_iter": N_ITER,
            "sampling_stride": self.sampling_stride,
        }  # fmt: skip

    def input(self) -> Array:
        """X, seeded: smooth images whose channels are mixtures of each other, rectified behind the first layer.

        Not to be written to.
        """
        return _input(self.layer)


def whitenings(layer: Layer, blocks: list[int]) -> list[Whitening]:
    """The whitening of a layer's input for each block asked for, those that come out the same only once."""
    return [Whitening(layer, block) for block in sorted({choose_block(layer.channels, block) for block in blocks})]


def sampled_rows(window: int, size: tuple[int, int], output: tuple[int, int], stride: int, sampling_stride: int) -> int:
    """Positions of one image that are sampled.

    Args:
        window: Rows and columns of the window; with 1, pixels of the input are counted through.
        size: Rows and columns of the input.
        output: Rows and columns of the convolution's output, of which every sampling_stride-th is taken both ways.
        stride: Of the convolution.
        sampling_stride: See `Whitening`.
    """
    if window == 1:
        return math.ceil(size[0] * size[1] / (stride * sampling_stride) ** 2)
    return math.ceil(output[0] / sampling_stride) * math.ceil(output[1] / sampling_stride)


def useful_macs(features: int, samples: int, n_iter: int) -> int:
    """Useful multiply-adds: every product is of symmetric matrices that commute, so half of it is enough.

    The lesser of two ways, for n_iter of 2 or more. The features' covariance takes P·F²/2, and Newton-Schulz none for
    the first step's T and Z, none for the last step's Y, and else F³/2 for each of three products a step:
    3·(n_iter - 1)·F³/2. The samples' products take P²·F/2, five products of P³/2 a step, but for one in the first, four
    in the second and two in the last, and P²·F + P·F²/2 on the way back.
    """
    covariance = samples * features**2 // 2
    many = covariance + 3 * (n_iter - 1) * features**3 // 2
    products = 2 if n_iter == 2 else 5 * (n_iter - 3) + 7
    few = 3 * samples**2 * features // 2 + products * samples**3 // 2 + covariance
    return min(many, few)


@lru_cache(maxsize=4)
def _input(layer: Layer) -> Array:
    generator = np.random.default_rng(1)
    x = generator.standard_normal(layer.x_shape)
    x = x + np.roll(x, 1, axis=2) + 0.5 * np.roll(x, 1, axis=3)
    mix = np.eye(layer.channels) + 0.3 * generator.standard_normal((layer.channels,) * 2) / np.sqrt(layer.channels)
    x = np.einsum("dc,nchw->ndhw", mix, x)
    return np.ascontiguousarray(x if layer.channels <= 3 else np.maximum(x, 0), np.float32)


def operator(whitening: Whitening, *, functions: bool) -> bytes:
    """A file with the operator alone, sizes fixed.

    Args:
        whitening: What it computes.
        functions: Put its function into the file, as an export does. Without it nothing but the library runs it.
    """
    features = whitening.features
    node = helper.make_node(NAME, ["X"], ["mean", "deconv"], domain="edgeconv", **whitening.attributes)
    float32 = TensorProto.FLOAT
    graph = helper.make_graph(
        [node], "graph", [helper.make_tensor_value_info("X", float32, whitening.layer.x_shape)],
        [
            helper.make_tensor_value_info("mean", float32, [1, features]),
            helper.make_tensor_value_info("deconv", float32, [1, features, features]),
        ],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("edgeconv", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=[FUNCTION] if functions else [])
    serialized: bytes = model.SerializeToString()
    return serialized


@lru_cache(maxsize=4)
def reference(whitening: Whitening) -> tuple[np.ndarray[Any, Any], ...]:
    """Mean and deconv in float64, by edgeconv's torch operator."""
    import torch

    from edgeconv.ops.deconv_whitening_torch import deconv_whitening

    with torch.no_grad():
        found = deconv_whitening(torch.from_numpy(whitening.input()).double(), **whitening.attributes)
    return tuple(tensor.numpy() for tensor in found)
