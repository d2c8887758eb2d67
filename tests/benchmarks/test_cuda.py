"""The GPU's benchmark as far as it goes without a GPU: what it judges, what it says is missing, what nvcc takes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from kervolution_cuda import CDIST, CONV, GOALS, LIBRARY, OF_LIMIT, TO_CDIST, TO_CONV, Row, Run, times_table, verdicts
from layers import LAYERS
from outcomes import Measured
from rich.console import Console

from edgeconv.bench.measure import Plan

from .conftest import BENCHMARKS


def row(kernel: str, precision: str, batch: int, limit: float | None = None, **ms: float) -> Row:
    names = {"library": LIBRARY, "conv": CONV, "cdist": CDIST}
    measured = {names[name]: Measured(value, "form", 20, 1e-6) for name, value in ms.items()}
    return Row(kernel, precision, replace(LAYERS["56"], batch=batch), limit, measured)


def test_what_is_judged() -> None:
    rows = [
        row("polynomial", "float16", 1, library=1.05, conv=1.0),
        row("gaussian", "float16", 1, library=1.2, conv=1.0),
        row("sigmoid", "float16", 32, library=1.2, conv=1.0),
        row("sigmoid", "float32", 1, library=9.0, conv=1.0),
        row("manhattan", "float32", 1, limit=231.211008, library=1.0, conv=0.5, cdist=19.0),
    ]
    assert rows[4].metrics == {TO_CONV: 2.0, TO_CDIST: 19.0, OF_LIMIT: pytest.approx(0.5)}
    judged = {(goal.goal.metric, goal.goal.batch): goal for goal in verdicts(rows)}
    assert len(judged) == len(GOALS)
    assert judged[TO_CONV, 1].met is False
    assert judged[TO_CONV, 1].missed == ["gaussian float16 56 batch 1"]
    assert judged[TO_CONV, 32].met is True
    assert judged[TO_CDIST, 0].met is False
    assert judged[OF_LIMIT, 0].met is False
    assert verdicts(rows[:1])[2].met is None
    console = Console(width=250, record=True, file=sys.stderr)
    console.print(times_table(rows, "A GPU"))
    assert "19.00" in console.export_text()


def test_cases() -> None:
    """TF32 is a permission for products: kernels of differences have none."""
    run = Run(["polynomial", "manhattan"], [LAYERS["7"]], [1, 8], ["float32", "tf32"], [], Plan(1, 0, 0))
    found = [(kernel, precision, layer.batch) for kernel, precision, layer in run.cases()]
    assert found == [
        (kernel, precision, batch)
        for batch in (1, 8)
        for kernel, precision in (("polynomial", "float32"), ("manhattan", "float32"), ("polynomial", "tf32"))
    ]


def test_without_a_gpu() -> None:
    result = subprocess.run(
        [sys.executable, BENCHMARKS / "kervolution_cuda.py"], capture_output=True, text=True, check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert result.returncode == 3
    assert "no GPU" in result.stderr
    assert "Traceback" not in result.stderr
