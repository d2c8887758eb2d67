"""The grid of compound scaling: coefficients of depth, width and resolution, and how far they are raised.

Tan and Le, "EfficientNet", ICML 2019, section 3.3, equation 3: depth α^φ, width β^φ, resolution γ^φ with α·β²·γ² ≈ 2
and α, β, γ ≥ 1, so that the MACs grow by about 2^φ. The paper takes the α, β, γ of the best accuracy at φ = 1, then
raises φ. What is measured here is latency, so every α, β, γ of the grid is kept, and raised in steps up to the budget.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from edgeconv.errors import InputError
from edgeconv.scaling.axes import AXES, DEPTH, RESOLUTION, WIDTH

DEFAULT_GRID: Mapping[str, tuple[float, ...]] = {
    DEPTH: (1.0, 1.1, 1.2, 1.3, 1.4, 1.6, 2.0),
    WIDTH: (1.0, 1.1, 1.2, 1.3, 1.4),
    RESOLUTION: (1.0, 1.1, 1.15, 1.2, 1.3, 1.4),
}
"""α, β and γ; the paper's 1.2, 1.1 and 1.15 are among them, and so is each axis alone."""

TARGET = 2.0
DEVIATION = 0.1
"""Of α·β²·γ² from `TARGET`: the paper's own coefficients make 1.92."""

_SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}


@dataclass(frozen=True)
class Coefficients:
    """α, β and γ of equation 3."""

    depth: float
    width: float
    resolution: float

    @property
    def growth(self) -> float:
        """α·β²·γ²: what the MACs grow by from φ to φ + 1, but for rounding."""
        return self.depth * self.width**2 * self.resolution**2

    def raised(self, phi: float) -> Coefficients:
        """Return the multipliers at φ."""
        return Coefficients(self.depth**phi, self.width**phi, self.resolution**phi)


def coefficients(axes: Collection[str], grid: Mapping[str, Sequence[float]] | None = None) -> list[Coefficients]:
    """Return the grid's points that keep to α·β²·γ² ≈ 2.

    Args:
        axes: Which of depth, width and resolution there are; the others' coefficients are 1. An architecture with one
            axis has one point: the coefficient that doubles its MACs.
        grid: Values of the coefficients by axis, over `DEFAULT_GRID`.

    Raises:
        InputError: The grid names another axis, or no point keeps to the rule.
    """
    given = dict(grid or {})
    if unknown := sorted(given.keys() - set(axes)):
        raise InputError(f"the architecture does not scale its {unknown[0]}.", f"It scales: {', '.join(axes)}.")
    power = {DEPTH: 1, WIDTH: 2, RESOLUTION: 2}
    if len(axes) == 1 and not given:
        (only,) = axes
        values: list[tuple[float, ...]] = [
            (round(TARGET ** (1 / power[only]), 4),) if axis == only else (1.0,) for axis in AXES
        ]
    else:
        values = [tuple(given.get(axis, DEFAULT_GRID[axis])) if axis in axes else (1.0,) for axis in AXES]
    points = [Coefficients(*point) for point in itertools.product(*values)]
    kept = [point for point in points if abs(point.growth - TARGET) <= DEVIATION * TARGET]
    if not kept:
        nearest = min(points, key=lambda point: abs(point.growth - TARGET))
        raise InputError(
            f"no point of --grid has depth·width²·resolution² near {TARGET:g}; the nearest has {nearest.growth:.2f}.",
            "Give more values of each, such as depth=1,1.2,1.4 width=1,1.1,1.2 resolution=1,1.15,1.3.",
        )
    return kept


def parse_grid(texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Read `depth=1,1.1,1.2`, `width=…`, `resolution=…`.

    Raises:
        InputError: It is not of this form, or a coefficient is below 1.
    """
    grid: dict[str, tuple[float, ...]] = {}
    for text in texts:
        axis, _, values = text.partition("=")
        try:
            numbers = tuple(sorted({float(value) for value in values.split(",")}))
        except ValueError:
            numbers = ()
        if axis not in AXES or not numbers or not all(1 <= number < math.inf for number in numbers):
            raise InputError(
                f"cannot read --grid {text!r}.", "Write coefficients of at least 1: depth=1,1.1,1.2; width, resolution."
            )
        grid[axis] = numbers
    return grid


def parse_macs(text: str) -> float:
    """Read a number of multiply-accumulates: 300e6, 300M, 1.5G.

    Raises:
        InputError: It is none, or not positive.
    """
    match = re.fullmatch(r"\s*([\d.]+(?:e[+-]?\d+)?)\s*([kmgt]?)(?:macs)?\s*", text.lower())
    number = _number(match[1]) * _SUFFIXES[match[2]] if match else 0.0
    if not 0 < number < math.inf:
        raise InputError(f"cannot read --budget-macs {text!r}.", "Write a number of MACs: 300M, 1G, 2.5e9.")
    return number


def parse_latency(text: str) -> float:
    """Read a time in seconds: 20ms, 800us, 0.02s; without a unit it is milliseconds.

    Raises:
        InputError: It is none, or not positive.
    """
    match = re.fullmatch(r"\s*([\d.]+(?:e[+-]?\d+)?)\s*(s|ms|us|µs)?\s*", text.lower())
    number = _number(match[1]) * _UNITS[match[2] or "ms"] if match else 0.0
    if not 0 < number < math.inf:
        raise InputError(f"cannot read --budget-latency {text!r}.", "Write a time: 20ms, 0.5s, 800us.")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def steps(base: float, budget: float, growth: float, count: int) -> list[float]:
    """Return rising φ whose last one uses up the budget, as far as equation 3 foresees.

    From φ = 0, the architecture as it is, where the budget allows more; else the last two halvings before the budget.

    Args:
        base: MACs of the architecture as it is.
        budget: MACs that are allowed.
        growth: Of the coefficients.
        count: How many, besides 0.
    """
    last = math.log(budget / base) / math.log(growth)
    first = 0.0 if last > 0 else last - 2
    return [first + (last - first) * step / count for step in range(0 if last > 0 else 1, count + 1)]
