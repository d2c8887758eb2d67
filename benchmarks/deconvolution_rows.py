"""What `deconvolution_cpu.py` measures: cases, rows of results, and the goals that the rows are held to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ceilings import Rate
from interleave import Chosen, Comparison, Contender, compare
from outcomes import Bound, Measured, Verdict
from program import clock_name

from edgeconv.bench.measure import Plan, Progress

OPERATOR, FOLDED, BATCH = "operator", "folded network", "batch network"
"""Kinds of rows."""

LIBRARY, ALONE, FUNCTION, EAGER, COMPILE = (
    "library",
    "library, one thread",
    "function body",
    "torch eager",
    "torch.compile",
)
"""What takes part in an operator's row."""

PLAIN, NETWORK = "plain network", "network"
"""What takes part in a network's row."""

TO_FUNCTION, TO_TORCH, TO_PLAIN, SCALING = (
    "function body / library",
    "torch / library",
    "network / plain network",
    "one thread / two",
)


@dataclass(frozen=True)
class Goal(Bound):
    """A bound on a metric of every row of a kind.

    Attributes:
        kind: Kind of rows.
        block: Of networks with batch statistics, the block; None for every block.
        metric: One of the names above.
        sense: "<=" or ">=".
        bound: The bound.
        threads: Number of threads.
    """

    kind: str
    block: int | None
    metric: str
    sense: str
    bound: float
    threads: int

    def concerns(self, row: Row) -> bool:
        """Whether it is for a row."""
        return (self.kind, self.threads) == (row.kind, row.threads) and self.block in (None, row.block)


GOALS = tuple(
    Goal(*goal, threads)  # type: ignore[arg-type]
    for goal in (
        (FOLDED, None, TO_PLAIN, "<=", 1.01),
        (OPERATOR, None, TO_FUNCTION, ">=", 5.0),
        (OPERATOR, None, TO_TORCH, ">=", 3.0),
        (BATCH, 16, TO_PLAIN, "<=", 2.0),
        (BATCH, 64, TO_PLAIN, "<=", 2.0),
    )
    for threads in (1, 2)
)
"""Folding costs nothing; the kernel is worth having; a device can afford to whiten with what it sees."""


@dataclass(frozen=True)
class Part:
    """What a case says of one row.

    Attributes:
        block: Channels of a block.
        macs: Multiply-adds of the library's side, by what they are for.
        names: The row's contenders and what they are called in it.
    """

    block: int
    macs: Mapping[str, int]
    names: Mapping[str, str]


@dataclass(frozen=True)
class Case:
    """What is timed together.

    Attributes:
        kind: Kind of its rows.
        name: Layer or network.
        contenders: Everything that takes part.
        parts: One a row.
        effort: How many times as long as others it is measured.
    """

    kind: str
    name: str
    contenders: Sequence[Contender]
    parts: Sequence[Part]
    effort: int = 1

    @property
    def label(self) -> str:
        """Its name in notes and the progress display."""
        blocks = ", ".join(str(part.block) for part in self.parts)
        return f"{self.kind} {self.name}, block {blocks}"


@dataclass(frozen=True)
class Row:
    """The whitening of one layer's input, or one network.

    Attributes:
        kind: Kind of the row.
        name: Layer or network.
        block: Channels of a block.
        threads: Threads of everything that was timed.
        clock: What was read: process CPU time or the wall's.
        macs: Multiply-adds of the library's side, by what they are for; of symmetric products half.
        limit: Ceiling of multiply-adds, 10^9 a second; None where it was not measured.
        limit_form: The ceiling's instructions.
        measured: By contender.
        intervals: 95 % intervals of the metrics that have one.
    """

    kind: str
    name: str
    block: int
    threads: int
    clock: str
    macs: Mapping[str, int]
    limit: float | None
    limit_form: str | None
    measured: Mapping[str, Measured]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """Who is judged: the library in an operator's row, else the network."""
        return LIBRARY if self.kind == OPERATOR else NETWORK

    @property
    def label(self) -> str:
        """Its name in verdicts."""
        return f"{self.name}, block {self.block}"

    def ms(self, name: str) -> float | None:
        """Median time of a contender; None where it did not take part."""
        return self.measured[name].ms if name in self.measured else None

    def ratio(self, above: str, below: str) -> float | None:
        """Time of one contender over that of another; None where one did not take part."""
        numerator, denominator = self.ms(above), self.ms(below)
        return None if numerator is None or denominator is None else numerator / denominator

    @property
    def rate(self) -> float | None:
        """10^9 multiply-adds a second of the library's side."""
        ms = self.ms(self.subject)
        return None if ms is None else sum(self.macs.values()) / ms * 1e-6

    @property
    def of_limit(self) -> float | None:
        """The rate over the ceiling's; above 1 where an algorithm takes fewer products than are counted."""
        return self.rate / self.limit if self.rate and self.limit else None

    @property
    def metrics(self) -> dict[str, float]:
        """What the goals are about, of that which was measured."""
        found = {metric: self.ratio(*pair) for metric, pair in pairs(self.measured).items()}
        return {metric: value for metric, value in found.items() if value is not None}

    @property
    def goals(self) -> list[tuple[Goal, float]]:
        """The goals that are for this row and were measured, each with its value."""
        metrics = self.metrics
        return [(goal, metrics[goal.metric]) for goal in GOALS if goal.concerns(self) and goal.metric in metrics]

    @property
    def met(self) -> bool | None:
        """Whether all its goals are met; None where it has none."""
        goals = self.goals
        return all(goal.met(value) for goal, value in goals) if goals else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, derived ones included."""
        goals = [
            {"metric": goal.metric, "sense": goal.sense, "bound": goal.bound, "value": value, "met": goal.met(value)}
            for goal, value in self.goals
        ]
        return {**asdict(self), "rate": self.rate, "of_limit": self.of_limit, "metrics": self.metrics, "goals": goals}


def pairs(measured: Mapping[str, Measured]) -> dict[str, tuple[str, str]]:
    """What each metric divides by what.

    Against torch it is the faster of eager and compiled; where only one of them took part there is no such metric.
    """
    found = {TO_FUNCTION: (FUNCTION, LIBRARY), TO_PLAIN: (NETWORK, PLAIN), SCALING: (ALONE, LIBRARY)}
    if EAGER in measured and COMPILE in measured:
        found[TO_TORCH] = (min((EAGER, COMPILE), key=lambda name: measured[name].ms), LIBRARY)
    return found


def verdicts(rows: Iterable[Row]) -> list[Verdict]:
    """Judge every goal by the rows."""
    rows = list(rows)
    return [
        Verdict(goal, {row.label: value for row in rows for concerned, value in row.goals if concerned is goal})
        for goal in GOALS
    ]


def measure_case(
    case: Case,
    *,
    threads: int,
    plan: Plan,
    limit: Rate | None,
    chosen: Chosen,
    notes: list[str],
    progress: Progress | None = None,
) -> list[Row]:
    """Time a case; arguments as in `interleave.compare`. A row may lack contenders that could not take part."""
    plan = Plan(plan.iterations * case.effort, plan.duration_ns * case.effort, plan.warmup_ns, plan.seed)
    comparison = compare(
        case.contenders, threads=threads, plan=plan, key=(case.kind, case.label), chosen=chosen, notes=notes,
        name=case.label, alone={LIBRARY: ALONE}, progress=progress,
    )  # fmt: skip
    if comparison is None:
        return []
    return [_row(case, part, comparison, threads, limit) for part in case.parts]


def _row(case: Case, part: Part, comparison: Comparison, threads: int, limit: Rate | None) -> Row:
    names = {ours: theirs for theirs, ours in part.names.items() if theirs in comparison.measured}
    measured = {ours: comparison.measured[theirs] for ours, theirs in names.items()}
    intervals = {}
    for metric, (above, below) in pairs(measured).items():
        if above in names and below in names:
            interval = comparison.interval(names[above], names[below])
            if interval is not None:
                intervals[metric] = interval
    return Row(
        case.kind, case.name, part.block, threads, clock_name(threads), part.macs,
        limit.rate if limit else None, f"{limit.form} ({limit.isa})" if limit else None, measured, intervals,
    )  # fmt: skip


def missing(case: Case, rows: Sequence[Row], threads: int) -> list[str]:
    """What should have taken part in a case and did not, a line each."""
    measured = {row.block: row.measured for row in rows}
    return [
        f"{case.kind} {case.name}, block {part.block}, {threads} thread(s): {name}"
        for part in case.parts
        for name in (part.names[contender.name] for contender in case.contenders if contender.name in part.names)
        if name not in measured.get(part.block, {})
    ]
