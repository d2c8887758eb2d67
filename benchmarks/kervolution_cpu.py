"""Claim: the op library's kervolutions run at the CPU's limit, and faster than anything else a user has today.

Every kernel on ResNet's five layer shapes and on a held set of other geometries: the op library, ONNX Runtime's plain
Conv, the best graph of standard operators in ONNX Runtime, PyTorch eager, torch.compile and OpenVINO (float32, and what
it takes by itself), each in the best of several forms, all interleaved in one run, with one thread and with two. The
machine's own ceilings come first: rates of each accumulation in several instruction forms, and read bandwidths. Then
whole networks: ResNet-18 with kervolutions in every 3x3 layer against plain ResNet-18.

    python benchmarks/kervolution_cpu.py --json             # everything: up to 40 minutes on two cores
    python benchmarks/kervolution_cpu.py --layers 56,7 --held none --threads 1 --competitors standard    # minutes

Everything that is timed is checked against float64 before. With one thread the clock is the process's CPU time, so that
other load on the machine counts less; with several it is the wall's. `--json` writes
benchmarks/results/kervolution_cpu-<cpu>.json and the roofline plot beside it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer
from cases import Case, layer_case, measure_case
from ceilings import Ceilings, limit, measure_ceilings
from competitors import fresh_torch_compile, library_has, openvino_default_precision
from goals import FROM_DOT
from interleave import Chosen, forget_compiled
from layers import HELD, LAYERS
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
from quantized_graphs import quantized_operator
from rich.console import Console
from roofline import draw_roofline, require_matplotlib
from rows import (
    COMPETITORS,
    COMPILE,
    CONV,
    EAGER,
    LIBRARY,
    OPENVINO,
    OPENVINO_DEFAULT,
    PLAIN,
    STANDARD,
    Row,
    verdicts,
)
from tables import ceilings_table, goals_table, networks_table, times_table
from whole_networks import NAME, NETWORK_KERNELS, network_case

from edgeconv.bench.conditions import Conditions, Snapshot
from edgeconv.bench.environment import Environment
from edgeconv.bench.measure import Plan, clock_overhead_ns
from edgeconv.bench.progress import show_progress
from edgeconv.errors import EdgeconvError
from edgeconv.ops.kervolution import OPERATOR_OF_KERNEL

OPTIONS = {
    "standard": STANDARD,
    "eager": EAGER,
    "compile": COMPILE,
    "openvino": OPENVINO,
    "openvino-default": OPENVINO_DEFAULT,
}
"""Competitors by their names in --competitors; Conv and the library always take part."""
assert {*OPTIONS.values(), CONV, LIBRARY} == set(COMPETITORS)


app = typer.Typer(add_completion=False)


@dataclass
class Run:
    """What is to be measured, and what was.

    Attributes:
        kernels: Kernels of the layers.
        layers: Layers, held ones included.
        networks: Kernels of the networks.
        competitors: Names out of `rows.COMPETITORS`.
        threads: Numbers of threads.
        plan: How long to measure.
        environment: The stamp.
        ceilings: By number of threads; empty where they were not measured.
        rows: The results.
        notes: What took no part and why.
        failed: Cases in which the library took no part.
    """

    kernels: list[str]
    layers: list[str]
    networks: list[str]
    competitors: list[str]
    threads: list[int]
    plan: Plan
    environment: Environment
    ceilings: dict[int, Ceilings] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @cached_property
    def absent(self) -> dict[str, str]:
        """Why a precision cannot be measured here."""
        found = {}
        if not {"amx_tile", "amx_bf16"} <= set(self.environment.isa):
            found["bf16x3"] = "this CPU has no AMX"
        if not library_has(quantized_operator(LAYERS["7"], conversions=False)):
            reason = "QLinearManhattanKervolution is not in the op library"
            found.update({"uint8": reason, "uint8 with Q/DQ": reason})
        return found

    @property
    def isa(self) -> str | None:
        """The level to which the library's kernels are held."""
        return os.environ.get("EDGECONV_CPU_ISA")

    def precisions(self, kernel: str) -> list[str]:
        """The precisions in which a kernel is measured here; `absent` says which are not and why."""
        known = ["float32"]
        known += ["bf16x3"] if kernel in FROM_DOT else []
        known += ["uint8", "uint8 with Q/DQ"] if kernel == "manhattan" else []
        return [precision for precision in known if precision not in self.absent]

    def judge(self) -> list[Verdict]:
        """What the rows say of each goal."""
        return verdicts(self.rows, self.absent)

    def cases(self, directory: Path) -> Iterator[Case]:
        """Every case, loaded one at a time.

        Args:
            directory: For exported networks.
        """
        every = {**LAYERS, **HELD}
        for kernel in self.kernels:
            for precision in self.precisions(kernel):
                for name in self.layers:
                    if precision == "float32" or name in LAYERS:
                        yield layer_case(kernel, every[name], precision, self.competitors)
        for kernel in self.networks:
            for precision in self.precisions(kernel):
                if not precision.startswith("uint8"):
                    yield network_case(kernel, precision, directory)

    def count(self) -> int:
        """Number of cases."""
        goal_layers = sum(name in LAYERS for name in self.layers)
        per_kernel = (len(self.layers) + goal_layers * (len(self.precisions(kernel)) - 1) for kernel in self.kernels)
        of_networks = (sum(not p.startswith("uint8") for p in self.precisions(k)) for k in self.networks)
        return sum(per_kernel) + sum(of_networks)

    def measure(self, console: Console) -> None:
        """Measure all cases, one number of threads after the other."""
        chosen: Chosen = {}
        total, done = self.count() * len(self.threads), 0
        with show_progress(console) as tell, tempfile.TemporaryDirectory() as directory:
            for threads in self.threads:
                for case in self.cases(Path(directory)):

                    def progress(what: str, part: float, done: int = done, threads: int = threads) -> None:
                        tell(f"{what}, {threads} thread(s)", (done + part) / total)

                    ceiling = limit(self.ceilings.get(threads), case.accumulation, self.isa)
                    row = measure_case(
                        case, threads=threads, plan=self.plan, limit=ceiling, chosen=chosen, notes=self.notes,
                        progress=progress,
                    )  # fmt: skip
                    if row is None:
                        self.failed.append(f"{case.kernel} ({case.precision}) on {case.layer}, {threads} thread(s)")
                    else:
                        self.rows.append(row)
                    forget_compiled()
                    done += 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "benchmark": "kervolution_cpu",
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
        rows = [row for row in run.rows if row.threads == threads and PLAIN not in row.measured]
        for heading, known in (("layers", LAYERS), ("held set", HELD)):
            if chosen := [row for row in rows if row.layer in known]:
                console.print(times_table(chosen, f"{cpu}: {heading}, {threads} thread(s), {clock_name(threads)}"))
    if networks := [row for row in run.rows if row.layer == NAME]:
        console.print(networks_table(networks))
    judged = run.judge()
    console.print(goals_table(judged))
    for note in dict.fromkeys(run.notes):
        console.print(f"[yellow]note:[/] {note}", highlight=False)
    for case in run.failed:
        console.print(f"[red]not measured:[/] {case}", highlight=False)
    met, measured = sum(v.met is True for v in judged), sum(v.met is not None for v in judged)
    console.print(f"{met} of {measured} goals met; {len(judged) - measured} not measured")


def absences(run: Run) -> Iterator[str]:
    """Say what cannot be measured here, and why."""
    for precision, reason in run.absent.items():
        yield f"{precision}: not measured: {reason}"
    if run.environment.architecture != "x86_64":
        yield f"ceilings of the accumulations: not measured on {run.environment.architecture}"
    elif run.ceilings and not any(ceilings.forms for ceilings in run.ceilings.values()):
        yield "ceilings of the accumulations: not measured: this CPU has no AVX2"


def prepare(run: Run, measure: bool, console: Console) -> None:
    """Measure the ceilings, and note what will be missing."""
    if measure:
        with console.status("measuring the machine's ceilings"):
            run.ceilings = measure_ceilings(run.threads)
    run.notes += absences(run)
    if OPENVINO_DEFAULT in run.competitors:
        try:
            precision = openvino_default_precision()
        except EdgeconvError as error:
            run.notes.append(f"OpenVINO: {error.message}")
            return
        if precision == "f32":
            run.competitors.remove(OPENVINO_DEFAULT)
        run.notes.append(f"OpenVINO's own choice of precision on this CPU is {precision}")


@app.command()
def main(
    layers: Annotated[str, typer.Option(help="Of the five ResNet layers, comma-separated; all by default.")] = "",
    held: Annotated[str, typer.Option(help="Of the held set, comma-separated; 'none' for none of it.")] = "",
    kernels: Annotated[str, typer.Option(help="Comma-separated; all by default.")] = "",
    networks: Annotated[str, typer.Option(help="Kernels of whole networks, comma-separated, or 'none'.")] = "",
    competitors: Annotated[
        str, typer.Option(help=f"Some of {', '.join(OPTIONS)}, or 'none'; Conv always takes part.")
    ] = "",
    threads: Annotated[
        str, typer.Option(help="Numbers of threads, comma-separated, rising; by default 1,2 (on one CPU 1).")
    ] = "",
    iterations: Annotated[int, typer.Option(min=1, help="Least samples of each side.")] = 20,
    duration: Annotated[float, typer.Option(min=0, help="Least seconds of timed runs of each side.")] = 0.3,
    warmup: Annotated[float, typer.Option(min=0, help="Least seconds of warm-up of each form.")] = 0.1,
    ceilings: Annotated[bool, typer.Option(help="Measure the machine's ceilings first (seconds).")] = True,
    plot: Annotated[bool, typer.Option(help="With --json, also draw the roofline plot.")] = True,
    json_output: Annotated[
        bool, typer.Option("--json", help="Also write the results file and the plot, over earlier ones.")
    ] = False,
) -> None:
    """Measure every kernel on every layer against everything else that computes it, and judge the goals.

    The whole default run takes up to 40 minutes on two cores, a good part of it torch.compile, which compiles every
    form anew; nothing is kept between runs. Exits with 1 where a goal is missed or the library could not take part.
    """
    console = Console(width=None if sys.stdout.isatty() else 190)
    counts = thread_counts(threads)
    hold_openmp()
    try:
        if json_output and plot:
            require_matplotlib()  # now, not after the measurements
        run = Run(
            kernels=choose(kernels, list(OPERATOR_OF_KERNEL)),
            layers=choose_or_none(layers, list(LAYERS)) + choose_or_none(held, list(HELD)),
            networks=choose_or_none(networks, list(NETWORK_KERNELS)),
            competitors=[OPTIONS[name] for name in choose_or_none(competitors, list(OPTIONS))],
            threads=counts,
            plan=Plan(iterations, int(duration * 1e9), int(warmup * 1e9)),
            environment=stamp(None),
        )
        before = Snapshot.take()
        prepare(run, ceilings, console)
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
    path = results_path("kervolution_cpu", run.environment)
    write_results(path, {**run.to_dict(), "conditions": conditions.to_dict()})
    console.print(f"wrote {path}")
    if plot and run.ceilings:
        first = run.threads[0]
        image = path.with_suffix(".svg")
        title = f"{run.environment.cpu_model or run.environment.architecture}, {first} thread(s)"
        draw_roofline(run.rows, run.ceilings[first], run.isa, title, image)
        console.print(f"wrote {image}")


if __name__ == "__main__":
    app()
