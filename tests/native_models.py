"""One-node ONNX models for a case, and a run of them. Needs only numpy, onnx and onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
from native_kernels import Array, Case
from onnx import TensorProto, helper, numpy_helper

PARAMETERS = {"polynomial": ["balance"], "gaussian": ["gamma"], "sigmoid": ["scale", "balance"]}


def make_model(
    case: Case,
    *,
    inputs: tuple[str, ...] = ("X",),
    empty_bias: bool = False,
    x_shape: list[int | str | None] | None = None,
    **attributes: object,
) -> tuple[bytes, dict[str, Array]]:
    """A model of one node 'node', and its feeds.

    Args:
        case: Inputs and attributes.
        inputs: Names that the model takes as inputs; all others are initialisers.
        empty_bias: Whether an absent bias is written as an empty name.
        x_shape: Declared shape of X, its own by default.
        **attributes: Written in place of the case's.
    """
    names = PARAMETERS.get(case.kernel, [])
    values = {"X": case.x, "W": case.w, "balance": case.balance, "gamma": case.scale, "scale": case.scale}
    arrays = {name: np.asarray(values[name]) for name in ["X", "W", *names]}
    node_inputs = list(arrays)
    if case.bias is not None:
        arrays["B"] = case.bias
    node_inputs += ["B"] if case.bias is not None else [""] if empty_bias else []
    stated = {
        "kernel_shape": case.w.shape[2:], "strides": case.strides, "pads": case.pads, "dilations": case.dilations,
        "group": case.group, "plugin_version": "1", "plugin_namespace": "edgeconv",
        **({"degree": case.degree} if case.kernel == "polynomial" else {}), **attributes,
    }  # fmt: skip
    operator = f"{case.kernel.capitalize()}Kervolution"
    node = helper.make_node(operator, node_inputs, ["Y"], name="node", domain="edgeconv", **stated)
    element = TensorProto.FLOAT if case.x.dtype == np.float32 else TensorProto.FLOAT16
    graph = helper.make_graph(
        [node, helper.make_node("Identity", ["Y"], ["Z"])],
        "graph",
        [
            helper.make_tensor_value_info(
                name,
                helper.np_dtype_to_tensor_dtype(arrays[name].dtype),
                x_shape if name == "X" and x_shape is not None else arrays[name].shape,
            )
            for name in inputs
        ],
        [helper.make_tensor_value_info("Z", element, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items() if name not in inputs],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("edgeconv", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return model.SerializeToString(), {name: arrays[name] for name in inputs}
