from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from itertools import count, groupby
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeconv.bench.measure import (
    TURN_NS,
    Plan,
    Subject,
    Warmup,
    clock_overhead_ns,
    measure,
    turn_lengths,
    warm_up,
)

if TYPE_CHECKING:
    from tests.bench.conftest import FakeClock

MS = 1_000_000


def taking(clock: FakeClock, durations: Iterator[int], name: str = "s", calls: list[str] | None = None) -> Subject:
    def run() -> None:
        clock.now += next(durations)
        if calls is not None:
            calls.append(name)

    return Subject(name, run)


def constant(value: int) -> Iterator[int]:
    return (value for _ in count())


def warmed(*medians: float) -> list[Warmup]:
    return [Warmup(1, 0.0, None, median) for median in medians]


def test_warm_up_of_a_constant_latency_ends_at_the_minimum(clock: FakeClock) -> None:
    warmup = warm_up(taking(clock, constant(MS)), 100 * MS, clock)
    assert warmup.stable
    assert 0.1 <= warmup.seconds <= 0.125
    assert warmup.runs == clock.now // MS
    assert warmup.median_ns == MS


def test_warm_up_goes_on_until_the_latency_is_flat(clock: FakeClock) -> None:
    durations = (max(2 * MS, round(20 * MS * 0.97**n)) for n in count())
    warmup = warm_up(taking(clock, durations), 100 * MS, clock)
    assert warmup.stable
    assert warmup.seconds > 0.6  # the latency falls for 78 runs, which take 0.62 s
    assert warmup.median_ns == 2 * MS


def test_warm_up_gives_up_on_a_latency_that_never_settles(clock: FakeClock) -> None:
    durations = (round(MS * 1.03**n) for n in count())
    warmup = warm_up(taking(clock, durations), 100 * MS, clock)
    assert warmup.stable is False
    assert 1.0 <= warmup.seconds < 1.2


def test_warm_up_of_a_slow_subject_makes_few_runs(clock: FakeClock) -> None:
    warmup = warm_up(taking(clock, constant(500 * MS)), 100 * MS, clock)
    assert warmup.stable
    assert warmup.runs == 9


def test_no_warm_up_is_one_run_and_says_so(clock: FakeClock) -> None:
    warmup = warm_up(taking(clock, constant(7 * MS)), 0, clock)
    assert (warmup.runs, warmup.stable, warmup.median_ns) == (1, None, 7 * MS)


@given(
    latencies=st.lists(st.integers(1000, 50 * MS), min_size=1, max_size=4),
    iterations=st.integers(1, 200),
    duration=st.integers(0, 300 * MS),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_count_and_duration_are_both_met(
    clock: FakeClock, latencies: list[int], iterations: int, duration: int
) -> None:
    subjects = [taking(clock, constant(latency)) for latency in latencies]
    plan = Plan(iterations, duration, 0)
    series = measure(subjects, warmed(*latencies), plan, clock=clock)
    for latency, one in zip(latencies, series, strict=True):
        assert len(one.samples) >= iterations
        assert one.samples.sum() >= duration
        assert set(one.samples.tolist()) == {latency}
        assert one.turns * one.samples_per_turn == len(one.samples)
    assert len({one.turns for one in series}) == 1


def test_one_more_round_is_never_made(clock: FakeClock) -> None:
    (series,) = measure([taking(clock, constant(MS))], warmed(MS), Plan(5, 0, 0), clock=clock)
    assert len(series.samples) == 5


def test_each_subject_has_one_turn_a_round_in_changing_order(clock: FakeClock) -> None:
    calls: list[str] = []
    subjects = [taking(clock, constant(MS), name, calls) for name in "abc"]
    plan = Plan(400, 0, 0, seed=3)
    series = measure(subjects, warmed(MS, MS, MS), plan, clock=clock)
    length = series[0].samples_per_turn
    assert length == 20
    turn = length + 1  # the first run after a change is not timed
    assert len(calls) == 3 * series[0].turns * turn
    turns = [set(calls[start : start + turn]) for start in range(0, len(calls), turn)]
    assert all(len(one) == 1 for one in turns)
    names = ["".join(one) for one in turns]
    rounds = ["".join(names[start : start + 3]) for start in range(0, len(names), 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len(set(rounds)) > 1
    again: list[str] = []
    measure([taking(clock, constant(MS), n, again) for n in "abc"], warmed(MS, MS, MS), plan, clock=clock)
    assert again == calls
    other: list[str] = []
    plan = Plan(400, 0, 0, seed=4)
    measure([taking(clock, constant(MS), n, other) for n in "abc"], warmed(MS, MS, MS), plan, clock=clock)
    assert other != calls


def test_a_subject_alone_has_no_untimed_runs(clock: FakeClock) -> None:
    calls: list[str] = []
    (series,) = measure([taking(clock, constant(MS), "a", calls)], warmed(MS), Plan(100, 0, 0), clock=clock)
    assert len(series.samples) == len(calls)


def test_raw_samples_are_kept_in_order_outliers_included(clock: FakeClock) -> None:
    durations = [MS, 3 * MS, 5000 * MS, 2 * MS, MS] * 8
    (series,) = measure([taking(clock, iter(durations))], warmed(MS), Plan(40, 0, 0), clock=clock)
    assert series.samples.tolist() == durations


def test_subjects_of_unlike_speed_get_like_times() -> None:
    plan = Plan(64, 3000 * MS, 0)
    fast, slow = turn_lengths([0.1 * MS, 100 * MS], plan)
    assert slow == 1
    assert fast * 0.1 * MS == pytest.approx(100 * MS)
    assert turn_lengths([MS], plan) == [TURN_NS // MS]


@pytest.mark.parametrize("fails", [False, True])
def test_garbage_collector_is_off_meanwhile_and_on_again_afterwards(clock: FakeClock, fails: bool) -> None:
    seen: list[bool] = []

    def run() -> None:
        clock.now += MS
        seen.append(gc.isenabled())
        if fails and len(seen) > 3:
            raise KeyboardInterrupt

    subject = Subject("s", run)
    call: Callable[[], object] = lambda: measure([subject], warmed(MS), Plan(10, 0, 0), clock=clock)  # noqa: E731
    if fails:
        with pytest.raises(KeyboardInterrupt):
            call()
    else:
        call()
    assert seen
    assert not any(seen)
    assert gc.isenabled()


def test_progress_is_told_between_turns_and_ends_at_one(clock: FakeClock) -> None:
    told: list[tuple[str, float]] = []
    subjects = [taking(clock, constant(MS), name) for name in ("a", "b")]
    measure(subjects, warmed(MS, MS), Plan(100, 0, 0), clock=clock, progress=lambda *args: told.append(args))
    assert [key for key, _ in groupby(told, key=lambda entry: entry[0])] == ["measuring a | b"]
    fractions = [done for _, done in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


def test_clock_overhead_of_a_clock_that_ticks_at_each_reading() -> None:
    ticks = count(0, 25)
    assert clock_overhead_ns(lambda: next(ticks)) == 25
