"""The whitening's schema: inferred types and shapes, agreement with what the function gives, and clear refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, defs, helper
from onnx.shape_inference import InferenceError, infer_shapes
from whitening_cases import CASES, DEFAULTS, Case

from edgeconv.ops.deconv_whitening import NAME, OPERATOR
from edgeconv.ops.deconv_whitening_function import FUNCTION
from edgeconv.ops.kervolution import DOMAIN, PLUGIN_ATTRIBUTES, VERSION
from edgeconv.ops.schema import register_schemas

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
GOOD = {"block": 3, "kernel_shape": [3, 2]}


def model_of(shape: list[int | str | None] | None, dtype: int, attributes: dict[str, Any]) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node(NAME, ["X"], ["mean", "deconv"], name="whiten_4", domain=DOMAIN, **attributes)],
        "one_node",
        [helper.make_tensor_value_info("X", dtype, shape)],
        [onnx.ValueInfoProto(name=name) for name in ("mean", "deconv")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def infer(
    shape: list[int | str | None] | None = (2, 6, 9, 8),  # type: ignore[assignment]
    dtype: int = FLOAT,
    attributes: dict[str, Any] | None = None,
) -> list[tuple[int, list[int]]]:
    """Type and shape that strict inference gives each output of one node."""
    register_schemas()
    outputs = infer_shapes(model_of(shape, dtype, GOOD | (attributes or {})), strict_mode=True).graph.output
    kinds = [output.type.tensor_type for output in outputs]
    return [(kind.elem_type, [dim.dim_value for dim in kind.shape.dim]) for kind in kinds]


@pytest.mark.parametrize("dtype", [FLOAT, FLOAT16])
def test_types_and_shapes(dtype: int) -> None:
    assert infer(dtype=dtype) == [(FLOAT, [1, 18]), (FLOAT, [1, 18, 18])]
    assert infer(dtype=dtype, attributes={"group": 2}) == [(FLOAT, [2, 18]), (FLOAT, [2, 18, 18])]


@pytest.mark.parametrize("shape", [None, ["N", None, "H", "W"], ["N", 6, "H", "W"]])
def test_sizes_need_not_be_known(shape: list[int | str | None] | None) -> None:
    assert infer(shape) == [(FLOAT, [1, 18]), (FLOAT, [1, 18, 18])]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_inferred_is_what_comes_out(case: Case) -> None:
    shape: list[int | str | None] = [case.batch, case.channels, *case.size]
    model = model_of(shape, FLOAT, case.attributes)
    model.functions.append(FUNCTION)
    for output, rank in zip(model.graph.output, (2, 3), strict=True):
        output.CopyFrom(helper.make_tensor_value_info(output.name, FLOAT, [None] * rank))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"X": case.input()})
    assert infer(shape, attributes=case.attributes) == [(FLOAT, list(np.shape(result))) for result in found]


@pytest.mark.parametrize(
    ("shape", "attributes", "message"),
    [
        ([2, 6, 9], {}, r"X has rank 3 \[2, 6, 9\]; it must have 4 dimensions"),
        ([2, 6, 9, 8], {"block": 4}, "a block of 4 does not divide 6 channels"),
        ([2, 6, 9, 8], {"block": 0}, "block is 0; it must be at least 1"),
        ([2, 6, 9, 8], {"group": 4}, "4 groups do not divide 6 channels"),
        ([2, 6, 9, 8], {"group": 3}, "with 3 groups the block must be the 2 channels of a group; got 3"),
        ([2, 6, 9, 8], {"group": 0}, "group is 0; it must be at least 1"),
        ([2, 6, 9, 8], {"kernel_shape": [3]}, r"kernel_shape is \[3\]; it must be 2 integers of at least 1"),
        ([2, 6, 9, 8], {"strides": [1, 0]}, r"strides is \[1, 0\]; it must be 2 integers of at least 1"),
        ([2, 6, 9, 8], {"pads": [1, 1]}, r"pads is \[1, 1\]; it must be 4 integers of at least 0"),
        ([2, 6, 9, 8], {"pads": [1, 1, 1, -1]}, "pads is .*; it must be 4 integers of at least 0"),
        ([2, 6, 9, 8], {"dilations": [0, 1]}, r"dilations is \[0, 1\]; it must be 2 integers of at least 1"),
        ([2, 6, 9, 8], {"dilations": [5, 1]}, "the height is 9, .*a window of 3 with dilation 5 covers 11"),
        ([2, 6, "H", 8], {"dilations": [1, 8]}, "the width is 8, .*a window of 2 with dilation 8 covers 9"),
        ([2, 6, 9, 8], {"n_iter": -1}, "n_iter is -1; it must be at least 0"),
        ([2, 6, 9, 8], {"sampling_stride": 0}, "sampling_stride is 0; it must be at least 1"),
        ([2, 6, 9, 8], {"eps": 0.0}, "eps is 0; it must be positive and finite"),
        ([2, 6, 9, 8], {"eps": float("nan")}, "eps is nan; it must be positive and finite"),
        ([2, 6, 9, 8], {"centered": 2}, "centered is 2; it must be 0 or 1"),
    ],
)
def test_a_broken_contract_is_named(shape: list[int | str | None], attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(InferenceError, match=f"whiten_4.*: .*{message}"):
        infer(shape, attributes=attributes)


@pytest.mark.parametrize("dtype", [TensorProto.DOUBLE, TensorProto.INT8, TensorProto.BFLOAT16])
def test_another_type_is_refused(dtype: int) -> None:
    name = TensorProto.DataType.Name(dtype)
    with pytest.raises(InferenceError, match=f"X is {name}; it must be FLOAT or FLOAT16"):
        infer(dtype=dtype)


def test_a_window_of_one_tap_fits_everywhere() -> None:
    given = {"kernel_shape": [1, 1], "dilations": [50, 50], "pads": [0, 0, 0, 0]}
    assert infer([1, 6, 1, 1], attributes=given) == [(FLOAT, [1, 3]), (FLOAT, [1, 3, 3])]


def context() -> onnx.checker.C.CheckerContext:
    """What the checker of one node wants to know."""
    found = onnx.checker.C.CheckerContext()
    found.ir_version, found.opset_imports = 8, {"": 18, DOMAIN: VERSION}
    return found


def test_the_checker_wants_what_is_required() -> None:
    register_schemas()
    for name in GOOD:
        rest = {key: value for key, value in GOOD.items() if key != name}
        with pytest.raises(onnx.checker.ValidationError, match=name):
            onnx.checker.check_node(model_of([2, 6, 9, 8], FLOAT, rest).graph.node[0], context())


def test_schema_function_and_description_agree() -> None:
    register_schemas()
    schema = defs.get_schema(NAME, VERSION, DOMAIN)
    assert [each.name for each in schema.inputs] == list(FUNCTION.input) == list(OPERATOR.inputs)
    assert [each.name for each in schema.outputs] == list(FUNCTION.output) == list(OPERATOR.outputs)
    given = {name: helper.get_attribute_value(each.default_value) for name, each in schema.attributes.items()
             if not each.required}  # fmt: skip
    assert {name for name, each in schema.attributes.items() if each.required} == set(FUNCTION.attribute) == set(GOOD)
    declared = {each.name: helper.get_attribute_value(each) for each in FUNCTION.attribute_proto}
    assert given.keys() == declared.keys() == (DEFAULTS | PLUGIN_ATTRIBUTES).keys()
    for name, value in declared.items():
        assert given[name] == value, name
        wanted = (DEFAULTS | PLUGIN_ATTRIBUTES)[name]
        found = value.decode() if isinstance(value, bytes) else value
        assert found == (pytest.approx(wanted) if isinstance(wanted, float) else wanted), name
