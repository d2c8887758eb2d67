"""The tables of a benchmark report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from edgeconv.bench.environment import Environment
from edgeconv.bench.profile import Profile
from edgeconv.bench.report import BenchmarkReport, RatioRow, Settings, VariantResult
from edgeconv.bench.statistics import samples_needed
from edgeconv.runtime.gpu import GpuInfo

_Column = tuple[str, Callable[[VariantResult], str]]

_NODES = 12


def render_report(report: BenchmarkReport, console: Console) -> None:
    """Print a report: environment, latencies, ratios, profiles, comparison, warnings."""
    for line in environment_lines(report.environment):
        console.print(escape(line), style="dim", highlight=False)
    if report.settings.tf32:
        console.print("float32 products may drop to TF32", style="dim", highlight=False)
    _print_table(console, host_title(report.settings), *latency_tables(report, console))
    if any(variant.device is not None for variant in report.variants):
        _print_table(console, device_title(report.settings), device_table(report))
    _print_footnotes(report, console)
    for rows, what in ((report.ratios, "latency"), (report.device_ratios, "time on the device")):
        if rows:
            title = f"Median {what} relative to {_short(rows[0].reference)}, interleaved"
            _print_table(console, title, ratio_table(rows))
    for variant in report.variants:
        if variant.profile is not None:
            runs = f"{variant.profile.runs} profiled runs of {variant.profile.run_milliseconds:.3f} ms"
            _print_table(console, f"{variant.label} by operator: {runs}", operator_table(variant.profile))
            _print_table(console, f"{variant.label} by node", node_table(variant.profile))
    if report.comparison is not None:
        for rows, what in ((report.comparison.ratios, "latency"), (report.comparison.device_ratios, "device time")):
            title = f"Median {what} relative to {report.comparison.baseline}"
            if report.comparison.unlike:
                title += " (UNLIKE RUNS: not a comparison of the models)"
            if rows:
                _print_table(console, title, ratio_table(rows))
        for difference in report.comparison.differences:
            console.print(f"differs: {escape(difference)}", style="yellow", highlight=False)
    for warning in report.warnings:
        console.print(f"note: {escape(warning)}", style="yellow", highlight=False)


def host_title(settings: Settings) -> str:
    """Say what the host's times are of."""
    if settings.provider == "cpu":
        return "Host latency in ms (inputs and outputs in place, no copies)"
    copies = "copies to the GPU and back included" if settings.copies else "inputs and outputs on the GPU, no copies"
    return f"Host latency in ms ({copies})"


def device_title(settings: Settings) -> str:
    """Say what the device's times are of."""
    copies = "copies included" if settings.copies else "no copies"
    graph = "launched as a CUDA graph" if settings.cuda_graph else "without a CUDA graph"
    return f"Time on the device in ms (CUDA events around the same inferences, {copies}, {graph})"


def environment_lines(environment: Environment) -> list[str]:
    """Describe the environment in a few lines."""
    cores = f"{environment.physical_cores} cores, " if environment.physical_cores else ""
    machine = [environment.cpu_model or "unknown CPU", f"{cores}{environment.logical_cpus} logical CPUs"]
    if environment.available_cpus != environment.logical_cpus:
        machine.append(f"{environment.available_cpus} of them usable")
    if environment.cpu_quota is not None:
        machine.append(f"quota {environment.cpu_quota:g} CPUs")
    if environment.virtual_machine:
        machine.append("virtual machine")
    if environment.board and not environment.virtual_machine:
        machine.insert(0, environment.board)
    threads = "default (one a core)" if environment.threads is None else str(environment.threads)
    clocks = [f"governor {', '.join(environment.governor) if environment.governor else 'unknown'}"]
    if environment.frequency_min is not None and environment.frequency_max is not None:
        clocks.append(f"{environment.frequency_min:.0f}-{environment.frequency_max:.0f} MHz")
    if environment.power_mode:
        clocks.append(f"power mode {environment.power_mode}")
    versions = [
        f"edgeconv {environment.edgeconv}",
        environment.runtime,
        f"Python {environment.python}",
        environment.os,
        environment.architecture,
    ]
    return [
        ", ".join(machine),
        f"provider {environment.provider}, threads {threads}, {', '.join(clocks)}",
        ", ".join(versions),
        *([] if environment.gpu is None else [gpu_line(environment.gpu)]),
        *(f"{name}={value}" for name, value in environment.variables.items()),
    ]


def gpu_line(gpu: GpuInfo) -> str:
    """Describe a GPU and its limits."""
    parts = [f"{gpu.name} (compute capability {gpu.compute_capability})"]
    if gpu.multiprocessors is not None:
        parts.append(f"{gpu.multiprocessors} multiprocessors")
    if gpu.memory is not None:
        parts.append(f"{gpu.memory / 2**30:.1f} GiB")
    if gpu.clock_max is not None:
        low = "up to " if gpu.clock_min is None else f"{gpu.clock_min:.0f}-"
        parts.append(f"{low}{gpu.clock_max:.0f} MHz")
    if gpu.power_limit is not None:
        parts.append(f"{gpu.power_limit:.0f} W")
    if gpu.driver is not None:
        parts.append(f"driver {gpu.driver}")
    if gpu.cuda is not None:
        parts.append(f"CUDA {gpu.cuda}")
    return ", ".join(parts)


def device_table(report: BenchmarkReport) -> Table:
    """The times on the device, and where the nodes run."""
    table = _table()
    table.add_column("model", overflow="fold")
    table.add_column("run as", no_wrap=True)
    for q in report.settings.percentiles:
        table.add_column(f"p{q:g}", justify="right", no_wrap=True)
    for heading in ("mean", "spread"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("nodes on")
    for variant in report.variants:
        if variant.device is None:
            continue
        times = [_dash(variant.device.percentiles[q]) for q in report.settings.percentiles]
        figures = [_milliseconds(variant.device.mean), f"{variant.device.spread:.1%}"]
        table.add_row(escape(variant.model.name), variant.kind, *times, *figures, _places(variant))
    return table


def _places(variant: VariantResult) -> str:
    if variant.placement is None:
        return "—"
    return ", ".join(f"{provider} {count}" for provider, count in variant.placement.counts.items())


def latency_tables(report: BenchmarkReport, console: Console) -> list[Table]:
    """The figures of every variant, one row each: one table, or two where `console` is too narrow for one."""
    percentiles = report.settings.percentiles
    latencies: list[_Column] = [
        *((f"p{q:g}", partial(_percentile, q=q)) for q in percentiles),
        ("mean", lambda variant: _milliseconds(variant.summary.mean)),
        ("spread", lambda variant: f"{variant.summary.spread:.1%}"),
        ("samples", lambda variant: str(variant.summary.count)),
    ]
    others: list[_Column] = [
        ("items/s", lambda variant: _significant(variant.summary.throughput)),
        ("memory MiB", lambda variant: "—" if variant.memory is None else f"{variant.memory.growth / 2**20:.1f}"),
        *_device_memory(report),
        ("create ms", lambda variant: _milliseconds(variant.creation_median_ns)),
        ("first run ms", lambda variant: _milliseconds(variant.first_run_ns)),
    ]
    whole = _variant_table(report, latencies + others)
    needed = Measurement.get(console, console.options.update(max_width=10_000), whole).maximum
    return [whole] if needed <= console.width else [_variant_table(report, latencies), _variant_table(report, others)]


def _device_memory(report: BenchmarkReport) -> list[_Column]:
    def cell(variant: VariantResult) -> str:
        device = None if variant.memory is None else variant.memory.device
        return "—" if device is None else f"{device / 2**20:.1f}"

    return [("GPU MiB", cell)] if any(v.memory and v.memory.device is not None for v in report.variants) else []


def _variant_table(report: BenchmarkReport, columns: Sequence[_Column]) -> Table:
    table = _table()
    table.add_column("model", overflow="fold")
    table.add_column("run as", no_wrap=True)
    for heading, _cell in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for variant in report.variants:
        cells = (cell(variant) for _heading, cell in columns)
        table.add_row(escape(variant.model.name), variant.kind, *cells)
    return table


def _percentile(variant: VariantResult, q: float) -> str:
    return _dash(variant.summary.percentiles[q])


def _dash(nanoseconds: float | None) -> str:
    return "—" if nanoseconds is None else _milliseconds(nanoseconds)


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)


def _print_table(console: Console, title: str, *tables: Table) -> None:
    console.print()
    console.print(escape(title), style="bold", highlight=False)
    for index, table in enumerate(tables):
        if index:
            console.print()
        console.print(table)


def _print_footnotes(report: BenchmarkReport, console: Console) -> None:
    lacking = {q for variant in report.variants for q, value in variant.summary.percentiles.items() if value is None}
    for q in sorted(lacking):
        text = f"—: p{q:g} takes {samples_needed(q)} samples (--iterations {samples_needed(q)})"
        console.print(text, style="dim", highlight=False)
    shapes = {
        f"{name} {'x'.join(map(str, shape))}" for variant in report.variants for name, shape in variant.shapes.items()
    }
    console.print(f"inputs: {escape(', '.join(sorted(shapes)))}, synthetic", style="dim", highlight=False)


def ratio_table(rows: Sequence[RatioRow]) -> Table:
    """A table of ratios with their intervals."""
    table = _table()
    table.add_column("variant", overflow="fold")
    table.add_column("ratio", justify="right")
    confidence = rows[0].ratio.confidence if rows else 0.95
    table.add_column(f"{confidence:.0%} interval", justify="right")
    table.add_column("in words")
    for row in rows:
        ratio = row.ratio
        interval = "—" if ratio.low is None or ratio.high is None else f"{ratio.low:.3f} to {ratio.high:.3f}"
        table.add_row(escape(_short(row.variant)), f"{ratio.value:.3f}", interval, _words(row))
    return table


def _words(row: RatioRow) -> str:
    ratio = row.ratio
    if ratio.low is None:
        return "too few turns for an interval"
    if not ratio.distinguishable:
        return "no difference seen"
    return f"{1 / ratio.value:.2f}x as fast" if ratio.value < 1 else f"{ratio.value:.2f}x as long"


def operator_table(profile: Profile) -> Table:
    """The time by operator type."""
    table = _table()
    table.add_column("operator", overflow="fold")
    for heading in ("nodes", "ms", "share"):
        table.add_column(heading, justify="right")
    for row in profile.by_operator():
        table.add_row(escape(row.operator), row.node, f"{row.milliseconds:.4f}", f"{row.share:.1%}")
    if profile.run_milliseconds:
        outside = profile.unattributed_milliseconds
        table.add_row("outside operators", "", f"{outside:.4f}", f"{outside / profile.run_milliseconds:.1%}")
    return table


def node_table(profile: Profile) -> Table:
    """The time of the slowest nodes."""
    table = _table()
    table.add_column("node", overflow="fold")
    table.add_column("operator", no_wrap=True)
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    for row in profile.nodes[:_NODES]:
        table.add_row(escape(row.node), escape(row.operator), f"{row.milliseconds:.4f}", f"{row.share:.1%}")
    rest = profile.nodes[_NODES:]
    if rest:
        milliseconds, share = sum(row.milliseconds for row in rest), sum(row.share for row in rest)
        table.add_row(f"{len(rest)} others", "", f"{milliseconds:.4f}", f"{share:.1%}")
    return table


def _short(name: str) -> str:
    """A variant's name without its directory."""
    path, _, kind = name.rpartition(" (")
    return f"{path.rsplit('/', 1)[-1]} ({kind}"


def _milliseconds(nanoseconds: float) -> str:
    return _significant(nanoseconds * 1e-6)


def _significant(value: float) -> str:
    """Four significant digits, without an exponent."""
    if value >= 1000:
        return f"{value:.0f}"
    if value >= 100:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 10 else f"{value:.3f}"
