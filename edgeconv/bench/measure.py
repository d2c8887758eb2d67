"""The measuring loop: warm up until stable, then take turns until there are enough samples.

Nothing here knows a runtime or a model: a subject is a name and a call. The clock is an argument, so that the logic is
tested without waiting.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from edgeconv.bench.statistics import Samples

Clock = Callable[[], int]
Progress = Callable[[str, float], None]
"""Called between turns, never while something is timed, with what is going on and how much of it is done (0 to 1)."""

TURN_NS = 20_000_000
"""A turn lasts this long, or one run of the slowest subject: short against drift of clocks and temperature, long
against the cost of switching subjects."""

_TOLERANCE = 0.05
_WINDOWS = 3


@dataclass(frozen=True)
class Subject:
    """Something to time.

    Attributes:
        name: What to call it.
        run: One inference, complete when it returns.
        device_seconds: Time of the last run on a device that measures it itself; None where there is none.
    """

    name: str
    run: Callable[[], None]
    device_seconds: Callable[[], float | None] | None = None


@dataclass(frozen=True)
class Plan:
    """When to stop.

    Attributes:
        iterations: Least number of samples of each subject.
        duration_ns: Least sum of the samples of each subject. Both must be met.
        warmup_ns: Least time of warm-up; 0 runs once.
        seed: Seed of the order of turns.
    """

    iterations: int
    duration_ns: int
    warmup_ns: int
    seed: int = 0


@dataclass(frozen=True)
class Warmup:
    """How a subject was warmed up.

    Attributes:
        runs: Number of untimed runs.
        seconds: Time that they took.
        stable: Whether the last three windows' medians lay within 5 % of each other; None without a warm-up.
        median_ns: Median of the last window.
    """

    runs: int
    seconds: float
    stable: bool | None
    median_ns: float


@dataclass(frozen=True)
class Series:
    """The raw samples of a subject in order of time.

    Attributes:
        samples: Durations in nanoseconds, all of them.
        samples_per_turn: Samples in each turn.
        device_samples: Durations of the same runs on the device, in nanoseconds; None where there is none.
    """

    samples: Samples
    samples_per_turn: int
    device_samples: Samples | None = None

    @property
    def turns(self) -> int:
        """Number of turns."""
        return len(self.samples) // self.samples_per_turn


def warm_up(subject: Subject, minimum_ns: int, clock: Clock = time.perf_counter_ns) -> Warmup:
    """Run `subject` for `minimum_ns` and until its latency is stable.

    The time is cut into windows of a quarter of `minimum_ns` (and at least three runs); the latency is stable when the
    medians of the last three windows lie within 5 % of each other. It gives up after ten times `minimum_ns`, but not
    before six windows.
    """
    begin = clock()
    if minimum_ns <= 0:
        (only,) = _timed(subject.run, 1, clock)
        return Warmup(1, (clock() - begin) * 1e-9, None, float(only))
    medians: list[float] = []
    runs = 0
    while True:
        window: list[int] = []
        start = clock()
        while len(window) < 3 or clock() - start < minimum_ns / 4:
            window += _timed(subject.run, 1, clock)
        runs += len(window)
        medians.append(statistics.median(window))
        elapsed = clock() - begin
        recent = medians[-_WINDOWS:]
        stable = len(medians) >= _WINDOWS and max(recent) - min(recent) <= _TOLERANCE * min(recent)
        given_up = elapsed >= 10 * minimum_ns and len(medians) >= 2 * _WINDOWS
        if (stable and elapsed >= minimum_ns) or given_up:
            return Warmup(runs, elapsed * 1e-9, stable, medians[-1])


def turn_lengths(medians_ns: Sequence[float], plan: Plan) -> list[int]:
    """Return how many samples each subject takes in one turn.

    Each subject gets the same time a turn: `TURN_NS`, or one run of the slowest. There are at least twenty turns.

    Args:
        medians_ns: Expected latency of each subject.
        plan: When to stop.
    """
    turn_ns = max(TURN_NS, *medians_ns)
    lengths = []
    for median in medians_ns:
        expected = max(plan.iterations, math.ceil(plan.duration_ns / max(median, 1)))
        lengths.append(max(1, min(round(turn_ns / max(median, 1)), expected // 20)))
    return lengths


def measure(
    subjects: Sequence[Subject],
    warmups: Sequence[Warmup],
    plan: Plan,
    *,
    clock: Clock = time.perf_counter_ns,
    progress: Progress | None = None,
) -> list[Series]:
    """Time the subjects, interleaved turn by turn in an order that is shuffled anew each round.

    Every subject has one turn a round. Where there are several subjects with several samples a turn, the first run of a
    turn is not timed: it brings the subject's weights back into the caches. Rounds go on until every subject has
    `plan.iterations` samples and `plan.duration_ns` of timed runs. Python's garbage collector is off meanwhile.

    Args:
        subjects: What to time.
        warmups: What warming each of them up gave.
        plan: When to stop.
        clock: Monotonic clock in nanoseconds.
        progress: Told how far it is.

    Returns:
        One series a subject, in the order of `subjects`.
    """
    lengths = turn_lengths([warmup.median_ns for warmup in warmups], plan)
    samples: list[list[int]] = [[] for _ in subjects]
    device: list[list[int]] = [[] for _ in subjects]
    totals = [0] * len(subjects)
    order = np.random.default_rng(plan.seed)
    label = " | ".join(subject.name for subject in subjects)
    with _no_garbage_collection():
        done = 0.0
        while done < 1:
            for index in order.permutation(len(subjects)):
                if len(subjects) > 1 and lengths[index] > 1:
                    subjects[index].run()
                turn = _timed(subjects[index].run, lengths[index], clock, _reader(subjects[index], device[index]))
                samples[index] += turn
                totals[index] += sum(turn)
            done = min(_progress(len(s), total, plan) for s, total in zip(samples, totals, strict=True))
            if progress is not None:
                progress(f"measuring {label}", done)
    return [
        Series(np.array(taken, dtype=np.int64), length, np.array(timed, dtype=np.int64) if timed else None)
        for taken, length, timed in zip(samples, lengths, device, strict=True)
    ]


def _progress(count: int, total_ns: int, plan: Plan) -> float:
    counted = count / plan.iterations
    timed = total_ns / plan.duration_ns if plan.duration_ns > 0 else 1.0
    return min(counted, timed, 1.0)


def _timed(run: Callable[[], None], count: int, clock: Clock, after: Callable[[], None] | None = None) -> list[int]:
    samples = [0] * count
    for index in range(count):
        start = clock()
        run()
        samples[index] = clock() - start
        if after is not None:
            after()
    return samples


def _reader(subject: Subject, taken: list[int]) -> Callable[[], None] | None:
    """Return what reads the device's time of the run that has just ended."""
    read = subject.device_seconds
    if read is None:
        return None

    def after() -> None:
        seconds = read()
        if seconds is not None:
            taken.append(round(seconds * 1e9))

    return after


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def clock_overhead_ns(clock: Clock = time.perf_counter_ns) -> float:
    """Median duration that the loop reports for a call that does nothing: the floor of every sample."""
    return float(statistics.median(_timed(lambda: None, 1001, clock)))
