from __future__ import annotations

import statistics
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeconv.bench.statistics import _TurnMedian, ratio_of_medians, samples_needed, summarize
from edgeconv.errors import InputError


@pytest.mark.parametrize(("percentile", "needed"), [(50, 11), (90, 64), (95, 130), (99, 662), (99.9, 6636), (10, 64)])
def test_samples_needed(percentile: float, needed: int) -> None:
    assert samples_needed(percentile) == needed


@pytest.mark.parametrize("percentile", [50, 60, 75, 90, 95, 97, 99])
def test_samples_needed_is_the_smallest_number_by_exact_arithmetic(percentile: int) -> None:
    tail = Fraction(100 - percentile, 100)
    count = 1
    while (1 - tail) ** count + count * tail * (1 - tail) ** (count - 1) > Fraction(1, 100):
        count += 1
    assert samples_needed(percentile) == count


@pytest.mark.parametrize("percentile", [0, 100, -1, 101, float("nan")])
def test_percentile_out_of_range(percentile: float) -> None:
    with pytest.raises(InputError, match="between 0 and 100"):
        samples_needed(percentile)


@given(st.lists(st.integers(1, 10**9), min_size=2, max_size=300), st.integers(1, 9))
def test_summary_against_the_standard_library(values: list[int], batch: int) -> None:
    summary = summarize(np.array(values), (25, 50, 75), batch)
    quartiles = statistics.quantiles(values, n=4, method="inclusive")
    expected = [q if len(values) >= samples_needed(p) else None for p, q in zip((25, 50, 75), quartiles, strict=True)]
    for value, wanted in zip(summary.percentiles.values(), expected, strict=True):
        assert value == (None if wanted is None else pytest.approx(wanted))
    assert summary.count == len(values)
    assert summary.mean == pytest.approx(statistics.mean(values))
    assert summary.median == statistics.median(values)
    assert (summary.minimum, summary.maximum) == (min(values), max(values))
    assert summary.iqr == pytest.approx(quartiles[2] - quartiles[0])
    middle = statistics.median(values)
    assert summary.mad == statistics.median([abs(value - middle) for value in values])
    assert summary.throughput == pytest.approx(batch * len(values) / (sum(values) * 1e-9))


def test_spread_by_hand() -> None:
    summary = summarize(np.array([10, 20, 30, 40, 1000]), (50,))
    assert (summary.median, summary.iqr, summary.mad) == (30, 20, 10)
    assert summary.spread == pytest.approx(2 / 3)
    assert summary.maximum == 1000  # nothing is clipped


@pytest.mark.parametrize(("count", "shown"), [(661, False), (662, True)])
def test_p99_is_shown_only_with_enough_samples(count: int, shown: bool) -> None:
    summary = summarize(np.arange(1, count + 1), (50, 90, 99))
    assert (summary.percentiles[99] is not None) is shown
    assert summary.percentiles[90] is not None
    assert summary.to_dict()["percentiles"]["99"]["samples_needed"] == 662


@given(st.integers(1, 6), st.data())
def test_resampled_median_equals_the_median_of_the_repeated_turns(turns: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 5))
    size = turns * length
    samples = np.array(data.draw(st.lists(st.integers(1, 50), min_size=size, max_size=size)))
    drawn = data.draw(st.lists(st.integers(0, turns - 1), min_size=turns, max_size=turns))
    expected = np.median(np.concatenate([samples.reshape(turns, length)[turn] for turn in drawn]))
    assert _TurnMedian(samples, turns).median(np.bincount(drawn, minlength=turns)) == expected


def test_turns_of_unequal_length_are_an_error() -> None:
    with pytest.raises(ValueError, match="do not fill"):
        ratio_of_medians(np.arange(1, 42), np.arange(1, 41), (20, 20), paired=True)


@given(st.lists(st.integers(1, 10**6), min_size=20, max_size=60), st.integers(2, 5))
@settings(max_examples=20)
def test_ratio_of_a_series_to_its_multiple_is_exact(values: list[int], factor: int) -> None:
    samples = np.array(values)
    ratio = ratio_of_medians(samples * factor, samples, (len(values), len(values)), paired=True, resamples=50)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((factor, factor, factor))
    assert ratio.distinguishable


def test_too_few_turns_give_no_interval() -> None:
    ratio = ratio_of_medians(np.arange(1, 10), np.arange(1, 10), (9, 9), paired=True)
    assert (ratio.value, ratio.low, ratio.high) == (1, None, None)
    assert not ratio.distinguishable


@pytest.mark.parametrize("paired", [True, False])
def test_interval_covers_the_true_ratio_about_as_often_as_it_says(paired: bool) -> None:
    generator = np.random.default_rng(5)
    covered = 0
    for trial in range(100):
        # A turn's samples share its disturbance, and paired turns share it with each other.
        disturbance = generator.normal(1, 0.05, (2, 30, 1))
        if paired:
            disturbance[1] = disturbance[0]
        variant, reference = (disturbance * generator.normal(1, 0.02, (2, 30, 4)) * [[[2e6]], [[1e6]]]).astype(np.int64)
        ratio = ratio_of_medians(variant.ravel(), reference.ravel(), (30, 30), paired=paired, seed=trial, resamples=200)
        assert ratio.low is not None
        assert ratio.high is not None
        covered += ratio.low <= 2 <= ratio.high
    assert 85 <= covered <= 100


def test_independent_runs_widen_the_interval() -> None:
    generator = np.random.default_rng(6)
    disturbance = np.repeat(generator.normal(1, 0.2, 40), 5)
    samples = (1e6 * disturbance).astype(np.int64)
    widths = []
    for paired in (True, False):
        ratio = ratio_of_medians(samples, samples, (40, 40), paired=paired)
        assert ratio.low is not None
        assert ratio.high is not None
        widths.append(ratio.high - ratio.low)
    assert widths[0] == 0 < widths[1]
