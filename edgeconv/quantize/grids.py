"""Grids of 8-bit values: made from a range, applied to arrays, and asked whether they do an activation's work.

QuantizeLinear is q = saturate(round_half_even(x / scale) + zero_point), in float32 as runtimes compute it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeconv.rewrite.qdq import Quantization

Array = NDArray[Any]

_SMALLEST_SCALE = np.float32(2.0**-100)
"""Far from denormals, of which runtimes make zeros."""


def make_grid(low: float, high: float, dtype: np.dtype[Any], *, symmetric: bool) -> Quantization:
    """Return the grid of a tensor whose values lie in [low, high]; 0 is on it exactly.

    Args:
        low: Raised to 0 if positive: padding is 0.
        high: Likewise lowered.
        dtype: uint8 or int8.
        symmetric: Zero-point 0, and int8's -128 left unused.
    """
    limits = np.iinfo(dtype)
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        scale = max(-low, high) / limits.max
        zero_point = 0
    else:
        scale = (high - low) / (int(limits.max) - int(limits.min))
        zero_point = int(np.clip(np.rint(limits.min - low / scale), limits.min, limits.max)) if scale > 0 else 0
    rounded = max(np.float32(scale), _SMALLEST_SCALE)
    return Quantization(np.asarray(rounded, np.float32), np.asarray(zero_point, dtype), 0)


def quantize(values: Array, grid: Quantization) -> Array:
    """Return the integers of real values, as QuantizeLinear gives them."""
    limits = np.iinfo(grid.zero_point.dtype)
    shape = [1] * np.ndim(values)
    if not grid.per_tensor:
        shape[grid.axis] = grid.scale.size
    with np.errstate(over="ignore"):
        steps = np.rint(np.asarray(values, np.float32) / grid.scale.reshape(shape))
    zero_point = grid.zero_point.astype(np.float32).reshape(shape)
    # float32 holds these sums exactly where it matters: beyond 2^24 they saturate anyway.
    return np.asarray(np.clip(steps + zero_point, limits.min, limits.max).astype(grid.zero_point.dtype))


def saturates_at(grid: Quantization, low: float, high: float) -> bool:
    """Tell whether quantising to this grid gives the same integers with a clip to [low, high] before it and without.

    It does if and only if `low` goes to the least integer and `high` to the greatest. Quantising never decreases, so
    every x < low then goes to at most what `low` goes to, the least; likewise above. If, on the other hand, `low` goes
    to q > qmin, then some x < low goes to less, which the clip would have prevented. An infinite bound clips nothing.
    """
    limits = np.iinfo(grid.zero_point.dtype)
    least = np.isneginf(low) or int(quantize(np.float32(low), grid)) == limits.min
    greatest = np.isposinf(high) or int(quantize(np.float32(high), grid)) == limits.max
    return bool(least and greatest)


def weight_grid(weights: Array, axis: int, bias: Array | None = None, x_scale: float = 1.0) -> Quantization:
    """Return the symmetric int8 grids of weights, one a channel, by their largest magnitude.

    Args:
        weights: The filters.
        axis: Of the output channels.
        bias: (channels); it must fit 32 bits in steps of x_scale·scale, so filters that are
            nearly zero get larger steps.
        x_scale: The step of the input.
    """
    others = tuple(index for index in range(weights.ndim) if index != axis % weights.ndim)
    scale = np.abs(weights.astype(np.float64)).max(axis=others) / 127
    if bias is not None:
        scale = np.maximum(scale, np.abs(bias.astype(np.float64)) / (x_scale * 2.0**30))
    scale = np.maximum(scale.astype(np.float32), _SMALLEST_SCALE)
    # A filter of zeros may have any step; 1 is far from all that rounds to nothing in products of steps.
    scale = np.where(scale == _SMALLEST_SCALE, np.float32(1), scale)
    return Quantization(scale, np.zeros(scale.shape, np.int8), axis % weights.ndim)


def quantize_weights(weights: Array, grid: Quantization) -> NDArray[np.int8]:
    """Return weights rounded to the nearest step, in -127 … 127 (symmetric)."""
    return np.asarray(np.maximum(quantize(weights, grid), -127), np.int8)
