"""Claim: deconvolution costs nothing once it is folded, and a CPU can afford to whiten with what it sees.

Three comparisons, all interleaved in one run, with one thread and with two, after the machine's own ceiling:

- ResNet-18 at 224x224 and ResNet-20 at 32x32 with frozen statistics, folded into plain weights by the export, against
  the same networks with BatchNorm, in ONNX Runtime at batch 1;
- the operator `DeconvWhitening` on the input of every convolution of both: the op library, the function body in ONNX
  Runtime, PyTorch eager and torch.compile, PyTorch's each in the best of two forms;
- both networks with the statistics of the image that they are given, in blocks of 16 and of 64 channels, against those
  with BatchNorm.

    python benchmarks/deconvolution_cpu.py --json             # everything: some minutes on two cores
    python benchmarks/deconvolution_cpu.py --layers 56,8 --blocks 16 --networks none --competitors function    # seconds

Everything that is timed is checked against float64 before. With one thread the clock is the process's CPU time, so that
other load on the machine counts less; with several it is the wall's. `--json` writes
benchmarks/results/deconvolution_cpu-<cpu>.json and the plot beside it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from ceilings import Ceilings, limit, measure_ceilings
from competitors import fresh_torch_compile
from deconvolution_networks import NETWORKS, batch_case, folded_case
from deconvolution_operators import operator_case
from deconvolution_plot import draw_deconvolution
from deconvolution_rows import COMPILE, EAGER, FUNCTION, OPERATOR, Case, Row, measure_case, missing, verdicts
from deconvolution_tables import deconvolution_goals_table, deconvolution_networks_table, operators_table
from interleave import Chosen, forget_compiled
from outcomes import Verdict
from program import (
    OPENMP,
    choose,
    choose_or_none,
    clock_name,
    hold_openmp,
    results_path,
    stamp,
    thread_counts,
    write_results,
)
from rich.console import Console
from roofline import require_matplotlib
from tables import ceilings_table
from whitening_layers import BLOCKS, LAYERS, whitenings

from edgeconv.bench.conditions import Conditions, Snapshot
from edgeconv.bench.environment import Environment
from edgeconv.bench.measure import Plan, clock_overhead_ns
from edgeconv.bench.progress import show_progress
from edgeconv.errors import EdgeconvError

OPTIONS = {"function": FUNCTION, "eager": EAGER, "compile": COMPILE}
"""Competitors by their names in --competitors; the library always takes part."""

app = typer.Typer(add_completion=False)


@dataclass
class Run:
    """What is to be measured, and what was.

    Attributes:
        layers: Names of layers.
        blocks: Channels of a block, as a user asks for them, rising.
        networks: Names of networks.
        competitors: Names out of `deconvolution_operators.COMPETITORS`.
        threads: Numbers of threads.
        plan: How long to measure.
        environment: The stamp.
        ceilings: By number of threads; empty where they were not measured.
        rows: The results.
        notes: What took no part and why.
        failed: What should have taken part in a row, and did not.
    """

    layers: list[str]
    blocks: list[int]
    networks: list[str]
    competitors: list[str]
    threads: list[int]
    plan: Plan
    environment: Environment
    ceilings: dict[int, Ceilings] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def judge(self) -> list[Verdict]:
        """What the rows say of each goal."""
        return verdicts(self.rows)

    def cases(self, directory: Path) -> Iterator[tuple[str, Callable[[], Case]]]:
        """Every case: what loading it is called, and what loads it.

        Args:
            directory: For exported networks.
        """
        for name in self.networks:
            yield f"exporting {name}, folded", partial(folded_case, NETWORKS[name], self.blocks[-1], directory)
        for name in self.layers:
            for whitening in whitenings(LAYERS[name], self.blocks):
                loading = f"{name}, block {whitening.block}: float64"
                yield loading, partial(operator_case, whitening, self.competitors)
        for name in self.networks:
            loading = f"exporting {name}, batch statistics"
            yield loading, partial(batch_case, NETWORKS[name], self.blocks, directory)

    def measure(self, console: Console) -> None:
        """Measure all cases, one number of threads after the other."""
        chosen: Chosen = {}
        isa = os.environ.get("EDGECONV_CPU_ISA")
        with show_progress(console) as tell, tempfile.TemporaryDirectory() as directory:
            total, done = len(list(self.cases(Path(directory)))) * len(self.threads), 0
            for threads in self.threads:
                for loading, load in self.cases(Path(directory)):
                    tell(loading, done / total)
                    case = load()

                    def progress(what: str, part: float, done: int = done, threads: int = threads) -> None:
                        tell(f"{what}, {threads} thread(s)", (done + part) / total)

                    rows = measure_case(
                        case, threads=threads, plan=self.plan, limit=limit(self.ceilings.get(threads), "dot", isa),
                        chosen=chosen, notes=self.notes, progress=progress,
                    )  # fmt: skip
                    self.rows += rows
                    self.failed += missing(case, rows, threads)
                    forget_compiled()
                    done += 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "benchmark": "deconvolution_cpu",
            "environment": self.environment.to_dict(),
            "variables": {name: os.environ[name] for name in OPENMP},
            "plan": {"iterations": self.plan.iterations, "duration_ns": self.plan.duration_ns},
            "ceilings": [ceilings.to_dict() for ceilings in self.ceilings.values()],
            "rows": [row.to_dict() for row in self.rows],
            "goals": [verdict.to_dict() for verdict in self.judge()],
            "notes": self.notes,
            "failed": self.failed,
        }


def report(run: Run, console: Console) -> None:
    """Print the tables."""
    for ceilings in run.ceilings.values():
        console.print(ceilings_table(ceilings))
    cpu = run.environment.cpu_model or run.environment.architecture
    for threads in run.threads:
        rows = [row for row in run.rows if row.threads == threads]
        heading = f"{threads} thread(s), {clock_name(threads)}"
        if operators := [row for row in rows if row.kind == OPERATOR]:
            console.print(operators_table(operators, f"{cpu}: DeconvWhitening, {heading}"))
        if networks := [row for row in rows if row.kind != OPERATOR]:
            console.print(deconvolution_networks_table(networks, f"{cpu}: networks, {heading}"))
    judged = run.judge()
    console.print(deconvolution_goals_table(judged))
    for note in dict.fromkeys(run.notes):
        console.print(f"[yellow]note:[/] {note}", highlight=False)
    for case in run.failed:
        console.print(f"[red]not measured:[/] {case}", highlight=False)
    met, measured = sum(v.met is True for v in judged), sum(v.met is not None for v in judged)
    console.print(f"{met} of {measured} goals met; {len(judged) - measured} not measured")


@app.command()
def main(
    layers: Annotated[str, typer.Option(help="Comma-separated, or 'none'; all by default.")] = "",
    blocks: Annotated[str, typer.Option(help="Channels of a block: some of 16,64; both by default.")] = "",
    networks: Annotated[str, typer.Option(help="Comma-separated, or 'none'; both by default.")] = "",
    competitors: Annotated[
        str, typer.Option(help=f"Of the operator: some of {', '.join(OPTIONS)}, or 'none'; all by default.")
    ] = "",
    threads: Annotated[
        str, typer.Option(help="Numbers of threads, comma-separated, rising; by default 1,2 (on one CPU 1).")
    ] = "",
    iterations: Annotated[
        int, typer.Option(min=1, help="Least samples of each side; of folded networks 5 times.")
    ] = 20,
    duration: Annotated[
        float, typer.Option(min=0, help="Least seconds of timed runs of each side; of folded networks 5 times.")
    ] = 0.3,
    warmup: Annotated[float, typer.Option(min=0, help="Least seconds of warm-up of each form.")] = 0.1,
    ceilings: Annotated[bool, typer.Option(help="Measure the machine's ceilings first (seconds).")] = True,
    plot: Annotated[bool, typer.Option(help="With --json, also draw the plot.")] = True,
    json_output: Annotated[
        bool, typer.Option("--json", help="Also write the results file and the plot, over earlier ones.")
    ] = False,
) -> None:
    """Measure folded networks, the whitening operator and networks with batch statistics, and judge the goals.

    Exits with 1 where a goal is missed or something could not take part.
    """
    console = Console(width=None if sys.stdout.isatty() else 190)
    counts = thread_counts(threads)
    hold_openmp()
    try:
        if json_output and plot:
            require_matplotlib()  # now, not after the measurements
        run = Run(
            layers=choose_or_none(layers, list(LAYERS)),
            blocks=sorted({int(block) for block in choose(blocks, [str(block) for block in BLOCKS])}),
            networks=choose_or_none(networks, list(NETWORKS)),
            competitors=[OPTIONS[name] for name in choose_or_none(competitors, list(OPTIONS))],
            threads=counts,
            plan=Plan(iterations, int(duration * 1e9), int(warmup * 1e9)),
            environment=stamp(None),
        )
        before = Snapshot.take()
        if ceilings:
            with console.status("measuring the machine's ceilings"):
                run.ceilings = measure_ceilings(run.threads)
            if not any(found.best("dot") for found in run.ceilings.values()):
                run.notes.append("ceiling of multiply-adds: not measured: it takes an x86-64 CPU with AVX2")
        with fresh_torch_compile() if COMPILE in run.competitors else nullcontext():
            run.measure(Console(stderr=True))
        conditions = Conditions(before, Snapshot.take(), clock_overhead_ns())
        run.notes += conditions.warnings(run.environment.governor, run.environment.boost)
        report(run, console)
        if json_output:
            write(run, conditions, plot, console)
    except EdgeconvError as error:
        Console(stderr=True).print(f"[red]error:[/] {error}", highlight=False)
        raise typer.Exit(error.exit_code) from None
    raise typer.Exit(1 if run.failed or any(verdict.met is False for verdict in run.judge()) else 0)


def write(run: Run, conditions: Conditions, plot: bool, console: Console) -> None:
    """Write the results file, and the plot of the least number of threads beside it."""
    path = results_path("deconvolution_cpu", run.environment)
    write_results(path, {**run.to_dict(), "conditions": conditions.to_dict()})
    console.print(f"wrote {path}")
    if plot:
        first = run.threads[0]
        image = path.with_suffix(".svg")
        title = f"{run.environment.cpu_model or run.environment.architecture}, {first} thread(s)"
        draw_deconvolution(run.rows, first, title, image)
        console.print(f"wrote {image}")


if __name__ == "__main__":
    app()
