"""Claim: a quantised ReLU6 network in our 8-bit operators outruns every CPU runtime on the same file.

MobileNetV2 and EfficientNet-Lite0 at 224x224, batch 1, all interleaved in one run with one thread and with two: ONNX
Runtime on the float32 file and on the QDQ file that `edgeconv quantize` makes of it, the same QDQ file fused into 8-bit
operators with the op library, and OpenVINO on the QDQ file and on the float32 file in float32 and bfloat16.

    python benchmarks/int8_latency.py --json                                  # everything: some minutes on two cores
    python benchmarks/int8_latency.py --networks MobileNetV2 --threads 1      # half a minute

Every operator of the fused file is compared with the QDQ file in float32, on the same input; after the measurement each
is timed in ONNX Runtime's profile, and set against the time that its multiply-adds take at the ceiling of the CPU's
8-bit dot products (`ceilings.cc`).

With one thread the clock is the process's CPU time, so that other load on the machine counts less; with several it is
the wall's. `--json` writes benchmarks/results/int8_latency-<cpu>.json.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from ceilings import Ceilings, limit, measure_ceilings
from competitors import OPENVINO_F32, onnxruntime_form, openvino_form
from int8_networks import NETWORKS, QuantizedNetwork, quantized_network
from interleave import Chosen, Contender, compare
from outcomes import Bound, Measured, Verdict
from program import choose, clock_name, results_path, stamp, thread_counts, write_results
from rich.console import Console
from rich.table import Table

from edgeconv.bench.conditions import Conditions, Snapshot
from edgeconv.bench.measure import Plan, clock_overhead_ns
from edgeconv.bench.profile import profile_model
from edgeconv.bench.progress import show_progress
from edgeconv.errors import EdgeconvError
from edgeconv.fusion.steps import Steps
from edgeconv.runtime.op_library import op_library

FLOAT, QDQ, FUSED, ALONE = "ORT fp32", "ORT QDQ", "fused", "fused, one thread"
OPENVINO, OPENVINO_FLOAT, OPENVINO_BF16 = "OpenVINO QDQ", "OpenVINO fp32", "OpenVINO bf16"
SAME_FILE = 1.0
"""Largest difference from the QDQ file in float32, in units of the rms: a step that is rounded the other way goes
through all layers behind it, and runtimes round at other places. It finds a wrong network, not a wrong bit."""
ROUNDED = 0.5
"""Of bfloat16 from float64."""


LARGEST = "largest difference from the QDQ file, in steps"


@dataclass(frozen=True)
class Goal(Bound):
    """A bound on a ratio of a network's times, or on LARGEST.

    Attributes:
        network: The network.
        metric: What is bounded.
        sense: "<=" or ">=".
        bound: The bound.
        sides: Whose time is above and whose below in the ratio.
        threads: Threads of the row that it is for.
    """

    network: str
    metric: str
    sense: str
    bound: float
    sides: tuple[str, str] | None = None
    threads: int = 1


def _ratio(network: str, sense: str, bound: float, above: str, below: str, threads: int = 1) -> Goal:
    return Goal(network, f"{above} / {below}", sense, bound, (above, below), threads)


GOALS = (
    _ratio("MobileNetV2", "<=", 0.18, FUSED, FLOAT),
    *(_ratio(name, "<=", 1.0, FUSED, OPENVINO) for name in NETWORKS),
    *(_ratio(name, "<=", 1.0, FUSED, QDQ) for name in NETWORKS),
    *(_ratio(name, ">=", 1.8, ALONE, FUSED, threads=2) for name in NETWORKS),
    *(Goal(name, LARGEST, "<=", 1.0) for name in NETWORKS),
)
"""Against float32, against every runtime on the same file, what a second thread brings, and exactness."""


@dataclass(frozen=True)
class Row:
    """One network with one number of threads."""

    network: str
    threads: int
    clock: str
    measured: dict[str, Measured]
    interval: tuple[float, float] | None

    def ratio(self, above: str, below: str) -> float | None:
        """Time of one over that of another."""
        if above not in self.measured or below not in self.measured:
            return None
        return self.measured[above].ms / self.measured[below].ms


@dataclass(frozen=True)
class Part:
    """One operator of the fused file, with one thread."""

    network: str
    node: str
    operator: str
    macs: int
    ms: float
    floor_ms: float | None


@dataclass
class Run:
    """What was measured."""

    threads: list[int]
    plan: Plan
    ceilings: dict[int, Ceilings] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    steps: dict[str, Steps] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def judge(self) -> list[Verdict]:
        """What was measured says of each goal."""
        verdicts = []
        for goal in GOALS:
            values = {}
            if goal.sides is None and goal.network in self.steps:
                values[goal.network] = float(self.steps[goal.network].largest)
            for row in self.rows:
                if goal.sides and (row.network, row.threads) == (goal.network, goal.threads):
                    value = row.ratio(*goal.sides)
                    values |= {} if value is None else {row.network: value}
            verdicts.append(Verdict(goal, values, "" if values else "not measured in this run"))
        return verdicts


def contenders(network: QuantizedNetwork) -> list[Contender]:
    """Everything that takes part."""
    feeds, same, floats = {"x": network.x}, network.expected, network.expected_float
    bf16 = {"INFERENCE_PRECISION_HINT": "bf16"}
    return [
        Contender(FLOAT, lambda: [onnxruntime_form("fp32", network.floats, feeds)], floats, 1e-3),
        Contender(QDQ, lambda: [onnxruntime_form("QDQ", network.qdq, feeds)], same, SAME_FILE),
        Contender(FUSED, lambda: [onnxruntime_form("op library", network.fused, feeds, native=True)], same, SAME_FILE),
        Contender(OPENVINO, lambda: [openvino_form("QDQ", network.qdq, network.x, OPENVINO_F32)], same, SAME_FILE),
        Contender(
            OPENVINO_FLOAT, lambda: [openvino_form("fp32", network.floats, network.x, OPENVINO_F32)], floats, 0.01
        ),
        Contender(OPENVINO_BF16, lambda: [openvino_form("bf16", network.floats, network.x, bf16)], floats, ROUNDED),
    ]


def parts_of(network: QuantizedNetwork, rate: float | None) -> list[Part]:
    """Times of the fused file's operators, and what their multiply-adds would take at the ceiling."""
    profile = profile_model(str(network.path), {"x": network.x}, provider="cpu", threads=1, op_library=op_library())
    found = []
    for node in profile.nodes:
        macs = network.macs.get(node.node, 0)
        floor = macs / rate * 1e-6 if rate and macs else None
        found.append(Part(network.name, node.node, node.operator, macs, node.milliseconds, floor))
    return found


def report(run: Run, console: Console) -> None:
    """Print the tables."""
    table = Table(title="Milliseconds, medians; in brackets times ORT fp32")
    names = [FLOAT, QDQ, FUSED, OPENVINO, OPENVINO_FLOAT, OPENVINO_BF16]
    names += [ALONE] if any(ALONE in row.measured for row in run.rows) else []
    for column in ("network", "threads", *names):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in run.rows:
        cells = []
        for name in names:
            ratio = row.ratio(name, FLOAT)
            cells.append(f"{row.measured[name].ms:.3f} ({ratio:.3f})" if ratio is not None else "-")
        table.add_row(row.network, str(row.threads), *cells)
    console.print(table)
    for network, steps in run.steps.items():
        console.print(
            f"{network}: {steps.different} of {steps.elements} values differ from the QDQ file in float32, by "
            f"{steps.largest} at most (each operator on the same input)", highlight=False,
        )  # fmt: skip
    for network in dict.fromkeys(part.network for part in run.parts):
        table = Table(title=f"{network}, fused: operators, one thread (profiled, so each takes some more)")
        for column in ("operator", "node", "MMAC", "ms", "floor ms", "times the floor"):
            table.add_column(column, justify="left" if column in ("operator", "node") else "right")
        for part in (part for part in run.parts if part.network == network):
            floor = f"{part.floor_ms:.4f}" if part.floor_ms else "-"
            times = f"{part.ms / part.floor_ms:.2f}" if part.floor_ms else "-"
            table.add_row(part.operator, part.node, f"{part.macs / 1e6:.2f}", f"{part.ms:.4f}", floor, times)
        mine = [part for part in run.parts if part.network == network]
        total, floors = sum(part.ms for part in mine), sum(part.floor_ms or 0 for part in mine)
        if floors:
            table.add_section()
            macs = sum(part.macs for part in mine)
            table.add_row("all", "", f"{macs / 1e6:.2f}", f"{total:.4f}", f"{floors:.4f}", f"{total / floors:.2f}")
        console.print(table)
    for verdict in run.judge():
        goal = verdict.goal
        value = ", ".join(f"{found:.3f}" for found in verdict.values.values()) or verdict.reason
        state = {True: "[green]met[/]", False: "[red]missed[/]", None: "not measured"}[verdict.met]
        console.print(f"{state}: {goal.network}: {goal.metric} {goal.sense} {goal.bound:g}: {value}", highlight=False)
    for note in dict.fromkeys(run.notes):
        console.print(f"[yellow]note:[/] {note}", highlight=False)


def measure(run: Run, names: list[str], weights: Path | None, console: Console) -> None:
    """Measure all networks with every number of threads."""
    chosen: Chosen = {}
    with show_progress(console) as tell, tempfile.TemporaryDirectory() as directory:
        steps = len(names) * len(run.threads)
        for i, name in enumerate(names):
            tell(f"{name}: exporting, quantising, fusing", i / len(names))
            network = quantized_network(name, Path(directory), weights)
            run.steps[name] = network.steps
            for j, threads in enumerate(run.threads):
                done = i * len(run.threads) + j

                def progress(what: str, part: float, done: int = done) -> None:
                    tell(what, (done + part) / steps)

                found = compare(
                    contenders(network), threads=threads, plan=run.plan, key=(name,), chosen=chosen, notes=run.notes,
                    name=f"{name}, {threads} thread(s)", progress=progress, alone={FUSED: ALONE},
                )  # fmt: skip
                if found is not None:
                    interval = found.interval(FUSED, FLOAT) if {FUSED, FLOAT} <= set(found.series) else None
                    run.rows.append(Row(name, threads, clock_name(threads), dict(found.measured), interval))
            ceiling = limit(run.ceilings.get(1), "dot u8")
            run.parts += parts_of(network, ceiling.rate if ceiling else None)


app = typer.Typer(add_completion=False)


@app.command()
def main(
    networks: Annotated[str, typer.Option(help=f"Some of {', '.join(NETWORKS)}; all by default.")] = "",
    threads: Annotated[str, typer.Option(help="Numbers of threads, rising; by default 1,2 (on one CPU 1).")] = "",
    weights: Annotated[Path | None, typer.Option(help="A checkpoint of EfficientNet-Lite0.")] = None,
    iterations: Annotated[int, typer.Option(min=1, help="Least samples of each side.")] = 100,
    duration: Annotated[float, typer.Option(min=0, help="Least seconds of timed runs of each side.")] = 1.0,
    warmup: Annotated[float, typer.Option(min=0, help="Least seconds of warm-up of each form.")] = 0.2,
    ceilings: Annotated[bool, typer.Option(help="Measure the machine's ceilings first (seconds).")] = True,
    json_output: Annotated[bool, typer.Option("--json", help="Also write the results file.")] = False,
) -> None:
    """Measure the networks, and judge the goals; exits with 1 where one is missed."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        run = Run(thread_counts(threads), Plan(iterations, int(duration * 1e9), int(warmup * 1e9)))
        environment = stamp(None)
        before = Snapshot.take()
        if ceilings:
            with console.status("measuring the machine's ceilings"):
                run.ceilings = measure_ceilings([1])
        measure(run, choose(networks, list(NETWORKS)), weights, Console(stderr=True))
        conditions = Conditions(before, Snapshot.take(), clock_overhead_ns())
        run.notes += conditions.warnings(environment.governor, environment.boost)
        report(run, console)
        if json_output:
            path = results_path("int8_latency", environment)
            write_results(path, {**to_dict(run, environment.to_dict()), "conditions": conditions.to_dict()})
            console.print(f"wrote {path}")
    except EdgeconvError as error:
        Console(stderr=True).print(f"[red]error:[/] {error}", highlight=False)
        raise typer.Exit(error.exit_code) from None
    raise typer.Exit(1 if any(verdict.met is False for verdict in run.judge()) else 0)


def to_dict(run: Run, environment: dict[str, Any]) -> dict[str, Any]:
    """Return plain JSON values."""
    return {
        "benchmark": "int8_latency",
        "environment": environment,
        "plan": {"iterations": run.plan.iterations, "duration_ns": run.plan.duration_ns},
        "ceilings": [found.to_dict() for found in run.ceilings.values()],
        "rows": [asdict(row) for row in run.rows],
        "operators": [asdict(part) for part in run.parts],
        "steps": {name: asdict(steps) for name, steps in run.steps.items()},
        "goals": [verdict.to_dict() for verdict in run.judge()],
        "notes": run.notes,
    }


if __name__ == "__main__":
    app()
