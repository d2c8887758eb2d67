"""`QLinearManhattanKervolution` as an ONNX function: dequantise, `ManhattanKervolution` in float32, quantise.

Formulas: see `edgeconv.ops.qlinear_manhattan`. Manhattan's body is expanded into this one. As a function called by a
function it would run in ONNX Runtime, but not in ONNX's reference evaluator, which wants the called one first in the
file and every attribute handed on. That evaluator knows DequantizeLinear and QuantizeLinear from opset 19 on; all other
runtimes take the body from 18 on.

Needs onnxscript (the `export` extra).
"""

# onnxscript reads this function as source: its parameters without annotation are tensors, and `op` is ONNX.
# ruff: noqa: RUF013
# mypy: disable-error-code="no-untyped-def,assignment"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import onnx.inliner
from onnxscript import opset18, script, values

from edgeconv.ops.function import build_function
from edgeconv.ops.kervolution import DOMAIN, OPERATOR_OF_KERNEL, VERSION
from edgeconv.ops.kervolution_function import FUNCTIONS, OPSET
from edgeconv.ops.qlinear_manhattan import OPERATOR

op: Any = opset18
edgeconv: Any = values.Opset(DOMAIN, VERSION)


@script(edgeconv)
def QLinearManhattanKervolution(
    X, x_scale, x_zero_point, W, w_scale, w_zero_point, y_scale, y_zero_point, B=None,
    kernel_shape: Sequence[int] = None, group: int = 1,
    strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0), dilations: Sequence[int] = (1, 1),
    plugin_version: str = "1", plugin_namespace: str = "edgeconv",
):  # fmt: skip
    """-‖x - w‖₁ + B of the dequantised tensors, quantised."""
    x = op.DequantizeLinear(X, x_scale, x_zero_point)
    w = op.DequantizeLinear(W, w_scale, w_zero_point, axis=0)
    y = edgeconv.ManhattanKervolution(x, w, B, group=group, strides=strides, pads=pads, dilations=dilations)
    return op.QuantizeLinear(y, y_scale, y_zero_point)


def _build() -> onnx.FunctionProto:
    doc = f"{OPERATOR.formula} + B of the dequantised tensors, quantised"
    body = build_function(OPERATOR.name, QLinearManhattanKervolution, (), OPSET, doc)
    called = OPERATOR_OF_KERNEL[OPERATOR.kernel].name
    opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(DOMAIN, VERSION)]
    pair = onnx.ModelProto(ir_version=8, opset_import=opsets, functions=[body, FUNCTIONS[called]])
    pair.graph.name = "empty"
    expanded: onnx.FunctionProto
    (expanded,) = onnx.inliner.inline_selected_functions(pair, [(DOMAIN, called)]).functions
    del expanded.opset_import[:]
    expanded.opset_import.append(opsets[0])
    return expanded


FUNCTION = _build()
"""The operator's ONNX function."""
