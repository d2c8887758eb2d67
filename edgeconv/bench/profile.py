"""Where the time goes: each operator's share, from ONNX Runtime's profile of runs made for this alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgeconv.runtime.ort import STOP_SPINNING, Array, OrtSession

_KERNEL = "_kernel_time"
SKIPPED_RUNS = 2
"""The first runs allocate; they are recorded but not counted."""


@dataclass(frozen=True)
class OperatorTime:
    """Time of one node of the optimised graph.

    Attributes:
        node: Name of the node; fusions and inlined functions carry names that ONNX Runtime gave them.
        operator: Operator type as executed.
        provider: Execution provider.
        calls: Executions an inference (above 1 in loops).
        milliseconds: Time an inference, without that of nodes inside it (bodies of If and Loop).
        share: Part of the time of whole runs.
    """

    node: str
    operator: str
    provider: str
    calls: float
    milliseconds: float
    share: float


@dataclass(frozen=True)
class Profile:
    """A model's time by node.

    Attributes:
        runs: Inferences counted.
        run_milliseconds: Mean time of a whole run while being profiled (recording makes it longer than the benchmark).
        nodes: Times by node, the longest first.
        unattributed_milliseconds: Part of a run outside all operators: scheduling, allocation, recording.
    """

    runs: int
    run_milliseconds: float
    nodes: tuple[OperatorTime, ...]
    unattributed_milliseconds: float

    def by_operator(self) -> list[OperatorTime]:
        """Sum the nodes of each operator type, the longest first; `node` then says how many nodes there are."""
        groups: dict[tuple[str, str], list[OperatorTime]] = {}
        for node in self.nodes:
            groups.setdefault((node.operator, node.provider), []).append(node)
        rows = [
            OperatorTime(
                node=str(len(members)),
                operator=operator,
                provider=provider,
                calls=sum(member.calls for member in members),
                milliseconds=sum(member.milliseconds for member in members),
                share=sum(member.share for member in members),
            )
            for (operator, provider), members in groups.items()
        ]
        return sorted(rows, key=lambda row: -row.milliseconds)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "nodes": [asdict(node) for node in self.nodes]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Profile:
        """Read what `to_dict` wrote."""
        return cls(**{**data, "nodes": tuple(OperatorTime(**node) for node in data["nodes"])})


def profile_model(
    model: str,
    feeds: Mapping[str, Array],
    *,
    provider: str,
    threads: int | None,
    op_library: str | None,
    seconds: float = 0.5,
) -> Profile:
    """Run a model with recording switched on, at least ten counted times and for `seconds`.

    Args:
        model: Path of the file.
        feeds: Inputs by name.
        provider: Provider to run on.
        threads: Threads, None for the default.
        op_library: Path of the op library, None to run without.
        seconds: Least duration. At most 1000 runs are made, because ONNX Runtime's record is limited in length.
    """
    session = OrtSession(
        model,
        provider=provider,
        threads=threads,
        op_library=op_library if op_library is not None else False,
        profile=True,
        options=STOP_SPINNING,
    )
    begin = time.monotonic()
    runs = 0
    while runs < 10 + SKIPPED_RUNS or (time.monotonic() - begin < seconds and runs < 1000):
        session.run(feeds)
        runs += 1
    return summarize_events(session.profile_events())


def summarize_events(events: Sequence[Mapping[str, Any]], skipped: int = SKIPPED_RUNS) -> Profile:
    """Turn a recorded trace into times by node.

    Args:
        events: ONNX Runtime's trace: complete events with ``cat``, ``name``, ``ts`` and ``dur`` in microseconds.
        skipped: Runs at the beginning that do not count.
    """
    runs = sorted((event for event in events if event.get("name") == "model_run"), key=lambda event: event["ts"])
    counted = runs[skipped:]
    if not counted:
        return Profile(0, 0.0, (), 0.0)
    begin = counted[0]["ts"]
    # ONNX Runtime stops recording after a fixed number of events: nodes past the last complete run do not count.
    end = counted[-1]["ts"] + counted[-1]["dur"]
    kernels = sorted(
        (e for e in events if e.get("cat") == "Node" and e["name"].endswith(_KERNEL) and begin <= e["ts"] <= end),
        key=lambda event: (event["tid"], event["ts"], -event["dur"]),
    )
    totals: dict[tuple[str, str, str], list[float]] = {}
    enclosing: list[tuple[Mapping[str, Any], list[float]]] = []
    for event in kernels:
        arguments = event.get("args", {})
        key = (event["name"][: -len(_KERNEL)], arguments.get("op_name", "?"), arguments.get("provider", "?"))
        entry = totals.setdefault(key, [0.0, 0.0])
        entry[0] += 1
        entry[1] += event["dur"]
        while enclosing and not _inside(event, enclosing[-1][0]):
            enclosing.pop()
        if enclosing:
            enclosing[-1][1][1] -= event["dur"]
        enclosing.append((event, entry))
    whole = float(sum(run["dur"] for run in counted))
    nodes = [
        OperatorTime(
            node=name,
            operator=operator,
            provider=provider.removesuffix("ExecutionProvider"),
            calls=calls / len(counted),
            milliseconds=micros / len(counted) / 1e3,
            share=micros / whole if whole else 0.0,
        )
        for (name, operator, provider), (calls, micros) in totals.items()
    ]
    nodes.sort(key=lambda node: -node.milliseconds)
    run_milliseconds = whole / len(counted) / 1e3
    return Profile(
        len(counted), run_milliseconds, tuple(nodes), run_milliseconds - sum(node.milliseconds for node in nodes)
    )


def _inside(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> bool:
    same_thread = inner["tid"] == outer["tid"]
    return bool(same_thread and inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"])
