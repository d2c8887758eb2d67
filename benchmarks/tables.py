"""The benchmark's tables: ceilings, times with ratios, goals."""

from __future__ import annotations

from collections.abc import Sequence

from ceilings import Ceilings
from layers import HELD
from outcomes import Verdict
from rich.table import Table
from rows import (
    ALONE,
    COMPILE,
    CONV,
    EAGER,
    LIBRARY,
    OPENVINO,
    OPENVINO_DEFAULT,
    PLAIN,
    STANDARD,
    Row,
)

COLUMNS = {
    CONV: "ORT Conv",
    STANDARD: "ORT standard",
    EAGER: "torch eager",
    COMPILE: "torch.compile",
    OPENVINO: "OpenVINO f32",
    OPENVINO_DEFAULT: "OpenVINO default",
}


def ceilings_table(ceilings: Ceilings) -> Table:
    """Every instruction form, the best of each accumulation marked, and the read bandwidths."""
    table = Table(
        title=f"Ceilings, {ceilings.threads} thread(s), pinned",
        caption="0.9 quantile of the rounds; operands in registers",
    )
    for name in ("accumulation", "instructions", "instruction set"):
        table.add_column(name)
    table.add_column("10^9/s", justify="right")
    table.add_column("median", justify="right")
    for form in ceilings.forms:
        best = ceilings.best(form.name) == form
        cells = (form.name, form.form, form.isa, f"{form.rate:.1f}", f"{form.median:.1f}")
        table.add_row(*cells, style="bold" if best else "dim")
    table.add_section()
    for level in ceilings.bandwidths:
        size = f"{level.bytes / 2**20:g} MiB"
        table.add_row(f"read {level.name}", size, "bytes", f"{level.rate:.1f}", f"{level.median:.1f}")
    return table


def times_table(rows: Sequence[Row], title: str) -> Table:
    """Milliseconds; behind each competitor's how many times the library's it is."""
    present = [name for name in COLUMNS if any(name in row.measured for row in rows)]
    alone = any(ALONE in row.measured for row in rows)
    table = Table(
        title=title,
        caption="ms, medians of interleaved runs; ×: how many times the library's time. of limit: multiply-adds of the "
        "direct algorithm a second, over the accumulation's ceiling; Winograd's fewer products may exceed 1",
    )
    table.add_column("kernel")
    table.add_column("layer")
    table.add_column("library", justify="right")
    for name in present:
        table.add_column(COLUMNS[name], justify="right", no_wrap=True)
    table.add_column("/ Conv", justify="right")
    if alone:
        table.add_column("scaling", justify="right")
    table.add_column("G/s", justify="right")
    table.add_column("of limit", justify="right")
    table.add_column("goals", justify="right")
    for row in rows:
        cells = [_against_library(row, name) for name in present]
        to_conv, scaling = row.ratio(LIBRARY, CONV), row.ratio(ALONE, LIBRARY)
        if alone:
            cells.append(_number(scaling))
        table.add_row(
            row.kernel if row.precision == "float32" else f"{row.kernel} {row.precision}",
            row.layer,
            f"{row.measured[LIBRARY].ms:.3f}",
            *cells[: len(present)],
            _number(to_conv),
            *cells[len(present) :],
            f"{row.rate:.1f}",
            _number(row.of_limit),
            mark(row.met, held=row.layer in HELD),
        )
    return table


def networks_table(rows: Sequence[Row]) -> Table:
    """Whole networks."""
    table = Table(title="ResNet-18 at 224x224, a kervolution in every 3x3 layer", caption="ms, both in ONNX Runtime")
    for name in ("kernel", "precision"):
        table.add_column(name)
    for name in ("threads", "plain", "kervolutional", "ratio", "95 % interval", "scaling", "goals"):
        table.add_column(name, justify="right")
    for row in rows:
        interval = f"{row.interval[0]:.2f} … {row.interval[1]:.2f}" if row.interval else "-"
        times = (f"{row.measured[name].ms:.2f}" for name in (PLAIN, LIBRARY))
        ratio, scaling = row.ratio(LIBRARY, PLAIN), row.ratio(ALONE, LIBRARY)
        cells = (str(row.threads), *times, _number(ratio), interval, _number(scaling), mark(row.met))
        table.add_row(row.kernel, row.precision, *cells)
    return table


def goals_table(verdicts: Sequence[Verdict]) -> Table:
    """Every goal with the row that is furthest from it."""
    table = Table(title="Goals", caption="worst: of the rows that were measured, the one furthest from the goal")
    for name in ("kernels", "precision", "layers", "metric"):
        table.add_column(name)
    for name in ("goal", "worst", "rows met", ""):
        table.add_column(name, justify="right")
    for verdict in verdicts:
        goal = verdict.goal
        rows = f"{len(verdict.values) - len(verdict.missed)} of {len(verdict.values)}" if verdict.values else ""
        worst = f"not measured: {verdict.reason}" if verdict.reason else "not measured"
        if verdict.values:
            where = goal.worst(verdict.values)
            value = verdict.values[where]
            worst = f"{value:.2e}" if goal.bound < 1e-2 else f"{value:.2f}"
            worst += f" ({where})"
        layers = "held set" if set(goal.layers) == set(HELD) else ", ".join(goal.layers)
        sign = {"<=": "≤", ">=": "≥"}[goal.sense]
        cells = (", ".join(goal.kernels), goal.precision, layers, goal.metric, f"{sign} {goal.bound:g}", worst, rows)
        table.add_row(*cells, mark(verdict.met))
    return table


def mark(met: bool | None, held: bool = False) -> str:
    """A pass mark; empty where there is no goal or nothing was measured."""
    if met is None:
        return ""
    if held:
        return "[green]never slower[/]" if met else "[red]slower[/]"
    return "[green]met[/]" if met else "[red]missed[/]"


def _against_library(row: Row, name: str) -> str:
    if name not in row.measured:
        return "-"
    ratio = row.ratio(name, LIBRARY)
    assert ratio is not None
    return f"{row.measured[name].ms:.2f} ×{ratio:.1f}" if ratio >= 10 else f"{row.measured[name].ms:.2f} ×{ratio:.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
