"""Claim: the op library beats the best graph of standard operators.

At least 10 times for manhattan and chebyshev, which standard operators cannot compute well; for the other kernels,
which are a Conv and a little more, it takes at most 1.5 times as long. Both sides and the plain Conv of the same shape
run interleaved in one process, one thread by default; the table gives medians and ratios. With one thread the clock is
the process's CPU time, so that other load on the machine counts less; with several it is the wall's.

    python benchmarks/op_library.py [--json] [--layers 56,7] [--kernels manhattan]

`--json` also writes benchmarks/results/op_library-<cpu>.json with the environment. It takes minutes. Against
everything else that computes these kernels, and against the machine's limits: kervolution_cpu.py.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from cases import layer_case, measure_case
from layers import LAYERS, Layer
from program import choose, clock_name, results_path, stamp, write_results
from rich.console import Console
from rich.table import Table
from rows import CONV, LIBRARY, STANDARD

from edgeconv.bench.environment import Environment
from edgeconv.bench.measure import Plan
from edgeconv.bench.progress import show_progress
from edgeconv.errors import EdgeconvError
from edgeconv.ops.kervolution import OPERATOR_OF_KERNEL

LEAST_SPEEDUP = {"manhattan": 10.0, "chebyshev": 10.0}
LEAST_SPEEDUP_OF_OTHERS = 1 / 1.5


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


def compare(kernel: str, layer: Layer, threads: int, plan: Plan) -> Row:
    notes: list[str] = []
    case = layer_case(kernel, layer, "float32", [STANDARD])
    row = measure_case(case, threads=threads, plan=plan, limit=None, chosen={}, notes=notes)
    if row is None or STANDARD not in row.measured:
        raise EdgeconvError("\n".join(notes))
    conv, library, standard = (row.measured[name] for name in (CONV, LIBRARY, STANDARD))
    goal = LEAST_SPEEDUP.get(kernel, LEAST_SPEEDUP_OF_OTHERS)
    speedup = standard.ms / library.ms
    return Row(
        kernel, layer.name, conv.ms, library.ms, standard.ms, standard.form, library.ms / conv.ms, speedup, goal,
        speedup >= goal, min(side.samples for side in (conv, library, standard)), max(library.error, standard.error),
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
    rows = []
    try:
        environment = stamp(threads)
        with show_progress(Console(stderr=True)) as tell:
            for done, (kernel, layer) in enumerate(cases):
                tell(f"{kernel} {layer.name}", done / len(cases))
                rows.append(compare(kernel, layer, threads, plan))
    except EdgeconvError as error:
        Console(stderr=True).print(f"[red]error:[/] {error}", highlight=False)
        raise typer.Exit(error.exit_code) from None
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(show(rows, environment))
    missed = [row for row in rows if not row.met]
    console.print(f"{len(rows) - len(missed)} of {len(rows)} goals met")
    if json_output:
        path = results_path("op_library", environment)
        rows_json = [asdict(row) for row in rows]
        result = {"clock": clock_name(threads), "environment": environment.to_dict(), "rows": rows_json}
        write_results(path, {"benchmark": "op_library", **result})
        console.print(f"wrote {path}")
    raise typer.Exit(code=1 if missed else 0)


if __name__ == "__main__":
    typer.run(main)
