"""Rounding of weights that looks at the inputs: what errors of single weights do to the layer's output may cancel.

With Δ = Ŵ - W of a filter and x its patch, the mean squared error of the output, its mean apart, is Δᵀ·C·Δ, where C is
the covariance of the patches; the mean is left to bias correction. Rounding each weight to the nearest step minimises
only the diagonal part. From there, one weight of each filter at a time is moved by one step (in small filters two
together, too), always where it lowers the error most, until nothing does. It is the quadratic problem of Nagel et al.,
"Up or down? Adaptive rounding for post-training quantization", ICML 2020, section 3.2, solved by descent over
coordinates: no torch, seconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

DAMPING = 0.01
"""Added to C's diagonal, times its mean: directions in which the calibration images do not move count a little."""
SAMPLES = 8192
"""Patches that C is estimated from."""
GROUPED_SAMPLES = 2048
"""The same where each group of channels has a C of its own: those are small, and many."""
_MOVES = 4
"""Moves a weight, on average, at most."""
_PAIRS = 64
"""Filters of at most so many weights are improved by moving two at a time as well: a depthwise filter has few, and one
move alone often makes up for no other."""


def patch_covariance(
    x: Array,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    dilations: tuple[int, int],
    group: int,
    *,
    seed: int = 0,
    samples: int | None = None,
) -> NDArray[np.float64]:
    """Return the covariance of the patches that a Conv sees, at random places.

    Args:
        x: (N, C, H, W).
        kernel: (kH, kW).
        strides: Of the Conv.
        pads: top, left, bottom, right.
        dilations: Of the Conv.
        group: Of the Conv.
        seed: Of the places.
        samples: How many places; by default `SAMPLES`, or `GROUPED_SAMPLES` with groups.

    Returns:
        (group, K, K) with K = C/group·kH·kW.
    """
    count, _, height, width = x.shape
    top, left, bottom, right = pads
    rows = (height + top + bottom - dilations[0] * (kernel[0] - 1) - 1) // strides[0] + 1
    columns = (width + left + right - dilations[1] * (kernel[1] - 1) - 1) // strides[1] + 1
    generator = np.random.default_rng(seed)
    total = count * rows * columns
    samples = (SAMPLES if group == 1 else GROUPED_SAMPLES) if samples is None else samples
    picked = generator.choice(total, min(total, samples), replace=False)
    image, place = np.divmod(picked, rows * columns)
    row, column = np.divmod(place, columns)
    taps = []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            r = row * strides[0] + i * dilations[0] - top
            c = column * strides[1] + j * dilations[1] - left
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            values = x[image, :, np.clip(r, 0, height - 1), np.clip(c, 0, width - 1)]
            values[~inside] = 0
            taps.append(values)
    # (samples, taps, C) to (group, samples, C/group·taps), channel by channel as the weights lie.
    patches = np.stack(taps, 2).reshape(len(picked), group, -1).transpose(1, 0, 2)
    return covariance(patches)


def covariance(patches: Array) -> NDArray[np.float64]:
    """Return the covariance of (group, samples, K), each (K, K)."""
    centred = patches - patches.mean(1, keepdims=True)
    product = np.matmul(centred.transpose(0, 2, 1), centred)
    return np.asarray(product / max(patches.shape[1], 1), np.float64)


def round_weights(
    weights: Array, scale: Array, start: NDArray[np.int8], moments: NDArray[np.float64]
) -> NDArray[np.int8]:
    """Move the rounding of filters to where their error at the output is least.

    Args:
        weights: (M, K), real.
        scale: (M), the steps.
        start: (M, K), rounded to the nearest.
        moments: (group, K, K), the covariance of the patches.

    Returns:
        (M, K), each within one step of the real weight and within -127 … 127.
    """
    filters, size = weights.shape
    groups = len(moments)
    diagonal = np.einsum("gkk->gk", moments)
    damped = moments + DAMPING * np.maximum(diagonal.mean(1), 1e-30)[:, None, None] * np.eye(size)
    real = weights.astype(np.float64) / scale.astype(np.float64)[:, None]
    values = start.astype(np.float64)
    result = np.empty_like(start)
    each = filters // groups
    if each == 1:  # depthwise: one filter a matrix
        result[:] = _descend(real, values, damped)
        return result
    for group in range(groups):
        part = slice(group * each, (group + 1) * each)
        result[part] = _descend(real[part], values[part], damped[group][None])
    return result


def _descend(real: Array, values: Array, moments: Array) -> Array:
    """Lower Δᵀ·C·Δ of every filter at once, in units of its step. `moments` is (M, K, K) or (1, K, K)."""
    filters, size = real.shape
    values = values.copy()
    delta = values - real
    shared = len(moments) == 1
    gradient = delta @ moments[0] if shared else np.einsum("mk,mkl->ml", delta, moments)
    diagonal = np.broadcast_to(np.einsum("gkk->gk", moments), (filters, size))
    least = -1e-12 * diagonal.max(1)
    rows = np.arange(filters)
    for _ in range(_MOVES * size):
        # A move stays within one step of the real weight: up from below, down from above.
        sign = np.where(delta[rows] <= 0, 1.0, -1.0)
        gain = 2 * sign * gradient[rows] + diagonal[rows]
        gain[np.abs(values[rows] + sign) > 127] = np.inf
        first = gain.argmin(1)
        second, lowest = first, gain[np.arange(len(rows)), first]
        if size <= _PAIRS:
            first, second, lowest = _best_pair(gain, sign, moments if shared else moments[rows], first, lowest)
        better = lowest < least[rows]
        rows, first, second, sign = rows[better], first[better], second[better], sign[better]
        if not rows.size:
            break
        for index in (first, np.where(second == first, -1, second)):
            moved = index >= 0
            where, which = rows[moved], index[moved]
            step = sign[moved, which]
            values[where, which] += step
            delta[where, which] += step
            gradient[where] += step[:, None] * (moments[0][which] if shared else moments[where, which])
    return values.astype(np.int8)


def _best_pair(gain: Array, sign: Array, moments: Array, first: Array, lowest: Array) -> tuple[Array, Array, Array]:
    """Return the two weights of each filter whose joint move lowers the error most, or one weight twice if it does."""
    count, size = gain.shape
    pairs = gain[:, :, None] + gain[:, None, :] + 2 * sign[:, :, None] * sign[:, None, :] * moments
    pairs[:, np.arange(size), np.arange(size)] = np.inf
    flat = pairs.reshape(count, -1)
    best = flat.argmin(1)
    found = flat[np.arange(count), best]
    one, two = np.divmod(best, size)
    both = found < lowest
    return np.where(both, one, first), np.where(both, two, first), np.minimum(found, lowest)
