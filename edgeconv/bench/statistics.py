"""What may be said about a set of latencies: percentiles with enough samples behind them, spread, ratios.

No sample is ever left out: a slow run is something that happened, and belongs to the tail that p99 describes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeconv.errors import InputError

Samples = npt.NDArray[np.int64]

CONFIDENCE = 0.99
"""Confidence that a printed percentile is not underestimated by more than the sample's largest values show."""


def samples_needed(percentile: float) -> int:
    """Return how many samples a percentile needs before it is shown.

    The rule: with a confidence of 99 %, at least two of the samples must lie beyond the true percentile (beyond means
    above it, or below it for percentiles under 50). A sample lies beyond with the probability
    t = 1 - percentile / 100, so n is the smallest number for which at most one does with a probability of at most 1 %::

        (1 - t)^n + n t (1 - t)^(n - 1) <= 0.01

    This gives 11 for p50, 64 for p90, 130 for p95, 662 for p99 and 6636 for p99.9. It is the second-order
    distribution-free tolerance limit of S. S. Wilks, "Determination of sample sizes for setting tolerance limits",
    Annals of Mathematical Statistics 12 (1941): a single slow run can then never be the percentile.

    Args:
        percentile: Between 0 and 100, both excluded.

    Raises:
        InputError: The percentile is out of range.
    """
    if not 0 < percentile < 100:
        raise InputError(f"a percentile lies between 0 and 100 (both excluded), got {percentile:g}.")
    tail = min(percentile, 100 - percentile) / 100

    def too_few(count: int) -> bool:
        at_most_one = (1 - tail) ** count + count * tail * (1 - tail) ** (count - 1)
        return at_most_one > 1 - CONFIDENCE + 1e-12

    low, high = 1, 2
    while too_few(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if too_few(middle) else (low, middle)
    return high


@dataclass(frozen=True)
class Summary:
    """The figures of one series of samples, in nanoseconds.

    Attributes:
        count: Number of samples.
        mean: Arithmetic mean.
        median: Median.
        minimum: Fastest sample.
        maximum: Slowest sample.
        iqr: Interquartile range, 75th minus 25th percentile.
        mad: Median absolute deviation from the median (not scaled to a standard deviation).
        percentiles: Value by percentile; None where the samples are too few for it (`samples_needed`).
        throughput: Items a second: batch / mean.
    """

    count: int
    mean: float
    median: float
    minimum: int
    maximum: int
    iqr: float
    mad: float
    percentiles: dict[float, float | None]
    throughput: float

    @property
    def spread(self) -> float:
        """Interquartile range over the median: 0.02 says that the middle half lies within 2 %."""
        return self.iqr / self.median if self.median else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; percentiles carry the number of samples that they need."""
        return {
            "count": self.count,
            "mean_ns": self.mean,
            "median_ns": self.median,
            "min_ns": self.minimum,
            "max_ns": self.maximum,
            "iqr_ns": self.iqr,
            "mad_ns": self.mad,
            "spread": self.spread,
            "throughput_per_s": self.throughput,
            "percentiles": {
                f"{q:g}": {"value_ns": value, "samples_needed": samples_needed(q)}
                for q, value in self.percentiles.items()
            },
        }


def summarize(samples: Samples, percentiles: Sequence[float], batch: int = 1) -> Summary:
    """Summarise samples.

    Percentiles interpolate linearly between the two nearest samples (definition 7 of Hyndman and Fan, numpy's default).

    Args:
        samples: Durations in nanoseconds, one or more.
        percentiles: Those wanted, between 0 and 100.
        batch: Items that one sample handles.
    """
    median = float(np.median(samples))
    quartiles = np.percentile(samples, [25, 75])
    mean = float(np.mean(samples))
    return Summary(
        count=len(samples),
        mean=mean,
        median=median,
        minimum=int(samples.min()),
        maximum=int(samples.max()),
        iqr=float(quartiles[1] - quartiles[0]),
        mad=float(np.median(np.abs(samples - median))),
        percentiles={
            float(q): float(np.percentile(samples, q)) if len(samples) >= samples_needed(q) else None
            for q in percentiles
        },
        throughput=batch * 1e9 / mean if mean else math.inf,
    )


@dataclass(frozen=True)
class Ratio:
    """A ratio of two medians with a bootstrap confidence interval.

    Attributes:
        value: Median of the variant over the median of the reference: below 1 the variant is faster.
        low: Lower end of the interval, or None where the turns are too few (`MINIMUM_TURNS`).
        high: Upper end.
        confidence: Coverage of the interval.
    """

    value: float
    low: float | None
    high: float | None
    confidence: float = 0.95

    @property
    def distinguishable(self) -> bool:
        """Whether the interval is known and leaves out 1."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


MINIMUM_TURNS = 10
"""Fewer turns than this give no confidence interval: resampling them would only look precise."""


def ratio_of_medians(
    variant: Samples,
    reference: Samples,
    turns: tuple[int, int],
    *,
    paired: bool,
    seed: int = 0,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> Ratio:
    """Return median(variant) / median(reference) with a percentile-bootstrap interval.

    Whole turns are resampled, not single samples: neighbouring runs share the machine's state, and treating them as
    independent would make the interval too narrow.

    Args:
        variant: Samples of one side in order of time, each turn of the same length.
        reference: Samples of the other side.
        turns: Number of turns in `variant` and in `reference`.
        paired: The n-th turns of both sides ran next to each other (one interleaved run): resample them together, so
            that what disturbed both cancels.
        seed: Seed of the resampling.
        resamples: Number of bootstrap resamples.
        confidence: Coverage of the interval.
    """
    value = float(np.median(variant) / np.median(reference))
    if min(turns) < MINIMUM_TURNS:
        return Ratio(value, None, None, confidence)
    generator = np.random.default_rng(seed)
    sides = [_TurnMedian(variant, turns[0]), _TurnMedian(reference, turns[1])]
    ratios = np.empty(resamples)
    for index in range(resamples):
        first = np.bincount(generator.integers(turns[0], size=turns[0]), minlength=turns[0])
        second = first
        if not paired:
            second = np.bincount(generator.integers(turns[1], size=turns[1]), minlength=turns[1])
        ratios[index] = sides[0].median(first) / sides[1].median(second)
    edge = 50 * (1 - confidence)
    low, high = np.percentile(ratios, [edge, 100 - edge])
    return Ratio(value, float(low), float(high), confidence)


class _TurnMedian:
    """The median of samples in which each turn counts a given number of times, without sorting again each time."""

    def __init__(self, samples: Samples, turns: int) -> None:
        if len(samples) % turns:
            raise ValueError(f"{len(samples)} samples do not fill {turns} turns of one length")
        order = np.argsort(samples, kind="stable")
        self._sorted = samples[order]
        self._turn = order // (len(samples) // turns)

    def median(self, counts: npt.NDArray[np.intp]) -> float:
        ends = np.cumsum(counts[self._turn])
        total = int(ends[-1])
        # The k-th smallest of the resample (from 0) is the first sorted sample at which more than k have been passed.
        middle = np.searchsorted(ends, [(total - 1) // 2, total // 2], side="right")
        return float(self._sorted[middle].mean())
