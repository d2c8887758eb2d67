"""Small models and a clock that only moves when a subject says so."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from edgeconv.errors import MissingDependencyError

CONV = """
<ir_version: 9, opset_import: ["" : 17]>
tiny ({type} x) => (float[N, 5, A, B] y) {{
  c = Conv <kernel_shape = [3, 2], pads = [1, 0, 1, 1]> (x, w)
  y = Relu (c)
}}
"""

# -|x - w|^2 = 2 x.w - |x|^2 - |w|^2, written out here so that these tests need nothing of the export.
FUNCTION = """
<ir_version: 9, opset_import: ["" : 17, "edgeconv" : 1]>
kerv (float[N, 3, H, W] x) => (float[N, 5, A, B] y) {
  k = edgeconv.EuclideanKervolution <kernel_shape = [3, 2]> (x, w)
  y = edgeconv.EuclideanKervolution <kernel_shape = [1, 1]> (k, v)
}
<domain: "edgeconv", opset_import: ["" : 17]>
EuclideanKervolution <kernel_shape> (X, W) => (Y) {
  Sizes = Shape (W)
  Ones = ConstantOfShape <value = float[1] {1}> (Sizes)
  Squares = Mul (X, X)
  XX = Conv <kernel_shape : ints = @kernel_shape> (Squares, Ones)
  WW = ReduceSumSquare <axes = [1, 2, 3], keepdims = 0> (W)
  Axes = Constant <value = int64[2] {1, 2}> ()
  WWMap = Unsqueeze (WW, Axes)
  XW = Conv <kernel_shape : ints = @kernel_shape> (X, W)
  Two = Constant <value = float {2}> ()
  TwoXW = Mul (Two, XW)
  Sum = Add (XX, WWMap)
  Y = Sub (TwoXW, Sum)
}
"""

WriteModel = Callable[..., Path]


def weights(name: str, *shape: int) -> onnx.TensorProto:
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


@pytest.fixture
def conv_model(tmp_path: Path) -> WriteModel:
    """Write Conv + Relu; arguments: file name, ONNX type of the input, metadata."""

    def write(name: str = "tiny.onnx", type: str = "float[N, 3, 9, 7]", **metadata: str) -> Path:
        model = onnx.parser.parse_model(CONV.format(type=type))
        model.graph.initializer.append(weights("w", 5, 3, 3, 2))
        onnx.helper.set_model_props(model, {key.replace("__", "."): value for key, value in metadata.items()})
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def function_model(tmp_path: Path) -> WriteModel:
    """Write a file that calls an edgeconv operator twice, with or without the function's body."""

    def write(name: str = "kerv.onnx", *, body: bool = True) -> Path:
        model = onnx.parser.parse_model(FUNCTION)
        model.graph.initializer.extend([weights("w", 5, 3, 3, 2), weights("v", 5, 5, 1, 1)])
        onnx.helper.set_model_props(model, {"edgeconv.input_shape": "[1, 3, 9, 7]"})
        if not body:
            del model.functions[:]
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def no_op_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the installed op library not found, whether or not one is installed."""

    def op_library() -> str:
        raise MissingDependencyError("the op library is not installed.", "Build it.")

    module = types.ModuleType("edgeconv.runtime.op_library")
    module.op_library = op_library  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edgeconv.runtime.op_library", module)


class FakeClock:
    """Nanoseconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
