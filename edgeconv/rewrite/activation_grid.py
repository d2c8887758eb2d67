"""Weights on the grid of the activations, where differences and sums of them are exact in integers.

With s = x_scale, z = x_zero_point and activations in [lo, hi] = [(qmin - z)·s, (qmax - z)·s], where 0 lies too:

    w_c = clamp(w, lo, hi)        |x - w| = |x - w_c| + |w - w_c| for every x in [lo, hi]: exact
    W'  = round(w_c / s) + z      in the activations' type; every weight fits, and is moved by at most s/2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeconv.rewrite.qdq import Quantization

Array = NDArray[Any]


@dataclass(frozen=True)
class GridWeights:
    """Filters in integers of which one step is one step of the activations.

    Attributes:
        values: W', (M, …), uint8 or int8.
        zero_point: Of the same type; a scalar or (M).
        error: |s·(W' - z) - w_c|: how far each weight was moved.
        outside: Number of weights beyond the activations' range.
        excess: Σ|w - w_c| of each filter, (M).
    """

    values: Array
    zero_point: Array
    error: NDArray[np.float64]
    outside: int
    excess: NDArray[np.float64]

    @property
    def exact(self) -> bool:
        """Whether the integers stand for just the weights that were given."""
        return not self.outside and not self.error.any()

    @property
    def largest_error(self) -> float:
        """The largest distance that a weight was moved."""
        return float(self.error.max(initial=0))

    @property
    def rms_error(self) -> float:
        """The root mean square of the distances."""
        return float(np.sqrt(np.mean(self.error**2))) if self.error.size else 0.0

    @property
    def sum_error(self) -> float:
        """The largest sum of a filter's distances: a bound on what they change in a sum of absolute differences."""
        return float(self.error.reshape(len(self.error), -1).sum(1).max(initial=0))

    def as_int8(self) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        """Return values and zero-point as int8; of uint8, both are shifted by 128."""
        shift = 128 if self.values.dtype == np.uint8 else 0
        values, zero_point = (
            np.asarray(part.astype(np.int16) - shift, np.int8) for part in (self.values, self.zero_point)
        )
        return values, zero_point


def unmoved(values: Array, zero_point: Array) -> GridWeights:
    """Return weights whose scales are the activations' already."""
    return GridWeights(values, zero_point, np.zeros(values.shape), 0, np.zeros(len(values)))


def regrid(weights: NDArray[np.float32], grid: Quantization) -> GridWeights:
    """Round real weights to the grid of the activations.

    Args:
        weights: (M, …), finite.
        grid: The activations', one scale for the tensor, uint8 or int8.
    """
    limits = np.iinfo(grid.zero_point.dtype)
    low, high = grid.dequantize(np.asarray([limits.min, limits.max], grid.zero_point.dtype)).astype(np.float64)
    inside = np.clip(weights.astype(np.float64), low, high)
    steps = np.rint(inside / np.float64(grid.scale)) + np.float64(grid.zero_point)
    values = np.clip(steps, limits.min, limits.max).astype(grid.zero_point.dtype)
    excess = np.abs(weights - inside)
    return GridWeights(
        values,
        grid.zero_point,
        np.abs(grid.dequantize(values) - inside),
        int(np.count_nonzero(excess)),
        excess.reshape(len(excess), -1).sum(1),
    )
