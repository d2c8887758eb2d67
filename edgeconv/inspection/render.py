"""Prints a `ModelReport` as tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from edgeconv.inspection.nodes import label
from edgeconv.inspection.report import Layer, ModelReport, Shape, Tensor
from edgeconv.inspection.runtimes import FUNCTION, NATIVE, NO_LOAD, NOT_KNOWN, STANDARD
from edgeconv.ops.kervolution import describe_precisions

if TYPE_CHECKING:
    from rich.console import Console

_COLORS = {NATIVE: "green", STANDARD: "green", FUNCTION: "yellow", NO_LOAD: "red", NOT_KNOWN: "yellow"}


def render_report(report: ModelReport, console: Console, *, all_layers: bool) -> None:
    """Print the file, its operators, its layers and the runtimes' paths."""
    console.print(_summary(report))
    console.print(_operators(report))
    console.print(_layers(report.layers, all_layers=all_layers))
    console.print(_runtimes(report))
    for note in report.notes:
        console.print(Text(f"Note: {note}"))


def _summary(report: ModelReport) -> Table:
    table = Table(title=Text(report.path), title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")

    def row(name: str, value: str) -> None:
        table.add_row(Text(name), Text(value))

    row("producer", report.producer or "not said")
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in report.opsets.items())
    row("format", f"IR {report.ir_version}; opset {opsets}")
    external = ", ".join(f"{name} {_bytes(size)}" for name, size in report.external_files.items())
    row("size", _bytes(report.size_bytes) + (f" (external data: {external})" if external else ""))
    for kind, tensors in (("input", report.inputs), ("output", report.outputs)):
        for tensor in tensors:
            row(kind, _tensor(tensor))
    row("parameters", f"{report.parameters:,} ({_bytes(report.weights_bytes)} of stored tensors)")
    row("operations", _operations(report))
    if report.kervolution_precisions:
        row("precision", describe_precisions(report.kervolution_precisions))
    for key, value in report.metadata.items():
        row(key, _short(value))
    return table


def _operators(report: ModelReport) -> Table:
    table = Table(title="Operators", title_justify="left")
    table.add_column("operator", no_wrap=True)
    table.add_column("count", justify="right")
    table.add_column("function in the file")
    custom = {(op.domain, op.op_type): op for op in report.custom_operators}
    for entry in report.operators:
        found = custom.pop((entry.domain, entry.op_type), None)
        told = "" if found is None else "yes" if found.function else "no"
        table.add_row(Text(label(entry.domain, entry.op_type)), f"{entry.count:,}", told)
    for (domain, op_type), found in custom.items():  # called only from other functions
        name = f"{label(domain, op_type)} (in functions)"
        table.add_row(Text(name), f"{found.count:,}", "yes" if found.function else "no")
    return table


def _layers(layers: list[Layer], *, all_layers: bool) -> Table:
    table = Table(title="Layers", title_justify="left")
    mixed = len({layer.precision for layer in layers if layer.precision}) > 1  # else the summary says it
    shown = [layer for layer in layers if all_layers or _matters(layer)]
    types = len({layer.dtype for layer in shown}) > 1
    for name in ("name", "operator", *(["precision"] if mixed else []), "output"):
        table.add_column(name, overflow="fold")
    table.add_column("parameters", justify="right")
    table.add_column("operations", justify="right")
    for layer in shown:
        counts = _operations(layer) if _counts(layer) else ""
        parameters = f"{layer.parameters:,}" if layer.parameters else ""
        # Exporters name a node module/operator; the operator has its own column.
        name = layer.name.removesuffix(f"/{layer.op.rpartition('::')[2]}")
        precision = [Text(layer.precision or "")] if mixed else []
        output = f"{layer.dtype} {_shape(layer.output_shape)}" if types else _shape(layer.output_shape)
        table.add_row(Text(name), Text(layer.op), *precision, Text(output), parameters, counts)
    hidden = len(layers) - len(shown)
    if hidden:
        table.caption = f"{hidden} more without parameters or counted operations"
        table.caption_justify = "left"
    return table


def _runtimes(report: ModelReport) -> Table:
    table = Table(title="Which path each runtime takes", title_justify="left")
    table.add_column("runtime")
    table.add_column("path", no_wrap=True)
    table.add_column("why", overflow="fold")
    table.add_column("remedy", overflow="fold")
    for row in report.runtimes:
        table.add_row(Text(row.runtime), Text(row.path, _COLORS[row.path]), Text(row.reason), Text(row.remedy))
    table.caption = "From the operators and functions in the file; support of each standard operator is not checked."
    table.caption_justify = "left"
    return table


def _matters(layer: Layer) -> bool:
    return bool(layer.parameters) or _counts(layer)


def _counts(layer: Layer) -> bool:
    return bool(layer.macs or layer.absolute_differences) or not layer.complete


def _tensor(tensor: Tensor) -> str:
    text = f"{tensor.name}: {tensor.dtype} {_shape(tensor.declared)}"
    return text if tensor.declared == tensor.shape else f"{text}, taken as {_shape(tensor.shape)}"


def _shape(shape: Shape) -> str:
    return "?" if shape is None else "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"


def _operations(counted: Layer | ModelReport) -> str:
    units = ((counted.macs, "MACs"), (counted.absolute_differences, "abs. differences"))
    known = [f"{_count(n)} {unit}" for n, unit in units if n]
    if not known:
        return "0 MACs" if counted.complete else "not known"
    text = ("" if counted.complete else "at least ") + " + ".join(known)
    in_bytes = counted.operations_8bit
    if in_bytes == counted.macs + counted.absolute_differences:
        return f"{text} in 8 bits"
    return f"{text}, {_count(in_bytes)} of them in 8 bits" if in_bytes else text


def _count(number: int) -> str:
    return _scaled(number, 1000, ("", " k", " M", " G", " T"))


def _bytes(number: int) -> str:
    return _scaled(number, 1024, (" B", " KiB", " MiB", " GiB", " TiB"))


def _scaled(number: int, base: int, units: Iterable[str]) -> str:
    value, steps = float(number), list(units)
    for unit in steps:
        if value < base or unit == steps[-1]:
            break
        value /= base
    return f"{value:.0f}{unit}" if unit == steps[0] else f"{value:.2f}{unit}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."
