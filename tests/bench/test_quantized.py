"""The 8-bit Manhattan kervolution in a benchmark: both ways to run it, and what the profile calls it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from qdq_models import FUSED, ONE_LAYER, build, fuse, values
from rich.console import Console

from edgeconv.bench.api import benchmark
from edgeconv.bench.model_file import read_model_file
from edgeconv.bench.variants import LoadedVariant, plan_variants
from edgeconv.runtime.op_library import op_library

QUICK: dict[str, Any] = {"iterations": 12, "duration": 0.0, "warmup": 0.0, "threads": 1, "memory": False}

# An op library without the kernel runs the function body.
KERNEL = FUSED.encode() in Path(op_library()).read_bytes()


@pytest.fixture
def fused_model(tmp_path: Path) -> Path:
    """Write the file that the rewrite makes of a QDQ model."""
    onnx.save(fuse(build(ONE_LAYER, values()), 1)[0], tmp_path / "fused.onnx")
    return tmp_path / "fused.onnx"


def test_both_ways_to_run_it_are_measured_and_profiled(fused_model: Path) -> None:
    report = benchmark([fused_model], batch=2, compare=True, profile=True, **QUICK)
    native, functions = report.variants
    assert (native.kind, functions.kind) == ("native", "functions")
    assert native.shapes == functions.shapes == {"X": (2, 4, 7, 9)}
    assert native.profile is not None
    assert functions.profile is not None
    nodes = {(row.node, row.operator, row.provider) for row in native.profile.nodes}
    assert (("layer", FUSED, "CPU") in nodes) == KERNEL
    inlined = {row.operator for row in functions.profile.nodes}
    assert {"DequantizeLinear", "QuantizeLinear", "Loop"} <= inlined
    assert FUSED not in inlined
    assert len(report.ratios) == 1
    console = Console(file=io.StringIO(), width=160)
    report.render(console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "fused.onnx (native) by operator" in text
    assert "fused.onnx (functions) by operator" in text


def test_the_file_is_known_and_its_inputs_are_bytes(fused_model: Path) -> None:
    file = read_model_file(fused_model)
    assert file.operators == {FUSED: 1}
    (variant,) = plan_variants(file, op_library(), both=False)
    settings = benchmark([fused_model], batch=3, **QUICK).settings
    feeds = LoadedVariant(variant, settings, {}).feeds
    assert feeds["X"].dtype == np.uint8
    assert np.ptp(feeds["X"]) > 200  # the whole range of the type
