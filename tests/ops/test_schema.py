"""The operators' schemas: inferred shapes against sliding windows in numpy, and clear refusals."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.shape_inference import InferenceError, infer_shapes

from edgeconv.ops.kervolution import DOMAIN, OPERATORS, PLUGIN_ATTRIBUTES, VERSION, KervolutionOperator
from edgeconv.ops.kervolution_function import FUNCTIONS
from edgeconv.ops.schema import register_schemas

Shape = list[int | str | None]
names = pytest.mark.parametrize("name", OPERATORS)


def infer(
    name: str,
    x: Shape | None,
    w: Shape | None,
    *,
    parameter: Shape | None = (),  # type: ignore[assignment]
    bias: Shape | None = None,
    dtype: int = TensorProto.FLOAT,
    types: dict[str, int] | None = None,
    **attributes: Any,
) -> tuple[int, Shape | None]:
    """Element type and shape that strict inference gives the output of one node."""
    operator = OPERATORS[name]
    shapes = {"X": x, "W": w, **dict.fromkeys(operator.parameters, parameter)}
    if bias is not None:
        shapes["B"] = bias
    dtypes = dict.fromkeys(shapes, dtype) | dict.fromkeys(operator.parameters, TensorProto.FLOAT) | (types or {})
    node = helper.make_node(name, list(shapes), ["Y"], name="kerv_3", domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "one_node",
        [helper.make_tensor_value_info(key, dtypes[key], shape) for key, shape in shapes.items()],
        [onnx.ValueInfoProto(name="Y")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    register_schemas()
    found = infer_shapes(model, strict_mode=True).graph.output[0].type.tensor_type
    if not found.HasField("shape"):
        return found.elem_type, None
    return found.elem_type, [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in found.shape.dim]


def positions(size: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> int:
    """Number of windows, by sliding one over an array."""
    padded = np.pad(np.zeros(size), (before, after))
    return len(np.lib.stride_tricks.sliding_window_view(padded, dilation * (kernel - 1) + 1)[::stride])


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Any]:
    group = draw(st.integers(1, 4))
    axes = []
    for _ in range(2):
        kernel, dilation, before, after = (draw(st.integers(low, 4)) for low in (1, 1, 0, 0))
        least = max(1, dilation * (kernel - 1) + 1 - before - after)
        axes.append((least + draw(st.integers(0, 9)), kernel, draw(st.integers(1, 4)), dilation, before, after))
    return {
        "group": group,
        "batch": draw(st.integers(1, 3)),
        "depth": draw(st.integers(1, 5)),
        "filters": group * draw(st.integers(1, 5)),
        "axes": axes,
        "bias": draw(st.booleans()),
        "per_channel": draw(st.sampled_from(["scalar", "one", "channel"])),
    }


@names
@settings(max_examples=60, deadline=None)
@given(layer=layers())
def test_sizes_are_those_of_sliding_windows(name: str, layer: dict[str, Any]) -> None:
    heights, widths = layer["axes"]
    parameter: Shape = {"scalar": [], "one": [1], "channel": [layer["filters"]]}[layer["per_channel"]]
    dtype, shape = infer(
        name,
        [layer["batch"], layer["depth"] * layer["group"], heights[0], widths[0]],
        [layer["filters"], layer["depth"], heights[1], widths[1]],
        parameter=parameter,
        bias=[layer["filters"]] if layer["bias"] else None,
        dtype=TensorProto.FLOAT16,
        kernel_shape=[heights[1], widths[1]],
        strides=[heights[2], widths[2]],
        dilations=[heights[3], widths[3]],
        pads=[heights[4], widths[4], heights[5], widths[5]],
        group=layer["group"],
    )
    assert dtype == TensorProto.FLOAT16
    assert shape == [layer["batch"], layer["filters"], positions(*heights), positions(*widths)]


@names
def test_absent_attributes_have_their_defaults(name: str) -> None:
    assert infer(name, [2, 3, 7, 9], [5, 3, 3, 2]) == (TensorProto.FLOAT, [2, 5, 5, 8])


@names
def test_symbols_stay_where_the_size_does(name: str) -> None:
    same = {"kernel_shape": [3, 5], "pads": [0, 2, 2, 2]}
    assert infer(name, ["N", 3, "H", "W"], [4, 3, 3, 5], **same)[1] == ["N", 4, "H", "W"]
    _, strided = infer(name, ["N", 3, "H", 9], [4, 3, 3, 5], strides=[2, 1], **same)
    assert strided is not None
    assert strided[0] == "N"
    assert strided[2] != "H"
    assert not isinstance(strided[2], int)
    assert strided[3] == 9


@names
def test_what_is_known_of_unknown_inputs_is_inferred(name: str) -> None:
    assert infer(name, None, [4, 3, 3, 3])[0] == TensorProto.FLOAT
    _, shape = infer(name, [2, 3, 8, 9], None, bias=[6], kernel_shape=[3, 2])
    assert shape == [2, 6, 6, 8]  # filters from the bias, window from the attribute
    _, shape = infer(name, [2, 3, 8, 9], [None, None, None, None])
    assert shape is not None
    assert [type(size) for size in shape] == [int, str, str, str]  # onnx names the sizes that it does not know


BAD: list[tuple[str, dict[str, Any]]] = [
    ("strides is [0, 1]", {"strides": [0, 1]}),
    ("strides is [1]", {"strides": [1]}),
    ("dilations is [1, -1]", {"dilations": [1, -1]}),
    ("pads is [0, 0]", {"pads": [0, 0]}),
    ("pads is [0, -1, 0, 0]", {"pads": [0, -1, 0, 0]}),
    ("group is 0", {"group": 0}),
    ("X has 6 channels, which 4 groups do not divide", {"group": 4}),
    ("W has 4 filters, which 3 groups do not divide", {"group": 3, "w": [4, 2, 3, 3]}),
    ("in each of 2 groups; it must have 3", {"group": 2}),
    ("kernel_shape is [5, 5], but W has a window of [3, 3]", {"kernel_shape": [5, 5]}),
    ("X has rank 3 [2, 6, 8]", {"x": [2, 6, 8]}),
    ("W has rank 2 [4, 6]", {"w": [4, 6]}),
    ("the height is 2, with its pads 4, but a window of 3 with dilation 2 covers 5", {"x": [1, 6, 2, 9]}),
    ("B has shape [5]; it must be [M] with M = 4", {"bias": [5]}),
    ("B has shape [1, 4]", {"bias": [1, 4]}),
    ("W is FLOAT16, X is FLOAT", {"types": {"W": TensorProto.FLOAT16}}),
    ("X is DOUBLE", {"types": {"X": TensorProto.DOUBLE}}),
]


@names
@pytest.mark.parametrize(("message", "change"), BAD, ids=[message for message, _ in BAD])
def test_a_bad_node_is_refused_by_name(name: str, message: str, change: dict[str, Any]) -> None:
    good: dict[str, Any] = {"x": [2, 6, 8, 9], "w": [4, 6, 3, 3], "dilations": [2, 1], "pads": [1, 0, 1, 0]}
    infer(name, **good)
    with pytest.raises(InferenceError) as caught:
        infer(name, **{**good, **change})
    assert message in str(caught.value)
    assert name in str(caught.value)
    assert "kerv_3" in str(caught.value)


@pytest.mark.parametrize("operator", [o for o in OPERATORS.values() if o.parameters], ids=lambda o: o.name)
def test_a_bad_parameter_is_refused(operator: KervolutionOperator) -> None:
    shapes: dict[str, Any] = {"x": [2, 6, 8, 9], "w": [4, 6, 3, 3]}
    for parameter in operator.parameters:
        with pytest.raises(InferenceError, match=f"{parameter} is FLOAT16; the kernel's parameters are always FLOAT"):
            infer(operator.name, **shapes, dtype=TensorProto.FLOAT16, types={parameter: TensorProto.FLOAT16})
    with pytest.raises(InferenceError, match=r"has shape \[3\]; it must be a scalar, \[1\] or \[M\] with M = 4"):
        infer(operator.name, **shapes, parameter=[3])


def test_a_degree_below_one_is_refused() -> None:
    with pytest.raises(InferenceError, match="degree is 0; it must be at least 1"):
        infer("PolynomialKervolution", [1, 2, 5, 6], [3, 2, 1, 1], degree=0)


@names
def test_schema_and_function_name_the_same_inputs_and_attributes(name: str) -> None:
    register_schemas()
    schema = onnx.defs.get_schema(name, VERSION, DOMAIN)
    function = FUNCTIONS[name]
    assert [formal.name for formal in schema.inputs] == list(function.input)
    assert len(schema.outputs) == len(function.output)
    assert (schema.min_input, schema.max_input) == (len(function.input) - 1, len(function.input))
    defaults = {attribute.name: helper.get_attribute_value(attribute) for attribute in function.attribute_proto}
    assert set(schema.attributes) == {*defaults, *function.attribute}
    for key, default in defaults.items():
        assert helper.get_attribute_value(schema.attributes[key].default_value) == default, key
    assert OPERATORS[name].formula in (schema.doc or "")


@names
def test_the_checker_knows_the_plugin_attributes_and_no_others(name: str) -> None:
    register_schemas()
    inputs = ["X", "W", *OPERATORS[name].parameters]
    graph = helper.make_graph(
        [helper.make_node(name, inputs, ["Y"], domain=DOMAIN, **PLUGIN_ATTRIBUTES)],
        "g",
        [helper.make_tensor_value_info(i, TensorProto.FLOAT, [] if i.islower() else [1, 1, 3, 4]) for i in inputs],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [1, 1, 1, 1])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    model.graph.node[0].attribute.append(helper.make_attribute("stride", [1, 1]))
    with pytest.raises(onnx.checker.ValidationError, match="stride"):
        onnx.checker.check_model(model)


def test_registering_again_changes_nothing() -> None:
    register_schemas()
    before = sorted(schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == DOMAIN)
    register_schemas()
    after = sorted(schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == DOMAIN)
    assert before == after
    assert set(OPERATORS) <= set(after)


def test_a_process_that_registered_them_ends_cleanly() -> None:
    code = "from edgeconv.ops.schema import register_schemas; register_schemas(); print('done')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, "done", "")
