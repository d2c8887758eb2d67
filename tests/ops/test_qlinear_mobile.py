"""The function bodies of the 8-bit operators of mobile networks: over every runtime, against loops in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import InferenceError
from qlinear_mobile_models import LAYOUTS, SHAPES, Array, Case, make_model, shaped

from edgeconv.ops.qlinear_mobile import CONVOLUTIONS, OPERATORS
from edgeconv.ops.qlinear_mobile_function import FUNCTIONS
from edgeconv.ops.registry import OPERATORS as ALL_OPERATORS
from edgeconv.ops.registry import onnx_functions
from edgeconv.ops.schema import register_schemas

FEW = ["stem", "wide window", "pointwise, strides", "depthwise, dilations", "separable, odd", "bottleneck, odd",
       "bottleneck, strides 3", "stem and block, small", "residual, odd"]  # fmt: skip


def with_function(case: Case, layouts: tuple[str, str], opset: int = 18) -> tuple[onnx.ModelProto, dict[str, Array]]:
    model, feeds = make_model(case, layouts, opset=opset)
    model.functions.add().CopyFrom(FUNCTIONS[case.operator.name])
    model.functions[0].opset_import[0].version = opset
    return model, feeds


def ort_run(model: onnx.ModelProto, feeds: dict[str, Array], optimized: bool) -> Array:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def check(case: Case, y: Array, layout: str) -> None:
    """Bodies round in float32 at every stage; a step in an early stage moves the ones behind it."""
    y = y if layout == "NCHW" else y.transpose(0, 3, 1, 2)
    expected = case.oracle()
    assert (y.dtype, y.shape) == (expected.dtype, expected.shape)
    apart = np.abs(y.astype(int) - expected.astype(int))
    most = 1 if len(case.stages) == 1 else 2
    assert apart.max(initial=0) <= most
    assert np.mean(apart > 0) <= 0.01 * len(case.stages)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("shape", FEW)
def test_function_in_onnx_runtime(shape: str, dtype: str) -> None:
    case = shaped(shape, dtype=dtype, per_channel=dtype == "uint8", limits=dtype == "int8")
    for x_layout in LAYOUTS:
        for y_layout in LAYOUTS:
            model, feeds = with_function(case, (x_layout, y_layout))
            onnx.checker.check_model(model, full_check=True)
            for optimized in (False, True):
                check(case, ort_run(model, feeds, optimized), y_layout)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("shape", FEW)
def test_function_in_the_reference_evaluator_and_inlined(shape: str, dtype: str) -> None:
    """That evaluator knows DequantizeLinear from opset 19 on."""
    case = shaped(shape, dtype=dtype, limits=dtype == "int8")
    model, feeds = with_function(case, ("NHWC", "NCHW"), opset=19)
    check(case, ReferenceEvaluator(model).run(None, feeds)[0], "NCHW")
    inlined = onnx.inliner.inline_local_functions(model)
    assert not any(node.domain for node in inlined.graph.node)
    check(case, ort_run(inlined, feeds, True), "NCHW")


@pytest.mark.parametrize("shape", SHAPES)
def test_the_oracle_is_within_half_a_step_of_real_numbers(shape: str) -> None:
    """The last stage, from the exact results of those before it."""
    case = shaped(shape, limits=False)
    last = case.sum() if case.operator.residual else case.stages[-1]
    ends = np.iinfo(case.x.dtype)
    real = np.clip(case.real_oracle() + int(last.zero_point), ends.min, ends.max)
    apart = np.abs(case.oracle() - real)
    if len(case.stages) == 1:
        assert apart.max() <= 0.5 + 2e-3
    assert np.mean(apart > 0.5 + 2e-3) <= 0.01  # where a result of an early stage is next to a half


def test_dyadic_scales_give_the_same_bytes_everywhere() -> None:
    """Floats are exact there, and many quotients are ties."""
    for shape in ("stem", "depthwise", "separable"):
        case = shaped(shape, dyadic=True)
        model, feeds = with_function(case, ("NCHW", "NCHW"))
        np.testing.assert_array_equal(ort_run(model, feeds, False), case.oracle())


def test_registry_has_all_of_them() -> None:
    assert set(OPERATORS) <= set(ALL_OPERATORS)
    assert set(FUNCTIONS) == set(OPERATORS)
    assert all(onnx_functions()[name] is FUNCTIONS[name] for name in OPERATORS)
    for name, function in FUNCTIONS.items():
        assert tuple(function.input) == OPERATORS[name].inputs


@pytest.mark.parametrize("layouts", [("NCHW", "NCHW"), ("NHWC", "NHWC"), ("NCHW", "NHWC")], ids="-".join)
@pytest.mark.parametrize("shape", SHAPES)
def test_shape_inference(shape: str, layouts: tuple[str, str]) -> None:
    register_schemas()
    case = shaped(shape)
    model, _ = make_model(case, layouts)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output[0].type.tensor_type
    expected = case.oracle().shape
    if layouts[1] == "NHWC":
        expected = tuple(expected[axis] for axis in (0, 2, 3, 1))
    assert tuple(dim.dim_value for dim in inferred.shape.dim) == expected
    assert inferred.elem_type == TensorProto.UINT8


BROKEN: list[tuple[str, str, Any, str]] = [
    ("plain", "x_perm", [0, 2, 3, 1], "x_perm is [0, 2, 3, 1]; it must be [0, 1, 2, 3] or [0, 3, 1, 2]"),
    ("plain", "strides", [0, 1], "strides is [0, 1]; it must be 2 integers of at least 1"),
    ("plain", "w_scale", np.ones(2, np.float32), "w_scale has shape [2]; it must be a scalar or [21]"),
    ("plain", "B", np.zeros(20, np.int32), "B has shape [20]; it must be [21]"),
    ("plain", "B", np.zeros(21, np.float32), "B is FLOAT; it must be INT32"),
    ("plain", "y_zero_point", np.int8(3), "y_zero_point is INT8, X is UINT8; they must be the same"),
    ("plain", "W", np.zeros((21, 12, 3, 3), np.int8), "W has 12 channels in each of 1 groups; 13 come in"),
    ("bottleneck", "project_W", np.zeros((24, 96, 3, 3), np.int8), "project_W has a window of [3, 3]"),
    ("residual", "strides", [2, 2], "X has (C, H, W) [24, 14, 9], what it is added to [24, 7, 5]"),
    ("residual", "expand_scale", np.ones(144, np.float32), "expand_scale has shape [144]; it must be a scalar"),
]


@pytest.mark.parametrize(("shape", "name", "value", "message"), BROKEN)
def test_broken_contracts_are_named(shape: str, name: str, value: Any, message: str) -> None:
    register_schemas()
    model, _ = make_model(shaped(shape))
    if isinstance(value, list):
        (found,) = (each for each in model.graph.node[0].attribute if each.name == name)
        found.CopyFrom(helper.make_attribute(name, value))
    else:
        (tensor,) = (each for each in model.graph.initializer if each.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value), name))
    with pytest.raises(InferenceError) as error:
        onnx.shape_inference.infer_shapes(model, strict_mode=True)
    assert message in str(error.value)


def test_every_operator_has_a_case() -> None:
    assert {name for name, *_ in SHAPES.values()} == set(CONVOLUTIONS)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_the_mean_as_a_function(dtype: str) -> None:
    generator = np.random.default_rng(2)
    ends = np.iinfo(dtype)
    x = generator.integers(ends.min, ends.max + 1, (2, 9, 5, 6)).astype(dtype)
    values = (np.float32(0.1), np.asarray(7, dtype), np.float32(0.02), np.asarray(3, dtype))
    names = OPERATORS["QLinearGlobalAveragePool"].inputs
    node = helper.make_node("QLinearGlobalAveragePool", names, ["Y"], domain="edgeconv", x_perm=[0, 3, 1, 2])
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        [node], "graph", [helper.make_tensor_value_info("X", kind, (2, 5, 6, 9))],
        [helper.make_tensor_value_info("Y", kind, (2, 9, 1, 1))],
        [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in zip(names[1:], values, strict=True)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("edgeconv", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=[FUNCTIONS[node.op_type]])
    onnx.checker.check_model(model, full_check=True)
    y = ort_run(model, {"X": np.ascontiguousarray(x.transpose(0, 2, 3, 1))}, False)
    real = (x.astype(np.float64) - 7).mean((2, 3), keepdims=True) * 0.1 / 0.02 + 3
    assert np.abs(y - np.clip(real, ends.min, ends.max)).max() <= 0.5 + 1e-3
