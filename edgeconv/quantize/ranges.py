"""The range of a tensor's values that 255 steps are spread over: what lies beyond saturates.

A wide range has coarse steps, a narrow one cuts off more; the methods weigh that differently:

    minmax      all that was seen (or all that is possible, where an activation bounds it)
    percentile  all but a share of the values, half of it at each end
    mse         the least mean squared error of the values that come out
    entropy     the least Kullback-Leibler divergence of their distribution (Migacz, "8-bit inference with TensorRT",
                GTC 2017)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgeconv.quantize.grids import make_grid
from edgeconv.quantize.histogram import Histogram
from edgeconv.rewrite.qdq import Quantization

Method = Literal["minmax", "percentile", "mse", "entropy"]
METHODS: tuple[str, ...] = get_args(Method)

Bounds = tuple[float, float]

PERCENTILE = 99.99
_CANDIDATES = 96
_SWEEPS = 4
_LEVELS = 128
_GROUPS = 2048


def choose_grid(
    histogram: Histogram,
    bounds: Bounds,
    method: Method,
    dtype: np.dtype[Any],
    *,
    symmetric: bool,
    percentile: float = PERCENTILE,
) -> Quantization:
    """Choose the grid of a tensor.

    Args:
        histogram: Of its values.
        bounds: What an activation holds it to; infinite where nothing does.
        method: One of `METHODS`.
        dtype: uint8 or int8.
        symmetric: Whether the zero-point must be 0.
        percentile: Share of the values that the range of that method holds, in percent.
    """
    low, high = choose_range(histogram, bounds, method, dtype, symmetric=symmetric, percentile=percentile)
    return make_grid(low, high, dtype, symmetric=symmetric)


def choose_range(
    histogram: Histogram,
    bounds: Bounds,
    method: Method,
    dtype: np.dtype[Any],
    *,
    symmetric: bool,
    percentile: float = PERCENTILE,
) -> Bounds:
    """Return the range of `choose_grid`."""
    seen = (histogram.low, histogram.high) if histogram.counts.any() else (0.0, 0.0)
    if method == "minmax":
        # What an activation bounds on both sides is known without calibration.
        return bounds if np.isfinite(bounds).all() else seen
    if seen[0] == seen[1] or histogram.limit == 0:
        return seen
    if method == "percentile":
        return histogram.quantile(percentile / 100)
    if method == "entropy":
        return _least_divergence(histogram)
    return _least_error(histogram, dtype, symmetric=symmetric)


def squared_error(centres: NDArray[np.float64], counts: NDArray[np.float64], grid: Quantization) -> float:
    """Return the sum of squared errors that a grid makes of values at bin centres."""
    limits = np.iinfo(grid.zero_point.dtype)
    scale, zero_point = float(grid.scale), int(grid.zero_point)
    steps = np.clip(np.rint(centres / scale), limits.min - zero_point, limits.max - zero_point)
    return float(np.dot(counts, (steps * scale - centres) ** 2))


def _least_error(histogram: Histogram, dtype: np.dtype[Any], *, symmetric: bool) -> Bounds:
    """Search one end at a time over shares of what was seen, from coarse to fine."""
    centres, counts = histogram.filled()
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)

    def error(bottom: float, top: float) -> float:
        return squared_error(centres, counts, make_grid(bottom, top, dtype, symmetric=symmetric))

    if symmetric:
        magnitude = max(-low, high)
        best = _search(lambda t: error(-t, t), magnitude)
        return max(low, -best), min(high, best)
    bottom, top = low, high
    for _ in range(_SWEEPS):
        before = (bottom, top)
        if high > 0:
            top = _search(lambda t, b=bottom: error(b, t), high)  # type: ignore[misc]
        if low < 0:
            bottom = -_search(lambda t, e=top: error(-t, e), -low)  # type: ignore[misc]
        if (bottom, top) == before:
            break
    return bottom, top


def _search(error: Callable[[float], float], most: float) -> float:
    """Return the argument in (0, most] of the least error: on a coarse net, then on a fine one around the best."""
    net = most * np.arange(1, _CANDIDATES + 1) / _CANDIDATES
    best = int(np.argmin([error(float(value)) for value in net]))
    start, stop = net[max(best - 1, 0)], net[min(best + 1, _CANDIDATES - 1)]
    fine = np.linspace(start, stop, _CANDIDATES // 4)
    candidates = np.append(fine, net[best])
    return float(candidates[int(np.argmin([error(float(value)) for value in candidates]))])


def _least_divergence(histogram: Histogram) -> Bounds:
    """Compare the distribution of magnitudes, cut at a threshold, with itself in 128 levels, for every threshold."""
    centres, counts = histogram.filled()
    most = max(-histogram.low, histogram.high)
    magnitudes = np.histogram(np.abs(centres), _GROUPS, (0.0, most), weights=counts)[0]
    magnitudes[0] = magnitudes[1]  # an activation's zeros, exact on every grid, would outweigh all else
    best, threshold = np.inf, _GROUPS
    for cut in range(_LEVELS, _GROUPS + 1, 8):
        reference = magnitudes[:cut].copy()
        inside = reference.copy()
        reference[-1] += magnitudes[cut:].sum()
        # Each level spreads its count evenly over those of its bins that hold anything.
        levels = np.minimum(np.arange(cut) * _LEVELS // cut, _LEVELS - 1)
        filled = inside > 0
        sums = np.bincount(levels, inside, _LEVELS)
        sizes = np.bincount(levels, filled, _LEVELS)
        spread = np.where(filled, (sums / np.maximum(sizes, 1))[levels], 0.0)
        divergence = _divergence(reference, spread)
        if divergence < best:
            best, threshold = divergence, cut
    limit = most * threshold / _GROUPS
    return max(histogram.low, -limit), min(histogram.high, limit)


def _divergence(reference: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    p, q = reference / max(reference.sum(), 1e-300), other / max(other.sum(), 1e-300)
    # Where only the reference has anything, a little is taken for what the other has.
    present = p > 0
    return float(np.sum(p[present] * np.log(p[present] / np.maximum(q[present], 1e-9))))
