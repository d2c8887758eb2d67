"""The search on a tiny architecture, its report, and the front."""

from __future__ import annotations

import io
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edgeconv.errors import InputError
from edgeconv.models.registry import model_info, resolve_config
from edgeconv.pictures import check_picture
from edgeconv.scaling.axes import find_axes
from edgeconv.scaling.grid import Coefficients, coefficients
from edgeconv.scaling.plot import plot_scaling
from edgeconv.scaling.report import Candidate, ScalingReport, pareto_front
from edgeconv.scaling.search import find_candidates, scale_architecture, thin_out

ONE = Coefficients(1.0, 1.0, 1.0)


def candidate(macs: int, latency: float | None = None, phi: float = 1.0) -> Candidate:
    return Candidate(phi, ONE, ONE, {"width": macs}, (3, 8, 8), macs, 10, latency)


def test_front() -> None:
    slow, fast, large, equal = candidate(10, 3), candidate(10, 2), candidate(30, 5), candidate(20, 5)
    wasteful = candidate(5, 2.5)
    assert pareto_front([slow, fast, large, equal, wasteful]) == [fast, large]
    assert pareto_front([candidate(1)]) == []


def test_thinning_keeps_both_ends_and_the_architecture_as_it_is() -> None:
    every = [candidate(macs, phi=0.0 if macs == 3 else 1.0) for macs in range(20)]
    kept = [each.macs for each in thin_out(every, 5)]
    assert kept == [0, 3, 5, 10, 14, 19]
    assert thin_out(every, 20) == every


@pytest.fixture(scope="module")
def report() -> ScalingReport:
    done: list[float] = []
    found = scale_architecture(
        "resnet20", budget_macs=14e6, budget_latency=60.0, config={"kernel": "gaussian", "in_channels": 1}, phi_steps=2,
        progress=lambda _what, share: done.append(share),
    )  # fmt: skip
    assert done == sorted(done)
    assert done[0] >= 0
    assert done[-1] <= 1
    return found


def test_search(report: ScalingReport) -> None:
    """ResNet-20 scales its resolution alone; its kervolutions' MACs are those of the convolutions in the file."""
    assert report.axes == ("resolution",)
    assert report.base_macs == pytest.approx(40.5e6, rel=0.02)
    assert report.candidates
    for each in report.candidates:
        assert each.macs <= report.budget_macs
        assert each.phi < 0
        assert each.latency is not None
        assert each.latency > 0
        assert each.parameters > 250_000
        assert each.input_shape[0] == 1
        assert each.config["kernel"] == "gaussian"
    assert report.largest in report.front


def test_report(report: ScalingReport, tmp_path: Path) -> None:
    data = json.loads(json.dumps(report.to_dict()))
    assert data["accuracy"] is None
    assert sum(row["on_front"] for row in data["candidates"]) == len(report.front)
    console = Console(width=160, record=True, file=io.StringIO())
    report.render(console)
    text = console.export_text()
    assert "nothing is known of accuracy" in text
    assert f"{1e3 * (report.candidates[0].latency or 0):.2f}" in text
    assert "--config 'kernel=\"gaussian\"'" in text
    replace(report, budget_latency=1e-9).render(console)
    assert "None is within the budget of latency" in console.export_text()
    plot_scaling(report, tmp_path / "front.svg")
    assert "<svg" in (tmp_path / "front.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("budget", [500e6, 750e6])
def test_a_point_is_taken_to_the_edge_of_the_budget(budget: float) -> None:
    """Blocks that are rounded up overshoot what the coefficients foresee, and rounded rows fall short of it."""
    axes = find_axes(model_info("efficientnet_b0"), resolve_config("efficientnet_b0"))
    (point,) = coefficients(axes.names, {"depth": (1.2,), "width": (1.1,), "resolution": (1.15,)})
    found = find_candidates(axes, 390_000_000, budget, [point], 1, lambda _what, _done: None)
    best = max((each for each in found if each.macs <= budget), key=lambda each: each.macs)
    over = [each.phi for each in found if each.macs > budget]
    assert over
    assert best.phi < min(over) < best.phi + 1.01 / 2**4


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"keeps to 0\.0 M MACs; resnet20 as it is has 4\d\.\d M"):
        scale_architecture("resnet20", budget_macs=10)
    with pytest.raises(InputError, match="must be at least 1"):
        scale_architecture("resnet20", budget_macs=1e9, limit=0)
    with pytest.raises(InputError, match="is not a picture"):
        check_picture("--output", "front.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "front.txt"}, "is not a picture"),
        ({"output": "none/front.png"}, "there is no directory none"),
        ({"provider": "tpu"}, "unknown provider 'tpu'"),
        ({"threads": 0}, "threads must be 1 or more"),
        ({"budget_macs": 0}, "must be positive and finite"),
        ({"budget_macs": float("inf")}, "must be positive and finite"),
        ({"config": {"in_channels": "x"}}, "resnet20"),
        ({"config": {"kernel": "cubic"}}, "cubic"),
    ],
    ids=str,
)
def test_refusals_before_anything_is_counted(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edgeconv.scaling.search.count_macs", None)
    with pytest.raises(InputError, match=message):
        scale_architecture("resnet20", **{"budget_macs": 1e8, **options})
    assert not list(tmp_path.iterdir())


def test_options_can_be_pasted() -> None:
    point = Coefficients(1.0, 1.0, 1.0)
    candidate = Candidate(0.0, point, point, {"where": "layer[a-z]*", "blocks": [2, 2]}, (3, 32, 40), 1)
    text = candidate.command("resnet18", {"where": "all", "blocks": [1, 1]})
    given = shlex.split(text.partition(", input")[0])
    assert given == ["--arch", "resnet18", "--config", 'where="layer[a-z]*"', "--config", "blocks=[2,2]"]
