"""Claim: the CUDA kernels of kervolution run at the GPU's limit, next to cuDNN's plain convolution.

Every kernel on ResNet's five layer shapes, batch 1, 8 and 32, in float32, TF32 and float16: the op library's launch
functions in both layouts, cuDNN's convolution of the same shape, PyTorch eager and torch.compile, and torch.cdist where
there is a distance; each in the best of several forms, all captured into CUDA graphs and interleaved in one run. The
card's own ceilings come first.

    python benchmarks/kervolution_cuda.py --json
    python benchmarks/kervolution_cuda.py --layers 56 --batches 1 --precisions float16 --competitors none

Needs a GPU, a PyTorch with CUDA, and an op library that was built with CUDA; without them it says what is missing and
ends with 3. Everything that is timed is checked against float64 before. `--json` writes
benchmarks/results/kervolution_cuda-<gpu>.json.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from competitors import Form
from goals import FROM_DOT, KERNELS
from interleave import Chosen, Contender, compare, forget_compiled
from layers import LAYERS, Layer
from outcomes import Bound, Measured, Verdict
from program import RESULTS, choose, choose_or_none, stamp, write_results
from rich.console import Console
from rich.table import Table
from tables import mark

from edgeconv.bench.measure import Plan, Progress
from edgeconv.bench.progress import show_progress
from edgeconv.errors import EdgeconvError, MissingDependencyError
from edgeconv.runtime.op_library import op_library

if TYPE_CHECKING:
    from cuda_ceilings import GpuCeilings

LIBRARY, CONV, EAGER, COMPILE, CDIST = "library", "cuDNN Conv", "torch eager", "torch.compile", "torch.cdist"
OPTIONS = {"eager": EAGER, "compile": COMPILE, "cdist": CDIST}
PRECISIONS = ("float32", "tf32", "float16")
BATCHES = (1, 8, 32)
TO_CONV, TO_CDIST, OF_LIMIT = "library / cuDNN Conv", "torch.cdist / library", "rate / limit"
TOLERANCES = {"float32": 2e-4, "tf32": 3e-2, "float16": 3e-2}
"""Largest difference from float64 in units of its rms; the error itself stands in the results."""


@dataclass(frozen=True)
class Goal(Bound):
    """A bound on a metric of the rows of some kernels.

    Attributes:
        kernels: The kernels.
        precision: The precision; empty for all.
        batch: The batch; 0 for all.
        metric: One of the names above.
        sense: "<=" or ">=".
        bound: The bound.
    """

    kernels: tuple[str, ...]
    precision: str
    batch: int
    metric: str
    sense: str
    bound: float

    def concerns(self, row: Row) -> bool:
        """Whether it is for a row."""
        return (
            row.kernel in self.kernels and self.precision in ("", row.precision) and self.batch in (0, row.layer.batch)
        )


DISTANCES = ("manhattan", "chebyshev")
GOALS = (
    Goal(FROM_DOT, "float16", 1, TO_CONV, "<=", 1.1),
    Goal(FROM_DOT, "float16", 32, TO_CONV, "<=", 1.5),
    Goal(DISTANCES, "", 0, OF_LIMIT, ">=", 0.7),
    Goal(DISTANCES, "float32", 0, TO_CDIST, ">=", 20),
)


@dataclass(frozen=True)
class Row:
    """One kernel on one layer.

    Attributes:
        kernel: The kernel.
        precision: One of `PRECISIONS`.
        layer: The layer, its batch included.
        limit: Ceiling of the accumulation, 10^9 elements a second; None where it was not measured.
        measured: By competitor; milliseconds of one inference on the device.
    """

    kernel: str
    precision: str
    layer: Layer
    limit: float | None
    measured: Mapping[str, Measured]

    @property
    def name(self) -> str:
        """For tables and goals."""
        return f"{self.kernel} {self.precision} {self.layer.name} batch {self.layer.batch}"

    @property
    def metrics(self) -> dict[str, float]:
        """What the goals are about, of that which was measured."""
        found = {}
        if LIBRARY in self.measured:
            ms = self.measured[LIBRARY].ms
            if CONV in self.measured:
                found[TO_CONV] = ms / self.measured[CONV].ms
            if CDIST in self.measured:
                found[TO_CDIST] = self.measured[CDIST].ms / ms
            if self.limit:
                found[OF_LIMIT] = self.layer.macs / ms * 1e-6 / self.limit
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "name": self.name, "metrics": self.metrics}


def verdicts(rows: list[Row]) -> list[Verdict]:
    """What the rows say of each goal."""
    return [
        Verdict(goal, {row.name: row.metrics[goal.metric] for row in rows
                       if goal.concerns(row) and goal.metric in row.metrics})
        for goal in GOALS
    ]  # fmt: skip


@dataclass
class Run:
    """What is to be measured, and what was.

    Attributes:
        kernels: Names of kernels.
        layers: Layers of batch 1.
        batches: Batches of each.
        precisions: Out of `PRECISIONS`.
        competitors: Beside the library and cuDNN.
        plan: How many replays of each side.
        ceilings: The card's, if they were measured.
        rows: The results.
        notes: What took no part and why.
    """

    kernels: list[str]
    layers: list[Layer]
    batches: list[int]
    precisions: list[str]
    competitors: list[str]
    plan: Plan
    ceilings: GpuCeilings | None = None
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def cases(self) -> Iterator[tuple[str, str, Layer]]:
        """Kernel, precision, layer."""
        for layer in self.layers:
            for batch in self.batches:
                for precision in self.precisions:
                    for kernel in self.kernels:
                        if precision != "tf32" or kernel in FROM_DOT:
                            yield kernel, precision, replace(layer, batch=batch)

    def measure(self, console: Console) -> None:
        """Measure all cases on the current GPU."""
        cases = list(self.cases())
        chosen: Chosen = {}
        with show_progress(console) as tell:
            for done, (kernel, precision, layer) in enumerate(cases):

                def progress(what: str, part: float, done: int = done) -> None:
                    tell(what, (done + part) / len(cases))

                self.measure_case(kernel, precision, layer, chosen, progress)
                forget_compiled()

    def measure_case(self, kernel: str, precision: str, layer: Layer, chosen: Chosen, progress: Progress) -> None:
        """Measure one kernel on one layer, and add its row."""
        import cuda_forms

        name, tolerance = f"{kernel} {precision} {layer.name} batch {layer.batch}", TOLERANCES[precision]
        conv, y = cuda_forms.expected_conv(layer, precision), cuda_forms.expected(kernel, layer, precision)

        def in_torch(compiled: bool) -> list[Form]:
            return list(cuda_forms.torch_gpu_forms(kernel, layer, precision, compiled=compiled))

        contenders = [
            Contender(CONV, lambda: list(cuda_forms.conv_forms(layer, precision)), conv, tolerance),
            Contender(LIBRARY, lambda: list(cuda_forms.library_forms(kernel, layer, precision)), y, tolerance),
            Contender(EAGER, lambda: in_torch(False), y, tolerance),
            Contender(COMPILE, lambda: in_torch(True), y, tolerance),
        ]
        if kernel in DISTANCES:
            contenders.append(Contender(CDIST, lambda: [cuda_forms.cdist_form(kernel, layer)], y, tolerance))
        found = compare(
            [one for one in contenders if one.name in (CONV, LIBRARY, *self.competitors)], threads=1, plan=self.plan,
            key=(name,), chosen=chosen, notes=self.notes, name=name, progress=progress, clock=cuda_forms.DEVICE_CLOCK,
        )  # fmt: skip
        if found is not None:
            accumulation = f"{'dot' if kernel in FROM_DOT else kernel} {precision}"
            limit = self.ceilings.of(accumulation).rate if self.ceilings else None
            self.rows.append(Row(kernel, precision, layer, limit, found.measured))


def times_table(rows: list[Row], title: str) -> Table:
    """Milliseconds on the device, and what the goals are about."""
    table = Table(title=title, caption="ms of one inference on the device: a CUDA graph of several over their number")
    table.add_column("layer")
    for name in (LIBRARY, CONV, EAGER, COMPILE, CDIST, TO_CONV, TO_CDIST, OF_LIMIT, "error"):
        table.add_column(name, justify="right")
    for row in rows:
        times = [
            row.measured[name].ms if name in row.measured else None for name in (LIBRARY, CONV, EAGER, COMPILE, CDIST)
        ]
        cells = ["-" if time is None else f"{time:.4f}" for time in times]
        metrics = [f"{row.metrics[name]:.2f}" if name in row.metrics else "-" for name in (TO_CONV, TO_CDIST, OF_LIMIT)]
        error = f"{row.measured[LIBRARY].error:.1e}" if LIBRARY in row.measured else "-"
        table.add_row(row.name, *cells, *metrics, error)
    return table


def goals_table(judged: list[Verdict]) -> Table:
    """Every goal with the row that is furthest from it."""
    table = Table(title="Goals")
    for name in ("kernels", "precision", "batch", "metric", "goal", "worst", "rows met", ""):
        table.add_column(name)
    for verdict in judged:
        goal = verdict.goal
        worst = "not measured"
        if verdict.values:
            where = goal.worst(verdict.values)
            worst = f"{verdict.values[where]:.2f} ({where})"
        met = f"{len(verdict.values) - len(verdict.missed)} of {len(verdict.values)}" if verdict.values else ""
        bound = f"{'≤' if goal.sense == '<=' else '≥'} {goal.bound:g}"
        cells = (", ".join(goal.kernels), goal.precision or "all", str(goal.batch or "all"), goal.metric, bound)
        table.add_row(*cells, worst, met, mark(verdict.met))
    return table


def require_gpu() -> None:
    """Raise where there is no GPU that torch can use, or no op library with CUDA kernels.

    Raises:
        MissingDependencyError: What is missing.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            f"PyTorch cannot be imported: {error}.", "pip install torch, with CUDA."
        ) from error
    if not torch.cuda.is_available():
        raise MissingDependencyError(
            "no GPU: PyTorch finds none that it can use.",
            "Run this on a machine with an NVIDIA GPU, its driver, and a PyTorch with CUDA.",
        )
    import ctypes

    if not hasattr(ctypes.CDLL(str(op_library())), "edgeconv_kervolution_cuda_run"):
        raise MissingDependencyError(
            "the op library has no CUDA kernels.",
            "Install edgeconv where nvcc is found (CUDA_HOME; scripts/cuda_toolkit.sh fetches it).",
        )


app = typer.Typer(add_completion=False)


@app.command()
def main(
    layers: Annotated[str, typer.Option(help="Comma-separated; ResNet's five by default.")] = "",
    kernels: Annotated[str, typer.Option(help="Comma-separated; all by default.")] = "",
    precisions: Annotated[str, typer.Option(help=f"Some of {', '.join(PRECISIONS)}; all by default.")] = "",
    batches: Annotated[str, typer.Option(help="Comma-separated; 1,8,32 by default.")] = "",
    competitors: Annotated[
        str, typer.Option(help=f"Beside cuDNN's Conv: some of {', '.join(OPTIONS)}, or 'none'; all by default.")
    ] = "",
    iterations: Annotated[int, typer.Option(min=1, help="Replays of each side.")] = 20,
    ceilings: Annotated[bool, typer.Option(help="Measure the card's ceilings first (seconds).")] = True,
    json_output: Annotated[bool, typer.Option("--json", help="Also write the results file.")] = False,
) -> None:
    """Measure the CUDA kernels of kervolution, and judge the goals.

    Exits with 1 where a goal is missed, and with 3 where there is no GPU or nothing to run on it.
    """
    console = Console(width=None if sys.stdout.isatty() else 200)
    try:
        require_gpu()
        run = Run(
            kernels=choose(kernels, KERNELS),
            layers=[LAYERS[name] for name in choose(layers, list(LAYERS))],
            batches=[int(batch) for batch in choose(batches, [str(batch) for batch in BATCHES])],
            precisions=choose(precisions, PRECISIONS),
            competitors=[OPTIONS[name] for name in choose_or_none(competitors, list(OPTIONS))],
            plan=Plan(iterations, 0, 0),
        )
        if ceilings:
            from cuda_ceilings import measure_gpu_ceilings

            with console.status("measuring the card's ceilings"):
                run.ceilings = measure_gpu_ceilings()
        run.measure(Console(stderr=True))
        report(run, console, json_output)
    except EdgeconvError as error:
        Console(stderr=True).print(f"[red]error:[/] {error}", highlight=False)
        raise typer.Exit(error.exit_code) from None
    raise typer.Exit(1 if any(verdict.met is False for verdict in verdicts(run.rows)) else 0)


def report(run: Run, console: Console, json_output: bool) -> None:
    """Print the tables; write the results file."""
    from cuda_forms import gpu_name

    gpu = gpu_name()
    if run.ceilings:
        table = Table(title=f"Ceilings of the {gpu}")
        for name in ("accumulation", "10^9/s", "median"):
            table.add_column(name, justify="right")
        for rate in run.ceilings.rates:
            table.add_row(rate.name, f"{rate.rate:.0f}", f"{rate.median:.0f}")
        console.print(table)
    judged = verdicts(run.rows)
    console.print(times_table(run.rows, gpu))
    console.print(goals_table(judged))
    for note in dict.fromkeys(run.notes):
        console.print(f"[yellow]note:[/] {note}", highlight=False)
    if not json_output:
        return
    path = RESULTS / f"kervolution_cuda-{re.sub(r'[^a-z0-9]+', '-', gpu.lower()).strip('-')}.json"
    from cuda_forms import gpu_stamp

    write_results(
        Path(path),
        {
            "benchmark": "kervolution_cuda",
            "environment": {**stamp(None).to_dict(), "gpu": gpu_stamp()},
            "ceilings": run.ceilings.to_dict() if run.ceilings else None,
            "rows": [row.to_dict() for row in run.rows],
            "goals": [verdict.to_dict() for verdict in judged],
            "notes": run.notes,
        },
    )
    console.print(f"wrote {path}")


if __name__ == "__main__":
    app()
