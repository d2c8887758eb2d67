"""Exports every architecture with every kind of layer, and opens each file in every runtime: `docs/export_matrix.md`.

A cell is an architecture with plain, kervolutional or deconvolutional layers, at a small input or at its paper's. It is
exported, run in ONNX Runtime with and without the op library and in the reference evaluator (small inputs), and, with
its functions inlined, in OpenVINO; the results are compared with PyTorch's. TensorRT-RTX builds an engine of it.

    python benchmarks/export_matrix.py --sizes small            # the small half: hours on two cores
    python benchmarks/export_matrix.py --architectures lenet5 --layers plain,manhattan
    python benchmarks/export_matrix.py --page-only              # the table again, from what is kept

Results are kept in `results/` after every cell, under a digest of what they depend on: a run that was interrupted goes
on, and only what has changed is run again. Exits with 1 where a cell that was chosen fails.
"""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from matrix_cells import LAYERS, SIZES, SMALL, Cell, cells, versions
from matrix_run import Limits, Stages, run_cell
from matrix_stages import EXPORT
from matrix_table import failures, markdown, read_page, write_page
from program import choose, results_path, stamp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from edgeconv.errors import EdgeconvError, InputError
from edgeconv.files import write_text
from edgeconv.models.registry import list_models

PAGE = Path(__file__).parents[1] / "docs" / "export_matrix.md"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    architectures: Annotated[str, typer.Option(help="Comma-separated; all by default.")] = "",
    layers: Annotated[str, typer.Option(help=f"Some of {', '.join(LAYERS)}; all by default.")] = "",
    sizes: Annotated[str, typer.Option(help=f"Some of {', '.join(SIZES)}; all by default.")] = "",
    seconds: Annotated[float, typer.Option(min=1, help="Time limit of a stage (export, or one runtime).")] = 900,
    memory: Annotated[float, typer.Option(min=0.1, help="Memory limit of a stage, in GiB.")] = 8,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch and the runtimes.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Cells at a time; each then takes longer.")] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run what is kept again, too.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run what failed again, too.")] = False,
    page_only: Annotated[bool, typer.Option("--page-only", help="Run nothing; write the page.")] = False,
    results: Annotated[Path | None, typer.Option(help="The results' file; by default this machine's.")] = None,
    page: Annotated[Path, typer.Option(help="The page with the table.", show_default=False)] = PAGE,
    as_json: Annotated[bool, typer.Option("--json", help="Print the chosen cells' results as JSON.")] = False,
) -> None:
    """Export every architecture with every kind of layer, and open each file in every runtime."""
    console = Console(stderr=True)
    names = [info.name for info in list_models()]
    try:
        every = list(cells(names, LAYERS, SIZES))
        chosen = list(cells(choose(architectures, names), choose(layers, LAYERS), choose(sizes, SIZES)))
        digests = {cell.key: cell.digest() for cell in every}
        environment = stamp(threads)
        path = results or results_path("export_matrix", environment)
        read_page(page)
        kept, packages = read_results(path)
        head = {"environment": environment.to_dict(), "packages": versions()}
        todo = [
            cell for cell in ([] if page_only else chosen)
            if fresh or kept.get(cell.key, {}).get("digest") != digests[cell.key]
            or (retry and failures(kept[cell.key]))
        ]  # fmt: skip
        if earlier := sum(cell.key in kept and kept[cell.key]["digest"] != digests[cell.key] for cell in chosen):
            console.print(f"{earlier} of the kept results are of other code or packages{_changes(packages)}")
        with _progress(console) as bar:
            task = bar.add_task("", total=len(todo), what="")
            limits = Limits(seconds, round(memory * 1024), threads)
            for cell, stages in run_cells(todo, limits, jobs, kept, lambda what: bar.update(task, what=what)):
                date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
                kept[cell.key] = {
                    "digest": digests[cell.key], "date": date, "threads": threads, "jobs": jobs, "stages": stages,
                }  # fmt: skip
                for stage, reason in failures(kept[cell.key]).items():
                    bar.console.print(f"[red]{cell.key}[/] {stage}: {reason}", highlight=False, soft_wrap=True)
                write_cells(path, head, kept, every)
                write_page(page, markdown(every, kept, digests))
                bar.advance(task)
        write_page(page, markdown(every, kept, digests))
    except EdgeconvError as error:
        console.print(f"[bold red]error:[/] {error.message} {error.remedy or ''}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as interrupt:
        console.print("interrupted; finished cells are kept, the next run goes on from there")
        raise typer.Exit(130) from interrupt
    found = {cell.key: kept[cell.key] for cell in chosen if cell.key in kept}
    failed = [key for key, result in found.items() if failures(result)]
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    console.print(f"{len(found)} of {len(chosen)} chosen cells run, {len(failed)} with a failure: {page}")
    if failed:
        raise typer.Exit(1)


def run_cells(
    todo: Sequence[Cell], limits: Limits, jobs: int, kept: Mapping[str, Any], tell: Callable[[str], object]
) -> Iterator[tuple[Cell, Stages]]:
    """Run cells, `jobs` at a time, and yield each with its stages as it ends; an interrupt ends what is running.

    A network at its paper's input is first built as the small one was, if that is among `kept`.
    """
    interrupted = threading.Event()

    def run(cell: Cell) -> Stages:
        small = kept.get(replace(cell, size=SMALL).key, {}).get("stages", {}).get(EXPORT, {})
        first = (small["where"], small["strength"]) if cell.size != SMALL and "where" in small else ()
        return run_cell(cell, limits, lambda stage: tell(f"{cell.key}: {stage}"), interrupted.is_set, first)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            cell_of = {pool.submit(run, cell): cell for cell in todo}
            for future in as_completed(cell_of):
                yield cell_of[future], future.result()
        except BaseException:
            interrupted.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def read_results(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What earlier runs found, and the packages' versions of the last; nothing where there is no file.

    Raises:
        InputError: The file is not one of this program's.
    """
    if not path.exists():
        return {}, {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return dict(found["cells"]), dict(found["packages"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds no results of this program.", "Move it away, or name another --results."
        ) from error


def write_cells(path: Path, head: dict[str, Any], kept: dict[str, Any], every: list[Cell]) -> None:
    """Write the results, a line a cell; cells that there are no more are left out."""
    lines = [f'  "{cell.key}": {json.dumps(kept[cell.key])}' for cell in every if cell.key in kept]
    write_text(path, f"{json.dumps(head, indent=1)[:-2]},\n" + ' "cells": {\n' + ",\n".join(lines) + "\n }\n}\n")


def _changes(packages: Mapping[str, str]) -> str:
    changed = [
        f"{name} {packages[name]}, here {version}"
        for name, version in versions().items()
        if packages.get(name, version) != version
    ]
    return f" ({'; '.join(changed)})" if changed else ""


def _progress(console: Console) -> Progress:
    columns = (MofNCompleteColumn(), BarColumn(30), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[what]}"), console=console)


if __name__ == "__main__":
    app()
