"""The plot of `deconvolution_cpu.py`: the operator against what else computes it; networks. Needs the plot extra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deconvolution_rows import (
    BATCH,
    COMPILE,
    EAGER,
    FOLDED,
    FUNCTION,
    GOALS,
    LIBRARY,
    NETWORK,
    OPERATOR,
    PLAIN,
    TO_FUNCTION,
    TO_PLAIN,
    TO_TORCH,
    Row,
)
from roofline import require_matplotlib

from edgeconv.files import atomic_output

# Okabe and Ito's palette, which people with colour blindness tell apart.
STYLES = {FUNCTION: ("#0072B2", "o"), EAGER: ("#D55E00", "s"), COMPILE: ("#009E73", "^")}
GOAL_COLOURS = {TO_FUNCTION: STYLES[FUNCTION][0], TO_TORCH: "#D55E00"}
NETWORK_COLOURS = {FOLDED: "#0072B2", BATCH: "#D55E00"}


def draw_deconvolution(rows: Sequence[Row], threads: int, title: str, path: Path) -> None:
    """Draw the rows of one number of threads.

    Left, for each layer and block, the competitors' times over the library's, with the goals as lines; in the middle
    the library's fraction of the machine's ceiling; right the networks' times over the plain ones'.

    Args:
        rows: What was measured.
        threads: Which rows to draw.
        title: Heading.
        path: An SVG or PNG file.
    """
    pyplot = require_matplotlib()
    rows = [row for row in rows if row.threads == threads]
    operators = [row for row in rows if row.kind == OPERATOR and LIBRARY in row.measured]
    networks = [row for row in rows if row.kind != OPERATOR and row.ratio(NETWORK, PLAIN) is not None]
    height = 1.6 + 0.22 * max(len(operators), 10)
    figure, axes = pyplot.subplots(1, 3, figsize=(12.5, height), layout="constrained", width_ratios=(5, 2.5, 3))
    _draw_ratios(axes[0], operators, threads)
    _draw_fractions(axes[1], operators)
    _draw_networks(axes[2], networks, threads)
    figure.suptitle(title)
    with atomic_output(path) as temporary:
        pyplot.savefig(temporary, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _draw_ratios(axis: Any, rows: Sequence[Row], threads: int) -> None:
    for name, (colour, marker) in STYLES.items():
        points = [(row.ratio(name, LIBRARY), place) for place, row in enumerate(rows) if name in row.measured]
        if points:
            axis.plot(*zip(*points, strict=True), marker, color=colour, markersize=5, label=name)
    axis.axvline(1, color="black", linewidth=1.2)
    for goal in GOALS:
        if goal.threads == threads and goal.metric in GOAL_COLOURS:
            axis.axvline(goal.bound, color=GOAL_COLOURS[goal.metric], linewidth=0.9, linestyle="--")
    axis.set(title="DeconvWhitening, dashed: the goals", xscale="log", xlabel="times the op library's time")
    _plain_numbers(axis)
    _name_rows(axis, [f"{row.name}, block {row.block}" for row in rows])
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7, loc="best")


def _draw_fractions(axis: Any, rows: Sequence[Row]) -> None:
    axis.barh(range(len(rows)), [row.of_limit or 0.0 for row in rows], height=0.6, color="0.6")
    axis.axvline(1, color="black", linewidth=1.2)
    axis.set(title="The op library", xlabel="useful multiply-adds over the ceiling")
    _name_rows(axis, [""] * len(rows))


def _draw_networks(axis: Any, rows: Sequence[Row], threads: int) -> None:
    axis.barh(
        range(len(rows)), [row.ratio(NETWORK, PLAIN) for row in rows], height=0.6,
        color=[NETWORK_COLOURS[row.kind] for row in rows],
    )  # fmt: skip
    for place, row in enumerate(rows):
        axis.text(row.ratio(NETWORK, PLAIN), place, f" {row.ratio(NETWORK, PLAIN):.2f}", va="center", fontsize=7)
    axis.axvline(1, color="black", linewidth=1.2)
    for bound in {goal.bound for goal in GOALS if goal.metric == TO_PLAIN and goal.threads == threads}:
        axis.axvline(bound, color="black", linewidth=0.9, linestyle="--")
    axis.set(title="Whole networks, dashed: the goals", xscale="log", xlabel="times the plain network's time")
    axis.set_xlim(0.5, 2.5 * max((row.ratio(NETWORK, PLAIN) or 1.0 for row in rows), default=2.0))
    _plain_numbers(axis)
    kinds = {FOLDED: "folded", BATCH: "batch"}
    _name_rows(axis, [f"{row.name}\n{kinds[row.kind]}, block {row.block}" for row in rows])


def _plain_numbers(axis: Any) -> None:
    """Write 1, 2, 3, 5, 10 and so on at a logarithmic axis, not powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.tick_params(axis="x", labelsize=7)


def _name_rows(axis: Any, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axis.grid(True, axis="x", which="major", linewidth=0.4, alpha=0.5)
