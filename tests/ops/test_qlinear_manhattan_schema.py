"""The 8-bit operator's schema: inferred type and shape, agreement with the function, and clear refusals."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from onnx.shape_inference import InferenceError, infer_shapes

from edgeconv.ops.kervolution import DOMAIN, VERSION
from edgeconv.ops.qlinear_manhattan import OPERATOR
from edgeconv.ops.qlinear_manhattan_function import FUNCTION
from edgeconv.ops.schema import register_schemas

UINT8, INT8, FLOAT = TensorProto.UINT8, TensorProto.INT8, TensorProto.FLOAT
Shape = list[int | str | None] | None

GOOD: dict[str, tuple[int, Shape]] = {
    "X": (UINT8, [2, 6, 8, 9]),
    "x_scale": (FLOAT, []),
    "x_zero_point": (UINT8, []),
    "W": (INT8, [4, 3, 3, 2]),
    "w_scale": (FLOAT, [4]),
    "w_zero_point": (INT8, [4]),
    "y_scale": (FLOAT, []),
    "y_zero_point": (INT8, []),
    "B": (FLOAT, [4]),
}


def infer(attributes: dict[str, Any] | None = None, **changed: tuple[int, Shape] | None) -> tuple[int, Shape]:
    """Type and shape that strict inference gives the output of one node with 2 groups; None leaves an input out."""
    register_schemas()
    given = {name: value for name, value in (GOOD | changed).items() if value is not None}
    attributes = {"group": 2, "strides": [2, 1], "pads": [1, 0, 0, 1]} | (attributes or {})
    graph = helper.make_graph(
        [helper.make_node(OPERATOR.name, list(given), ["Y"], name="quantised_7", domain=DOMAIN, **attributes)],
        "one_node",
        [helper.make_tensor_value_info(name, *value) for name, value in given.items()],
        [onnx.ValueInfoProto(name="Y")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    found = infer_shapes(model, strict_mode=True).graph.output[0].type.tensor_type
    return found.elem_type, [d.dim_value if d.HasField("dim_value") else d.dim_param for d in found.shape.dim]


@pytest.mark.parametrize("y_type", [UINT8, INT8])
def test_type_and_shape(y_type: int) -> None:
    y_zero_point = (y_type, [])
    assert infer(y_zero_point=y_zero_point) == (y_type, [2, 4, 4, 9])
    assert infer(y_zero_point=y_zero_point, B=None) == (y_type, [2, 4, 4, 9])
    assert infer(y_zero_point=y_zero_point, w_scale=(FLOAT, []), w_zero_point=(INT8, []))[1] == [2, 4, 4, 9]


def test_what_is_not_known_stays_open() -> None:
    assert infer(X=(UINT8, ["N", 6, "H", "W"]), W=(INT8, None), attributes={"kernel_shape": [3, 2]})[1][:2] == ["N", 4]


BAD: list[tuple[str, dict[str, Any]]] = [
    ("X is FLOAT; it must be UINT8 or INT8", {"X": (FLOAT, [2, 6, 8, 9])}),
    ("W is INT32; it must be UINT8 or INT8", {"W": (TensorProto.INT32, [4, 3, 3, 2])}),
    ("y_zero_point is INT16; it must be UINT8 or INT8", {"y_zero_point": (TensorProto.INT16, [])}),
    ("x_zero_point is INT8, X is UINT8; they must be the same", {"x_zero_point": (INT8, [])}),
    ("w_zero_point is UINT8, W is INT8; they must be the same", {"w_zero_point": (UINT8, [4])}),
    ("x_scale is FLOAT16; scales and bias are always FLOAT", {"x_scale": (TensorProto.FLOAT16, [])}),
    ("B is INT32; scales and bias are always FLOAT", {"B": (TensorProto.INT32, [4])}),
    ("x_scale has shape [6]; it must be a scalar", {"x_scale": (FLOAT, [6])}),
    ("y_zero_point has shape [1]; it must be a scalar", {"y_zero_point": (INT8, [1])}),
    ("w_scale has shape [3]; it must be a scalar or [M] with M = 4", {"w_scale": (FLOAT, [3])}),
    ("w_scale has shape [4], w_zero_point []; they must be the same", {"w_zero_point": (INT8, [])}),
    ("B has shape [5]; it must be [M] with M = 4", {"B": (FLOAT, [5])}),
    ("X has 6 channels, which 4 groups do not divide", {"attributes": {"group": 4}}),
    ("kernel_shape is [3, 3], but W has a window of [3, 2]", {"attributes": {"kernel_shape": [3, 3]}}),
    ("pads is [0, -1, 0, 0]", {"attributes": {"pads": [0, -1, 0, 0]}}),
    ("the height is 1, with its pads 2, but a window of 3", {"X": (UINT8, [2, 6, 1, 9])}),
]


@pytest.mark.parametrize(("message", "change"), BAD, ids=[message for message, _ in BAD])
def test_a_bad_node_is_refused_by_name(message: str, change: dict[str, Any]) -> None:
    with pytest.raises(InferenceError) as caught:
        infer(**change)
    assert message in str(caught.value)
    assert "quantised_7" in str(caught.value)


def test_schema_and_function_name_the_same_inputs_and_attributes() -> None:
    register_schemas()
    schema = onnx.defs.get_schema(OPERATOR.name, VERSION, DOMAIN)
    assert [formal.name for formal in schema.inputs] == list(FUNCTION.input)
    assert (schema.min_input, schema.max_input) == (8, 9)
    defaults = {attribute.name: helper.get_attribute_value(attribute) for attribute in FUNCTION.attribute_proto}
    assert set(schema.attributes) == {*defaults, *FUNCTION.attribute}
    for key, default in defaults.items():
        assert helper.get_attribute_value(schema.attributes[key].default_value) == default, key
