"""The CUDA kernels of 8-bit kervolution against the integer loop: executed on the host, and on a GPU where there is
one. Integer sums agree to the byte.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cuda_kervolution import CudaPlan, How
from cuda_memory import (
    DEVICES,
    LAYOUTS,
    Device,
    Place,
    places,
    simt_library,
    sweep_elsewhere,
    sweep_under_address_sanitizer,
)
from cuda_qlinear_kervolution import plan_with, prepare, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qlinear_kernels import FLOAT_SUMS, INTEGER_SUMS, SHAPES, Case, make_case

TYPES = ("uint8", "int8")
TINY = Device(87, 1, 163 << 10)
"""One multiprocessor: large tiles pay at sizes that a test can afford."""
TILES, DIRECT = range(6), (16, 17)
"""Rows of the kernels' table: tiles, and those for few filters a group, wide and narrow."""
BYTE_TYPES = (("uint8", "int8", "uint8"), ("int8", "int8", "int8"))

# Beside those of the CPU's tests, which have few filters: x shape, filters, window, attributes.
MORE_SHAPES: dict[str, tuple[tuple[int, int, int, int], int, tuple[int, int], dict[str, Any]]] = {
    "words": ((2, 16, 6, 7), 24, (3, 3), {"pads": (1, 1, 1, 1)}),
    "odd channels": ((1, 67, 5, 6), 19, (3, 3), {"pads": (1, 1, 1, 1)}),
    "groups of words": ((2, 24, 7, 8), 33, (3, 3), {"pads": (1, 1, 1, 1), "group": 3}),
    "odd groups": ((2, 10, 7, 8), 30, (2, 3), {"pads": (1, 1, 1, 1), "group": 2, "dilations": (1, 2)}),
    "long filters": ((1, 520, 5, 4), 12, (3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 1)}),
    "long filters, many": ((1, 260, 4, 4), 140, (1, 3), {"pads": (0, 1, 0, 1)}),
    "large image": ((1, 12, 26, 30), 33, (1, 2), {"pads": (0, 0, 0, 1)}),
    "many filters and positions": ((1, 9, 13, 12), 130, (2, 1), {}),
    "filters and positions": ((1, 9, 24, 23), 64, (1, 1), {}),
    "depthwise, wide": ((1, 6, 20, 30), 6, (3, 3), {"pads": (1, 1, 1, 1), "group": 6}),
}
ALL_SHAPES = {**SHAPES, **MORE_SHAPES}


def how_of(shape: str) -> list[How]:
    """Both layouts; pixels of any pitch; what fills them up must not matter."""
    turn = list(ALL_SHAPES).index(shape)
    return [How(layout, pitch=(16, 1, 4)[turn % 3], fill=(77, 0)[turn % 2]) for layout in LAYOUTS]


def case_of(shape: str, **options: Any) -> Case:
    x_shape, filters, window, attributes = ALL_SHAPES[shape]
    return make_case(x_shape, filters, window, **options, **attributes)


def plans(place: Place, case: Case, how: How, turn: int) -> Iterator[CudaPlan]:
    """Of all devices, each once; and two other tiles, that every tile has its turn."""
    seen = set()
    for device in (*place.devices, TINY):
        plan = prepare(place, case, device, how)[1]
        if (plan.tile, plan.splits) not in seen:
            seen.add((plan.tile, plan.splits))
            yield plan
    if plan.tile not in DIRECT:
        for device, tile in ((DEVICES[90], turn % len(TILES)), (TINY, (turn + 3) % len(TILES))):
            plan = prepare(place, case, device, how)[1]
            plan.tile = tile
            if (plan.tile, plan.splits) not in seen:
                yield plan


def off_grid(case: Case) -> Case:
    """The case with a scale of W that is not X's, in all filters or in all but the first."""
    generator = np.random.default_rng(3)
    shape = np.shape(case.w_scale)
    case.w_scale = np.asarray(generator.uniform(0.3, 1.7, shape) * case.x_scale, np.float32)
    if shape:
        case.w_scale[0] = case.x_scale
    values = case.distances(np.float64(case.x_scale), case.w_scale.astype(np.float64))
    if case.bias is not None and values.size:
        case.bias += np.float32(values.mean()) - case.bias.mean()
    return case


def check(case: Case, devices: tuple[Device, ...] = (TINY, DEVICES[90]), expected: Any = None) -> None:
    """Compare with the loop in both layouts."""
    expected = case.oracle() if expected is None else expected
    for place, layout, device in itertools.product(places(), LAYOUTS, devices):
        np.testing.assert_array_equal(run(place, case, device, How(layout)), expected, f"{place.name}, {layout}")


@pytest.mark.parametrize("types", BYTE_TYPES, ids="-".join)
@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_matches_loop(shape: str, types: tuple[str, str, str]) -> None:
    case = case_of(shape, types=types, dyadic=types[0] == "int8")
    expected = case.oracle()
    for place, how in itertools.product(places(), how_of(shape)):
        for plan in plans(place, case, how, list(ALL_SHAPES).index(shape)):
            actual = run(place, case, TINY, how, plan)
            what = f"{place.name}, {how}, tile {plan.tile}, {plan.splits} splits"
            np.testing.assert_array_equal(actual, expected, what)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_weights_on_another_grid_match_the_loop(shape: str, per_channel: bool) -> None:
    """A step is allowed where the exact quotient lies next to a half: as close as float32 sums are."""
    types = (("uint8", "int8", "uint8"), ("int8", "uint8", "int8"))[per_channel]
    case = off_grid(case_of(shape, types=types, per_channel=per_channel))
    expected = case.real_oracle()
    for place, how in itertools.product(places(), how_of(shape)):
        assert prepare(place, case, TINY, how)[0].sums == FLOAT_SUMS
        for plan in plans(place, case, how, list(ALL_SHAPES).index(shape)):
            assert np.all(np.abs(run(place, case, TINY, how, plan) - expected) < 0.5 + 2e-3), (how, plan.tile)


def test_every_tile_is_run() -> None:
    """By the shapes above: both sums with each tile, whole and split, in each layout."""
    place, taken = places()[0], set()
    for turn, shape in enumerate(ALL_SHAPES):
        for how, grid in itertools.product(how_of(shape), (True, False)):
            case = case_of(shape)
            if not grid:
                case.w_scale = case.w_scale * np.float32(2)
            for plan in plans(place, case, how, turn):
                taken.add((grid, how.layout, plan.tile, plan.splits > 1))
    wanted = set(itertools.product((True, False), LAYOUTS, TILES, (False, True)))
    wanted |= {(grid, "nchw", tile, False) for grid in (True, False) for tile in DIRECT}
    wanted |= {(grid, "nhwc", DIRECT[1], False) for grid in (True, False)}
    assert taken == wanted


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("types", list(itertools.product(TYPES, repeat=3)), ids="-".join)
def test_every_combination_of_types(types: tuple[str, str, str], bias: bool) -> None:
    for per_channel, filters in itertools.product((False, True), (10, 20)):
        options: dict[str, Any] = {
            "types": types,
            "bias": bias,
            "per_channel": per_channel,
            "group": 2,
            "pads": (1, 0, 2, 1),
        }
        check(make_case((2, 12, 6, 9), filters, (3, 2), **options))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    group = draw(st.integers(1, 3))
    window = draw(st.tuples(st.integers(1, 5), st.integers(1, 9)))
    dilations = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = draw(st.tuples(*[st.integers(0, 4)] * 4))
    reach = [dilations[a] * (window[a] - 1) + 1 for a in range(2)]
    sizes = [draw(st.integers(max(1, reach[a] - pads[a] - pads[2 + a]), 14 + reach[a])) for a in range(2)]
    channels = group * draw(st.sampled_from([1, 2, 3, 4, 5, 8]) | st.integers(1, 40))
    return make_case(
        (draw(st.integers(1, 2)), channels, sizes[0], sizes[1]), group * draw(st.integers(1, 30)), window,
        types=draw(st.tuples(*[st.sampled_from(TYPES)] * 3)), bias=draw(st.booleans()), dyadic=draw(st.booleans()),
        per_channel=draw(st.booleans()), strides=draw(st.tuples(st.integers(1, 4), st.integers(1, 4))), pads=pads,
        dilations=dilations, group=group,
    )  # fmt: skip


@settings(max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=cases(), device=st.sampled_from([*DEVICES, 0]), pitch=st.sampled_from([1, 4, 16]))
def test_any_configuration(case: Case, device: int, pitch: int) -> None:
    expected = case.oracle()
    for place, layout in itertools.product(places(), LAYOUTS):
        actual = run(place, case, DEVICES.get(device, TINY), How(layout, pitch=pitch, fill=99))
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("filters", [6, 12])
@pytest.mark.parametrize(("x_type", "w_type"), list(itertools.product(TYPES, repeat=2)))
def test_zero_points_and_values_at_the_ends(x_type: str, w_type: str, filters: int) -> None:
    """Filters that are outside the input's bytes, all or in part."""
    x_limits, w_limits = np.iinfo(x_type), np.iinfo(w_type)
    generator = np.random.default_rng(5)
    for x_zero, w_zero in itertools.product((x_limits.min, x_limits.max), (w_limits.min, w_limits.max)):
        case = Case(
            generator.choice([x_limits.min, x_limits.max], (1, 10, 5, 6)).astype(x_type),
            generator.choice([w_limits.min, w_limits.max], (filters, 10, 3, 3)).astype(w_type),
            x_zero_point=np.asarray(x_zero, x_type), w_zero_point=np.asarray(w_zero, w_type),
            y_scale=np.float32(2.9), pads=(1, 2, 0, 1),
        )  # fmt: skip
        assert prepare(places()[0], case, TINY, How())[0].sums == INTEGER_SUMS
        check(case)


def test_every_step_is_rounded_by_itself() -> None:
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
    assert exact.sum() > 100
    check(case, expected=np.full(case.output_shape, 100, np.uint8))


def test_the_quotient_is_a_true_division() -> None:
    """Quotients by 3 that are halves exactly: times the rounded reciprocal some of them are not."""
    k = np.arange(1, 256, 2, dtype=np.uint8)
    case = Case(
        k.reshape(1, 1, 2, 64), np.zeros((1, 1, 1, 1), np.int8), x_scale=np.float32(1.05), x_zero_point=np.uint8(0),
        w_scale=np.float32(1.05), y_zero_point=np.uint8(255),
    )  # fmt: skip
    for divisor in range(1, 60):
        case.y_scale = np.float32(np.float32(0.35) * divisor)
        check(case, (TINY,))


@pytest.mark.parametrize("bias", [1e6, -1e6, 3e38, -3e38, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("y_type", TYPES)
def test_what_is_beyond_the_range_saturates(y_type: str, bias: float) -> None:
    """And what is not a number becomes the lowest step."""
    limits = np.iinfo(y_type)
    for filters in (5, 15):
        case = make_case((1, 6, 5, 11), filters, (3, 3), types=("uint8", "int8", y_type))
        for y_scale in (0.5, 1e-30, 1e-40):
            case.bias, case.y_scale = np.full(filters, bias, np.float32), np.float32(y_scale)
            end = limits.max if bias > 0 else limits.min
            check(case, (TINY,), np.full(case.output_shape, end, y_type))


def test_filters_too_long_for_their_sum_are_refused() -> None:
    """The largest sum of 4210752 taps is 127 below the largest integer of 32 bits."""
    most = (2**31 - 1) // 510
    x, w = np.broadcast_to(np.uint8(0), (1, most + 1, 1, 1)), np.broadcast_to(np.int8(0), (1, most + 1, 1, 1))
    for place in places():
        prepare(place, Case(x[:, :most], w[:, :most]), TINY, How())
        with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
            prepare(place, Case(x, w), TINY, How())
        assert str(error.value) == (
            "W has shape (1, 4210753, 1, 1): a filter of more than 4210752 taps may overflow the 32 bits of its sum"
        )
        prepare(place, Case(x, w, w_scale=np.float32(2)), TINY, How())  # its sums are floats


@pytest.mark.parametrize("grid", [True, False])
def test_the_same_bytes_in_any_order_of_threads(grid: bool) -> None:
    case = case_of("long filters")
    if not grid:
        case = off_grid(case)
    place = places()[0]
    for layout in LAYOUTS:
        assert prepare(place, case, DEVICES[90], How(layout))[1].splits > 1
        outputs = []
        for seed in (1, 2, 3):
            place.c.edgeconv_simt_set_seed(ctypes.c_uint64(seed))
            outputs.append(run(place, case, DEVICES[90], How(layout)))
        place.c.edgeconv_simt_set_seed(ctypes.c_uint64(1))
        np.testing.assert_array_equal(outputs[0], outputs[1])
        np.testing.assert_array_equal(outputs[0], outputs[2])


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "message"),
    [
        ((1024, 64, 256, 128), (1, 64, 3, 3), r"tensors of fewer than 2\^31 elements: X has 1024 x 64 x 256 x 128"),
        ((1, 1, 30000, 30000), (3, 1, 3, 3), r"2\^31 elements: Y has 1 x 3 x 29998 x 29998"),
        ((1, 1 << 20, 3, 3), (1 << 10, 1 << 20, 3, 3), r"2\^31 elements: W has 1024 x 1048576 x 3 x 3"),
    ],
)
def test_what_cannot_be_counted_is_refused(x_shape: Any, w_shape: Any, message: str) -> None:
    case = Case(np.broadcast_to(np.uint8(0), x_shape), np.broadcast_to(np.int8(0), w_shape))
    for place, layout in itertools.product(places(), LAYOUTS):
        with pytest.raises(ValueError, match=message):
            prepare(place, case, DEVICES[90], How(layout, pitch=1))


def test_formats_and_types_that_do_not_fit_are_refused() -> None:
    case = make_case((1, 5, 4, 4), 6, (3, 3))
    for place in places():
        for changes, message in (
            ({"layout": 7}, "layout 7 is neither"),
            ({"x_channel_pitch": 4}, "pixels of 4 and 8 elements cannot hold 5 input and 6 output channels"),
            ({"y_channel_pitch": 5}, "pixels of 8 and 5 elements cannot hold 5 input and 6 output channels"),
            ({"w_type": 0}, "X, W and Y must be uint8 or int8"),
            ({"kernel": 3}, "there is no 8-bit kernel 3"),
        ):
            with pytest.raises(ValueError, match=message):
                plan_with(place, case, TINY, How("nhwc"), **changes)


def sweep() -> None:
    """Every shape once: what the runs below do in another process."""
    for index, shape in enumerate(ALL_SHAPES):
        case = case_of(shape, types=BYTE_TYPES[index % 2])
        expected: Any = case.oracle()
        for how in how_of(shape):
            np.testing.assert_array_equal(run(places()[0], case, (TINY, DEVICES[90])[index % 2], how), expected, shape)
        case = off_grid(case)
        expected = case.real_oracle()
        actual = run(places()[0], case, (TINY, DEVICES[90])[index % 2], how_of(shape)[index // 2 % 2])
        assert np.all(np.abs(actual - expected) < 0.5 + 2e-3), shape


@pytest.mark.parametrize("seed", [0, 7])
def test_threads_in_any_order(seed: int) -> None:
    """As they are numbered, and in another order than the tests above."""
    sweep_elsewhere(__file__, simt_library(), EDGECONV_SIMT_SEED=str(seed))


def test_nothing_beyond_the_memory() -> None:
    """Every buffer is as large as it is said to be, and no larger."""
    sweep_under_address_sanitizer(__file__)
