"""The CPU kernels against a float64 loop, on every instruction set of this machine, with nothing but memory."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_checks import (
    LARGE_SHAPES,
    OUTLIERS,
    SIZES,
    cases,
    check,
    check_infinity,
    check_magnitudes,
    check_nan,
    check_offsets,
    check_order_of_tasks,
    check_outlier,
    large_case,
)
from native_kernels import ALGORITHMS, KERNELS, Case, Library, make_case, oracle

# x shape, filters, window, attributes
SHAPES: dict[str, tuple[tuple[int, int, int, int], int, tuple[int, int], dict[str, Any]]] = {
    "same": ((2, 5, 9, 13), 7, (3, 3), {"pads": (1, 1, 1, 1)}),
    "grouped": ((1, 6, 11, 7), 9, (3, 2), {"pads": (0, 2, 1, 0), "strides": (2, 1), "group": 3}),
    "depthwise": (
        (3, 4, 17, 20),
        4,
        (3, 3),
        {"pads": (2, 1, 0, 3), "strides": (1, 2), "dilations": (2, 3), "group": 4},
    ),
    "multiplier": ((1, 3, 8, 9), 18, (3, 3), {"pads": (1, 1, 1, 1), "group": 3}),
    "stem": ((1, 3, 30, 33), 17, (7, 7), {"pads": (3, 3, 3, 3), "strides": (2, 2)}),
    "several blocks of taps": ((1, 40, 7, 7), 33, (3, 3), {"pads": (1, 1, 1, 1)}),
    "vector left": ((1, 5, 2, 8), 9, (1, 1), {}),
    "narrow rest": ((1, 9, 5, 13), 11, (1, 1), {}),
    "pointwise, several blocks": ((1, 300, 3, 5), 10, (1, 1), {}),
    "kernel larger than input": ((1, 2, 3, 3), 3, (5, 4), {"pads": (2, 2, 2, 2)}),
    "one long row": ((1, 1, 3, 900), 2, (1, 5), {"pads": (0, 2, 0, 2)}),
    "large window": ((1, 2, 20, 20), 2, (17, 18), {"pads": (2, 2, 2, 2)}),
    "wide dilation": ((1, 3, 40, 6), 2, (3, 3), {"pads": (8, 8, 8, 8), "dilations": (8, 7), "strides": (3, 5)}),
    "padding only": ((1, 3, 4, 6), 2, (3, 3), {"pads": (9, 9, 9, 9)}),
    "many filters": ((1, 3, 6, 7), 300, (3, 3), {"pads": (1, 1, 1, 1)}),
    "patches": ((1, 2, 12, 13), 3, (4, 4), {"strides": (4, 4)}),
    "phases": ((1, 2, 25, 12), 3, (5, 1), {"strides": (2, 1), "dilations": (2, 1)}),
    "odd phases": ((1, 2, 25, 12), 3, (5, 1), {"strides": (2, 3), "dilations": (3, 1)}),
    "stride 2, long rows": ((1, 2, 5, 150), 5, (3, 3), {"strides": (2, 2), "pads": (1, 1, 0, 1)}),
    "winograd": ((2, 17, 9, 12), 21, (3, 3), {"pads": (1, 1, 1, 1)}),
    "winograd, odd": ((1, 70, 7, 7), 45, (3, 3), {"pads": (0, 2, 3, 1)}),
    "winograd, groups": ((2, 48, 6, 5), 32, (3, 3), {"pads": (1, 1, 1, 1), "group": 2}),
    "winograd, several blocks": ((1, 16, 70, 37), 18, (3, 3), {}),
    "winograd, pieces of rows": ((1, 600, 3, 75), 17, (3, 3), {"pads": (1, 1, 1, 1)}),
    "winograd, one row": ((1, 16, 1, 40), 16, (3, 3), {"pads": (1, 1, 1, 1)}),
    "depthwise, stride 2": ((2, 6, 21, 19), 6, (3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1), "group": 6}),
    "depthwise, large": ((1, 3, 90, 160), 6, (5, 3), {"pads": (2, 1, 2, 1), "group": 3}),
    "depthwise, wide dilation": ((1, 2, 60, 30), 2, (2, 2), {"dilations": (50, 25), "strides": (3, 4), "group": 2}),
    "one position": ((2, 5, 3, 4), 9, (3, 4), {}),
    "empty batch": ((0, 3, 4, 6), 2, (3, 3), {}),
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_loop(library: Library, shape: str, kernel: str, dtype: str) -> None:
    x_shape, filters, window, attributes = SHAPES[shape]
    check(library, make_case(kernel, dtype, x_shape, filters, window, **attributes))


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5, 7, 8, 11])
def test_degrees(library: Library, degree: int) -> None:
    case = make_case("polynomial", "float32", (1, 2, 4, 5), 3, (2, 2), degree=degree, per_channel=False, bias=False)
    case.w *= 0.5
    check(library, case)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=cases(KERNELS, st.sampled_from([1, 2, 3, 5]) | st.integers(1, 70), st.integers(1, 19)))
def test_any_configuration(library: Library, case: Case) -> None:
    check(library, case)


@pytest.mark.parametrize("kernel", KERNELS)
def test_float16_is_float32_rounded_once(library: Library, kernel: str) -> None:
    half = make_case(kernel, "float16", (1, 7, 5, 9), 5, (3, 3), pads=(1, 1, 1, 1))
    assert half.bias is not None
    single = Case(**{**vars(half), **{name: getattr(half, name).astype(np.float32) for name in ("x", "w", "bias")}})
    for isa in library.isas:
        rounded = library.run(single, isa).astype(np.float16)
        np.testing.assert_array_equal(library.run(half, isa), rounded, isa)


def test_every_float16_converts(library: Library) -> None:
    """All 65536 halves in and out, through a pointwise filter of 1: subnormals, infinities and NaN included."""
    x = np.arange(65536, dtype=np.uint16).view(np.float16).reshape(1, 1, 256, 256)
    case = Case("polynomial", x, np.ones((1, 1, 1, 1), np.float16), None, balance=np.float32([0]), degree=1)
    for isa in library.isas:
        np.testing.assert_array_equal(library.run(case, isa), x, isa)


def test_float32_rounds_to_nearest_even_half(library: Library) -> None:
    """Sums that lie between two halves, above the largest, and among the subnormals."""
    generator = np.random.default_rng(5)
    low = generator.standard_normal((1, 1, 1, 5000)) * 2.0 ** generator.integers(-26, 17, (1, 1, 1, 5000))
    with np.errstate(over="ignore"):
        x = np.concatenate([low, low * 2.0**-11], 1).astype(np.float16)
    case = Case("polynomial", x, np.ones((1, 2, 1, 1), np.float16), None, balance=np.float32([0]), degree=1)
    with np.errstate(over="ignore"):
        expected = (x[:, :1].astype(np.float32) + x[:, 1:].astype(np.float32)).astype(np.float16)
    for isa in library.isas:
        np.testing.assert_array_equal(library.run(case, isa), expected, isa)


def ulps(actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    spacing = np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)
    return float(np.max(np.abs(actual.astype(np.float64) - expected) / spacing))


def test_exponential_is_accurate(library: Library) -> None:
    gamma = np.concatenate([np.linspace(-88.7, 110, 20011), np.geomspace(1e-9, 1, 999)]).astype(np.float32)
    w = np.zeros((gamma.size, 1, 1, 1), np.float32)
    case = Case("gaussian", np.ones((1, 1, 1, 1), np.float32), w, scale=gamma)
    for isa in library.isas:
        assert ulps(library.run(case, isa).ravel(), np.exp(-gamma.astype(np.float64))) <= 2, isa


def test_tanh_is_accurate(library: Library) -> None:
    x = np.concatenate([np.linspace(-12, 12, 20011), np.geomspace(1e-20, 1, 999), [0, -0.0, 100, -1e30]])
    x = x.astype(np.float32).reshape(1, 1, 1, -1)
    case = Case("sigmoid", x, np.ones((1, 1, 1, 1), np.float32), balance=np.float32([0]), scale=np.float32([1]))
    for isa in library.isas:
        assert ulps(library.run(case, isa), np.tanh(x.astype(np.float64))) <= 2, isa


# x shape, filters, attributes: one for each algorithm in float32
ALGORITHM_SHAPES: dict[str, tuple[tuple[int, int, int, int], int, dict[str, Any]]] = {
    "direct": ((1, 6, 5, 7), 9, {"pads": (1, 1, 1, 1)}),
    "winograd": ((1, 18, 7, 10), 17, {"pads": (1, 1, 1, 1)}),
    "depthwise": ((1, 6, 5, 7), 6, {"pads": (1, 1, 1, 1), "group": 6}),
}


def algorithm_case(algorithm: str, kernel: str, dtype: str = "float32", **options: Any) -> Case:
    x_shape, filters, attributes = ALGORITHM_SHAPES[algorithm]
    return make_case(kernel, dtype, x_shape, filters, (3, 3), **attributes, **options)


@pytest.mark.parametrize("algorithm", ALGORITHM_SHAPES)
def test_each_algorithm_is_chosen(library: Library, algorithm: str) -> None:
    for isa in library.isas:
        assert ALGORITHMS[library.prepare(algorithm_case(algorithm, "polynomial"), isa)[1].algorithm] == algorithm


@pytest.mark.parametrize("where", ["x", "w", "bias"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("algorithm", ALGORITHM_SHAPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_nan_reaches_the_output(library: Library, kernel: str, algorithm: str, dtype: str, where: str) -> None:
    check_nan(library, library.isas, partial(algorithm_case, algorithm, kernel, dtype), where)


@pytest.mark.parametrize("algorithm", ALGORITHM_SHAPES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("infinity", [np.inf, -np.inf])
def test_infinity_is_plain_arithmetic(library: Library, kernel: str, algorithm: str, infinity: float) -> None:
    check_infinity(library, library.isas, partial(algorithm_case, algorithm, kernel), infinity)


@pytest.mark.parametrize("algorithm", ALGORITHM_SHAPES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("outlier", OUTLIERS)
def test_an_outlier_spoils_no_neighbour(library: Library, kernel: str, algorithm: str, outlier: float) -> None:
    check_outlier(library, library.isas, partial(algorithm_case, algorithm, kernel), outlier)


@pytest.mark.parametrize("algorithm", ALGORITHM_SHAPES)
@pytest.mark.parametrize("kernel", ["gaussian", "euclidean", "manhattan", "chebyshev"])
def test_offsets_do_not_cancel(library: Library, kernel: str, algorithm: str) -> None:
    check_offsets(library, library.isas, partial(algorithm_case, algorithm, kernel))


@pytest.mark.parametrize("algorithm", ALGORITHM_SHAPES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", SIZES)
def test_magnitudes(library: Library, kernel: str, algorithm: str, size: float) -> None:
    check_magnitudes(library, library.isas, partial(algorithm_case, algorithm, kernel), size)


def test_winograd_is_nearly_as_exact_as_the_direct_sum(library: Library) -> None:
    """At ResNet's depth, in root mean square; a fourth column of zeros makes the same filters direct."""
    generator = np.random.default_rng(11)
    x = generator.standard_normal((1, 256, 8, 9)).astype(np.float32)
    w = generator.standard_normal((16, 256, 3, 3)).astype(np.float32)
    fast = Case("polynomial", x, w, degree=1, balance=np.float32([0]), pads=(1, 1, 1, 1))
    wide = np.pad(w, ((0, 0), (0, 0), (0, 0), (0, 1)))
    direct = Case("polynomial", x, wide, degree=1, balance=np.float32([0]), pads=(1, 1, 1, 2))
    expected = oracle(fast)
    for isa in library.isas:
        errors = [np.sqrt(np.mean((library.run(case, isa) - expected) ** 2)) for case in (fast, direct)]
        assert errors[0] < 2.5 * errors[1], (isa, errors)


@pytest.mark.parametrize("outlier", [1.0, *OUTLIERS, 3e38])
def test_winograd_keeps_its_bound(library: Library, outlier: float) -> None:
    """12 eps * max|x| * sum|w|, summed over the channels of an output's own inputs, even where w is 0 for the max."""
    case = algorithm_case("winograd", "polynomial", bias=False)
    case.degree, case.balance = 1, np.float32([0])
    case.x[0, 1, 2, 3], case.x[0, 1, 2, 5] = outlier, -outlier
    case.w[:, 1, 0] = 0
    seen = np.pad(np.abs(case.x.astype(np.float64)), ((0, 0), (0, 0), (1, 1), (1, 1)))
    largest = np.lib.stride_tricks.sliding_window_view(seen, (3, 3), (2, 3)).max((4, 5))
    bound = 12 * 2.0**-24 * np.einsum("bchw,mc->bmhw", largest, np.abs(case.w).sum((2, 3)))
    for isa in library.isas:
        error = np.abs(library.run(case, isa) - oracle(case))
        assert (error <= bound).all(), (isa, (error / bound).max())


def test_distance_is_never_negative(library: Library) -> None:
    """Where x equals w, |x|^2 + |w|^2 - 2 x.w may fall below 0 by rounding."""
    w = np.random.default_rng(3).standard_normal((40, 30, 3, 3)).astype(np.float32) * 100
    for kernel, best in (("euclidean", 0.0), ("gaussian", 1.0)):
        case = Case(kernel, w.copy(), w, scale=np.float32([50.0]))
        for isa in library.isas:
            assert library.run(case, isa).max() <= best, isa


@pytest.mark.parametrize("kernel", KERNELS)
def test_tasks_in_any_order_give_the_same_bits(library: Library, kernel: str) -> None:
    case = make_case(kernel, "float32", (2, 6, 45, 40), 140, (3, 3), pads=(1, 1, 1, 1), group=2)
    check_order_of_tasks(library, library.isas, case)


@pytest.mark.parametrize(("x_shape", "filters", "window", "attributes"), LARGE_SHAPES)
def test_memory_is_bounded(library: Library, x_shape: Any, filters: int, window: Any, attributes: Any) -> None:
    case = large_case(x_shape, filters, window, attributes)
    for isa in library.isas:
        packed, scratch = library.memory(case, isa)
        assert scratch <= 2**20, isa
        plan = library.prepare(case, isa)[1]
        rows, taps = plan.tiling.tile_rows, math.prod(case.w.shape[1:])
        padded = math.ceil(filters / rows) * rows
        floats = {"direct": padded * taps, "winograd": padded * taps // 9 * 16, "depthwise": filters * taps}
        assert packed == 4 * (floats[ALGORITHMS[plan.packing]] + filters + 2), isa


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "attributes", "message"),
    [
        ((1, 12, 8, 8), (4, 5, 3, 3), {"group": 2}, "W has 5 channels per group, X has 12 and group is 2: expected 6"),
        ((1, 5, 8, 8), (4, 2, 3, 3), {"group": 2}, "X has 5 channels and group is 2: group must divide them"),
        ((1, 4, 8, 8), (5, 2, 3, 3), {"group": 2}, "W has 5 filters and group is 2: group must divide them"),
        ((1, 4, 8, 8), (4, 4, 3, 3), {"group": 0}, "W has 4 filters and group is 0: group must divide them"),
        ((4, 8, 8), (4, 4, 3, 3), {}, r"X has shape (4, 8, 8): expected rank 4 (N, C, H, W)"),
        ((1, 4, 8, 8), (4, 4, 3), {}, r"W has shape (4, 4, 3): expected rank 4 (M, C/group, kH, kW)"),
        ((1, 4, 8, 8), (4, 4, 0, 3), {}, "W has shape (4, 4, 0, 3): every dimension must be positive"),
        ((1, 4, 8, 8), (4, 4, 3, 3), {"strides": (0, 1)}, "strides are [0, 1]: both must be positive"),
        ((1, 4, 8, 8), (4, 4, 3, 3), {"dilations": (1, -1)}, "dilations are [1, -1]: both must be positive"),
        ((1, 4, 8, 8), (4, 4, 3, 3), {"pads": (0, 0, -1, 0)}, "pads are [0, 0, -1, 0]: none may be negative"),
        (
            (1, 4, 2, 8), (4, 4, 3, 3), {"dilations": (2, 1), "pads": (1, 0, 1, 0)},
            "X has shape (1, 4, 2, 8), pads are [1, 0, 1, 0]: too small for a 3 x 3 kernel with dilations [2, 1]",
        ),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit(library: Library, x_shape: Any, w_shape: Any, attributes: Any, message: str) -> None:
    case = Case("manhattan", np.zeros(x_shape, np.float32), np.zeros(w_shape, np.float32), **attributes)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        library.prepare(case, "baseline")
    assert str(error.value) == message


def test_positions_of_a_manhattan_kervolution_do_not_round_alike(library: Library) -> None:
    """Where w is mostly the larger one, maxima are w everywhere, and long sums of them round alike at every position.

    What is off by the same everywhere does not cancel out in the next layer's sums.
    """
    generator = np.random.default_rng(0)
    x = np.maximum(generator.standard_normal((2, 64, 12, 13)), 0).astype(np.float32)
    w = (3 * generator.standard_normal((16, 64, 3, 3))).astype(np.float32)
    case = Case("manhattan", x, w, pads=(1, 1, 1, 1))
    exact = oracle(case)
    for isa in library.isas:
        error = (library.run(case, isa) - exact) / exact.std()
        assert np.abs(error.mean((0, 2, 3))).max() < 4e-6, isa


def test_unknown_instruction_set(library: Library) -> None:
    case = make_case("manhattan", "float32", (1, 1, 3, 3), 1, (3, 3))
    with pytest.raises(ValueError, match="does not have the instruction set"):
        library.prepare(case, "none")
