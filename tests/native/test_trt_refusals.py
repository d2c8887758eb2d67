"""What the TensorRT plugins take and refuse: types, formats, attributes and shapes. A refusal is a message that names
the node, and the process goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from deconv_kernels import make_case as make_whitening
from native_kernels import oracle as expected
from tolerances import assert_close
from trt_cases import (
    QLINEAR,
    WHITENING,
    call_of,
    node,
    qlinear_call,
    qlinear_case,
    qlinear_node,
    small,
    whitening_call,
)
from trt_conformance import (
    BF16,
    BOOL,
    FIELD_CHAR,
    FIELD_FLOAT32,
    FIELD_INT32,
    FIELD_INT64,
    FLOAT,
    HALF,
    HWC,
    HWC8,
    HWC16,
    INT8,
    INT32,
    LINEAR,
    UINT8,
    PluginError,
    Plugins,
    Tensor,
)
from trt_libraries import build as build_libraries


@pytest.fixture(scope="module")
def libraries() -> tuple[str, str]:
    return build_libraries()


@pytest.fixture(scope="module")
def plugins(libraries: tuple[str, str]) -> Plugins:
    return Plugins(*libraries)


# Types and formats


def test_formats(plugins: Plugins) -> None:
    case = small("sigmoid")
    shapes = [tensor.shape for tensor in call_of(case).input_tensors]
    with plugins.create(*node(case)) as plugin:
        assert plugin.formats(shapes) == {
            ((t, form), (t, LINEAR), (FLOAT, LINEAR), (FLOAT, LINEAR), (t, LINEAR), (t, form))
            for t, form in ((FLOAT, LINEAR), (FLOAT, HWC), (HALF, LINEAR), (HALF, HWC8))
        }
    q = qlinear_case()
    types = [INT8, FLOAT, INT8, INT8, FLOAT, INT8, FLOAT, INT8, FLOAT]
    with plugins.create(*qlinear_node(q)) as plugin:
        assert plugin.formats([tensor.shape for tensor in qlinear_call(q).input_tensors]) == {
            ((INT8, form), *[(t, LINEAR) for t in types[1:]], (INT8, form)) for form in (LINEAR, HWC16)
        }
    w = make_whitening((2, 6, 9, 8), (3, 3), 3)
    with plugins.create(WHITENING, w.attributes) as plugin:
        assert plugin.formats([w.x.shape]) == {
            (first, (FLOAT, LINEAR), (FLOAT, LINEAR))
            for first in ((FLOAT, LINEAR), (FLOAT, HWC), (HALF, LINEAR), (HALF, HWC8))
        }


TYPE_ERRORS = [
    ([BF16, BF16, FLOAT, BF16], "X is bfloat16: it must be float32 or float16"),
    ([INT8, INT8, FLOAT, INT8], "X is int8: it must be"),
    ([HALF, FLOAT, FLOAT, HALF], "W is float32: it must be float16, as X is"),
    ([HALF, HALF, HALF, HALF], "gamma is float16: it must be float32, the only type"),
    ([FLOAT, FLOAT], "it has 2 inputs: expected X, W, gamma, B, of which the last may be absent"),
    ([FLOAT] * 5, "it has 5 inputs"),
]


@pytest.mark.parametrize(("types", "message"), TYPE_ERRORS)
def test_types_are_refused(plugins: Plugins, types: list[int], message: str) -> None:
    with (
        plugins.create(*node(small()), layer="conv7") as plugin,
        pytest.raises(PluginError, match=f"edgeconv: GaussianKervolution 'conv7': {message}"),
    ):
        plugin.output_types(types)


def test_8_bit_types_are_refused(plugins: Plugins) -> None:
    good = [INT8, FLOAT, INT8, INT8, FLOAT, INT8, FLOAT, INT8, FLOAT]
    with plugins.create(*qlinear_node(qlinear_case())) as plugin:
        assert plugin.output_types(good) == plugin.output_types(good[:-1]) == [INT8]
        for index, kind, message in (
            (0, UINT8, "X is uint8: it must be int8, the only 8-bit type of TensorRT's plugins"),
            (3, FLOAT, "W is float32: it must be int8"),
            (4, HALF, "w_scale is float16: it must be float32"),
            (7, INT32, "y_zero_point is int32: it must be int8"),
            (2, BOOL, "x_zero_point is bool"),
        ):
            with pytest.raises(PluginError, match=message):
                plugin.output_types([*good[:index], kind, *good[index + 1 :]])


# Attributes and shapes that do not fit

FIELD_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"strides": (FIELD_INT32, np.int32([1]))}, "attribute strides is 1 value: it must be 2 32-bit integers"),
    ({"pads": (FIELD_INT32, np.int32([1, 1]))}, "attribute pads is 2 values: it must be 4 32-bit integers"),
    ({"group": (FIELD_FLOAT32, np.float32([1]))}, "attribute group is of field type 1: it must be 1 32-bit integer"),
    ({"degree": (FIELD_CHAR, b"three\0")}, "attribute degree is of field type 6"),
    ({"degree": (FIELD_INT64, np.int64([1 << 40]))}, "attribute degree is 1099511627776"),
    ({"degree": (FIELD_INT32, None)}, "attribute degree is empty"),
    ({"colour": (FIELD_INT32, np.int32([1]))}, "attribute colour is not known"),
    ({"planned_for": (FIELD_INT32, np.int32([87, 16, 1]))}, "attribute planned_for is not known"),
    ({"degree": (FIELD_INT32, np.int32([0]))}, "degree is 0: it must be at least 1"),
    ({"strides": (FIELD_INT32, np.int32([0, 1]))}, "strides has 0: the least is 1"),
    ({"pads": (FIELD_INT32, np.int32([0, -1, 0, 0]))}, "pads has -1: the least is 0"),
    ({"kernel_shape": (FIELD_INT32, np.int32([0, 3]))}, "kernel_shape has 0"),
    ({"group": (FIELD_INT32, np.int32([0]))}, "group has 0"),
    ({"constant_filters": (FIELD_INT32, np.int32([2]))}, "constant_filters is 2: it must be 0 or 1"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "message"), FIELD_ERRORS)
def test_fields_are_refused(plugins: Plugins, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginError, match=f"edgeconv: PolynomialKervolution 'stem': {message}"):
        plugins.create_of_fields("PolynomialKervolution", fields, "stem")


def test_wide_integers_are_taken(plugins: Plugins) -> None:
    with plugins.create_of_fields("PolynomialKervolution", {"degree": (FIELD_INT64, np.int64([5]))}) as plugin:
        assert "degree=5" in plugin.timing_cache_id


@pytest.mark.parametrize("missing", ["x_scale", "x_zero_point", "w_scale", "y_scale", "y_zero_point"])
def test_scales_must_be_said_twice(plugins: Plugins, missing: str) -> None:
    op, attributes = qlinear_node(qlinear_case())
    del attributes[missing]
    with pytest.raises(PluginError, match=f"{QLINEAR} 'node': attribute {missing} is missing: .* `edgeconv build`"):
        plugins.create(op, attributes)


@pytest.mark.parametrize(("changes", "message"), [
    ({"x_scale": 0.0}, "x_scale is 0.0+: it must be positive"),
    ({"y_scale": float("nan")}, "y_scale is nan"),
    ({"y_zero_point": 128}, "y_zero_point is 128: it must be an int8"),
    ({"x_zero_point": -129}, "x_zero_point is -129"),
])  # fmt: skip
def test_scales_are_checked(plugins: Plugins, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        plugins.create(*qlinear_node(qlinear_case(), **changes))


def test_whitening_s_attributes_are_checked(plugins: Plugins) -> None:
    attributes = make_whitening((2, 6, 9, 8), (3, 3), 3).attributes
    for changes, message in (({"block": 0}, "block"), ({"eps": -1.0}, "eps"), ({"n_iter": -1}, "n_iter"),
                             ({"centered": 2}, "centered")):  # fmt: skip
        with pytest.raises(PluginError, match=f"{WHITENING} 'node': .*{message}"):
            plugins.create(WHITENING, {**attributes, **changes})
    del attributes["kernel_shape"]
    with pytest.raises(PluginError, match="kernel_shape"):
        plugins.create(WHITENING, attributes)


SHAPE_ERRORS: list[tuple[list[tuple[int, ...]], str]] = [
    ([(6, 8, 11), (10, 3, 3, 2), (10,), (10,)], r"X has rank 3: expected 4, \(N, C, H, W\)"),
    ([(2, 6, 8, 11), (10, 3, 6), (10,), (10,)], "W has rank 3"),
    ([(2, 6, 8, 11), (9, 3, 3, 2), (9,), (9,)], "W has 9 filters and group is 2"),
    ([(2, 5, 8, 11), (10, 3, 3, 2), (10,), (10,)], "X has 5 channels and group is 2"),
    ([(2, 8, 8, 11), (10, 3, 3, 2), (10,), (10,)], "W has 3 channels per group, X has 8"),
    ([(-1, 8, -1, -1), (10, 3, 3, 2), (10,), (10,)], "W has 3 channels per group, X has 8"),
    ([(2, 6, 8, 11), (10, 3, 2, 3), (10,), (10,)], r"kernel_shape is \[3, 2\], W has shape \(10, 3, 2, 3\)"),
    ([(2, 6, 0, 11), (10, 3, 3, 2), (10,), (10,)], r"X has shape \(2, 6, 0, 11\).*too small for a 3 x 2 kernel"),
]


@pytest.mark.parametrize(("shapes", "message"), SHAPE_ERRORS)
def test_shapes_are_refused(plugins: Plugins, shapes: list[tuple[int, ...]], message: str) -> None:
    with (
        plugins.create(*node(small()), layer="conv2") as plugin,
        pytest.raises(PluginError, match=f"GaussianKervolution 'conv2': {message}"),
    ):
        plugin.output_shapes(shapes)


@pytest.mark.parametrize(("index", "shape", "message"), [
    (2, (9,), r"gamma has shape \(9\): expected a scalar, \(1\) or \(10\)"),
    (2, (1, 10), r"gamma has shape \(1, 10\)"),
    (3, (9,), r"B has shape \(9\): expected \(10\)"),
    (3, (), r"B has shape \(\)"),
    (0, (2, 6, 0, 11), "too small"),
])  # fmt: skip
def test_configuration_is_refused(plugins: Plugins, index: int, shape: tuple[int, ...], message: str) -> None:
    call = call_of(small())
    tensors = call.input_tensors
    wrong = [*tensors[:index], Tensor(FLOAT, shape), *tensors[index + 1 :]]
    with plugins.create(*node(small())) as plugin:
        with pytest.raises(PluginError, match=rf"'node': .*{message}.*\(in this profile: X float32 "):
            plugin.configure(wrong, call.output_tensors)
        workspace = plugin.configure(tensors, call.output_tensors)
        with plugin.attach() as context:
            with pytest.raises(PluginError, match=rf"'node': X float32 \(2, 6, .*{message}"):
                context.change_shape(wrong, call.output_tensors)
            with pytest.raises(PluginError, match="enqueued before its shapes were stated and accepted"):
                call.run(context, workspace)
            context.change_shape(tensors, call.output_tensors)  # and goes on
            assert_close(call.run(context, workspace)[0], expected(small()), np.float32)


def test_a_profile_without_sizes_is_refused(plugins: Plugins) -> None:
    call = call_of(small())
    tensors = [Tensor(FLOAT, (-1, 6, -1, -1)), *call.input_tensors[1:]]
    with (
        plugins.create(*node(small())) as plugin,
        pytest.raises(PluginError, match="the profile has no sizes for its inputs"),
    ):
        plugin.configure(tensors, call.output_tensors)


def test_scales_in_attribute_and_input_must_agree(plugins: Plugins) -> None:
    case = qlinear_case()
    call = qlinear_call(case)
    with (
        plugins.create(*qlinear_node(case, w_scale=[0.03])) as plugin,
        pytest.raises(PluginError, match="attribute w_scale has 1 values, input w_scale 6"),
    ):
        plugin.configure(call.input_tensors, call.output_tensors)


def test_an_image_too_small_to_be_sampled_is_refused(plugins: Plugins) -> None:
    case = make_whitening((2, 6, 9, 8), (3, 3), 3)
    with plugins.create(WHITENING, case.attributes) as plugin:
        for shape in ((2, 6, 2, 8), (0, 6, 9, 8), (2, 7, 9, 8)):
            with pytest.raises(PluginError, match=f"{WHITENING} 'node': .*{shape[2]}|X has"):
                plugin.configure([Tensor(FLOAT, shape)], whitening_call(case).output_tensors)
        with pytest.raises(PluginError, match="X has rank 3"):
            plugin.output_shapes([(6, 9, 8)])
