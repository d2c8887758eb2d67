"""The convergence record: whole, and as its program describes it; the program on a few steps."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgeconv.errors import EdgeconvError

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("convergence_program", EXAMPLES / "convergence.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_record(program: ModuleType) -> None:
    """Three seeds of every arm, same steps, each evaluated as often as the program says."""
    results = json.loads((EXAMPLES / "convergence.json").read_text())
    assert results["recipe"] == program.RECIPE
    found = {(run["architecture"], run["arm"], run["seed"]): run for run in results["runs"]}
    assert len(found) == len(results["runs"])
    for contest in program.CONTESTS:
        for arm, config in contest.arms.items():
            for seed in program.SEEDS:
                run = found[contest.architecture, arm, seed]
                assert run["config"] == config
                if run["diverged"] is None:
                    expected = list(range(contest.every, contest.steps + 1, contest.every))
                    assert [point["step"] for point in run["points"]] == expected
        assert set(results["step_seconds"][contest.architecture]) == set(contest.arms)
    assert (EXAMPLES.parent / "docs" / "convergence.svg").is_file()


def fake_run(architecture: str, arm: str, seed: int, top1: list[float]) -> dict[str, Any]:
    points = [{"step": 10 * (i + 1), "train_loss": 1.0, "test_top1": value} for i, value in enumerate(top1)]
    return {"architecture": architecture, "arm": arm, "seed": seed, "diverged": None, "points": points}


def test_summary_and_figure(program: ModuleType, tmp_path: Path) -> None:
    """Mean and spread by hand; a run that diverged counts as far as it went."""
    runs = [
        fake_run("a", "x", 0, [0.2, 0.5, 0.6, 0.9]),
        fake_run("a", "x", 1, [0.4, 0.7, 0.8, 0.8]),
        {**fake_run("a", "y", 0, [0.3]), "diverged": "the loss is nan"},
    ]
    results = {"runs": runs, "step_seconds": {"a": {"x": [3.0, 1.0, 2.0]}}}
    first, second = program.summarize(results)
    assert [point["step"] for point in first["points"]] == [10, 20, 40]
    assert first["points"][0]["test_top1"] == pytest.approx({"mean": 0.3, "min": 0.2, "max": 0.4})
    assert first["points"][-1]["test_top1"] == pytest.approx({"mean": 0.85, "min": 0.8, "max": 0.9})
    assert (first["seconds_per_step"], second["seconds_per_step"]) == (2.0, None)
    assert (first["diverged"], second["diverged"]) == (0, 1)
    assert program.summary_table([first, second]).row_count == 2
    program.draw(results, tmp_path / "figure.svg")
    assert "a: training loss" in (tmp_path / "figure.svg").read_text()


def test_other_recipe_is_refused(program: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "convergence.json"
    path.write_text(json.dumps({"recipe": {}, "test_images": 10, "runs": []}))
    with pytest.raises(EdgeconvError, match="another recipe"):
        program.read(path)
