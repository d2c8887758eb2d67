"""Prints a `QuantizationReport`."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeconv.quantize.report import QuantizationReport
from edgeconv.quantize.sensitivity import SensitivityReport

_SHOWN = 12


def render_report(report: QuantizationReport, console: Console) -> None:
    """Print what was done, the worst layers, what stays in float, and the verdict."""
    _layers(report, console)
    if report.sensitivity is not None:
        _sensitivity(report.sensitivity, console)
    if report.left:
        table = _table("In float")
        table.add_column("node", overflow="fold")
        table.add_column("why", overflow="fold")
        for name, reason in report.left.items():
            table.add_row(escape(name), escape(reason))
        console.print(table)
    counts, used = report.quantized, report.calibration
    sizes = f"{report.bytes_before / 2**20:.2f} → {report.bytes_after / 2**20:.2f} MiB"
    console.print(f"[bold]{escape(report.path)}[/]: target {report.target}, {sizes}", highlight=False, soft_wrap=True)
    console.print(
        f"in 8 bits: {counts['layers']} layers with weights, {counts['operators']} other operators, "
        f"{counts['tensors']} tensors; {report.absorbed} activations are part of a quantiser",
        highlight=False,
        soft_wrap=True,
    )
    skipped = f", {used['skipped']} unreadable ones skipped" if used["skipped"] else ""
    console.print(
        f"calibrated on {used['images']} images of {escape(str(used['source']))}{skipped}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"images compared: {report.agreement.images} ({escape(report.measured_on)})", highlight=False)
    _networks(report, console)
    for warning in report.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False, soft_wrap=True)
    console.print(escape(report.verdict()), style="bold", highlight=False, soft_wrap=True)


def _layers(report: QuantizationReport, console: Console) -> None:
    shown = report.layers[:_SHOWN]
    title = "Layers in 8 bits, worst first" + (
        f" ({_SHOWN} of {len(report.layers)})" if len(shown) < len(report.layers) else ""
    )
    table = _table(title)
    table.add_column("layer", overflow="fold")
    for heading in ("SQNR dB", "weights", "activations", "range", "step"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in shown:
        covered = "float" if layer.covered is None else f"{layer.covered[0]:.3g} … {layer.covered[1]:.3g}"
        table.add_row(
            escape(layer.layer),
            f"{layer.sqnr_db:.1f}",
            f"{layer.weights[0]:.3g} … {layer.weights[1]:.3g}",
            f"{layer.activations[0]:.3g} … {layer.activations[1]:.3g}",
            covered,
            "" if layer.step is None else f"{layer.step:.3g}",
        )
    console.print(table)


def _networks(report: QuantizationReport, console: Console) -> None:
    """The three precisions next to each other."""
    agreement, half, took = report.agreement, report.half, report.latency
    table = _table("" if took is None else f"latency in {took.runtime}")
    table.add_column("precision")
    for heading in ("SQNR dB", "same class", "accuracy", "latency ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    floats = "" if agreement.accuracy is None else f"{agreement.accuracy[0]:.1%}"
    table.add_row("float32", "", "", floats, "" if took is None else f"{took.float_ms:.3f}")
    rows = [("float16", half, took and took.half_ms), ("int8", agreement, took and took.int8_ms)]
    for name, found, ms in rows:
        if found is not None:
            table.add_row(
                name,
                f"{found.sqnr_db:.1f}",
                "" if found.same_class is None else f"{found.same_class:.1%}",
                "" if found.accuracy is None else f"{found.accuracy[1]:.1%}",
                "" if ms is None else f"{ms:.3f}",
            )
    console.print(table)


def _sensitivity(report: SensitivityReport, console: Console) -> None:
    table = _table(f"Sensitivity, on {report.images} images; all in 8 bits: {report.quantized_db:.1f} dB")
    table.add_column("layer", overflow="fold")
    for heading in ("in float: dB", "gain dB", "alone in 8 bits: dB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in report.layers[:_SHOWN]:
        table.add_row(escape(layer.layer), f"{layer.without:.1f}", f"{layer.gain:+.2f}", f"{layer.alone:.1f}")
    console.print(table)
    proposal = report.proposal
    if not proposal.layers:
        console.print(f"{proposal.target_db:g} dB are reached with every layer in 8 bits.", highlight=False)
        return
    reach = "reaches" if proposal.met else "all that is left to do, reaches"
    console.print(
        f"{len(proposal.layers)} layers in float: {reach} {proposal.reached_db:.1f} dB of {proposal.target_db:g}: "
        f"{escape(proposal.option)}",
        highlight=False,
        soft_wrap=True,
    )


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
