"""The goals, the rows they judge, and the page that lists them."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from goals import FROM_DOT, GOALS, KERNELS, SCALING, TO_CONV, TO_STANDARD, Goal
from layers import HELD, LAYERS
from rich.console import Console
from rows import ALONE, COMPILE, CONV, LIBRARY, PLAIN, STANDARD, Measured, Row, verdicts
from tables import goals_table, networks_table, times_table

PAGE = Path(__file__).parents[2] / "docs" / "bench.md"
GROUPS = {
    "all": KERNELS,
    "x·w": FROM_DOT,
    "five": tuple(LAYERS),
    "held": tuple(HELD),
}


def row(
    layer: str = "56", kernel: str = "polynomial", threads: int = 1, precision: str = "float32", **ms: float
) -> Row:
    names = {"conv": CONV, "library": LIBRARY, "standard": STANDARD, "compile": COMPILE, "alone": ALONE, "plain": PLAIN}
    measured = {names[key]: Measured(value, "form", 20, 1e-6) for key, value in ms.items()}
    return Row(kernel, precision, layer, threads, "wall", 200_000_000, 10_000_000, 100.0, "fma", measured)


def test_page_lists_the_goals() -> None:
    """Every line of the table in docs/bench.md is one goal, and every goal is there."""
    section = PAGE.read_text(encoding="utf-8").split("## Kervolution on the CPU")[1]
    lines = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([≤≥]) ([\d.e-]+) \|$", section, re.MULTILINE)

    def expanded(text: str) -> tuple[str, ...]:
        return GROUPS.get(text) or tuple(part.strip() for part in text.split(","))

    found = {
        (expanded(kernels), precision, expanded(layers), metric, {"≤": "<=", "≥": ">="}[sign], float(bound))
        for kernels, precision, layers, metric, sign, bound in lines
    }
    assert len(found) == len(lines)
    assert found == {(g.kernels, g.precision, g.layers, g.metric, g.sense, g.bound) for g in GOALS}


def test_goal() -> None:
    least = Goal(("manhattan",), "float32", ("56", "7"), TO_STANDARD, ">=", 20)
    assert least.met(20)
    assert not least.met(19.9)
    assert least.worst({"56": 30, "7": 12}) == "7"
    most = Goal(("manhattan",), "float32", ("56", "7"), TO_CONV, "<=", 1.8)
    assert most.met(1.8)
    assert not most.met(1.81)
    assert most.worst({"56": 1.7, "7": 1.5}) == "56"
    assert most.concerns("manhattan", "float32", "7", 1)
    for other in (("chebyshev", "float32", "7", 1), ("manhattan", "uint8", "7", 1), ("manhattan", "float32", "14", 1)):
        assert not most.concerns(*other)
    assert not most.concerns("manhattan", "float32", "7", 2)


def test_fractions() -> None:
    """200 million multiply-adds in 2.5 ms are 80 G/s: 0.8 of a ceiling of 100."""
    one = row(conv=2.0, library=2.5, standard=5.0)
    assert one.rate == pytest.approx(80)
    assert one.of_limit == pytest.approx(0.8)
    assert one.ratio(LIBRARY, CONV) == pytest.approx(1.25)
    assert one.ratio(COMPILE, LIBRARY) is None
    assert one.metrics == pytest.approx({TO_CONV: 1.25, TO_STANDARD: 2.0, "error / rms": 1e-6})
    assert one.met is False
    assert row(conv=2.5, library=2.5).met is True
    assert row(library=2.5).met is None
    assert json.loads(json.dumps(one.to_dict()))["goals"] == [
        {"metric": TO_CONV, "sense": "<=", "bound": 1.0, "value": 1.25, "met": False}
    ]


def test_goals_by_threads() -> None:
    """Ratios to Conv are goals of one thread; scaling is one of two, the held set's one of both."""
    two = row(threads=2, conv=1.0, library=1.25, alone=2.0)
    assert [(goal.metric, value) for goal, value in two.goals] == [(SCALING, 1.6)]
    for threads in (1, 2):
        held = row("odd", "chebyshev", threads, conv=1.0, library=2.0, standard=1.9)
        assert [(goal.metric, goal.met(value)) for goal, value in held.goals] == [(TO_STANDARD, False)]
    assert row("odd", threads=3, conv=1.0, library=2.0, standard=1.9).goals == []


def test_verdicts() -> None:
    rows = [
        row("56", "manhattan", conv=1.0, library=1.7, standard=51.0),
        row("7", "manhattan", conv=1.0, library=1.9, standard=17.0),
        row("ResNet-18", plain=10.0, library=9.0),
        row("ResNet-18", "gaussian", plain=10.0, library=11.0),
    ]
    judged = {v.goal: v for v in verdicts(rows, {"bf16x3": "no AMX"})}
    assert list(judged) == list(GOALS)
    to_conv = judged[Goal(("manhattan",), "float32", tuple(LAYERS), TO_CONV, "<=", 1.8)]
    assert (to_conv.met, to_conv.missed) == (False, ["7"])
    to_standard = judged[Goal(("manhattan",), "float32", ("56",), TO_STANDARD, ">=", 20)]
    assert to_standard.met is True
    assert to_standard.values == pytest.approx({"56": 30})
    network = [v for v in judged.values() if v.goal.layers == ("ResNet-18",) and v.goal.precision == "float32"]
    assert [v.values for v in network] == [pytest.approx({"ResNet-18": 0.9})]
    for verdict in judged.values():
        assert verdict.reason == ("no AMX" if verdict.goal.precision == "bf16x3" else "")
    assert sum(v.met is not None for v in judged.values()) == 3


def test_tables_show_the_figures() -> None:
    console = Console(width=250, record=True, file=io.StringIO())
    rows = [row(conv=2.0, library=2.5, standard=40.0), row("odd", threads=2, conv=1.0, library=2.0, alone=3.0)]
    console.print(times_table(rows, "title"), networks_table([row("ResNet-18", plain=10.0, library=9.0)]))
    console.print(goals_table(verdicts(rows, {"bf16x3": "this CPU has no AMX"})))
    text = console.export_text()
    for figure in ("2.500", "40.00 ×16.0", "2.00 ×0.80", "1.25", "80.0", "0.80", "1.50", "0.90", "missed"):
        assert figure in text, figure
    assert "not measured: this CPU has no AMX" in text
