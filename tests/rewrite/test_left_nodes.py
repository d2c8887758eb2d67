"""What the pass that makes `QLinearManhattanKervolution` leaves in float, and the reasons that it gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from qdq_models import FLOAT_WEIGHTS, MANHATTAN, NO_SCALES, ONE_LAYER, SCALE, build, replaced, values

from edgeconv.rewrite import fuse_qlinear_manhattan

IF_LAYER = f"""
<ir_version: 10, opset_import: ["": 19, "edgeconv": 1]>
branches (uint8[N, 4, 7, 9] X, bool condition) => (float[N, 6, 6, 5] Z)
{{
    x = DequantizeLinear (X, x_scale, x_zero_point)
    w = DequantizeLinear <axis = 0> (W, w_scale, w_zero_point)
    [choice] Z = If (condition) <
        then_branch = yes () => (float[N, 6, 6, 5] a) {{ [inner] a = {MANHATTAN} (x, w, B) }},
        else_branch = no () => (float[N, 6, 6, 5] b) {{ [other] b = {MANHATTAN} (x, w, B) }}
    >
}}
"""

LEFT: list[tuple[str, str, dict[str, Any]]] = [
    ("its float result is an output of the graph", replaced(ONE_LAYER, ("=> (", "=> (float[N, 6, 6, 5] y, ")), {}),
    (
        "its result goes to Abs, QuantizeLinear, not to one QuantizeLinear",
        replaced(ONE_LAYER, ("=> (", "=> (float[N, 6, 6, 5] z, "), ("[layer]", "z = Abs (y)\n    [layer]")),
        {},
    ),
    (
        "its result goes to Relu, not to one QuantizeLinear",
        replaced(ONE_LAYER, ("Y = Quant", "z = Relu (y)\n    Y = Quant"), ("(y, y_scale", "(z, y_scale")),
        {},
    ),
    (
        "its input does not come from DequantizeLinear",
        replaced(ONE_LAYER, ("[layer] y", "n = Neg (x)\n    [layer] y"), ("(x, w,", "(n, w,")),
        {},
    ),
    (
        "the scale of its DequantizeLinear is not constant",
        replaced(ONE_LAYER, ("9] X)", "9] X, float x_scale)")),
        {"x_scale": None},
    ),
    (  # an initialiser that an input of its name may override
        "the scale of its DequantizeLinear is not constant",
        replaced(ONE_LAYER, ("9] X)", "9] X, float x_scale)")),
        {},
    ),
    (
        "the zero-point of its QuantizeLinear is not constant",
        replaced(ONE_LAYER, ("9] X)", "9] X, uint8 y_zero_point)")),
        {"y_zero_point": None},
    ),
    (
        "the scale of its DequantizeLinear is float16; the operator computes in float32",
        replaced(ONE_LAYER, (" <float[N, 4, 7, 9] x, float[N, 6, 6, 5] y>", "")),
        {name: values()[name].astype(np.float16) for name in ("x_scale", "w_scale", "y_scale", "B")},
    ),
    (
        "its input has a scale for each channel",
        ONE_LAYER,
        {"x_scale": np.full(4, SCALE), "x_zero_point": np.zeros(4, np.uint8)},
    ),
    (
        "its output has a scale for each channel",
        ONE_LAYER,
        {"y_scale": np.full(6, SCALE), "y_zero_point": np.zeros(6, np.uint8)},
    ),
    (
        "its output is uint16; the operator takes uint8 and int8",
        replaced(ONE_LAYER, ('"": 19', '"": 21'), ("uint8[N, 6", "uint16[N, 6")),
        {"y_zero_point": np.uint16(9)},
    ),
    (
        "its weights are not a constant of 4 dimensions",
        replaced(ONE_LAYER, ("9] X)", "9] X, int8[6, 2, 3, 2] W)")),
        {"W": None},
    ),
    (
        "its weights are float32, or not finite; they must be finite float32",
        FLOAT_WEIGHTS,
        {"W": np.full((6, 2, 3, 2), np.inf, np.float32), **NO_SCALES},
    ),
    ("a scale that is not finite and positive", ONE_LAYER, {"y_scale": np.float32(0)}),
    ("the file has opset 17; the function body needs 18", replaced(ONE_LAYER, ('"": 19', '"": 17')), {}),
    (
        "its bias is not constant, so it cannot take over weights beyond the activations' range",
        replaced(FLOAT_WEIGHTS, ("9] X)", "9] X, float[6] B)")),
        {"W": np.full((6, 2, 3, 2), 1000, np.float32), "B": None, **NO_SCALES},
    ),
    (
        "its DequantizeLinear has scales in blocks",
        replaced(ONE_LAYER, ('"": 19', '"": 21'), ("<axis = 0>", "<axis = 1, block_size = 1>")),
        {"w_scale": np.full((6, 2, 3, 2), SCALE), "w_zero_point": np.zeros((6, 2, 3, 2), np.int8)},
    ),
]


@pytest.mark.parametrize(("reason", "text", "change"), LEFT, ids=[f"{i}-{case[0]}" for i, case in enumerate(LEFT)])
def test_what_is_left_says_why(reason: str, text: str, change: dict[str, Any]) -> None:
    model = build(text, values(**change), functions="17" not in text.splitlines()[1])
    result, report = fuse_qlinear_manhattan(model, regrid_weights=True)
    assert result == model
    assert not report.rewritten
    assert len(report.left) == 1
    assert reason in report.left[0].reason


def test_nodes_inside_branches_and_functions_are_left() -> None:
    model = build(IF_LAYER, values(y_scale=None, y_zero_point=None))
    function = onnx.parser.parse_function(
        f'<opset_import: ["": 19, "edgeconv": 1], domain: "mine"> Block (a, b) => (c) {{ c = {MANHATTAN} (a, b) }}'
    )
    model.functions.append(function)
    result, report = fuse_qlinear_manhattan(model)
    assert result == model
    assert [(each.node, each.reason) for each in report.left] == [
        ("inner", "it is inside a subgraph of choice"),
        ("other", "it is inside a subgraph of choice"),
        ("c", "it is inside the function mine::Block"),
    ]
