"""A histogram whose range grows with the data, so that one pass over the images is enough."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BINS = 8192
"""On each side of zero. The data fill at least half of one side: 16 bins or more for each of 255 steps."""


@dataclass
class Histogram:
    """Counts of values in equal bins over [-limit, limit), and the exact extremes.

    If a value lies beyond, the limit doubles and neighbouring bins merge in pairs, which is exact: bin i of the old
    range lies wholly inside bin (BINS + i) // 2 of the new one.

    Attributes:
        limit: A power of two; 0 before the first value that is not 0.
        counts: (2·BINS), int64.
        low: The least value.
        high: The greatest value.
    """

    limit: float = 0.0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2 * BINS, np.int64))
    low: float = np.inf
    high: float = -np.inf

    def add(self, values: Array) -> None:
        """Count finite values."""
        flat = np.ravel(values)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._grow(max(-low, high))
        if self.limit == 0:
            self.counts[BINS] += flat.size
            return
        bins = (flat.astype(np.float32) * np.float32(BINS / self.limit) + np.float32(BINS)).astype(np.int32)
        self.counts += np.bincount(np.clip(bins, 0, 2 * BINS - 1), minlength=2 * BINS)

    def merge(self, other: Histogram) -> None:
        """Add the counts of another one."""
        if not other.counts.any():
            return
        self._grow(other.limit / 2)
        copy = Histogram(other.limit, other.counts.copy(), other.low, other.high)
        copy._grow(self.limit / 2)
        self.counts += copy.counts
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def _grow(self, magnitude: float) -> None:
        """Make the limit greater than a magnitude."""
        if magnitude == 0:
            return
        if self.limit == 0:
            self.limit = float(2.0 ** (np.floor(np.log2(magnitude)) + 1))
            return
        while magnitude >= self.limit:
            where = (BINS + np.arange(2 * BINS)) // 2
            self.counts = np.bincount(where, self.counts, 2 * BINS).astype(np.int64)
            self.limit *= 2

    @property
    def width(self) -> float:
        """Of a bin."""
        return self.limit / BINS

    def filled(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return centres and counts of the bins that hold something; the outermost centres within the extremes."""
        indices = np.flatnonzero(self.counts)
        centres = (indices - BINS + 0.5) * self.width
        return np.clip(centres, self.low, self.high), self.counts[indices].astype(np.float64)

    def quantile(self, share: float) -> tuple[float, float]:
        """Return the range that leaves out (1 - share) of the values, half of it at each end."""
        centres, counts = self.filled()
        if not counts.size:
            return 0.0, 0.0
        total = np.cumsum(counts)
        tail = (1 - share) / 2 * total[-1]
        first = int(np.searchsorted(total, tail, "right"))
        last = int(np.searchsorted(total, total[-1] - tail, "left"))
        last = min(last, len(centres) - 1)
        half = self.width / 2
        return max(self.low, float(centres[first] - half)), min(self.high, float(centres[last] + half))
