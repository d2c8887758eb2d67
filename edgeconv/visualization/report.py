"""What `edgeconv visualize` found and wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeconv.export.report import ParityReport


@dataclass(frozen=True)
class PatchReport:
    """One of a feature's strongest activations.

    Attributes:
        activation: Its value, after the rectifier.
        image: The image's name.
        row: Of the layer's map.
        column: Of the layer's map.
        patch: Top, left, bottom and right pixel of what it depends on, in the network's input; all four belong to it.
    """

    activation: float
    image: str
    row: int
    column: int
    patch: tuple[int, int, int, int]


@dataclass(frozen=True)
class FeatureReport:
    """A feature that was shown.

    Attributes:
        feature: Its number.
        strongest: Its activations, strongest first, each of another image.
    """

    feature: int
    strongest: Sequence[PatchReport]


@dataclass(frozen=True)
class OnnxReport:
    """The projection as an `.onnx`.

    Attributes:
        path: The file.
        bytes: Its size.
        feature: What it shows unless the input `feature` says otherwise.
        parity: The comparison with PyTorch.
    """

    path: str
    bytes: int
    feature: int
    parity: ParityReport

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {**asdict(self), "parity": self.parity.to_dict()}


@dataclass(frozen=True)
class VisualizationReport:
    """The whole.

    Attributes:
        checkpoint: The file.
        layer: The layer, None if only filters were drawn.
        operations: What leads to it, as many as there are of each.
        features: How many maps it has.
        map_size: Their height and width.
        input_shape: (C, H, W) of the network's input.
        receptive_field: Height and width of what one activation sees, away from the borders.
        images: How many were searched.
        skipped: Unreadable ones, and why.
        silent: How many features are active on no image.
        shown: The features that were shown.
        output: The picture, if one was drawn.
        filters: The picture of the first layer's filters, if one was drawn.
        onnx: The exported projection, if it was asked for.
    """

    checkpoint: str
    layer: str | None
    operations: Mapping[str, int]
    features: int
    map_size: tuple[int, int]
    input_shape: tuple[int, int, int]
    receptive_field: tuple[int, int]
    images: int
    skipped: Mapping[str, str]
    silent: int
    shown: Sequence[FeatureReport]
    output: str | None
    filters: str | None
    onnx: OnnxReport | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {**asdict(self), "onnx": self.onnx.to_dict() if self.onnx else None}

    def render(self, console: Console) -> None:
        """Print the layer, a table of the features, and what was written."""
        if self.layer is not None:
            self._render_layer(console)
        if self.shown:
            console.print(self._table())
        if self.images:
            first = next((f"{escape(name)}: {escape(why)}" for name, why in self.skipped.items()), "")
            skipped = f", {len(self.skipped)} unreadable skipped, the first {first}" if first else ""
            silent = f"; {self.silent} of {self.features} features are active on none" if self.silent else ""
            console.print(f"{self.images} images searched{skipped}{silent}", highlight=False, soft_wrap=True)
        if self.onnx is not None:
            self.onnx.parity.render(console)
            size = f"{self.onnx.bytes / 2**20:.2f} MiB"
            about = f"the projection, of feature {self.onnx.feature} unless its input says another"
            console.print(f"[bold]{escape(self.onnx.path)}[/]: {size}, {about}", highlight=False, soft_wrap=True)
        for path, what in ((self.output, "patches beside their reconstructions"), (self.filters, "first filters")):
            if path is not None:
                console.print(f"[bold]{escape(path)}[/]: {what}", highlight=False, soft_wrap=True)

    def _render_layer(self, console: Console) -> None:
        made_of = ", ".join(f"{count} × {name}" for name, count in self.operations.items())
        (height, width), (rows, columns) = self.receptive_field, self.map_size
        console.print(
            f"[bold]{escape(str(self.layer))}[/]: {self.features} features of {rows}x{columns}, each activation sees "
            f"{height}x{width} of {self.input_shape[1]}x{self.input_shape[2]} pixels ({made_of})",
            highlight=False,
            soft_wrap=True,
        )

    def _table(self) -> Table:
        table = Table(title="Strongest activations", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("feature", justify="right", no_wrap=True)
        table.add_column("activations", no_wrap=True)
        table.add_column("strongest in", overflow="fold")
        for heading in ("position", "patch: rows", "columns"):
            table.add_column(heading, justify="right", no_wrap=True)
        for each in self.shown:
            first, last = each.strongest[0], each.strongest[-1]
            top, left, bottom, right = first.patch
            span = f"{first.activation:.4g}"
            if len(each.strongest) > 1:
                span += f" … {last.activation:.4g} ({len(each.strongest)})"
            table.add_row(
                str(each.feature),
                span,
                escape(first.image),
                f"{first.row}, {first.column}",
                f"{top}–{bottom}",
                f"{left}–{right}",
            )
        return table
