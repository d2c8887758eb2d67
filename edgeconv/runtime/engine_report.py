"""The result of a build: plain data, to JSON and to a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgeconv.runtime.engine_shapes import ShapeRange, text_of

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class EngineReport:
    """An engine that was built, or that fits and was left as it is.

    Attributes:
        engine: Path of the engine; its stamp is beside it.
        model: Path of the model.
        provider: ``tensorrt`` or ``tensorrt-rtx``.
        version: Version of that library.
        target: What the engine is for.
        built: False if a stored engine fitted.
        stale: In which parts the stored engine did not fit; empty if there was none, or it fitted.
        bytes: Size of the engine.
        seconds: How long the build took (of a stored one: took when it was built).
        profile: The shapes of the inputs; empty if all are fixed.
        inputs: Shapes of the inputs in the model; a dynamic size is a name or None.
        precisions: Layers with products or distances by the type that they are on, as the file has them.
        plugins: Nodes that plugins compute, by operator.
        inlined: Nodes of edgeconv's operators that TensorRT's own layers compute.
        flags: The options that the engine was built with.
        warnings: What is worth knowing.
    """

    engine: str
    model: str
    provider: str
    version: str
    target: tuple[str, ...]
    built: bool
    stale: tuple[str, ...]
    bytes: int
    seconds: float
    profile: dict[str, ShapeRange]
    inputs: dict[str, tuple[int | str | None, ...]]
    precisions: dict[str, int]
    plugins: dict[str, int]
    inlined: dict[str, int]
    flags: dict[str, str]
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def render(self, console: Console) -> None:
        """Print what was built, from what and for what."""
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        if self.stale:
            console.print(f"[yellow]stale[/]: {escape('; '.join(self.stale))}", highlight=False, soft_wrap=True)
        table = Table(title=Text(self.engine), title_justify="left", show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        done = f"built in {self.seconds:.1f} s" if self.built else "fits already: nothing was built"
        rows = {
            "state": f"{done}; {self.bytes / 2**20:.2f} MiB",
            "for": f"{self.provider} {self.version}, {self._target()}",
            "precision": ", ".join(f"{name} ({_layers(count)})" for name, count in self.precisions.items()),
            "by plugins": _operators(self.plugins),
            "inlined": _operators(self.inlined),
            "options": ", ".join(f"{k} {v}" for k, v in self.flags.items() if not k.startswith("shapes of ")),
        }
        for name, shape in self.inputs.items():
            rows[f"input {name}"] = _range(self.profile.get(name), shape)
        for name, text in rows.items():
            if text:
                table.add_row(Text(name), Text(text))
        console.print(table)
        for warning in self.warnings:
            console.print(f"[yellow]warning[/]: {escape(warning)}", highlight=False, soft_wrap=True)

    def _target(self) -> str:
        text = ", ".join(self.target)
        return f"compute capability {text}" if self.provider == "tensorrt-rtx" else text


def _range(ends: ShapeRange | None, declared: tuple[int | str | None, ...]) -> str:
    if ends is None:
        return "x".join("?" if size is None else str(size) for size in declared)
    if ends.fixed:
        return f"{text_of(ends.opt)} only"
    return f"{text_of(ends.min)} to {text_of(ends.max)}, tuned for {text_of(ends.opt)}"


def _operators(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} x{count}" for name, count in counts.items())


def _layers(count: int) -> str:
    return f"{count} layer" if count == 1 else f"{count} layers"
