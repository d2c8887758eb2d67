"""What scaling found: candidates with their MACs and latencies, and those that no other beats in both."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeconv.scaling.grid import Coefficients

NO_ACCURACY = (
    "Nothing was trained, so nothing is known of accuracy: MACs only stand for what a network could learn. The paper "
    "trains the candidates and takes the most accurate."
)


@dataclass(frozen=True)
class Candidate:
    """One scaled network.

    Attributes:
        phi: How far the coefficients are raised.
        coefficients: α, β, γ.
        multipliers: Of depth, width and resolution, before rounding.
        config: What the architecture is built with.
        input_shape: C, H, W.
        macs: Multiply-accumulates of one inference.
        parameters: Number of parameters; 0 before the network is built.
        latency: Median, in seconds, of a batch of one; None before it is measured.
    """

    phi: float
    coefficients: Coefficients
    multipliers: Coefficients
    config: Mapping[str, Any]
    input_shape: tuple[int, int, int]
    macs: int
    parameters: int = 0
    latency: float | None = None

    def counted(self, macs: int, parameters: int) -> Candidate:
        """Return it with the figures of its file."""
        return replace(self, macs=macs, parameters=parameters)

    def timed(self, latency: float) -> Candidate:
        """Return it with its median latency in seconds."""
        return replace(self, latency=latency)

    def command(self, architecture: str, default: Mapping[str, Any]) -> str:
        """The options that build it elsewhere."""
        changed = {key: value for key, value in self.config.items() if value != default.get(key)}
        texts = (f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in changed.items())
        options = "".join(f" --config {shlex.quote(text)}" for text in texts)
        return f"--arch {architecture}{options}, input {'x'.join(map(str, self.input_shape))}"


@dataclass(frozen=True)
class ScalingReport:
    """The candidates that were measured.

    Attributes:
        architecture: Its name.
        axes: Which of depth, width and resolution it scales.
        base_macs: Multiply-accumulates of the architecture as it is.
        budget_macs: Most that were allowed.
        budget_latency: Longest latency in seconds that is allowed; None for any.
        provider: Where they ran.
        candidates: Measured ones.
        over_budget: How many had too many MACs.
        left_out: How many were within the budget but not measured.
        config: The architecture's defaults.
        environment: The stamp of the measurement.
        warnings: What the reader has to know to judge the figures.
    """

    architecture: str
    axes: tuple[str, ...]
    base_macs: int
    budget_macs: float
    budget_latency: float | None
    provider: str
    candidates: tuple[Candidate, ...]
    over_budget: int
    left_out: int
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    @property
    def front(self) -> list[Candidate]:
        """The Pareto front, by rising MACs: candidates than which none has as many MACs in less time."""
        return pareto_front(self.candidates)

    def allowed(self, candidate: Candidate) -> bool:
        """Whether a candidate is within the budget of latency."""
        return self.budget_latency is None or (
            candidate.latency is not None and candidate.latency <= self.budget_latency
        )

    @property
    def largest(self) -> Candidate | None:
        """The candidate of the front with most MACs within both budgets; None if each is too slow."""
        return next((candidate for candidate in reversed(self.front) if self.allowed(candidate)), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        front, largest = self.front, self.largest

        def row(candidate: Candidate) -> dict[str, Any]:
            fields = dataclasses.asdict(candidate)
            fields["input_shape"] = list(candidate.input_shape)
            return {**fields, "on_front": candidate in front, "within_latency": self.allowed(candidate)}

        return {
            "architecture": self.architecture,
            "axes": list(self.axes),
            "base_macs": self.base_macs,
            "budget_macs": self.budget_macs,
            "budget_latency_s": self.budget_latency,
            "provider": self.provider,
            "accuracy": None,
            "candidates": [row(candidate) for candidate in _by_macs(self.candidates)],
            "largest_within_budgets": None if largest is None else row(largest),
            "over_budget": self.over_budget,
            "left_out": self.left_out,
            "environment": dict(self.environment),
            "warnings": list(self.warnings),
        }

    def render(self, console: Console) -> None:
        """Print the table, the front marked, and which candidate is the largest within the budgets."""
        console.print(self._table())
        if self.over_budget or self.left_out:
            console.print(
                f"{self.over_budget} candidates had more MACs than the budget; {self.left_out} more were not measured "
                "(--limit)."
            )
        for warning in self.warnings:
            console.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False)
        largest = self.largest
        if largest is None:
            fastest = min(self.candidates, key=lambda candidate: candidate.latency or 0)
            console.print(f"[yellow]None is within the budget of latency; the fastest takes {_ms(fastest)} ms.[/]")
        else:
            options = largest.command(self.architecture, self.config)
            console.print(f"Most MACs within the budgets: {escape(options)}", soft_wrap=True, highlight=False)
        console.print(NO_ACCURACY, style="dim", highlight=False)

    def _table(self) -> Table:
        front = self.front
        table = Table(
            title=f"{self.architecture} scaled by {', '.join(self.axes)}: median latency, batch 1, {self.provider}",
            caption="* Pareto front: none has as many MACs in less time. φ = 0 is the architecture as it is. "
            "Columns of axes: multipliers",
        )
        table.add_column("")
        for name in ("φ", *self.axes, "input", "params", "MACs", "ms", "GMAC/s", "budget"):
            table.add_column({"resolution": "res."}.get(name, name), justify="right", no_wrap=True)
        for candidate in _by_macs(self.candidates):
            latency = candidate.latency or float("nan")
            table.add_row(
                "*" if candidate in front else "",
                f"{candidate.phi:.2f}",
                *(f"{getattr(candidate.multipliers, axis):.2f}" for axis in self.axes),
                "x".join(map(str, candidate.input_shape[1:])),
                f"{candidate.parameters / 1e6:.2f} M",
                f"{candidate.macs / 1e6:,.0f} M",
                _ms(candidate),
                f"{candidate.macs / 1e9 / latency:.1f}",
                "" if self.budget_latency is None else "met" if self.allowed(candidate) else "over",
                style="bold" if candidate in front else "",
            )
        return table


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the measured candidates than which none has as many MACs in less time, or more in as much; by MACs."""
    front: list[Candidate] = []
    fastest = float("inf")
    measured = [candidate for candidate in candidates if candidate.latency is not None]
    for candidate in sorted(measured, key=lambda c: (-c.macs, c.latency)):
        if candidate.latency is not None and candidate.latency < fastest:
            front.append(candidate)
            fastest = candidate.latency
    return front[::-1]


def _by_macs(candidates: Sequence[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: (candidate.macs, candidate.latency or 0))


def _ms(candidate: Candidate) -> str:
    return "-" if candidate.latency is None else f"{1e3 * candidate.latency:.2f}"
