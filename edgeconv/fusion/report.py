"""What fusing made of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeconv.fusion.passes import Operator
from edgeconv.fusion.steps import Steps, sum_steps


@dataclass(frozen=True)
class FusionReport:
    """The whole.

    Attributes:
        source: The QDQ file.
        path: The fused file.
        operators: The 8-bit operators in it, in the order of the graph.
        left: Layers that stay as they are, and why.
        nodes: Number of nodes of the main graph, before and after.
        functions: Whether function bodies are in the file.
        steps: Each operator's results against its function body, by node; None where that was not done.
        inputs: What that was done on.
        note: Why it was not done.
    """

    source: str
    path: str
    operators: tuple[Operator, ...]
    left: Mapping[str, str]
    nodes: tuple[int, int]
    functions: bool
    steps: Mapping[str, Steps] | None
    inputs: str
    note: str

    @property
    def total(self) -> Steps | None:
        """Of all operators."""
        return None if self.steps is None else sum_steps(self.steps.values())

    def verdict(self) -> str:
        """One sentence: what became of the layers, and whether they give the same."""
        layers = sum(len(each.layers) for each in self.operators)
        made = f"{layers} layers in {len(self.operators)} 8-bit operators"
        total = self.total
        if total is None:
            return f"{made}; not compared with the QDQ file: {self.note}"
        if not total.different:
            return f"{made}, bit for bit what the QDQ file gives: {total.elements} values, {self.inputs}"
        share = total.different / total.elements
        return (
            f"{made}; {total.different} of {total.elements} values ({share:.2g}) differ from the QDQ file in float32, "
            f"by {total.largest} step{'s' * (total.largest > 1)} at most: {self.inputs}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        total = self.total
        return {**asdict(self), "total": None if total is None else asdict(total), "verdict": self.verdict()}

    def render(self, console: Console) -> None:
        """Print it as tables."""
        table = Table()
        table.add_column("8-bit operator", no_wrap=True)
        for heading in ("number", "layers in it", "values", "differ", "largest, steps"):
            table.add_column(heading, justify="right")
        for name, count in Counter(each.operator for each in self.operators).items():
            chosen = [each for each in self.operators if each.operator == name]
            figures = ["", "", ""]
            if self.steps is not None:
                found = sum_steps(self.steps[each.node] for each in chosen)
                figures = [str(found.elements), str(found.different), str(found.largest)]
            table.add_row(name, str(count), str(sum(len(each.layers) for each in chosen)), *figures)
        console.print(table)
        for node, reason in self.left.items():
            console.print(f"left: {escape(node)}: {escape(reason)}", highlight=False, soft_wrap=True)
        console.print(escape(self.verdict()), highlight=False, soft_wrap=True)
        console.print(f"wrote {escape(self.path)}: {self.nodes[0]} nodes before, {self.nodes[1]} now", highlight=False)
