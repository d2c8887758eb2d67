"""The CUDA kernels of x·w against the float64 loop: executed on the host, and on a GPU where there is one.

Distances (manhattan, chebyshev) have a file of their own.
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

KERNELS = ("polynomial", "gaussian", "sigmoid", "euclidean")
SQUARES = ("gaussian", "euclidean")
TINY = Device(87, 1, 163 << 10)
"""One multiprocessor: large tiles pay at sizes that a test can afford."""
DTYPES = ("float32", "float16")
GROUPS, TILES = 0, (1, 2, 3, 4)
"""Rows of the kernels' table: small groups, and tiles of products."""

# x shape, filters, window, attributes
SHAPES: dict[str, tuple[tuple[int, int, int, int], int, tuple[int, int], dict[str, Any]]] = {
    "same": ((2, 5, 9, 13), 7, (3, 3), {"pads": (1, 1, 1, 1)}),
    "aligned channels": ((2, 16, 6, 7), 24, (3, 3), {"pads": (1, 1, 1, 1)}),
    "aligned plane": ((2, 8, 4, 8), 16, (3, 3), {"pads": (1, 1, 1, 1)}),
    "odd channels": ((1, 67, 5, 6), 19, (3, 3), {"pads": (1, 1, 1, 1)}),
    "stem": ((1, 3, 15, 18), 10, (7, 7), {"strides": (2, 2), "pads": (3, 3, 3, 3)}),
    "one channel": ((3, 1, 7, 6), 9, (2, 5), {"pads": (1, 0, 2, 3), "strides": (1, 3), "dilations": (3, 2)}),
    "stride": ((2, 3, 12, 9), 9, (3, 5), {"strides": (2, 3), "pads": (1, 2, 1, 2)}),
    "dilation": ((1, 7, 13, 10), 3, (3, 2), {"pads": (2, 1, 2, 1), "dilations": (2, 3)}),
    "asymmetric pads": ((2, 12, 6, 5), 8, (4, 2), {"strides": (1, 2), "pads": (3, 0, 1, 2)}),
    "window in the padding": ((1, 4, 2, 3), 5, (2, 2), {"pads": (5, 4, 5, 4), "strides": (3, 2)}),
    "pointwise": ((3, 13, 5, 7), 11, (1, 1), {}),
    "whole image": ((2, 24, 4, 5), 6, (4, 5), {}),
    "groups": ((2, 18, 7, 8), 33, (3, 3), {"pads": (1, 1, 1, 1), "group": 3}),
    "aligned groups": ((2, 32, 5, 6), 32, (3, 3), {"pads": (1, 1, 1, 1), "group": 2, "strides": (1, 2)}),
    "small groups": ((2, 6, 7, 8), 9, (3, 3), {"pads": (1, 1, 1, 1), "group": 3}),
    "depthwise": ((2, 21, 9, 6), 21, (3, 3), {"pads": (1, 1, 1, 1), "group": 21}),
    "depthwise, stride": ((1, 5, 17, 19), 10, (3, 2), {"pads": (0, 1, 2, 0), "group": 5, "strides": (2, 3)}),
    "long filters": ((1, 128, 5, 4), 6, (3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 1)}),
    "large filters": ((1, 8, 9, 8), 6, (7, 7), {"pads": (3, 3, 3, 3)}),
    "wide filters": ((1, 2, 4, 90), 5, (2, 70), {"pads": (0, 1, 0, 3)}),
    "many filters": ((1, 16, 11, 12), 70, (1, 1), {}),
    "many filters, deep": ((1, 64, 8, 9), 70, (3, 3), {"pads": (1, 1, 1, 1)}),
    "small image": ((1, 16, 3, 5), 100, (1, 1), {}),
    "few filters": ((1, 16, 16, 17), 5, (1, 1), {}),
}


def devices(place: Place) -> tuple[Device, ...]:
    """What to plan for."""
    return (*place.devices, TINY)


def plans(place: Place, case: Case, how: How) -> Iterator[CudaPlan]:
    """Of all devices, each once."""
    seen = set()
    for device in devices(place):
        plan = prepare(place, case, device, how)[1]
        if (plan.tile, plan.splits) not in seen:
            seen.add((plan.tile, plan.splits))
            yield plan


@lru_cache(maxsize=8)
def expected_of(kernel: str, shape: str, dtype: str) -> tuple[Case, Any]:
    """A case and the oracle's output. Bias, per-channel values and degree take turns."""
    x_shape, filters, window, attributes = SHAPES[shape]
    turn = list(SHAPES).index(shape)
    case = make_case(
        kernel, dtype, x_shape, filters, window, bias=turn % 3 > 0, per_channel=turn % 2 > 0, degree=1 + turn % 4,
        **attributes,
    )  # fmt: skip
    return case, oracle(case)


def how_of(shape: str, dtype: str) -> list[How]:
    """Every layout and arithmetic; pixels of any pitch; what fills them up must not matter."""
    turn = list(SHAPES).index(shape)
    return hows(dtype, pitch=(8, 1, 3)[turn % 3], fill=(0.0, float("nan"))[turn % 2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "kernel"),
    # The deep ones are slow, and differ from the others in their sums alone.
    [(shape, kernel) for shape in SHAPES for kernel in (("sigmoid", "euclidean") if "deep" in shape else KERNELS)],
)
def test_matches_loop(shape: str, kernel: str, dtype: str) -> None:
    case, expected = expected_of(kernel, shape, dtype)
    for place, how in itertools.product(places(), how_of(shape, dtype)):
        for plan in plans(place, case, how):
            actual = run(place, case, TINY, how, plan)
            what = f"{place.name}, {how}, tile {plan.tile}, {plan.splits} splits"
            assert_close(actual, expected, dtype, what, precision=how.math)


def cut(plan: CudaPlan, case: Case, tile: int, splits: int) -> CudaPlan:
    """The plan with another row of the table, and other parts of the sum."""
    batch, filters, height, width = case.output_shape
    part = 4 * batch * height * width * case.group * 2 * -(-filters // case.group // 2)
    before, after = (part * count if count > 1 else 0 for count in (plan.splits, splits))
    return CudaPlan(plan.format, tile, splits, plan.packed_bytes, plan.workspace_bytes - before + after)


@pytest.mark.parametrize("splits", [1, 2, 5])
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("kernel", ["polynomial", "gaussian"])
def test_every_tile(kernel: str, tile: int, splits: int) -> None:
    """Several tiles in both directions, the last ones not full; some parts of the sum may be empty."""
    for dtype in DTYPES:
        case, expected = tile_case(kernel, dtype)
        for place, how in itertools.product(places(), hows(dtype, pitch=4)):
            plan = cut(prepare(place, case, TINY, how)[1], case, tile, splits)
            assert_close(run(place, case, TINY, how, plan), expected, dtype, place.name, precision=how.math)


@lru_cache
def tile_case(kernel: str, dtype: str) -> tuple[Case, Any]:
    """A case for every tile, and the oracle's output."""
    case = make_case(kernel, dtype, (2, 20, 9, 8), 139, (2, 2), pads=(1, 0, 0, 1))
    return case, oracle(case)


def test_every_tile_is_chosen() -> None:
    """For ResNet's layers, MobileNet's, and ResNeXt's, on the devices that matter; whole and split."""
    layers = (
        (64, 56, 64, 3, 1), (128, 28, 128, 3, 1), (256, 14, 256, 3, 1), (512, 7, 512, 3, 1), (64, 56, 256, 1, 1),
        (96, 28, 96, 3, 96), (128, 28, 128, 3, 32), (16, 6, 8, 1, 1),
    )  # fmt: skip
    place = places()[0]
    for dtype, math in (("float32", "float32"), ("float32", "tf32"), ("float16", "float32")):
        taken = set()
        for batch, (channels, size, filters, window, group) in itertools.product((1, 32), layers):
            options = {"pads": (window // 2,) * 4, "group": group}
            case = large_case((batch, channels, size, size), filters, (window, window), options)
            case.x = np.broadcast_to(np.zeros(1, dtype), case.x.shape)
            for device in place.devices:
                plan = prepare(place, case, device, How("nhwc", math))[1]
                taken |= {("tile", plan.tile), ("split", plan.splits > 1)}
        assert taken == {("tile", tile) for tile in (GROUPS, *TILES)} | {("split", True), ("split", False)}, math


@settings(max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    case=cases(KERNELS, st.integers(1, 19), st.integers(1, 40)),
    how=st.builds(
        How, st.sampled_from(LAYOUTS), st.sampled_from(("float32", "tf32")), st.sampled_from((1, 4, 8, 16)),
        st.just(float("nan")),
    ),
    device=st.sampled_from([*DEVICES, 0]),
)  # fmt: skip
def test_any_shape(case: Case, how: How, device: int) -> None:
    expected = oracle(case)
    for place in places():
        actual = run(place, case, DEVICES.get(device, TINY), how)
        assert_close(actual, expected, case.x.dtype, place.name, precision=how.math)


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5, 7, 8, 11])
def test_degrees(degree: int) -> None:
    case = make_case("polynomial", "float32", (1, 2, 4, 5), 3, (2, 2), degree=degree, per_channel=False, bias=False)
    case.w *= 0.5
    for place in places():
        assert_close(run(place, case, TINY, How()), oracle(case), np.float32, place.name)


@pytest.mark.parametrize("splits", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_layouts_agree_to_the_bit(kernel: str, splits: bool) -> None:
    channels = 128 if splits else 8
    for dtype, place in itertools.product(DTYPES, places()):
        case = make_case(kernel, dtype, (2, channels, 5, 6), 9, (3, 3), pads=(1, 1, 1, 1))
        for math in ("float32", "tf32"):
            ways = [How(layout, math) for layout in LAYOUTS]
            assert all((prepare(place, case, DEVICES[90], how)[1].splits > 1) == splits for how in ways)
            first, second = (run(place, case, DEVICES[90], how) for how in ways)
            np.testing.assert_array_equal(first, second)


def test_empty_batch() -> None:
    for place, how in itertools.product(places(), hows("float32")):
        case = make_case("gaussian", "float32", (0, 3, 5, 6), 4, (3, 3))
        assert run(place, case, TINY, how).shape == (0, 4, 3, 4)


# What makes a kernel take another path: x shape, filters, attributes. All 3 x 3, which kernel_checks count on.
FORMS: dict[str, tuple[tuple[int, int, int, int], int, int, Device]] = {
    "whole": ((1, 20, 6, 7), 9, 1, TINY),
    "split": ((1, 128, 6, 7), 9, 1, DEVICES[90]),
    "groups": ((1, 6, 6, 7), 6, 6, TINY),
    "unrolled": ((1, 3, 6, 7), 9, 1, TINY),
}


def form_case(form: str, kernel: str, dtype: str = "float32", **options: Any) -> Case:
    """A case that takes that path."""
    x_shape, filters, group, _ = FORMS[form]
    return make_case(kernel, dtype, x_shape, filters, (3, 3), pads=(1, 1, 1, 1), group=group, **options)


def checked(form: str, dtype: str = "float32") -> Iterator[tuple[Any, tuple[str, ...], dict[str, str]]]:
    """Libraries for kernel_checks, and options of cases that say which tolerance holds."""
    for place, how in itertools.product(places(), hows(dtype)):
        library = Checked(place, FORMS[form][3], how)
        yield cast(Library, library), library.isas, {"precision": how.math}


def test_forms_are_what_they_are_called() -> None:
    for form, dtype in itertools.product(FORMS, DTYPES):
        for how in hows(dtype):
            plan = prepare(places()[0], form_case(form, "gaussian", dtype), FORMS[form][3], how)[1]
            assert (plan.tile == GROUPS) == (form == "groups")
            assert (plan.splits > 1) == (form == "split"), (dtype, how)


@pytest.mark.parametrize("where", ["x", "w", "bias"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_nan_reaches_the_output(kernel: str, form: str, dtype: str, where: str) -> None:
    for library, isas, options in checked(form, dtype):
        check_nan(library, isas, lambda **more: form_case(form, kernel, dtype, **more, **options), where)  # noqa: B023


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("infinity", [np.inf, -np.inf])
def test_infinity_is_plain_arithmetic(kernel: str, form: str, infinity: float) -> None:
    for library, isas, options in checked(form):
        check_infinity(library, isas, lambda **more: form_case(form, kernel, **more, **options), infinity)  # noqa: B023


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("outlier", OUTLIERS)
def test_an_outlier_spoils_no_neighbour(kernel: str, form: str, outlier: float) -> None:
    for library, isas, options in checked(form):
        check_outlier(library, isas, lambda **more: form_case(form, kernel, **more, **options), outlier)  # noqa: B023


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", SIZES)
def test_magnitudes(kernel: str, form: str, size: float) -> None:
    for library, isas, options in checked(form):
        check_magnitudes(library, isas, lambda **more: form_case(form, kernel, **more, **options), size)  # noqa: B023


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", SQUARES)
def test_offsets_do_not_cancel(kernel: str, form: str) -> None:
    """In TF32, too: differences are taken from the factors as they are."""
    for library, isas, _ in checked(form):
        check_offsets(library, isas, lambda **more: form_case(form, kernel, **more))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", ["many filters", "many filters, deep", "few filters", "aligned groups", "stem"])
def test_offsets_do_not_cancel_in_float16(shape: str, layout: str, device: int) -> None:
    x_shape, filters, window, attributes = SHAPES[shape]
    case = make_case("euclidean", "float16", x_shape, filters, window, **{**attributes, "pads": (0, 0, 0, 0)})
    case.x, case.w = case.x + np.float16(20), case.w + np.float16(20)
    for place, where in itertools.product(places(), (DEVICES[device], TINY)):
        assert_close(run(place, case, where, How(layout)), oracle(case), np.float16, place.name)


@pytest.mark.parametrize("kernel", SQUARES)
def test_infinite_filters_and_inputs_are_infinitely_far(kernel: str) -> None:
    """Not at inf - inf, whichever form computes it."""
    for form, dtype in itertools.product(FORMS, DTYPES):
        case = form_case(form, kernel, dtype, bias=False)
        case.x[:, :, 2, 3], case.w[0] = np.inf, np.inf
        for place, how in itertools.product(places(), hows(dtype)):
            y = run(place, case, FORMS[form][3], how)
            np.testing.assert_array_equal(y[:, 0], np.full_like(y[:, 0], -np.inf if kernel == "euclidean" else 0))
            assert not np.isnan(y).any()


@pytest.mark.parametrize("kernel", SQUARES)
def test_equal_patches_and_filters_have_no_distance(kernel: str) -> None:
    """Clamped at 0, and in TF32 the distance of what the factors are rounded to."""
    generator = np.random.default_rng(3)
    x = generator.standard_normal((1, 32, 3, 3)).astype(np.float32)
    w = np.concatenate([x, -x, generator.standard_normal(x.shape).astype(np.float32)])
    case = Case(kernel, x, w, scale=np.ones(1, np.float32))
    for place, how in itertools.product(places(), hows("float32")):
        y = run(place, case, TINY, how)[0, :, 0, 0]
        best = 0.0 if kernel == "euclidean" else 1.0
        assert best - 1e-3 <= y[0] <= best, how
        assert (y[1:] < best - 0.5).all()


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"x_shape": (1024, 64, 256, 128)}, {}, r"tensors of fewer than 2\^31 elements: X has 1024 x 64 x 256 x 128"),
    ({"x_shape": (1, 1, 30000, 30000), "filters": 3}, {}, r"2\^31 elements: Y has 1 x 3 x 29998 x 29998"),
    ({"x_shape": (1, 1 << 20, 3, 3), "filters": 1 << 10}, {}, r"2\^31 elements: W has 1024 x 1048576 x 3 x 3"),
    ({"x_shape": (1, 1, 1 << 30, 1), "window": (1, 1), "strides": (1 << 20, 1)}, {}, r"fewer than 2\^30 rows"),
    ({"x_shape": (1, 1, 40000, 40000), "window": (1, 5), "strides": (1000, 1)}, {}, "pieces of 16 bytes of X"),
]


@pytest.mark.parametrize(("shape", "attributes", "message"), REFUSED)
def test_what_cannot_be_counted_is_refused(shape: dict[str, Any], attributes: dict[str, Any], message: str) -> None:
    options = {"filters": 1, "window": (3, 3), "strides": (1, 1), **shape}
    case = large_case(options["x_shape"], options["filters"], options["window"], {"strides": options["strides"]})
    for place, layout in itertools.product(places(), LAYOUTS):
        with pytest.raises(ValueError, match=message):
            prepare(place, case, DEVICES[90], How(layout, pitch=1, **attributes))


def test_formats_that_do_not_fit_are_refused() -> None:
    case = make_case("gaussian", "float32", (1, 5, 4, 4), 6, (3, 3))
    for place in places():
        plan = prepare(place, case, TINY, How("nhwc"))[1]
        for layout, math, x_pitch, y_pitch, message in (
            (7, 0, 8, 8, "layout 7 is neither"),
            (1, 9, 8, 8, "arithmetic 9 is neither"),
            (1, 0, 4, 8, "pixels of 4 and 8 elements cannot hold 5 input and 6 output channels"),
            (1, 0, 8, 5, "pixels of 8 and 5 elements cannot hold 5 input and 6 output channels"),
        ):
            form = plan.format
            form.layout, form.math, form.x_channel_pitch, form.y_channel_pitch = layout, math, x_pitch, y_pitch
            with pytest.raises(ValueError, match=message):
                plan_with(place, case, form)
    case.degree, case.kernel = 0, "polynomial"
    with pytest.raises(ValueError, match="degree is 0, and must be at least 1"):
        prepare(places()[0], case, TINY, How())


def plan_with(place: Place, case: Case, form: Any) -> None:
    """Plan in a format that `prepare` would not write."""
    from cuda_kervolution import call

    params = prepare(place, case, TINY, How())[0]
    pointers = (ctypes.byref(value) for value in (params, form, TINY, CudaPlan()))
    call(place, "edgeconv_kervolution_cuda_plan", *pointers)


def sweep() -> None:
    """Every shape once, with one kernel of each kind: what the runs below do in another process."""
    for index, shape in enumerate(SHAPES):
        for kernel, dtype in zip(("sigmoid", "euclidean"), (DTYPES[index % 2], DTYPES[1 - index % 2]), strict=True):
            case, expected = expected_of(kernel, shape, dtype)
            for how in how_of(shape, dtype):
                actual = run(places()[0], case, (TINY, DEVICES[90])[how.layout == "nchw"], how)
                assert_close(actual, expected, dtype, shape, precision=how.math)


@pytest.mark.parametrize("seed", [0, 7])
def test_threads_in_any_order(seed: int) -> None:
    """As they are numbered, and in another order than the tests above."""
    sweep_elsewhere(__file__, simt_library(), EDGECONV_SIMT_SEED=str(seed))


def test_nothing_beyond_the_memory() -> None:
    """Every buffer is as large as it is said to be, and no larger."""
    sweep_under_address_sanitizer(__file__)
