"""What each target wants of a quantised file, with the reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeconv.errors import InputError

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators with 8-bit weights."""

PASS_THROUGH = frozenset({
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "DepthToSpace",
    "SpaceToDepth", "Gather", "Expand", "Tile",
})  # fmt: skip
"""Operators that move or choose values and compute none: what they give is on the grid of what they take."""

ARITHMETIC = frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu", "Resize"})
"""Operators without weights that ONNX Runtime and OpenVINO have in 8 bits."""


@dataclass(frozen=True)
class Target:
    """Rules for activations, biases and the places of Q/DQ pairs.

    Attributes:
        name: As users write it.
        dtype: Of activations.
        symmetric: Whether the zero-point of activations is 0.
        bias: Whether biases are int32 with a DequantizeLinear. Without it they stay float32.
        everywhere: Q/DQ at the inputs and the output of every operator that has an integer form. If not, only at the
            inputs of layers with weights, and where that lets an operator be fused with one.
        weighted: Operators with weights that are quantised.
    """

    name: str
    dtype: np.dtype[Any]
    symmetric: bool
    bias: bool
    everywhere: bool
    weighted: frozenset[str]


TARGETS: dict[str, Target] = {
    # ONNX Runtime fuses an operator only if all of its inputs are dequantised and its output is quantised; its CPU
    # kernels are fastest with unsigned activations and signed weights; OpenVINO takes the same file.
    "ort": Target(
        "ort",
        np.dtype(np.uint8),
        symmetric=False,
        bias=True,
        everywhere=True,
        weighted=WEIGHTED - {"ConvTranspose"},
    ),
    # TensorRT takes signed 8 bits with zero-points of 0 only, fuses Conv, Clip, Add and Q itself, and wants no Q/DQ on
    # biases, between Conv and activation, or on the branch of an Add that a Conv makes.
    "tensorrt": Target(
        "tensorrt",
        np.dtype(np.int8),
        symmetric=True,
        bias=False,
        everywhere=False,
        weighted=WEIGHTED,
    ),
    # Signed 8 bits with zero-points of 0 and float biases are what TensorRT, OpenVINO and ONNX Runtime all take:
    # TensorRT's parser refuses an asymmetric or unsigned grid.
    "portable": Target(
        "portable",
        np.dtype(np.int8),
        symmetric=True,
        bias=False,
        everywhere=True,
        weighted=WEIGHTED - {"ConvTranspose"},
    ),
}


def target_named(name: str) -> Target:
    """Return a target.

    Raises:
        InputError: There is none of that name.
    """
    if name not in TARGETS:
        raise InputError(f"unknown target {name!r}.", f"Choose one of: {', '.join(TARGETS)}.")
    return TARGETS[name]
