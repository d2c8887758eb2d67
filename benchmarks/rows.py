"""A row of results: times of all competitors on one layer, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from goals import ERROR, GOALS, SCALING, TO_COMPILE, TO_CONV, TO_PLAIN, TO_STANDARD, Goal
from outcomes import Measured, Verdict

CONV = "Conv"
LIBRARY = "library"
ALONE = "library, one thread"
STANDARD = "standard"
EAGER = "torch eager"
COMPILE = "torch.compile"
OPENVINO = "OpenVINO"
OPENVINO_DEFAULT = "OpenVINO, default precision"
PLAIN = "plain network"
COMPETITORS = (CONV, LIBRARY, STANDARD, EAGER, COMPILE, OPENVINO, OPENVINO_DEFAULT)
"""Names of what takes part: ONNX Runtime's Conv, the op library, standard operators in ONNX Runtime, and the others."""


@dataclass(frozen=True)
class Row:
    """One kernel on one layer, or a network of it.

    Attributes:
        kernel: The kernel.
        precision: "float32", "bf16x3", "uint8" or "uint8 with Q/DQ".
        layer: Name of the layer or network.
        threads: Threads of everything that was timed.
        clock: What was read: process CPU time or the wall's.
        macs: Multiply-adds (or absolute differences) of the direct algorithm.
        bytes: Input, filters and output together.
        limit: Rate of the accumulation's ceiling, 10^9 elements a second; None where it was not measured.
        limit_form: The ceiling's instructions.
        measured: By competitor.
        interval: 95 % interval of the library's ratio to Conv (of the network's to the plain one), if there is one.
    """

    kernel: str
    precision: str
    layer: str
    threads: int
    clock: str
    macs: int
    bytes: int
    limit: float | None
    limit_form: str | None
    measured: Mapping[str, Measured]
    interval: tuple[float, float] | None = None

    def ratio(self, above: str, below: str) -> float | None:
        """Time of one competitor over that of another; None where one did not take part."""
        if above not in self.measured or below not in self.measured:
            return None
        return self.measured[above].ms / self.measured[below].ms

    @property
    def rate(self) -> float:
        """10^9 multiply-adds a second of the library, as if by the direct algorithm."""
        return self.macs / self.measured[LIBRARY].ms * 1e-6

    @property
    def of_limit(self) -> float | None:
        """The library's rate over the ceiling's; above 1 where it takes fewer products than the direct algorithm."""
        return self.rate / self.limit if self.limit else None

    @property
    def metrics(self) -> dict[str, float]:
        """What the goals are about, of that which was measured."""
        found = {
            TO_CONV: self.ratio(LIBRARY, CONV),
            TO_STANDARD: self.ratio(STANDARD, LIBRARY),
            TO_COMPILE: self.ratio(COMPILE, LIBRARY),
            SCALING: self.ratio(ALONE, LIBRARY),
            TO_PLAIN: self.ratio(LIBRARY, PLAIN),
            ERROR: self.measured[LIBRARY].error,
        }
        return {name: value for name, value in found.items() if value is not None}

    @property
    def goals(self) -> list[tuple[Goal, float]]:
        """The goals that are for this row and were measured, each with its value."""
        metrics = self.metrics
        return [
            (goal, metrics[goal.metric])
            for goal in GOALS
            if goal.concerns(self.kernel, self.precision, self.layer, self.threads) and goal.metric in metrics
        ]

    @property
    def met(self) -> bool | None:
        """Whether all its goals are met; None where it has none."""
        goals = self.goals
        return all(goal.met(value) for goal, value in goals) if goals else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, derived ones included."""
        goals = [
            {"metric": goal.metric, "sense": goal.sense, "bound": goal.bound, "value": value, "met": goal.met(value)}
            for goal, value in self.goals
        ]
        return {**asdict(self), "rate": self.rate, "of_limit": self.of_limit, "metrics": self.metrics, "goals": goals}


def verdicts(rows: Iterable[Row], reasons: Mapping[str, str] | None = None) -> list[Verdict]:
    """Judge every goal by the rows.

    Args:
        rows: What was measured.
        reasons: Why a precision cannot be measured here.
    """
    rows = list(rows)
    result = []
    for goal in GOALS:
        values = {}
        for row in rows:
            for concerned, value in row.goals:
                if concerned is goal:
                    parts = [row.kernel] if len(goal.kernels) > 1 else []
                    parts += [row.layer] + (
                        [f"({row.threads} thread{'s' * (row.threads > 1)})"] if len(goal.threads) > 1 else []
                    )
                    values[" ".join(parts)] = value
        result.append(Verdict(goal, values, (reasons or {}).get(goal.precision, "")))
    return result
