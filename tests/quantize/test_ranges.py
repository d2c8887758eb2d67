"""Choice of ranges against brute force and against what is known of distributions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgeconv.quantize.grids import make_grid, quantize
from edgeconv.quantize.histogram import Histogram
from edgeconv.quantize.ranges import METHODS, Method, choose_range

FREE = (-np.inf, np.inf)
U8, S8 = np.dtype("uint8"), np.dtype("int8")


def histogram_of(values: np.ndarray) -> Histogram:
    found = Histogram()
    found.add(values.astype(np.float32))
    return found


def mean_squared_error(values: np.ndarray, low: float, high: float, dtype: np.dtype, symmetric: bool) -> float:
    grid = make_grid(low, high, dtype, symmetric=symmetric)
    return float(np.mean((grid.dequantize(quantize(values.astype(np.float32), grid)) - values) ** 2))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", ["normal", "outliers", "relu", "negative"])
def test_mse_is_as_good_as_the_best_of_a_net(name: str, symmetric: bool) -> None:
    generator = np.random.default_rng(5)
    values = generator.standard_normal(40_000)
    if name == "outliers":
        values[:40] *= 15
    if name == "relu":
        values = np.maximum(values, 0)
    if name == "negative":
        values = -np.abs(values) * 0.1 + 0.02
    dtype = S8 if symmetric else U8
    chosen = choose_range(histogram_of(values), FREE, "mse", dtype, symmetric=symmetric)
    shares = np.linspace(0.05, 1, 39)
    best = min(
        mean_squared_error(values, values.min() * a, values.max() * b, dtype, symmetric)
        for a, b in itertools.product(shares, shares)
    )
    assert mean_squared_error(values, *chosen, dtype, symmetric) <= 1.01 * best


def test_percentile_leaves_out_its_share() -> None:
    values = np.random.default_rng(6).standard_normal(100_000)
    low, high = choose_range(histogram_of(values), FREE, "percentile", U8, symmetric=False, percentile=99.0)
    assert np.mean((values < low) | (values > high)) == pytest.approx(0.01, abs=0.001)
    assert np.mean(values < low) == pytest.approx(0.005, abs=0.001)


def test_entropy_cuts_outliers_and_keeps_the_bulk() -> None:
    values = np.random.default_rng(7).standard_normal(200_000)
    values[:4] = [40, -40, 35, 30]
    low, high = choose_range(histogram_of(values), FREE, "entropy", S8, symmetric=True)
    assert 2.5 < high < 15
    assert 2.5 < -low < 15


@pytest.mark.parametrize("method", METHODS)
def test_the_range_stays_within_what_was_seen(method: Method) -> None:
    values = np.random.default_rng(8).uniform(-1, 2, 5000)
    low, high = choose_range(histogram_of(values), FREE, method, U8, symmetric=False)
    assert values.min() - 1e-6 <= low < high <= values.max() + 1e-6


def test_bounds_are_known_without_calibration() -> None:
    seen = histogram_of(np.linspace(0, 2.5, 100))
    assert choose_range(seen, (0.0, 6.0), "minmax", U8, symmetric=False) == (0, 6)
    assert choose_range(seen, (0.0, np.inf), "minmax", U8, symmetric=False) == (0, 2.5)
    assert choose_range(seen, FREE, "minmax", U8, symmetric=False) == (0, 2.5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_a_constant_tensor_has_a_grid(method: Method, value: float) -> None:
    seen = histogram_of(np.full(10, value))
    low, high = choose_range(seen, FREE, method, U8, symmetric=False)
    grid = make_grid(low, high, U8, symmetric=False)
    assert grid.dequantize(quantize(np.float32([value]), grid))[0] == pytest.approx(value, rel=1e-3)
