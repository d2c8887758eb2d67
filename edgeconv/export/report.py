"""The parity report: what was compared, how far apart the results were, and what that means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeconv.ops.kervolution import describe_precisions


@dataclass(frozen=True)
class Errors:
    """Differences of one output: largest and mean absolute one, elements, verdict, rms of PyTorch's output."""

    maximum: float
    mean: float
    count: int
    passed: bool
    rms: float | None = None


@dataclass(frozen=True)
class Tolerance:
    """An output passes if every element differs by at most atol + rtol · rms of the expected output.

    Attributes:
        atol: In the output's units.
        rtol: Relative to the root mean square of the output PyTorch gives, so that the many elements near zero of a
            deep network's output are not held to digits that float32 does not have.
        steps: An output of 8-bit integers passes in any case if it is at most so many steps off.
    """

    atol: float
    rtol: float
    steps: int = 0

    def errors(self, expected: npt.NDArray[Any], actual: npt.NDArray[Any]) -> Errors:
        """Compare two arrays of one shape.

        Infinities and NaN that stand in both places count as equal, but an output without any finite element proves
        nothing and does not pass.
        """
        want, got = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
        if not want.size:
            return Errors(0.0, 0.0, 0, True)
        same = (want == got) | (np.isnan(want) & np.isnan(got))
        with np.errstate(invalid="ignore"):
            difference = np.where(same, 0.0, np.abs(want - got))
        difference = np.where(np.isnan(difference), np.inf, difference)
        finite = want[np.isfinite(want)]
        rms = float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0
        bound = self.atol + self.rtol * rms
        if np.asarray(actual).dtype in (np.uint8, np.int8):
            bound = max(bound, self.steps)
        largest = float(difference.max())
        return Errors(largest, float(difference.mean()), want.size, largest <= bound and finite.size > 0, rms)


@dataclass(frozen=True)
class Comparison:
    """One runtime on one set of inputs.

    Attributes:
        runtime: Its name.
        inputs: Where the inputs come from.
        batch: Size of their first axis.
        max_error: Largest absolute difference from PyTorch over all outputs.
        mean_error: Mean absolute difference.
        agreement: Share of samples whose class (argmax) is PyTorch's, for outputs of shape (N, classes).
        passed: Whether every element is within the tolerance.
        note: Why it failed, if not by the size of the error.
        rms: The least root mean square of PyTorch's outputs.
    """

    runtime: str
    inputs: str
    batch: int
    max_error: float
    mean_error: float
    agreement: float | None
    passed: bool
    note: str = ""
    rms: float | None = None


@dataclass(frozen=True)
class Divergence:
    """The first layer, in graph order, whose output differs.

    Attributes:
        layer: Its dotted name in the PyTorch module.
        max_error: Largest absolute difference of its output.
        last_good: The layer before it that agrees, if any.
    """

    layer: str
    max_error: float
    last_good: str | None


@dataclass(frozen=True)
class ParityReport:
    """Every comparison, and the runtimes that were not run, with the reason.

    Attributes:
        comparisons: One a runtime and set of inputs.
        not_run: Runtime -> why it was not run.
        tolerance: What a comparison passes within.
        divergence: The first layer that differs, if one does and it was found.
        kervolution_precisions: How many kervolutions on x·w ask for each `edgeconv.ops.kervolution.Precision`.
    """

    comparisons: Sequence[Comparison]
    not_run: Mapping[str, str]
    tolerance: Tolerance
    divergence: Divergence | None = None
    kervolution_precisions: Mapping[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every comparison passed."""
        return all(comparison.passed for comparison in self.comparisons)

    def warnings(self) -> list[str]:
        """What weakens the verdict, one sentence each."""
        found = [each.rms for each in self.comparisons if each.rms is not None and not each.note]
        if not found or min(found) >= self.tolerance.atol:
            return []
        return [
            f"PyTorch's output is so small (rms {min(found):.1e}) that the absolute tolerance of "
            f"{self.tolerance.atol:g} lets anything pass: this proves nothing. Give inputs of the network's own kind "
            "(--inputs), or a smaller --atol."
        ]

    def verdict(self) -> str:
        """One sentence: the largest error, and where the first difference arises if there is one."""
        worst = max(self.comparisons, key=lambda comparison: comparison.max_error)
        if self.passed:
            return f"parity holds; largest error {worst.max_error:.2g} ({worst.runtime}, {worst.inputs} inputs)"
        failed = next(comparison for comparison in self.comparisons if not comparison.passed)
        text = failed.note or f"{failed.runtime} differs from PyTorch by {failed.max_error:.3g}"
        text += f" on {failed.inputs} inputs"
        if self.divergence is not None:
            after = f", after {self.divergence.last_good} agreed" if self.divergence.last_good else ""
            text += f"; the first layer concerned is {self.divergence.layer}{after}"
        return text

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"passed": self.passed, "verdict": self.verdict(), "warnings": self.warnings(), **asdict(self)}

    def render(self, console: Console) -> None:
        """Print the table."""
        table = Table(title="Parity with PyTorch", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("runtime", no_wrap=True)
        table.add_column("inputs")
        for heading in ("samples", "max error", "mean", "same class", ""):
            table.add_column(heading, justify="right", no_wrap=True)
        groups: dict[tuple[str, str], list[Comparison]] = {}
        for comparison in self.comparisons:
            groups.setdefault((comparison.runtime, comparison.inputs), []).append(comparison)
        for (runtime, inputs), rows in groups.items():
            weights = [row.batch for row in rows]
            agreements = [row.agreement for row in rows if row.agreement is not None]
            table.add_row(
                runtime,
                inputs,
                "+".join(map(str, weights)) if len(weights) <= 3 else f"{len(weights)}×{weights[0]}",
                f"{max(row.max_error for row in rows):.1e}",
                f"{sum(row.mean_error * row.batch for row in rows) / max(sum(weights), 1):.1e}",
                f"{sum(agreements) / len(agreements):.1%}" if agreements else "—",
                "[green]pass[/]" if all(row.passed for row in rows) else "[bold red]FAIL[/]",
            )
        console.print(table)
        for runtime, reason in self.not_run.items():
            console.print(f"[dim]{runtime}: not run, {reason.rstrip('.')}.[/]")
        if self.kervolution_precisions:
            console.print(f"[dim]{escape(describe_precisions(self.kervolution_precisions))}[/]", soft_wrap=True)
        limit = f"atol {self.tolerance.atol:g} + rtol {self.tolerance.rtol:g} × rms of PyTorch's output"
        if self.tolerance.steps:
            limit += f", or {self.tolerance.steps} step of an 8-bit output"
        console.print(self.verdict(), style=None if self.passed else "bold red", soft_wrap=True)
        for warning in self.warnings():
            console.print(f"warning: {warning}", style="yellow", highlight=False, soft_wrap=True)
        console.print(f"[dim]An element passes within {limit}. ORT: ONNX Runtime.[/]")
