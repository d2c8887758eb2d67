"""What competes is loaded, checked and warmed up, and then timed in turns: what every benchmark program does a case."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from competitors import AGREEMENT, Entry, Form, Outputs, enter
from outcomes import Measured
from program import CLOCKS, clock_name

from edgeconv.bench.measure import Clock, Plan, Progress, Series, measure
from edgeconv.bench.statistics import ratio_of_medians

Chosen = dict[tuple[str, ...], str]
"""Form that was best with one thread, by the case's key and the competitor."""


@dataclass(frozen=True)
class Contender:
    """A competitor in a case.

    Attributes:
        name: What it is called in the results.
        forms: Loads its forms.
        expected: The result that they must give.
        tolerance: Largest allowed difference in units of the rms of `expected`.
    """

    name: str
    forms: Callable[[], list[Form]]
    expected: Outputs
    tolerance: float = AGREEMENT


@dataclass(frozen=True)
class Comparison:
    """What was timed together.

    Attributes:
        measured: By contender.
        series: The raw samples by contender.
    """

    measured: Mapping[str, Measured]
    series: Mapping[str, Series]

    def interval(self, variant: str, base: str) -> tuple[float, float] | None:
        """95 % interval of the ratio of two contenders' medians, if there are enough turns for one."""
        above, below = self.series[variant], self.series[base]
        ratio = ratio_of_medians(above.samples, below.samples, (above.turns, below.turns), paired=True)
        return None if ratio.low is None or ratio.high is None else (ratio.low, ratio.high)


def compare(
    contenders: Sequence[Contender],
    *,
    threads: int,
    plan: Plan,
    key: tuple[str, ...],
    chosen: Chosen,
    notes: list[str],
    name: str,
    note_name: str = "",
    alone: Mapping[str, str] | None = None,
    enough: Callable[[Collection[str]], bool] = bool,
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> Comparison | None:
    """Load, check and warm up everything that takes part, then time it interleaved.

    Args:
        contenders: What takes part.
        threads: Threads of each of them.
        plan: How long to warm up and to measure.
        key: The case's, in `chosen`.
        chosen: Forms known to be best; with one thread they are added to it.
        notes: Told which forms could not take part and why.
        name: The case's, for the progress display.
        note_name: The case's in the notes; by default `name`.
        alone: Contenders that with several threads take part with one as well, and their names then.
        enough: Whether those of these names are worth timing.
        progress: Told what is going on.
        clock: What is read; by default the one for so many threads.

    Returns:
        The times, or None where too few could take part.
    """
    clock = clock or CLOCKS[clock_name(threads)]
    entries: list[Entry] = []
    entrants = [(contender, contender.name, threads) for contender in contenders]
    if threads > 1 and alone:
        entrants += [(contender, alone[contender.name], 1) for contender in contenders if contender.name in alone]
    for done, (contender, entrant, count) in enumerate(entrants):
        if progress is not None:
            progress(f"{name}: preparing {entrant}", 0.5 * done / len(entrants))
        known = (*key, contender.name)
        forms = [form for form in contender.forms() if chosen.get(known, form.name) == form.name]
        entry, out = enter(
            entrant, forms, contender.expected, threads=count, warmup_ns=plan.warmup_ns, clock=clock,
            tolerance=contender.tolerance,
        )  # fmt: skip
        notes += [f"{note_name or name}: {reason.rstrip('.')}." for reason in out]
        if entry is None:
            continue
        entries.append(entry)
        if threads == 1:
            chosen[known] = entry.form.name
    names = [entry.competitor for entry in entries]
    if not enough(names):
        return None

    def tell(_: str, done: float) -> None:
        if progress is not None:
            progress(f"{name}: measuring", 0.5 + 0.5 * done)

    series = measure(
        [entry.subject for entry in entries], [entry.warmup for entry in entries], plan, clock=clock, progress=tell
    )
    by_name = dict(zip(names, series, strict=True))
    return Comparison({entry.competitor: _measured(entry, by_name[entry.competitor]) for entry in entries}, by_name)


def _measured(entry: Entry, series: Series) -> Measured:
    median = statistics.median(series.samples.tolist()) * 1e-6
    return Measured(median, entry.form.name, len(series.samples), entry.error)


def forget_compiled() -> None:
    """Free what torch.compile holds for the case before, if torch was used at all."""
    import sys

    if "torch" in sys.modules:
        import torch

        torch._dynamo.reset()
