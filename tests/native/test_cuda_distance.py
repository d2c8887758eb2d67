"""The CUDA kernels of manhattan and chebyshev kervolution against the float64 loop: executed on the host, and on a GPU
where there is one.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, cast

import numpy as np
import pytest
from cuda_kervolution import Checked, CudaPlan, How, hows, prepare, run
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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_checks import (
    OUTLIERS,
    SIZES,
    cases,
    check_infinity,
    check_magnitudes,
    check_nan,
    check_offsets,
    check_outlier,
    large_case,
)
from native_kernels import Case, Library, make_case, oracle
from tolerances import assert_close

KERNELS = ("manhattan", "chebyshev")
DTYPES = ("float32", "float16")
ARITHMETICS = tuple(itertools.product(KERNELS, DTYPES))
TINY = Device(87, 1, 163 << 10)
"""One multiprocessor: large tiles pay at sizes that a test can afford."""
DIRECT = (16, 17)
"""Rows of the kernels' table for few filters a group: wide and narrow."""

# x shape, filters, window, attributes
SHAPES: dict[str, tuple[tuple[int, int, int, int], int, tuple[int, int], dict[str, Any]]] = {
    "same": ((2, 5, 9, 13), 17, (3, 3), {"pads": (1, 1, 1, 1)}),
    "aligned channels": ((2, 16, 6, 7), 24, (3, 3), {"pads": (1, 1, 1, 1)}),
    "aligned plane": ((2, 8, 4, 8), 16, (3, 3), {"pads": (1, 1, 1, 1)}),
    "odd channels": ((1, 67, 5, 6), 19, (3, 3), {"pads": (1, 1, 1, 1)}),
    "stem": ((1, 3, 15, 18), 10, (7, 7), {"strides": (2, 2), "pads": (3, 3, 3, 3)}),
    "one channel": ((3, 1, 7, 6), 9, (2, 5), {"pads": (1, 0, 2, 3), "strides": (1, 3), "dilations": (3, 2)}),
    "stride": ((2, 3, 12, 9), 21, (3, 5), {"strides": (2, 3), "pads": (1, 2, 1, 2)}),
    "dilation": ((1, 7, 13, 10), 9, (3, 2), {"pads": (2, 1, 2, 1), "dilations": (2, 3)}),
    "asymmetric pads": ((2, 12, 6, 5), 12, (4, 2), {"strides": (1, 2), "pads": (3, 0, 1, 2)}),
    "window in the padding": ((1, 4, 2, 3), 15, (2, 2), {"pads": (5, 4, 5, 4), "strides": (3, 2)}),
    "pointwise": ((3, 13, 5, 7), 11, (1, 1), {}),
    "one position": ((2, 24, 4, 5), 11, (4, 5), {}),
    "groups": ((2, 18, 7, 8), 33, (3, 3), {"pads": (1, 1, 1, 1), "group": 3}),
    "aligned groups": ((2, 32, 5, 6), 32, (3, 3), {"pads": (1, 1, 1, 1), "group": 2, "strides": (1, 2)}),
    "multiplier": ((1, 3, 8, 9), 36, (3, 3), {"pads": (1, 1, 1, 1), "group": 3}),
    "long filters": ((1, 128, 5, 4), 12, (3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 1)}),
    "long filters, few": ((1, 130, 5, 4), 3, (3, 3), {"pads": (1, 1, 1, 1)}),
    "wide window": ((1, 2, 4, 90), 9, (2, 70), {"pads": (0, 1, 0, 3)}),
    "many filters": ((1, 16, 11, 12), 140, (1, 1), {}),
    "many filters and positions": ((1, 3, 12, 12), 130, (2, 1), {}),
    "small image": ((1, 260, 3, 5), 70, (1, 1), {}),
    "large image": ((1, 5, 26, 30), 33, (1, 2), {"pads": (0, 0, 0, 1)}),
    "large image, some filters": ((1, 9, 18, 22), 13, (3, 1), {"pads": (1, 0, 1, 0)}),
    "some filters": ((1, 5, 24, 23), 64, (1, 1), {}),
    "depthwise": ((2, 21, 9, 16), 21, (3, 3), {"pads": (1, 1, 1, 1), "group": 21}),
    "depthwise, stride": ((1, 5, 37, 39), 10, (3, 2), {"pads": (0, 1, 2, 0), "group": 5, "strides": (2, 3)}),
    "depthwise, 5 x 5": ((1, 9, 18, 17), 9, (5, 5), {"pads": (2, 2, 2, 2), "group": 9, "strides": (2, 2)}),
    "depthwise, wide dilation": ((1, 2, 60, 30), 2, (2, 2), {"dilations": (50, 25), "strides": (3, 4), "group": 2}),
    "depthwise, too far apart": ((1, 2, 905, 30), 2, (2, 2), {"dilations": (900, 3), "strides": (3, 4), "group": 2}),
    "small groups": ((2, 12, 7, 8), 9, (3, 3), {"pads": (1, 1, 1, 1), "group": 3}),
    "few filters": ((1, 33, 16, 17), 5, (1, 1), {}),
    "few filters, many channels": ((2, 150, 4, 6), 8, (1, 3), {"pads": (0, 1, 0, 1)}),
}
# Layers of networks, to be planned alone: x shape, filters, window, attributes.
LAYERS: list[tuple[tuple[int, int, int, int], int, tuple[int, int], dict[str, Any]]] = [
    ((1, 3, 224, 224), 64, (7, 7), {"strides": (2, 2), "pads": (3, 3, 3, 3)}),
    *[
        ((batch, channels, size, size), channels, (3, 3), {"pads": (1, 1, 1, 1)})
        for batch in (1, 8, 32)
        for channels, size in ((16, 224), (32, 112), (64, 56), (128, 28), (256, 14), (512, 7), (512, 4), (64, 8))
    ],
    ((1, 64, 5, 5), 64, (3, 3), {}),
    ((1, 32, 112, 112), 32, (3, 3), {"pads": (1, 1, 1, 1), "group": 32}),
    ((1, 512, 7, 7), 512, (3, 3), {"pads": (1, 1, 1, 1), "group": 512}),
    ((1, 24, 300, 300), 12, (3, 3), {}),
]


def tiles(kernel: str, dtype: str) -> range:
    """Rows of the table that this arithmetic has."""
    return range(4 if (kernel, dtype) == ("manhattan", "float16") else 6)


def plans(place: Place, case: Case, how: How, turn: int) -> Iterator[CudaPlan]:
    """Of all devices, each once; and two other tiles, that every tile has its turn."""
    seen = set()
    for device in (*place.devices, TINY):
        plan = prepare(place, case, device, how)[1]
        if (plan.tile, plan.splits) not in seen:
            seen.add((plan.tile, plan.splits))
            yield plan
    if plan.tile not in DIRECT:
        rows = tiles(case.kernel, case.x.dtype.name)
        for device, tile in ((DEVICES[90], turn % len(rows)), (TINY, (turn + len(rows) // 2) % len(rows))):
            plan = prepare(place, case, device, how)[1]
            plan.tile = tile
            if (plan.tile, plan.splits) not in seen:
                yield plan


@lru_cache(maxsize=4)
def expected_of(kernel: str, shape: str, dtype: str) -> tuple[Case, Any]:
    """A case and the oracle's output; some without a bias."""
    x_shape, filters, window, attributes = SHAPES[shape]
    bias = list(SHAPES).index(shape) % 3 > 0
    case = make_case(kernel, dtype, x_shape, filters, window, bias=bias, **attributes)
    return case, oracle(case)


def how_of(shape: str) -> list[How]:
    """Both layouts; pixels of any pitch; what fills them up must not matter."""
    turn = list(SHAPES).index(shape)
    return [How(layout, pitch=(8, 1, 2)[turn % 3], fill=(float("nan"), 7.0)[turn % 2]) for layout in LAYOUTS]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_loop(shape: str, kernel: str, dtype: str) -> None:
    case, expected = expected_of(kernel, shape, dtype)
    for place, how in itertools.product(places(), how_of(shape)):
        for plan in plans(place, case, how, list(SHAPES).index(shape)):
            actual = run(place, case, TINY, how, plan)
            assert_close(actual, expected, dtype, f"{place.name}, {how}, tile {plan.tile}, {plan.splits} splits")


def test_every_tile_is_run() -> None:
    """By the shapes above: each arithmetic with each tile, whole and split, in each layout."""
    place, taken = places()[0], set()
    for turn, shape in enumerate(SHAPES):
        x_shape, filters, window, attributes = SHAPES[shape]
        for (kernel, dtype), how in itertools.product(ARITHMETICS, how_of(shape)):
            case = make_case(kernel, dtype, x_shape, filters, window, **attributes)
            for plan in plans(place, case, how, turn):
                taken.add((kernel, dtype, how.layout, plan.tile, plan.splits > 1))
    wanted = {
        (kernel, dtype, layout, tile, split)
        for (kernel, dtype), layout, split in itertools.product(ARITHMETICS, LAYOUTS, (False, True))
        for tile in tiles(kernel, dtype)
    }
    direct = {(*arithmetic, "nchw", tile, False) for arithmetic in ARITHMETICS for tile in DIRECT}
    direct |= {(*arithmetic, "nhwc", DIRECT[1], False) for arithmetic in ARITHMETICS}
    assert taken == wanted | direct


def test_every_tile_is_chosen_for_some_layer() -> None:
    place = places()[0]
    for kernel, dtype in ARITHMETICS:
        chosen = set()
        for shape, device in itertools.product(LAYERS, DEVICES.values()):
            case = large_case(*shape)
            case.kernel, case.x = kernel, np.broadcast_to(np.zeros(1, dtype), case.x.shape)
            chosen.add(prepare(place, case, device, How())[1].tile)
        assert chosen == {*tiles(kernel, dtype), *DIRECT}, (kernel, dtype)


@settings(max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    case=cases(KERNELS, st.integers(1, 40), st.integers(1, 40)),
    how=st.builds(How, st.sampled_from(LAYOUTS), st.just("float32"), st.sampled_from((1, 2, 8)), st.just(float("nan"))),
    device=st.sampled_from([*DEVICES, 0]),
)
def test_any_shape(case: Case, how: How, device: int) -> None:
    expected = oracle(case)
    for place in places():
        assert_close(run(place, case, DEVICES.get(device, TINY), how), expected, case.x.dtype, place.name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_same_bits_in_any_order_of_threads(kernel: str, dtype: str) -> None:
    case, _ = expected_of(kernel, "long filters", dtype)
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


def test_empty_batch() -> None:
    for (kernel, dtype), layout in itertools.product(ARITHMETICS, LAYOUTS):
        case = make_case(kernel, dtype, (0, 3, 5, 6), 14, (3, 3))
        for place in places():
            assert run(place, case, TINY, How(layout)).shape == (0, 14, 3, 4)


# What makes a kernel take another path: x shape, filters, groups, device. All 3 x 3, which kernel_checks count on.
FORMS: dict[str, tuple[tuple[int, int, int, int], int, int, Device]] = {
    "whole": ((1, 3, 6, 7), 19, 1, TINY),
    "split": ((1, 128, 6, 7), 9, 1, DEVICES[90]),
    "depthwise": ((1, 6, 6, 7), 6, 6, TINY),
    "few filters": ((1, 20, 6, 7), 6, 1, TINY),
}


def form_case(form: str, kernel: str, dtype: str = "float32", **options: Any) -> Case:
    """A case that takes that path."""
    x_shape, filters, group, _ = FORMS[form]
    return make_case(kernel, dtype, x_shape, filters, (3, 3), pads=(1, 1, 1, 1), group=group, **options)


def checked(form: str, dtype: str = "float32") -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Libraries for kernel_checks."""
    for place, how in itertools.product(places(), hows(dtype, ("float32",))):
        library = Checked(place, FORMS[form][3], how)
        yield cast(Library, library), library.isas


def test_forms_are_what_they_are_called() -> None:
    for form, (kernel, dtype) in itertools.product(FORMS, ARITHMETICS):
        for how in hows(dtype, ("float32",)):
            plan = prepare(places()[0], form_case(form, kernel, dtype), FORMS[form][3], how)[1]
            assert (plan.tile in DIRECT) == (form in ("depthwise", "few filters"))
            assert (plan.splits > 1) == (form == "split"), (form, dtype, how)


@pytest.mark.parametrize("where", ["x", "w", "bias"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_nan_reaches_the_output(kernel: str, form: str, dtype: str, where: str) -> None:
    for library, isas in checked(form, dtype):
        check_nan(library, isas, lambda **more: form_case(form, kernel, dtype, **more), where)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("infinity", [np.inf, -np.inf])
def test_infinity_is_plain_arithmetic(kernel: str, form: str, infinity: float) -> None:
    for library, isas in checked(form):
        check_infinity(library, isas, lambda **more: form_case(form, kernel, **more), infinity)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_infinity_in_float16(kernel: str, form: str) -> None:
    """Where it takes part, and nowhere else; infinity less infinity is not a number."""
    case = form_case(form, kernel, "float16", bias=False)
    case.x[0, 1, 2, 3], case.x[0, 0, 5, 0], case.x[0, 2, 0, 6] = -np.inf, -np.inf, np.inf
    case.w[1, 0, 1, 1] = -np.inf
    with np.errstate(invalid="ignore"):
        expected = oracle(case)
    finite = np.isfinite(expected)
    assert np.isnan(expected).any()
    assert np.isinf(expected).any()
    assert finite.any()
    for library, isas in checked(form, "float16"):
        actual = library.run(case, isas[0])
        np.testing.assert_array_equal(np.where(finite, 0, actual), np.where(finite, 0, expected))
        assert_close(actual[finite], expected[finite], np.float16)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_float16_differences_beyond_its_range(kernel: str, form: str) -> None:
    """|x - w| above 65504 overflows in halves, and the bias brings the output back."""
    case = form_case(form, kernel, "float16")
    assert case.bias is not None
    case.x[0, 1, 2, 3], case.w[1:3, 0, 1, 1] = 30000, -41000
    case.x[0, 0, 2:4, 2:5], case.bias[:] = 30000, 65000
    expected = oracle(case)
    assert (np.abs(expected - case.bias[:, None, None]) > 65504).any()
    assert (np.abs(expected) < 60000).any()
    with np.errstate(over="ignore"):
        rounded = expected.astype(np.float16)
    finite = np.isfinite(rounded)
    for library, isas in checked(form, "float16"):
        actual = library.run(case, isas[0])
        np.testing.assert_array_equal(np.isfinite(actual), finite)
        assert_close(actual[finite], expected[finite], np.float16)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("outlier", OUTLIERS)
def test_an_outlier_spoils_no_neighbour(kernel: str, form: str, outlier: float) -> None:
    for library, isas in checked(form):
        check_outlier(library, isas, lambda **more: form_case(form, kernel, **more), outlier)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", SIZES)
def test_magnitudes(kernel: str, form: str, size: float) -> None:
    for library, isas in checked(form):
        check_magnitudes(library, isas, lambda **more: form_case(form, kernel, **more), size)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_offsets_do_not_cancel(kernel: str, form: str) -> None:
    for library, isas in checked(form):
        check_offsets(library, isas, lambda **more: form_case(form, kernel, **more))


@pytest.mark.parametrize("offset", [0.0, 30.0, 2000.0])
@pytest.mark.parametrize("kernel", KERNELS)
def test_thousands_of_taps_in_float16(kernel: str, offset: float) -> None:
    """Differences that are all alike err alike: of one value, and of many."""
    for spread in (1.0, 0.0):
        case = make_case(kernel, "float16", (1, 512, 4, 3), 20, (3, 3))
        case.x = (case.x * np.float16(spread) + np.float16(offset + 0.5009765625)).astype(np.float16)
        case.w = (case.w * np.float16(30 * spread) + np.float16(offset)).astype(np.float16)
        expected = oracle(case)
        for place, layout, device in itertools.product(places(), LAYOUTS, (TINY, DEVICES[90])):
            assert_close(run(place, case, device, How(layout)), expected, np.float16, f"{layout}, spread {spread}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_equal_patches_and_filters_have_no_distance(kernel: str, dtype: str) -> None:
    generator = np.random.default_rng(3)
    x = (generator.standard_normal((1, 32, 3, 3)) * 100).astype(dtype)
    w = np.concatenate([x, x, *[x + np.asarray(1, dtype)] * 9])
    for place, layout, device in itertools.product(places(), LAYOUTS, (TINY, DEVICES[90])):
        y = run(place, Case(kernel, x, w), device, How(layout))[0, :, 0, 0]
        assert y[0] == y[1] == 0
        assert (y[2:] < 0).all()


def sweep() -> None:
    """Every shape once: what the runs below do in another process."""
    for index, shape in enumerate(SHAPES):
        for kernel, dtype in zip(KERNELS, (DTYPES[index % 2], DTYPES[1 - index % 2]), strict=True):
            case, expected = expected_of(kernel, shape, dtype)
            for how in how_of(shape):
                actual = run(places()[0], case, (TINY, DEVICES[90])[how.layout == "nchw"], how)
                assert_close(actual, expected, dtype, shape)


@pytest.mark.parametrize("seed", [0, 7])
def test_threads_in_any_order(seed: int) -> None:
    """As they are numbered, and in another order than the tests above."""
    sweep_elsewhere(__file__, simt_library(), EDGECONV_SIMT_SEED=str(seed))


def test_nothing_beyond_the_memory() -> None:
    """Every buffer is as large as it is said to be, and no larger."""
    sweep_under_address_sanitizer(__file__)
