"""What a benchmark's results are made of: a competitor's time, a bound on a metric, and what a run says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Measured:
    """One competitor in one row.

    Attributes:
        ms: Median time.
        form: Its form.
        samples: Number of samples.
        error: Largest difference from the float64 result, in units of its rms.
    """

    ms: float
    form: str
    samples: int
    error: float


class Bound:
    """What every goal is: a bound on a metric. Goals are dataclasses, and say besides which rows they are for.

    Attributes:
        metric: What is bounded.
        sense: "<=" or ">=".
        bound: The bound.
    """

    metric: str
    sense: str
    bound: float

    def met(self, value: float) -> bool:
        """Whether a value keeps the bound."""
        return value <= self.bound if self.sense == "<=" else value >= self.bound

    def worst(self, values: Mapping[str, float]) -> str:
        """The key of the value that is furthest from keeping the bound."""
        return max(values, key=lambda key: values[key] if self.sense == "<=" else -values[key])


@dataclass(frozen=True)
class Verdict:
    """What a run says of one goal.

    Attributes:
        goal: The goal.
        values: Its metric by row; empty where nothing was measured.
        reason: Why it cannot be measured here; empty where it can.
    """

    goal: Any
    values: Mapping[str, float]
    reason: str = ""

    @property
    def met(self) -> bool | None:
        """Whether every value keeps the bound; None without values."""
        return all(map(self.goal.met, self.values.values())) if self.values else None

    @property
    def missed(self) -> list[str]:
        """The rows that miss it."""
        return [row for row, value in self.values.items() if not self.goal.met(value)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `met` is null where the goal was not measured."""
        return {"goal": asdict(self.goal), "met": self.met, "values": dict(self.values), "not_measured": self.reason}
