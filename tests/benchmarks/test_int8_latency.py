"""The benchmark of quantised networks' latency: networks in three forms, goals, tables and the program."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import int8_latency
import int8_networks
import numpy as np
import onnx
import pytest
from int8_latency import ALONE, FLOAT, FUSED, GOALS, LARGEST, OPENVINO, QDQ, Part, Row, Run, contenders, report, to_dict
from int8_networks import NETWORKS, QuantizedNetwork, quantized_network
from outcomes import Measured
from rich.console import Console
from typer.testing import CliRunner

from edgeconv.bench.measure import Plan
from edgeconv.fusion.steps import Steps

ONCE = Plan(iterations=1, duration_ns=0, warmup_ns=0)
SMALL = (1, 3, 64, 64)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> QuantizedNetwork:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8_networks, "INPUT", SMALL)
        return quantized_network("MobileNetV2", tmp_path_factory.mktemp("networks"))


def test_network(network: QuantizedNetwork) -> None:
    """One float file, what `edgeconv quantize` makes of it, and the same fused; all compute the same."""
    assert network.x.shape == SMALL
    floats, qdq, fused = (onnx.load_from_string(file) for file in (network.floats, network.qdq, network.fused))
    assert not any(node.op_type == "QuantizeLinear" for node in floats.graph.node)
    assert sum(node.op_type == "Conv" for node in qdq.graph.node) == 52
    ours = [node for node in fused.graph.node if node.domain == "edgeconv"]
    assert [node.op_type for node in ours].count("QLinearInvertedResidual") == 10
    assert not any(node.op_type == "Conv" for node in fused.graph.node)
    # 300.8 million at 224 x 224, of which the classifier's 1.28 million do not shrink with the image.
    assert sum(network.macs.values()) == pytest.approx((300.8e6 - 1.28e6) * (64 / 224) ** 2 + 1.28e6, rel=0.01)
    assert network.steps.elements > 20_000
    assert network.steps.largest <= 1
    for contender in contenders(network):
        if contender.name in (FLOAT, QDQ, FUSED):
            (form,) = contender.forms()
            assert form is not None
    assert np.isfinite(network.expected).all()
    assert network.expected.shape == network.expected_float.shape == (1, 1000)


def row(threads: int = 1, network: str = "MobileNetV2", **ms: float) -> Row:
    names = {"fused": FUSED, "floats": FLOAT, "qdq": QDQ, "openvino": OPENVINO, "alone": ALONE}
    return Row(network, threads, "wall", {names[key]: Measured(value, "form", 9, 0) for key, value in ms.items()}, None)


def test_goals() -> None:
    run = Run([1, 2], ONCE)
    run.rows = [row(fused=1.0, floats=5.0, qdq=0.9), row(2, fused=1.0, floats=1.0, alone=1.9)]
    run.steps = {"MobileNetV2": Steps(100, 3, 1), "EfficientNet-Lite0": Steps(100, 1, 2)}
    judged = {(verdict.goal.network, verdict.goal.metric): verdict for verdict in run.judge()}
    assert len(judged) == len(GOALS)
    assert judged["MobileNetV2", "fused / ORT fp32"].values == {"MobileNetV2": 0.2}  # the row of one thread
    assert judged["MobileNetV2", "fused / ORT fp32"].met is False
    assert judged["MobileNetV2", "fused / ORT QDQ"].met is False
    assert judged["MobileNetV2", "fused / OpenVINO QDQ"].met is None
    assert judged["MobileNetV2", "fused, one thread / fused"].met is True
    assert judged["MobileNetV2", LARGEST].met is True
    assert judged["EfficientNet-Lite0", LARGEST].met is False
    json.dumps(to_dict(run, {}))


def test_tables_show_the_figures() -> None:
    run = Run([1], ONCE)
    run.rows = [row(fused=1.0, floats=5.0, qdq=2.0, openvino=1.5)]
    run.steps = {"MobileNetV2": Steps(1000, 3, 1)}
    run.parts = [Part("MobileNetV2", "first", "QLinearConvolution", 2_000_000, 0.5, 0.2),
                 Part("MobileNetV2", "other", "Reshape", 0, 0.1, None)]  # fmt: skip
    console = Console(width=250, record=True, file=io.StringIO())
    report(run, console)
    text = console.export_text()
    for figure in ("1.000 (0.200)", "2.000 (0.400)", "3 of 1000 values differ", "0.2000", "2.50", "0.6000", "3.00",
                   "missed: MobileNetV2: fused / ORT fp32 <= 0.18: 0.200", "not measured"):  # fmt: skip
        assert figure in text, figure


def test_program(network: QuantizedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(name: str, *_: Any) -> QuantizedNetwork:
        assert name == "MobileNetV2"
        return network

    monkeypatch.setattr(int8_latency, "quantized_network", made)
    monkeypatch.setattr(int8_latency, "results_path", lambda *_: tmp_path / "result.json")
    # So small an image leaves the last layers so few values that one step moves the random network's output far.
    monkeypatch.setattr(int8_latency, "SAME_FILE", 100.0)
    monkeypatch.setattr(int8_latency, "ROUNDED", 100.0)
    few = ["--networks", "MobileNetV2", "--threads", "1", "--iterations", "1", "--duration", "0", "--warmup", "0"]
    done = CliRunner().invoke(int8_latency.app, [*few, "--no-ceilings", "--json"])
    assert done.exit_code in (0, 1), done.output
    assert "computes something else" not in done.output
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["benchmark"] == "int8_latency"
    (only,) = result["rows"]
    assert {FLOAT, QDQ, FUSED} <= only["measured"].keys()
    assert len(result["goals"]) == len(GOALS)
    assert result["steps"]["MobileNetV2"]["largest"] <= 1
    assert {part["operator"] for part in result["operators"]} >= {"QLinearBottleneck", "QLinearInvertedResidual"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threads", "2,1"], "expected rising numbers"),
        (["--networks", "VGG"], f"expected some of {', '.join(NETWORKS)}"),
    ],
)
def test_bad_options(options: list[str], message: str) -> None:
    done = CliRunner().invoke(int8_latency.app, options, env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
