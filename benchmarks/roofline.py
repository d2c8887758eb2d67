"""The benchmark's plot: what was measured against the machine's limits, a panel an accumulation. Needs the plot extra.

A roof is the lower of the accumulation's ceiling and of what the read bandwidth of a memory level feeds; the x axis is
how many multiply-adds (or absolute differences) a layer makes of a byte. Filled marks are the op library, hollow ones
the best of the others, one colour and shape a kernel; names of the held set are in italics.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ceilings import Ceilings
from layers import HELD
from rows import ALONE, CONV, LIBRARY, OPENVINO_DEFAULT, Row

from edgeconv.errors import MissingDependencyError
from edgeconv.files import atomic_output

PANELS = {
    "x·w": ("dot", ("polynomial", "gaussian", "sigmoid", "euclidean")),
    "Σ|x − w|": ("manhattan", ("manhattan",)),
    "max|x − w|": ("chebyshev", ("chebyshev",)),
}
ROOFS = [accumulation for accumulation, _ in PANELS.values()]
HEADROOM = 8  # over the highest ceiling, for the layers' names
# Okabe and Ito's palette, which people with colour blindness tell apart.
STYLES = {
    "polynomial": ("#0072B2", "o"),
    "gaussian": ("#D55E00", "s"),
    "sigmoid": ("#009E73", "^"),
    "euclidean": ("#CC79A7", "D"),
    "manhattan": ("#0072B2", "o"),
    "chebyshev": ("#0072B2", "o"),
}

NAME_SPACING = 1.22
"""Least ratio of the places of two neighbouring layers' names on the logarithmic axis."""


def require_matplotlib() -> Any:
    """Import matplotlib's pyplot for drawing into files.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError(
            f"the plot cannot be drawn: {error}.",
            "Install matplotlib (pip install 'edgeconv[plot]'), or use --no-plot.",
        ) from error
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "edgeconv", "font.size": 9})
    from matplotlib import pyplot

    return pyplot


def draw_roofline(rows: Sequence[Row], ceilings: Ceilings, isa: str | None, title: str, path: Path) -> None:
    """Draw the rows of one number of threads in float32.

    Args:
        rows: Rows of layers, not of networks.
        ceilings: The ceilings of as many threads.
        isa: Level of EDGECONV_CPU_ISA under which the library ran.
        title: Heading.
        path: An SVG or PNG file.
    """
    pyplot = require_matplotlib()
    rows = [row for row in rows if row.precision == "float32" and row.threads == ceilings.threads]
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(12.5, 4.6), sharey=True, layout="constrained")
    intensities = [row.macs / row.bytes for row in rows] or [1.0]
    x = np.geomspace(min(intensities) / 3, max(intensities) * 3, 200)
    for axis, (name, (accumulation, kernels)) in zip(axes, PANELS.items(), strict=True):
        best = ceilings.best(accumulation, isa)
        _draw_roofs(axis, x, ceilings, best.rate if best else None)
        if best is not None:
            label = f"{best.rate:.0f} G/s: {best.form} ({best.isa})"
            axis.annotate(label, (x[0], best.rate), xytext=(4, 4), textcoords="offset points", fontsize=8)
        _draw_rows(axis, [row for row in rows if row.kernel in kernels])
        axis.set(title=name, xscale="log", yscale="log", xlabel="multiply-adds a byte", xlim=(x[0], x[-1]))
        axis.grid(True, which="major", linewidth=0.4, alpha=0.5)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7, loc="lower right")
    axes[0].set_ylim(top=HEADROOM * max([1.0, *(rate.rate for rate in ceilings.forms if rate.name in ROOFS)]))
    axes[0].set_ylabel("10⁹ multiply-adds a second, as if by the direct algorithm")
    figure.suptitle(title)
    with atomic_output(path) as temporary:
        pyplot.savefig(temporary, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _draw_roofs(axis: Any, x: np.ndarray[Any, Any], ceilings: Ceilings, ceiling: float | None) -> None:
    """The ceiling, and each level's bandwidth up to it."""
    if ceiling is not None:
        axis.axhline(ceiling, color="black", linewidth=1.2)
    for level, style in zip(ceilings.bandwidths, ("--", "-.", ":"), strict=False):
        roof = level.rate * x
        shown = roof if ceiling is None else np.where(roof <= ceiling, roof, np.nan)
        axis.plot(x, shown, color="0.4", linewidth=0.9, linestyle=style, label=f"{level.name} {level.rate:.0f} GB/s")


def _draw_rows(axis: Any, rows: Sequence[Row]) -> None:
    named: set[str] = set()
    for row in rows:
        colour, marker = STYLES[row.kernel]
        intensity = row.macs / row.bytes
        others = [m.ms for name, m in row.measured.items() if name not in (CONV, LIBRARY, ALONE, OPENVINO_DEFAULT)]
        if others:
            best = row.macs / min(others) * 1e-6
            axis.plot([intensity] * 2, [row.rate, best], color=colour, linewidth=0.5, alpha=0.6)
            axis.plot(intensity, best, marker, color=colour, markerfacecolor="white", markersize=5)
        label = None if row.kernel in named else row.kernel
        named.add(row.kernel)
        axis.plot(intensity, row.rate, marker, color=colour, markersize=5, label=label)
    _draw_names(axis, rows)


def _draw_names(axis: Any, rows: Sequence[Row]) -> None:
    """Write each layer's name at the top over its marks, moved to the right where names would lie on one another."""
    intensities = {row.layer: row.macs / row.bytes for row in rows}
    place = 0.0
    for layer, intensity in sorted(intensities.items(), key=lambda item: item[1]):
        place = max(intensity, place * NAME_SPACING)
        axis.axvline(intensity, color="0.85", linewidth=0.5, zorder=0)
        axis.text(
            place, 0.985, layer, transform=axis.get_xaxis_transform(), rotation=90, ha="center", va="top", fontsize=7,
            fontstyle="italic" if layer in HELD else "normal",
        )  # fmt: skip
