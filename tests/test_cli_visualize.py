"""`edgeconv visualize` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

import edgeconv
from edgeconv.cli import app
from edgeconv.models.registry import create


def program(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["visualize", *map(str, arguments)], env={"COLUMNS": "120"})
    assert result.exit_code == code, f"{result.stdout}\n{result.stderr}\n{result.exception}"
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a LeNet of three channels, with images beside it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("cli") / "lenet.pt"
    edgeconv.save_checkpoint(
        path,
        create("lenet5", in_channels=3),
        architecture="lenet5",
        config={"in_channels": 3},
        input_shape=(3, 28, 28),
    )
    np.save(path.with_name("a.npy"), np.random.default_rng(0).integers(0, 256, (6, 3, 28, 28), dtype=np.uint8))
    np.save(path.with_name("b.npy"), np.random.default_rng(1).integers(0, 256, (4, 28, 28, 3), dtype=np.uint8))
    return path


def test_table_and_files(checkpoint: Path, tmp_path: Path) -> None:
    result = program(
        checkpoint, "--layer", "c3", "--image", checkpoint.with_name("a.npy"), "-i", checkpoint.with_name("b.npy"),
        "--mean", "127", "--std", "64,65,66", "-o", tmp_path / "out.png", "--filters", tmp_path / "filters.png",
        "--export-onnx", tmp_path / "c3.onnx", "--top", "4", "--count", "2",
    )  # fmt: skip
    for text in ("16 features of 10x10", "Strongest activations", "10 images searched", "Parity with PyTorch"):
        assert text in result.stdout, text
    assert sorted(each.name for each in tmp_path.iterdir()) == ["c3.onnx", "filters.png", "out.png"]


def test_json(checkpoint: Path) -> None:
    result = program(
        checkpoint, "--layer", "c1", "--image", checkpoint.with_name("a.npy"), "--mean", "0.5", "--std", "0.5",
        "--feature", "4", "--feature", "1", "--batch", "5", "--json",
    )  # fmt: skip
    report = json.loads(result.stdout)
    assert [shown["feature"] for shown in report["shown"]] == [4, 1]
    assert report["receptive_field"] == [5, 5]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--layer", "c9"], "has no layer 'c9'. Layers that can be shown: c1, activation, s2, c3"),
        ([], "no layer is named. Give --layer. Layers: c1"),
        (["--layer", "c3", "--image", "none.png"], "does not exist"),
        (["--layer", "c3", "--size", "28"], "cannot read --size"),
        (["--layer", "c3", "--mean", "a"], "cannot read --mean"),
        (["--layer", "c3", "--output", "x.png"], "--output needs images"),
    ],
)
def test_one_message(options: list[str], text: str, checkpoint: Path) -> None:
    result = program(checkpoint, *options, code=1)
    assert text in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
