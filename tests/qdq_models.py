"""QDQ models around one Manhattan kervolution, as ONNX text, and runs of the pass that fuses it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from sessions import session

from edgeconv.ops.kervolution_function import FUNCTIONS
from edgeconv.ops.qlinear_manhattan import OPERATOR
from edgeconv.rewrite import fuse_qlinear_manhattan
from edgeconv.rewrite.fuse_qlinear_manhattan import FusionReport

Array = NDArray[Any]
FUSED, FLOAT_OPERATOR = OPERATOR.name, "ManhattanKervolution"
ATTRIBUTES = "kernel_shape = [3, 2], strides = [1, 2], pads = [1, 0, 0, 1], dilations = [1, 1], group = 2"
MANHATTAN = f"edgeconv.ManhattanKervolution <{ATTRIBUTES}>"
SCALE = np.float32(0.017)

ONE_LAYER = f"""
<ir_version: 10, opset_import: ["": 19, "edgeconv": 1]>
one_layer (uint8[N, 4, 7, 9] X) => (uint8[N, 6, 6, 5] Y) <float[N, 4, 7, 9] x, float[N, 6, 6, 5] y>
{{
    x = DequantizeLinear (X, x_scale, x_zero_point)
    w = DequantizeLinear <axis = 0> (W, w_scale, w_zero_point)
    [layer] y = {MANHATTAN} (x, w, B)
    Y = QuantizeLinear (y, y_scale, y_zero_point)
}}
"""


def values(x_type: str = "uint8", y_type: str = "uint8", **changed: Any) -> dict[str, Array]:
    """Constants of ONE_LAYER, with some replaced (or left out, by None); W lies on the activations' grid."""
    generator = np.random.default_rng(3)
    found = {
        "x_scale": SCALE,
        "x_zero_point": np.asarray(121 if x_type == "uint8" else -9, x_type),
        "W": generator.integers(-128, 128, (6, 2, 3, 2)).astype(np.int8),
        "w_scale": np.full(6, SCALE),
        "w_zero_point": np.int8([0, 3, -128, 127, 0, -1]),
        "y_scale": np.float32(0.09),
        "y_zero_point": np.asarray(130 if y_type == "uint8" else 4, y_type),
        "B": generator.uniform(5, 25, 6).astype(np.float32),
    }
    return {name: np.asarray(value) for name, value in (found | changed).items() if value is not None}


def build(text: str, constants: dict[str, Array], *, functions: bool = True) -> onnx.ModelProto:
    """Parse a model and add initialisers and the float operator's function."""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    if functions:
        model.functions.add().CopyFrom(FUNCTIONS[FLOAT_OPERATOR])
        model.functions[-1].opset_import[0].version = opset
    return model


def typed(x_type: str, y_type: str, text: str = ONE_LAYER) -> str:
    return text.replace("uint8[N, 4", f"{x_type}[N, 4").replace("uint8[N, 6", f"{y_type}[N, 6")


def run(model: onnx.ModelProto, feeds: dict[str, Array], library: bool = False) -> list[Array]:
    return [np.asarray(value) for value in session(model, native=library).run(None, feeds)]


def image(dtype: str = "uint8", channels: int = 4) -> Array:
    limits = np.iinfo(dtype)
    shape = (3, channels, 7, 9)
    return np.random.default_rng(8).integers(limits.min, limits.max + 1, shape).astype(dtype)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def steps_apart(before: onnx.ModelProto, after: onnx.ModelProto, feeds: dict[str, Array]) -> int:
    """Most steps that any output differs by, over runs without and with the op library; outputs must be alive."""
    expected = run(before, feeds)
    most = 0
    for library in (False, True):
        for old, new in zip(expected, run(after, feeds, library), strict=True):
            assert (old.dtype, old.shape) == (new.dtype, new.shape)
            assert len(np.unique(old)) > 30
            most = max(most, int(np.abs(old.astype(int) - new.astype(int)).max()))
    return most


def fuse(model: onnx.ModelProto, count: int, **options: Any) -> tuple[onnx.ModelProto, FusionReport]:
    """Run the pass, check the count, that the model is valid, and that the given one is as it was."""
    before = model.SerializeToString(deterministic=True)
    result, report = fuse_qlinear_manhattan(model, **options)
    assert model.SerializeToString(deterministic=True) == before
    assert len(report.rewritten) == count, report
    assert kinds(result).count(FUSED) == count
    onnx.checker.check_model(result, full_check=True)
    return result, report


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


FLOAT_WEIGHTS = ONE_LAYER.replace("w = DequantizeLinear <axis = 0> (W, w_scale, w_zero_point)", "").replace(
    "x, w, B", "x, W, B"
)
NO_SCALES = {"w_scale": None, "w_zero_point": None}
