"""Which provider runs which node: ONNX Runtime's own record of a run.

ONNX Runtime gives every node that a provider has no kernel for to the CPU, without a word. A latency that was measured
so is not the GPU's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgeconv.errors import InputError

_KERNEL = "_kernel_time"
_INTEGERS = {"int64", "int32", "bool"}
_SMALL = 64
_SHAPE_READERS = ("Shape", "Size")
_NAMED = 8  # in a message


@dataclass(frozen=True)
class NodePlace:
    """A node of the optimised graph.

    Attributes:
        node: Its name; fusions and inlined functions carry names that ONNX Runtime gave them.
        operator: Operator type as executed.
        provider: ``CUDA``, ``CPU`` and the like.
        shapes_only: Whether it computes shapes: all that it reads and gives are a few integers. ONNX Runtime puts such
            nodes onto the CPU on purpose, where their results are needed.
    """

    node: str
    operator: str
    provider: str
    shapes_only: bool

    def __str__(self) -> str:
        return f"{self.operator} {self.node!r}"


@dataclass(frozen=True)
class Placement:
    """Where a model's nodes run.

    Attributes:
        nodes: In the order in which they ran first.
    """

    nodes: tuple[NodePlace, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Nodes by provider, the most frequent first."""
        return dict(Counter(node.provider for node in self.nodes).most_common())

    @property
    def copies(self) -> tuple[NodePlace, ...]:
        """Nodes that copy between the CPU's memory and another's."""
        return tuple(node for node in self.nodes if node.operator.startswith("Memcpy"))

    def elsewhere(self, provider: str) -> tuple[NodePlace, ...]:
        """Nodes that another provider than this one runs, but for those that compute shapes."""
        return tuple(node for node in self.nodes if node.provider != provider and not node.shapes_only)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"counts": self.counts, "nodes": [asdict(node) for node in self.nodes]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Placement:
        """Read what `to_dict` wrote."""
        return cls(tuple(NodePlace(**node) for node in data["nodes"]))


def check_placement(model: str, placement: Placement, provider: str) -> None:
    """Refuse a model of which a part runs elsewhere than was asked for.

    Args:
        model: What to call it.
        placement: Where its nodes run.
        provider: As `NodePlace.provider` has it.

    Raises:
        InputError: Another provider runs nodes that do more than compute shapes; they are named.
    """
    elsewhere = placement.elsewhere(provider)
    if not elsewhere:
        return
    named = "\n  ".join(f"{node} on {node.provider}" for node in elsewhere[:_NAMED])
    more = f"\n  and {len(elsewhere) - _NAMED} more" if len(elsewhere) > _NAMED else ""
    raise InputError(
        f"{len(elsewhere)} of {len(placement.nodes)} nodes of {model} do not run on {provider}, as ONNX Runtime has no "
        f"kernel for them there:\n  {named}{more}",
        "Their time, and that of copies to and fro, would count as the GPU's. To measure it all the same: "
        "--allow-cpu-fallback.",
    )


def read_placement(events: Sequence[Mapping[str, Any]]) -> Placement:
    """Read the places from ONNX Runtime's profile of at least one run.

    Args:
        events: The trace: ``cat``, ``name``, ``ts`` and ``args`` with ``op_name`` and ``provider``.
    """
    found: dict[tuple[str, str, str], NodePlace] = {}
    nodes = (event for event in events if event.get("cat") == "Node" and event["name"].endswith(_KERNEL))
    for event in sorted(nodes, key=lambda event: event["ts"]):
        arguments = event.get("args", {})
        name, operator = event["name"][: -len(_KERNEL)], arguments.get("op_name", "?")
        provider = arguments.get("provider", "?").removesuffix("ExecutionProvider")
        key = (name, operator, provider)
        if key not in found:
            found[key] = NodePlace(name, operator, provider, _computes_shapes(operator, arguments))
    return Placement(tuple(found.values()))


def _computes_shapes(operator: str, arguments: Mapping[str, Any]) -> bool:
    given, taken = arguments.get("output_type_shape", []), arguments.get("input_type_shape", [])
    return bool(given) and _are_small(given) and (operator in _SHAPE_READERS or _are_small(taken))


def _are_small(tensors: Iterable[Mapping[str, Sequence[int]]]) -> bool:
    """Tell whether all are a few integers; the record gives each as ``{type: shape}``."""
    for tensor in tensors:
        for kind, shape in tensor.items():
            size = 1
            for extent in shape:
                size *= extent
            if kind not in _INTEGERS or size > _SMALL:
                return False
    return True
