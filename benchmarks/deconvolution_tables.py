"""The tables of `deconvolution_cpu.py`."""

from __future__ import annotations

from collections.abc import Sequence

from deconvolution_rows import (
    ALONE,
    BATCH,
    COMPILE,
    EAGER,
    FUNCTION,
    LIBRARY,
    NETWORK,
    PLAIN,
    TO_PLAIN,
    Goal,
    Row,
)
from outcomes import Verdict
from rich.table import Table
from tables import mark

COLUMNS = {FUNCTION: "function body", EAGER: "torch eager", COMPILE: "torch.compile"}


def operators_table(rows: Sequence[Row], title: str) -> Table:
    """Milliseconds; behind each competitor's how many times the library's it is."""
    present = [name for name in COLUMNS if any(name in row.measured for row in rows)]
    alone = any(ALONE in row.measured for row in rows)
    table = Table(
        title=title,
        caption="ms, medians of interleaved runs; ×: how many times the library's time. of limit: useful multiply-adds "
        "a second, half of each symmetric product, over the machine's ceiling",
    )
    table.add_column("layer")
    for name in ("block", "library", *(COLUMNS[name] for name in present), *(["scaling"] if alone else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("G/s", "of limit", "goals"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = [_against_library(row, name) for name in present]
        if alone:
            cells.append(_number(row.ratio(ALONE, LIBRARY)))
        cells += [_number(row.rate, 1), _number(row.of_limit), mark(row.met)]
        table.add_row(row.name, str(row.block), _number(row.ms(LIBRARY), 3), *cells)
    return table


def deconvolution_networks_table(rows: Sequence[Row], title: str) -> Table:
    """Whole networks, and what they compute beside their convolutions."""
    table = Table(
        title=title,
        caption="ms, both in ONNX Runtime. beside convolutions: useful multiply-adds of the whitening, and those that "
        "fold it into the weights, over the convolutions' own",
    )
    for name in ("network", "statistics"):
        table.add_column(name)
    for name in ("block", "plain", "deconvolutional", "ratio", "95 % interval", "beside convolutions", "goals"):
        table.add_column(name, justify="right")
    for row in rows:
        interval = row.intervals.get(TO_PLAIN)
        beside = {name: count / row.macs["convolution"] for name, count in row.macs.items() if name != "convolution"}
        table.add_row(
            row.name,
            "the image's" if row.kind == BATCH else "frozen, folded",
            str(row.block),
            *(_number(row.ms(name)) for name in (PLAIN, NETWORK)),
            _number(row.ratio(NETWORK, PLAIN), 3),
            f"{interval[0]:.3f} … {interval[1]:.3f}" if interval else "-",
            ", ".join(f"{name} ×{share:.2f}" for name, share in beside.items()),
            mark(row.met),
        )
    return table


def deconvolution_goals_table(verdicts: Sequence[Verdict]) -> Table:
    """Every goal with the row that is furthest from it."""
    table = Table(title="Goals", caption="worst: of the rows that were measured, the one furthest from the goal")
    for name in ("what", "metric"):
        table.add_column(name)
    for name in ("threads", "goal", "worst", "rows met", ""):
        table.add_column(name, justify="right")
    for verdict in verdicts:
        goal: Goal = verdict.goal
        what = goal.kind if goal.block is None else f"{goal.kind}, block {goal.block}"
        rows = f"{len(verdict.values) - len(verdict.missed)} of {len(verdict.values)}" if verdict.values else ""
        worst = f"not measured{': ' * bool(verdict.reason)}{verdict.reason}"
        if verdict.values:
            where = goal.worst(verdict.values)
            worst = f"{verdict.values[where]:.3f} ({where})"
        sign = {"<=": "≤", ">=": "≥"}[goal.sense]
        table.add_row(
            what, goal.metric, str(goal.threads), f"{sign} {goal.bound:g}", worst, rows, mark(verdict.met)
        )  # fmt: skip
    return table


def _against_library(row: Row, name: str) -> str:
    ms, ratio = row.ms(name), row.ratio(name, LIBRARY)
    if ms is None:
        return "-"
    if ratio is None:
        return f"{ms:.2f}"
    return f"{ms:.2f} ×{ratio:.1f}" if ratio >= 10 else f"{ms:.2f} ×{ratio:.2f}"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
