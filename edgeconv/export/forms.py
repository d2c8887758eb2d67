"""The three forms of a file: with functions (the default), expanded in place, and without function bodies."""

from __future__ import annotations

from typing import Literal

import onnx
import onnx.inliner

from edgeconv.errors import EdgeconvError
from edgeconv.inspection.nodes import walk
from edgeconv.ops.kervolution import DOMAIN, VERSION
from edgeconv.ops.registry import OPERATORS, onnx_functions
from edgeconv.rewrite.graph import add_function

Form = Literal["functions", "inlined", "nodes"]
"""How custom operators stand in the file.

functions: a node of the operator, whose body travels as a model-local function. One file for every runtime.
inlined: standard operators only, for parsers that do not take local functions (OpenVINO, TensorRT-RTX).
nodes: a node without a body, for parsers in which a function would shadow the plugin (TensorRT before 10.7).
"""


def apply_form(model: onnx.ModelProto, form: Form) -> onnx.ModelProto:
    """Return the model in the given form.

    Args:
        model: A graph whose custom operators are nodes without bodies.
        form: See `Form`.

    Raises:
        EdgeconvError: The model holds an operator of edgeconv's domain that has no function.
    """
    used = {node.op_type for node in walk(model.graph.node) if node.domain == DOMAIN}
    unknown = sorted(used - OPERATORS.keys())
    if unknown:
        raise EdgeconvError(f"operator {DOMAIN}::{unknown[0]} has no ONNX function.")
    _set_opset_import(model, needed=bool(used))
    if form == "nodes" or not used:
        return model
    functions = onnx_functions()
    for name in sorted(used):
        add_function(model, functions[name])
    if form == "inlined":
        model = onnx.inliner.inline_local_functions(model)
        _set_opset_import(model, needed=False)
    return model


def _set_opset_import(model: onnx.ModelProto, *, needed: bool) -> None:
    kept = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    if needed:
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
