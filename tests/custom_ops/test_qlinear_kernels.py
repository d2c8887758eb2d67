"""The 8-bit kernels against an integer loop, on every instruction set of this machine, with nothing but memory."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qlinear_kernels import FLOAT_SUMS, INTEGER_SUMS, LAYOUTS, SHAPES, Case, Library, make_case

from edgeconv.runtime.op_library import op_library

TYPES = ("uint8", "int8")
ALL_TYPES = list(product(TYPES, repeat=3))


@pytest.fixture(scope="module")
def library() -> Library:
    """The launch functions of the installed library."""
    return Library(op_library())


def check_all_isas(library: Library, case: Case, expected: np.ndarray[Any, Any] | None = None) -> None:
    expected = case.oracle() if expected is None else expected
    for isa in library.isas:
        actual = library.run(case, isa)
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected, isa)


@pytest.mark.parametrize("types", [("uint8", "int8", "uint8"), ("int8", "int8", "int8")], ids="-".join)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_loop(library: Library, shape: str, types: tuple[str, str, str]) -> None:
    x_shape, filters, window, attributes = SHAPES[shape]
    check_all_isas(library, make_case(x_shape, filters, window, types=types, dyadic=types[0] == "int8", **attributes))


@pytest.mark.parametrize("shape", ["same", "grouped", "stem", "one position", "odd phases"])
def test_the_oracle_is_the_loop(shape: str) -> None:
    """The one that looks at all positions at once agrees with the plain loop; outputs are in the range and beyond."""
    x_shape, filters, window, attributes = SHAPES[shape]
    for bias, dyadic in product((False, True), repeat=2):
        case = make_case((1, *x_shape[1:]), min(filters, 9), window, bias=bias, dyadic=dyadic, **attributes)
        expected = case.loop()
        np.testing.assert_array_equal(case.oracle(), expected)
        assert len(np.unique(expected)) > min(20, expected.size // 2)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("types", ALL_TYPES, ids="-".join)
def test_every_combination_of_types(library: Library, types: tuple[str, str, str], bias: bool) -> None:
    for per_channel in (False, True):
        options = {"types": types, "bias": bias, "per_channel": per_channel, "group": 2, "pads": (1, 0, 2, 1)}
        check_all_isas(library, make_case((2, 12, 6, 9), 10, (3, 2), **options))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    group = draw(st.integers(1, 3))
    window = draw(st.tuples(st.integers(1, 5), st.integers(1, 9)))
    dilations = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = draw(st.tuples(*[st.integers(0, 4)] * 4))
    reach = [dilations[a] * (window[a] - 1) + 1 for a in range(2)]
    sizes = [draw(st.integers(max(1, reach[a] - pads[a] - pads[2 + a]), 20 + reach[a])) for a in range(2)]
    channels = group * draw(st.sampled_from([1, 2, 3, 4, 5, 8]) | st.integers(1, 70))
    return make_case(
        (draw(st.integers(1, 2)), channels, sizes[0], sizes[1]), group * draw(st.integers(1, 10)), window,
        types=draw(st.sampled_from(ALL_TYPES)), bias=draw(st.booleans()), per_channel=draw(st.booleans()),
        dyadic=draw(st.booleans()), strides=draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        pads=pads, dilations=dilations, group=group,
    )  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_any_configuration(library: Library, case: Case) -> None:
    check_all_isas(library, case)


@pytest.mark.parametrize(("x_type", "w_type"), list(product(TYPES, repeat=2)))
def test_zero_points_and_values_at_the_ends(library: Library, x_type: str, w_type: str) -> None:
    """Differences from 0 to 510: weights that lie far outside the range of X, on both sides."""
    x, w = np.iinfo(x_type), np.iinfo(w_type)
    ends = np.array([x.min, x.max, x.min + 1, x.max - 1], x_type)
    weights = np.array([w.min, w.max, w.min + 1, w.max - 1, 0], w_type)
    largest = 0
    for x_point, w_point in product((x.min, x.max, 5), (w.min, w.max, 5)):
        case = Case(
            np.stack([np.resize(values, (2, 5, 7)) for values in (ends, ends[:1], ends[1:2])]),
            np.stack([np.resize(values, (2, 2, 2)) for values in (weights, weights[1:], weights[:1], weights[1:2])]),
            x_zero_point=np.asarray(x_point, x_type), w_zero_point=np.asarray(w_point, w_type), pads=(1, 1, 1, 1),
            x_scale=np.float32(1), w_scale=np.float32(1), y_scale=np.float32(16), y_zero_point=np.uint8(255),
        )  # fmt: skip
        largest = max(largest, int(case.distances().max()))
        check_all_isas(library, case)
    assert largest == 8 * 510


@pytest.mark.parametrize("y_type", TYPES)
@pytest.mark.parametrize("bias", [None, 0.0, 0.5, 63.5])
def test_ties_go_to_the_even_step(library: Library, y_type: str, bias: float | None) -> None:
    """Quotients -k / 2 for every k from 0 to 255, of both signs with the larger bias."""
    limits = np.iinfo(y_type)
    case = Case(
        np.arange(256, dtype=np.uint8).reshape(1, 1, 4, 64), np.zeros((3, 1, 1, 1), np.int8),
        x_scale=np.float32(0.25), w_scale=np.float32(0.25), x_zero_point=np.uint8(0), y_scale=np.float32(0.5),
        y_zero_point=np.asarray(limits.max - 10, y_type), bias=None if bias is None else np.full(3, bias, np.float32),
    )  # fmt: skip
    quotients = -np.arange(256) / 2 + 2 * (bias or 0.0)
    expected = np.clip([round(q) + limits.max - 10 for q in quotients], limits.min, limits.max)
    assert np.mean(quotients % 1 == 0.5) == 0.5
    check_all_isas(library, case, np.broadcast_to(expected.reshape(1, 1, 4, 64), (1, 3, 4, 64)).astype(y_type))


def test_every_step_is_rounded_by_itself(library: Library) -> None:
    """Products whose rounding decides a tie: with a fused multiply-add, about half of the outputs would differ."""
    scale, sums = np.float32(0.1), np.arange(3, 253)
    products = scale * sums.astype(np.float32)
    bias = products + np.float32(0.5)
    exact = (bias - products == np.float32(0.5)) & (bias - np.float32(0.5) == products)
    # One filter a sum: pixels of that value against weights of 0, and each with the bias that makes its quotient 0.5.
    case = Case(
        np.zeros((1, 1, 1, 20), np.uint8), sums[exact].astype(np.uint8).reshape(-1, 1, 1, 1), x_scale=scale,
        w_scale=scale, x_zero_point=np.uint8(0), w_zero_point=np.uint8(0), y_scale=np.float32(1),
        y_zero_point=np.uint8(100), bias=bias[exact],
    )  # fmt: skip
    fused = np.rint(bias[exact].astype(np.float64) - np.float64(scale) * sums[exact])
    assert np.mean(fused != 0) > 0.2
    assert exact.sum() > 100
    check_all_isas(library, case, np.full(case.output_shape, 100, np.uint8))


def test_the_quotient_is_a_true_division(library: Library) -> None:
    """Quotients by 3 that are halves exactly: times the rounded reciprocal some of them are not."""
    k = np.arange(1, 256, 2, dtype=np.uint8)
    case = Case(
        k.reshape(1, 1, 2, 64), np.zeros((1, 1, 1, 1), np.int8), x_scale=np.float32(1.05),
        x_zero_point=np.uint8(0), w_scale=np.float32(1.05), y_zero_point=np.uint8(255),
    )  # fmt: skip
    found = []
    for divisor in range(1, 60):
        case.y_scale = np.float32(np.float32(0.35) * divisor)
        values = -(case.x_scale * k.astype(np.float32))
        reciprocal = np.rint(values * (np.float32(1) / case.y_scale))
        found.append(np.mean(reciprocal != np.rint(values / case.y_scale)))
        check_all_isas(library, case)
    assert max(found) > 0


@pytest.mark.parametrize("bias", [1e6, -1e6, 3e38, -3e38, np.inf, -np.inf])
@pytest.mark.parametrize("y_type", TYPES)
def test_what_is_beyond_the_range_saturates(library: Library, y_type: str, bias: float) -> None:
    limits = np.iinfo(y_type)
    case = make_case((1, 6, 5, 11), 5, (3, 3), types=("uint8", "int8", y_type))
    for y_scale in (0.5, 1e-30, 1e-40):
        case.bias, case.y_scale = np.full(5, bias, np.float32), np.float32(y_scale)
        end = limits.max if bias > 0 else limits.min
        check_all_isas(library, case, np.full(case.output_shape, end, y_type))


def test_not_a_number_becomes_the_lowest_step(library: Library) -> None:
    case = make_case((1, 6, 5, 11), 5, (3, 3), types=("uint8", "int8", "int8"))
    assert case.bias is not None
    case.bias[2] = np.nan
    for isa in library.isas:
        actual = library.run(case, isa)
        assert np.unique(actual[:, 2]).tolist() == [-128]
        case.bias[2] = 0
        np.testing.assert_array_equal(np.delete(actual, 2, 1), np.delete(case.oracle(), 2, 1))
        case.bias[2] = np.nan


def test_the_longest_filter_and_the_first_that_is_too_long(library: Library) -> None:
    """The largest sum of 4210752 taps is 127 below the largest integer of 32 bits."""
    most = (2**31 - 1) // 510
    case = Case(
        np.full((1, most, 1, 1), 255, np.uint8), np.full((1, most, 1, 1), -128, np.int8), x_zero_point=np.uint8(0),
        w_zero_point=np.int8(127), x_scale=np.float32(1), w_scale=np.float32(1), y_scale=np.float32(2.0**24),
        y_zero_point=np.uint8(200),
    )  # fmt: skip
    check_all_isas(library, case, np.full((1, 1, 1, 1), 72, np.uint8))
    x, w = (np.broadcast_to(array[:, :1], (1, most + 1, 1, 1)) for array in (case.x, case.w))
    message = "W has shape (1, 4210753, 1, 1): a filter of more than 4210752 taps may overflow the 32 bits of its sum"
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        library.prepare(Case(x, w), "baseline")
    assert str(error.value) == message
    case.w_scale = np.float32(2)
    library.prepare(Case(x, w, w_scale=np.float32(2)), "baseline")  # its sums are floats


def off_grid(case: Case) -> Case:
    """The case with a scale of W that is not X's, in some filters or in all."""
    generator = np.random.default_rng(3)
    shape = np.shape(case.w_scale)
    case.w_scale = np.asarray(generator.uniform(0.3, 1.7, shape) * case.x_scale, np.float32)
    if shape:
        case.w_scale[0] = case.x_scale
    values = case.distances(np.float64(case.x_scale), case.w_scale.astype(np.float64))
    if case.bias is not None and values.size:
        case.bias += np.float32(values.mean()) - case.bias.mean()
    return case


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("types", [("uint8", "int8", "uint8"), ("int8", "uint8", "int8")], ids="-".join)
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_on_another_grid_match_the_loop(
    library: Library, shape: str, types: tuple[str, str, str], per_channel: bool
) -> None:
    """A step is allowed where the exact quotient lies next to a half: as close as float32 sums are."""
    x_shape, filters, window, attributes = SHAPES[shape]
    case = off_grid(make_case(x_shape, filters, window, types=types, per_channel=per_channel, **attributes))
    expected = case.real_oracle()
    for isa in library.isas:
        assert library.prepare(case, isa)[0].sums == FLOAT_SUMS
        assert np.all(np.abs(library.run(case, isa) - expected) < 0.5 + 2e-3), isa


def test_weights_on_the_grid_are_summed_in_integers(library: Library) -> None:
    x_shape, filters, window, attributes = SHAPES["same"]
    assert library.prepare(make_case(x_shape, filters, window, **attributes), "baseline")[0].sums == INTEGER_SUMS


def test_the_layout_fits_the_filters(library: Library) -> None:
    """Bytes of neighbouring columns where there are few channels, else of channels; one channel goes its own way."""
    expected = {
        "pointwise": "channels", "several blocks of taps": "channels", "stem": "columns", "large window": "columns",
        "depthwise": "depthwise", "multiplier": "columns", "one channel, one tap": "depthwise",
        "depthwise, 257 taps": "depthwise", "depthwise, 255 taps": "depthwise", "depthwise, 260 taps": "columns",
        "depthwise, too far apart": "columns",
    }  # fmt: skip
    for name, layout in expected.items():
        x_shape, filters, window, attributes = SHAPES[name]
        case = make_case(x_shape, filters, window, **attributes)
        for isa in library.isas:
            assert LAYOUTS[library.prepare(case, isa)[1].layout] == layout, (name, isa)


@pytest.mark.parametrize("per_filter_scale", [False, True])
def test_tasks_in_any_order_give_the_same_bytes(library: Library, per_filter_scale: bool) -> None:
    case = make_case((2, 12, 45, 40), 140, (3, 3), pads=(1, 1, 1, 1), group=2)
    if per_filter_scale:
        case = off_grid(case)
    for isa in library.isas:
        tiling = library.prepare(case, isa)[1].tiling
        assert tiling.tasks > 4
        backward = library.run(case, isa, list(reversed(range(tiling.tasks))))
        np.testing.assert_array_equal(library.run(case, isa), backward, isa)


@pytest.mark.parametrize(
    ("x_shape", "filters", "window", "attributes"),
    [
        ((1, 64, 56, 56), 64, (3, 3), {"pads": (1, 1, 1, 1)}),
        ((1, 512, 7, 7), 512, (3, 3), {"pads": (1, 1, 1, 1)}),
        ((1, 64, 1500, 1500), 512, (3, 3), {}),
        ((1, 2048, 30, 300), 32, (3, 3), {}),
        ((1, 64, 1500, 1500), 64, (7, 5), {"strides": (2, 3), "group": 64}),
        ((1, 2, 3000, 3000), 2, (3, 3), {"dilations": (900, 900), "group": 2}),
        ((1, 3, 2000, 2000), 64, (7, 7), {"strides": (2, 2)}),
        ((1, 8, 300, 300), 2048, (3, 3), {"dilations": (90, 90)}),
        ((1, 2, 300, 300), 16, (299, 280), {}),
        ((1, 4096, 9, 300), 4096, (1, 1), {}),
        ((1, 1, 4, 100000), 8, (1, 5000), {}),
        ((1, 1024, 40, 1), 1024, (3, 1), {}),
    ],
)
def test_memory_is_bounded(library: Library, x_shape: Any, filters: int, window: Any, attributes: Any) -> None:
    depth = x_shape[1] // attributes.get("group", 1)
    x, w = (np.broadcast_to(np.zeros(1, np.uint8), shape) for shape in (x_shape, (filters, depth, *window)))
    for w_scale in (0.03, 0.04):
        case = Case(x, w, w_scale=np.float32(w_scale), w_zero_point=np.uint8(0), **attributes)
        for isa in library.isas:
            packed, scratch = library.memory(case, isa)
            assert scratch <= 2**20, isa
            params, plan = library.prepare(case, isa)
            padded = math.ceil(filters / plan.tiling.tile_rows) * plan.tiling.tile_rows
            if plan.layout == LAYOUTS.index("depthwise") and params.sums == INTEGER_SUMS:
                assert packed == -(-filters * math.prod(window) // 4) * 4 + 4 * filters, isa
            elif attributes.get("group", 1) == 1:
                values = 256 if params.sums == FLOAT_SUMS else filters
                assert packed == padded * plan.tiling.taps * plan.element_bytes + 4 * values, isa
            if params.sums == INTEGER_SUMS and depth * math.prod(window) > 1000:
                # In bytes, the taps are about as many as the filter's.
                assert plan.tiling.taps * plan.element_bytes < 1.15 * depth * math.prod(window)


def test_unknown_instruction_set(library: Library) -> None:
    case = Case(np.zeros((1, 1, 3, 3), np.uint8), np.zeros((1, 1, 3, 3), np.int8))
    with pytest.raises(ValueError, match="does not have the instruction set"):
        library.prepare(case, "none")
