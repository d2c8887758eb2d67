"""Rows, goals, tables and JSON of `int8_accuracy.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from outcomes import Bound, Verdict
from rich.console import Console
from rich.table import Table

DEFAULTS = "edgeconv"
"""The row of edgeconv's defaults; those of its options begin with it, too."""


@dataclass(frozen=True)
class Row:
    """A network, quantised in one way.

    Attributes:
        network: Its name.
        tool: Who quantised it, and how.
        agreement: Share of the images that keep float32's class.
        sqnr_db: Of the logits.
        top1: Accuracy in 8 bits, where there are labels.
        top1_float: Accuracy in float32.
        seconds: That quantising took.
        bytes: Of the file.
        in_float: Layers that were left in float.
    """

    network: str
    tool: str
    agreement: float
    sqnr_db: float
    top1: float | None
    top1_float: float | None
    seconds: float
    bytes: int
    in_float: int

    @property
    def points_lost(self) -> float | None:
        """Accuracy lost, in points."""
        return None if self.top1 is None or self.top1_float is None else 100 * (self.top1_float - self.top1)

    @property
    def peer(self) -> bool:
        """Whether it is another tool's."""
        return not self.tool.startswith(DEFAULTS)


@dataclass(frozen=True)
class Goal(Bound):
    """A bound on what edgeconv's defaults reach."""

    network: str
    metric: str
    sense: str
    bound: float


GOALS = (
    Goal("EfficientNet-Lite0", "agreement", ">=", 0.95),
    Goal("EfficientNet-Lite0", "SQNR in dB", ">=", 22.0),
    Goal("EfficientNet-Lite0", "layers in float", "<=", 0),
    Goal("EfficientNet-Lite0", "agreement above the best peer's", ">=", 0.0),
    Goal("EfficientNet-Lite0", "dB above the best peer's", ">=", 0.0),
    Goal("MobileNetV2", "points of accuracy lost", "<=", 0.2),
    Goal("MobileNetV2", "accuracy in float32", ">=", 0.98),
)


@dataclass
class Run:
    """What was measured."""

    rows: list[Row] = field(default_factory=list)
    subjects: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def judge(run: Run) -> list[Verdict]:
    """What the rows of edgeconv's defaults say of each goal."""
    verdicts = []
    for goal in GOALS:
        rows = [row for row in run.rows if row.network == goal.network]
        ours = next((row for row in rows if row.tool == DEFAULTS), None)
        value = None if ours is None else _metric(goal.metric, ours, [row for row in rows if row.peer])
        found = {} if value is None else {goal.network: value}
        verdicts.append(Verdict(goal, found, "" if found else "not measured in this run"))
    return verdicts


def _metric(name: str, ours: Row, peers: list[Row]) -> float | None:
    best = {
        "agreement above the best peer's": lambda: ours.agreement - max(row.agreement for row in peers),
        "dB above the best peer's": lambda: ours.sqnr_db - max(row.sqnr_db for row in peers),
    }
    if name in best:
        return best[name]() if peers else None
    values = {
        "agreement": ours.agreement,
        "SQNR in dB": ours.sqnr_db,
        "layers in float": ours.in_float,
        "points of accuracy lost": ours.points_lost,
        "accuracy in float32": ours.top1_float,
    }
    return values[name]


def report(run: Run, console: Console) -> None:
    """Print a table for each network, and the goals."""
    for name, about in run.subjects.items():
        title = f"{name}: {about['calibration']} images to calibrate with, {about['comparison']} others compared"
        table = Table(title=title, title_justify="left")
        table.add_column("quantised by")
        for heading in ("same class", "SQNR dB", "accuracy", "points lost", "MiB", "seconds"):
            table.add_column(heading, justify="right")
        for row in (row for row in run.rows if row.network == name):
            lost = row.points_lost
            table.add_row(
                row.tool,
                f"{row.agreement:.1%}",
                f"{row.sqnr_db:.2f}",
                "" if row.top1 is None else f"{row.top1:.2%}",
                "" if lost is None else f"{lost:+.2f}",
                f"{row.bytes / 2**20:.2f}",
                f"{row.seconds:.0f}",
            )
        console.print(table)
    for verdict in judge(run):
        goal = verdict.goal
        value = ", ".join(f"{found:.3f}" for found in verdict.values.values()) or verdict.reason
        state = {True: "[green]met[/]", False: "[red]missed[/]", None: "not measured"}[verdict.met]
        console.print(f"{state}: {goal.network}: {goal.metric} {goal.sense} {goal.bound:g}: {value}", highlight=False)
    for note in dict.fromkeys(run.notes):
        console.print(f"[yellow]note:[/] {note}", highlight=False)


def to_dict(run: Run, environment: Mapping[str, Any], *, complete: bool) -> dict[str, Any]:
    """Return plain JSON values; of a run that is not complete, what there is so far."""
    return {
        "benchmark": "int8_accuracy",
        "complete": complete,
        "environment": dict(environment),
        "versions": run.versions,
        "subjects": run.subjects,
        "rows": [asdict(row) for row in run.rows],
        "goals": [verdict.to_dict() for verdict in judge(run)],
        "notes": run.notes,
    }
