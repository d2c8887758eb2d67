"""The export matrix as Markdown, written between the markers of its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matrix_cells import LAYERS, SIZES, Cell
from matrix_run import FAILED, PASSED
from matrix_stages import EXPORT

from edgeconv.errors import InputError
from edgeconv.files import write_text

BEGIN, END = "<!-- export_matrix: begin -->", "<!-- export_matrix: end -->"
NOT_RUN, WHOLE = "not run", "✓"
EARLIER = "°"
"""Marks a result of code or packages that have changed since."""

Results = Mapping[str, Mapping[str, Any]]
"""Cell's key -> its digest, date and stages."""


def failures(result: Mapping[str, Any]) -> dict[str, str]:
    """Stage -> reason, of the stages of one cell that failed."""
    return {stage: found["reason"] for stage, found in result["stages"].items() if found["status"] == FAILED}


def markdown(every: Sequence[Cell], results: Results, digests: Mapping[str, str]) -> str:
    """The page's generated part: counts, the matrix, reasons of failures, what the exports took.

    Args:
        every: All cells that there are.
        results: What has been run.
        digests: What each cell's digest is now.
    """
    by_key = {cell.key: cell for cell in every}
    run = {key: results[key] for key in by_key if key in results}
    failed = {key: found for key, result in run.items() if (found := failures(result))}
    earlier = [key for key, result in run.items() if result["digest"] != digests[key]]
    lines = [
        f"{len(every)} cells: {len(run) - len(failed)} passed, {len(failed)} with a failure, "
        f"{len(every) - len(run)} not run.",
        "",
    ]
    if earlier:
        lines += [f"{EARLIER} run before its architecture, the exporter or a package changed ({len(earlier)}).", ""]
    notes: dict[tuple[str, str], int] = {}
    for key in run:
        for stage, reason in failed.get(key, {}).items():
            notes.setdefault((stage, reason), len(notes) + 1)
    rows = [
        [
            f"`{name}`",
            f"{size} {shape}",
            *(_mark(by_key.get(f"{name}/{layer}/{size}"), run, earlier, notes) for layer in LAYERS),
        ]
        for name, size, shape in _rows(every)
    ]
    lines += _table(["architecture", "input", *LAYERS], rows)
    if notes:
        lines += ["", "Failures:", ""]
        lines += [f"{number}. {stage}: {reason}" for (stage, reason), number in notes.items()]
    lines += [
        "",
        "The plain forms; the time is the processor's, for building, preparing and exporting:",
        "",
    ]
    header = ["architecture", "input", "parameters", "MACs", "file", "processor time", "peak memory"]
    return "\n".join([*lines, *_table(header, [_cost(cell, run) for cell in every if cell.layers == LAYERS[0]])])


def read_page(page: Path) -> tuple[str, str]:
    """What stands before and after the page's generated part.

    Raises:
        InputError: There is no such page, or it has no markers.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{page} cannot be read: {error.strerror}.", "Name the page that has the table.") from error
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise InputError(f"{page} has no lines {BEGIN} and {END}.", "Put them where the table is to stand.")
    return head, tail


def write_page(page: Path, generated: str) -> None:
    """Put the generated part between the page's markers; errors as of `read_page`."""
    head, tail = read_page(page)
    write_text(page, f"{head}{BEGIN}\n\n{generated}\n\n{END}{tail}")


def _rows(every: Sequence[Cell]) -> list[tuple[str, str, str]]:
    found = {(cell.architecture, cell.size): "x".join(map(str, cell.input_shape[1:])) for cell in every}
    return [(name, size, shape) for (name, size), shape in sorted(found.items(), key=lambda item: _order(item[0]))]


def _order(row: tuple[str, str]) -> tuple[str, int]:
    return row[0], SIZES.index(row[1])


def _mark(cell: Cell | None, run: Results, earlier: Sequence[str], notes: Mapping[tuple[str, str], int]) -> str:
    if cell is None or cell.key not in run:
        return NOT_RUN
    found = failures(run[cell.key])
    mark = ", ".join(f"{stage} ({notes[stage, reason]})" for stage, reason in found.items())
    where = run[cell.key]["stages"].get(EXPORT, {}).get("where", "all")
    kind = "" if where == "all" else f" ({where})"
    return (f"✗ {mark}" if found else WHOLE) + kind + (EARLIER if cell.key in earlier else "")


def _cost(cell: Cell, run: Results) -> list[str]:
    stages = run[cell.key]["stages"] if cell.key in run else {}
    shape = "x".join(map(str, cell.input_shape[1:]))
    exported = stages.get(EXPORT, {})
    name = [f"`{cell.architecture}`", shape]
    if exported.get("status") != PASSED:
        return [*name, "", "", NOT_RUN if not exported else "failed", "", ""]
    return [
        *name,
        f"{exported['parameters'] / 1e6:.2f} M",
        f"{exported['macs'] / 1e6:,.0f} M",
        f"{exported['file_mib']:.1f} MiB",
        f"{exported['cpu_seconds']:.0f} s",
        f"{exported['export_peak_mib']:.0f} MiB",
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
