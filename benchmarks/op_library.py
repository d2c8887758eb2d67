"""Claim: the op library beats the best graph of standard operators.

At least 10 times for manhattan and chebyshev, which standard operators cannot compute well; for the other kernels,
which are a Conv and a little more, it takes at most 1.5 times as long. Both sides and the plain Conv of the same shape
run interleaved in one process, one thread by default; the table gives medians and ratios. With one thread the clock is
the process's CPU time, so that other load on the machine counts less; with several it is the wall's.

    python benchmarks/op_library.py [--json] [--layers 56,7] [--kernels manhattan]

`--json` also writes benchmarks/results/op_library-<cpu>.json with the environment.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime as ort
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from standard_graphs import LAYERS, Layer, operator, plain_conv, standard_graphs

from edgeconv.bench.environment import Environment, read_environment
from edgeconv.bench.measure import Plan, Subject, measure, warm_up
from edgeconv.bench.model_file import file_sha256
from edgeconv.files import write_text
from edgeconv.ops.kervolution import OPERATOR_OF_KERNEL
from edgeconv.runtime.op_library import op_library

LEAST_SPEEDUP = {"manhattan": 10.0, "chebyshev": 10.0}
LEAST_SPEEDUP_OF_OTHERS = 1 / 1.5
AGREEMENT = 1e-3  # of the output's rms: the sides compute the same thing
PROVIDER = "CPUExecutionProvider"
CLOCKS = {"process CPU time": time.process_time_ns, "wall": time.perf_counter_ns}


@dataclass(frozen=True)
class Row:
    """One kernel on one layer; times are medians in milliseconds."""

    kernel: str
    layer: str
    conv_ms: float
    library_ms: float
    standard_ms: float
    standard_graph: str
    library_to_conv: float
    standard_to_library: float
    goal: float
    met: bool
    samples: int
    largest_difference: float


def clock_name(threads: int) -> str:
    return "process CPU time" if threads == 1 else "wall"


def make_session(model: bytes, threads: int, native: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if native:
        options.register_custom_ops_library(op_library())
    return ort.InferenceSession(model, options, providers=[PROVIDER])


def subject(
    name: str, model: bytes, feeds: dict[str, np.ndarray], threads: int, native: bool = False
) -> tuple[Subject, np.ndarray]:
    session = make_session(model, threads, native)
    return Subject(name, lambda: session.run(None, feeds)), session.run(None, feeds)[0]


def compare(kernel: str, layer: Layer, threads: int, plan: Plan) -> Row:
    clock = CLOCKS[clock_name(threads)]
    feeds = {"X": layer.tensors()[0]}
    conv, _ = subject("Conv", plain_conv(layer), feeds, threads)
    library, ours = subject("library", operator(kernel, layer), feeds, threads, native=True)
    candidates = []
    for name, model in standard_graphs(kernel, layer):
        candidate, theirs = subject(name, model, feeds, threads)
        difference = float(np.abs(ours - theirs).max() / np.sqrt(np.mean(np.square(theirs, dtype=np.float64))))
        if not difference <= AGREEMENT:
            raise SystemExit(
                f"{kernel} on {layer.name}: the library differs from '{name}' by {difference:.2g} of the rms"
            )
        candidates.append((warm_up(candidate, plan.warmup_ns, clock), candidate, difference))
    best_warmup, best, difference = min(candidates, key=lambda item: item[0].median_ns)
    subjects = [conv, library, best]
    warmups = [*(warm_up(side, plan.warmup_ns, clock) for side in (conv, library)), best_warmup]
    series = measure(subjects, warmups, plan, clock=clock)
    conv_ms, library_ms, standard_ms = (statistics.median(s.samples.tolist()) * 1e-6 for s in series)
    goal = LEAST_SPEEDUP.get(kernel, LEAST_SPEEDUP_OF_OTHERS)
    speedup = standard_ms / library_ms
    return Row(
        kernel, layer.name, conv_ms, library_ms, standard_ms, best.name, library_ms / conv_ms, speedup, goal,
        speedup >= goal, min(len(s.samples) for s in series), difference,
    )  # fmt: skip


def show(rows: list[Row], environment: Environment) -> Table:
    title = f"Op library, {environment.threads} thread(s) of {environment.cpu_model}"
    clock = clock_name(environment.threads or 1)
    table = Table(
        title=title,
        caption=f"medians of interleaved runs, {clock}; goal: least speed-up over the best standard graph",
    )
    for column in ("kernel", "layer"):
        table.add_column(column)
    for column in ("Conv ms", "library ms", "standard ms", "library / Conv", "standard / library", "goal", ""):
        table.add_column(column, justify="right")
    table.add_column("best standard graph")
    for row in rows:
        values = (f"{value:.3f}" for value in (row.conv_ms, row.library_ms, row.standard_ms))
        ratios = (f"{row.library_to_conv:.2f}", f"{row.standard_to_library:.2f}", f"{row.goal:.2f}")
        mark = "[green]met[/]" if row.met else "[red]missed[/]"
        table.add_row(row.kernel, row.layer, *values, *ratios, mark, row.standard_graph)
    return table


def choose(names: str, known: list[str]) -> list[str]:
    chosen = [name.strip() for name in names.split(",")] if names else known
    if unknown := [name for name in chosen if name not in known]:
        raise typer.BadParameter(f"{', '.join(unknown)}: expected some of {', '.join(known)}")
    return chosen


def main(
    layers: Annotated[str, typer.Option(help="Comma-separated; all by default.")] = "",
    kernels: Annotated[str, typer.Option(help="Comma-separated; all by default.")] = "",
    threads: Annotated[int, typer.Option(min=1, help="Intra-op threads.")] = 1,
    iterations: Annotated[int, typer.Option(min=1, help="Least samples of each side.")] = 20,
    duration: Annotated[float, typer.Option(min=0, help="Least seconds of timed runs of each side.")] = 0.3,
    warmup: Annotated[float, typer.Option(min=0, help="Least seconds of warm-up of each side.")] = 0.1,
    json_output: Annotated[bool, typer.Option("--json", help="Also write the results file.")] = False,
) -> None:
    """Measure every kernel on every layer and print a table with ratios and marks."""
    cases = [
        (kernel, LAYERS[layer])
        for kernel in choose(kernels, list(OPERATOR_OF_KERNEL))
        for layer in choose(layers, list(LAYERS))
    ]
    plan = Plan(iterations, int(duration * 1e9), int(warmup * 1e9))
    environment = read_environment(
        provider=PROVIDER, available_providers=ort.get_available_providers(), onnxruntime_version=ort.__version__,
        threads=threads, op_library_sha256=file_sha256(op_library()),
    )  # fmt: skip
    rows = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=len(cases))
        for kernel, layer in cases:
            progress.update(task, description=f"{kernel} {layer.name}")
            rows.append(compare(kernel, layer, threads, plan))
            progress.advance(task)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(show(rows, environment))
    missed = [row for row in rows if not row.met]
    console.print(f"{len(rows) - len(missed)} of {len(rows)} goals met")
    if json_output:
        slug = re.sub(r"[^a-z0-9]+", "-", (environment.cpu_model or environment.architecture).lower()).strip("-")
        path = Path(__file__).parent / "results" / f"op_library-{slug}.json"
        path.parent.mkdir(exist_ok=True)
        result = {
            "benchmark": "op_library",
            "clock": clock_name(threads),
            "environment": environment.to_dict(),
            "rows": [asdict(row) for row in rows],
        }
        write_text(path, json.dumps(result, indent=1) + "\n")
        console.print(f"wrote {path}")
    raise typer.Exit(code=1 if missed else 0)


if __name__ == "__main__":
    typer.run(main)
