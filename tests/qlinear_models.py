"""One-node ONNX models of the 8-bit operator for a case. Needs only numpy and onnx."""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper
from qlinear_kernels import Array, Case


def make_model(
    case: Case,
    *,
    inputs: tuple[str, ...] = ("X",),
    empty_bias: bool = False,
    x_shape: list[int | str | None] | None = None,
    **attributes: object,
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A model of one node 'node' without a function body, and its feeds.

    Args:
        case: Inputs and attributes.
        inputs: Names that the model takes as inputs; all others are initialisers.
        empty_bias: Whether an absent bias is written as an empty name.
        x_shape: Declared shape of X, its own by default.
        **attributes: Written in place of the case's.
    """
    arrays = case.tensors()
    names = [*arrays, *([""] if empty_bias and case.bias is None else [])]
    element = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in arrays.items()}
    stated = {
        "kernel_shape": case.w.shape[2:], **case.attributes,
        "plugin_version": "1", "plugin_namespace": "edgeconv", **attributes,
    }  # fmt: skip
    node = helper.make_node("QLinearManhattanKervolution", names, ["Y"], name="node", domain="edgeconv", **stated)
    graph = helper.make_graph(
        [node, helper.make_node("Identity", ["Y"], ["Z"])],
        "graph",
        [
            helper.make_tensor_value_info(
                name, element[name], x_shape if name == "X" and x_shape is not None else arrays[name].shape
            )
            for name in inputs
        ],
        [helper.make_tensor_value_info("Z", element["y_zero_point"], None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items() if name not in inputs],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("edgeconv", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return model, {name: arrays[name] for name in inputs}
