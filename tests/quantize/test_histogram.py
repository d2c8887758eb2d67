"""The growing histogram against one made of all values at once."""

from __future__ import annotations

import numpy as np
import pytest

from edgeconv.quantize.histogram import BINS, Histogram


def whole(values: np.ndarray, limit: float) -> np.ndarray:
    """Counts over [-limit, limit) by numpy; values on an edge are in the bin above."""
    return np.histogram(values.astype(np.float64), 2 * BINS, (-limit, limit))[0]


@pytest.mark.parametrize("order", [1, -1])
def test_growth_is_exact(order: int) -> None:
    generator = np.random.default_rng(0)
    # Multiples of a power of two lie in the same bin whether the position is computed in float32 or float64.
    parts = [np.round(generator.normal(0, s, 5000) * 4096).astype(np.float32) / 4096 for s in (0.1, 1, 3, 20)][::order]
    histogram = Histogram()
    for part in parts:
        histogram.add(part.reshape(50, 100))
    values = np.concatenate(parts)
    assert (histogram.low, histogram.high) == (values.min(), values.max())
    assert histogram.limit == 2.0 ** (np.floor(np.log2(np.abs(values).max())) + 1)
    assert np.array_equal(histogram.counts, whole(values, histogram.limit))


@pytest.mark.parametrize(("first", "second"), [(0.01, 5.0), (5.0, 0.01), (1.0, 1.0)])
def test_merging_is_adding(first: float, second: float) -> None:
    generator = np.random.default_rng(3)
    a, b = (np.round(generator.normal(0.2, s, 3000) * 65536).astype(np.float32) / 65536 for s in (first, second))
    one, two, both = Histogram(), Histogram(), Histogram()
    one.add(a)
    two.add(b)
    both.add(a)
    both.add(b)
    before = two.counts.copy()
    one.merge(two)
    assert one.limit == both.limit
    assert np.array_equal(one.counts, both.counts)
    assert (one.low, one.high) == (both.low, both.high)
    assert np.array_equal(two.counts, before)


def test_zeros_alone_and_nothing_at_all() -> None:
    histogram = Histogram()
    histogram.merge(Histogram())
    assert histogram.quantile(0.99) == (0, 0)
    histogram.add(np.zeros(7, np.float32))
    assert histogram.counts.sum() == 7
    histogram.add(np.float32([[3.0, -1.0]]))
    assert histogram.counts.sum() == 9
    assert (histogram.low, histogram.high) == (-1, 3)


def test_quantiles() -> None:
    values = np.random.default_rng(1).normal(0, 1, 200_000).astype(np.float32)
    histogram = Histogram()
    histogram.add(values)
    for share in (0.5, 0.99, 0.9999):
        low, high = histogram.quantile(share)
        tail = (1 - share) / 2
        within = histogram.width  # a bin's values are not told apart
        assert np.mean(values < low) <= tail + 1e-9 <= np.mean(values < low + within) + 1e-5, share
        assert np.mean(values > high) <= tail + 1e-9 <= np.mean(values > high - within) + 1e-5, share
    assert histogram.quantile(1.0) == (histogram.low, histogram.high)
