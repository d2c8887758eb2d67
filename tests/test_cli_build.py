"""`edgeconv build` as a user meets it."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
import torch
from fake_tensorrt import FakeCuda, FakeTensorRt, install
from networks import Small
from typer.testing import CliRunner, Result

import edgeconv
from edgeconv.cli import app

rtx = pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorRT-RTX's wheels are for x86-64")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of two manhattan kervolutions, with a dynamic batch."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("exported") / "net.onnx"
    edgeconv.to_onnx(Small("manhattan").eval(), torch.randn(2, 3, 10, 13), path, verify=False)
    return path


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    """A copy of it, alone in its directory."""
    path = tmp_path / "net.onnx"
    path.write_bytes(exported.read_bytes())
    return path


def build(model: Path, *arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(
        app, ["build", str(model), *(str(argument) for argument in arguments)], env={"COLUMNS": "120"}
    )
    assert result.exit_code == code, f"exit code {result.exit_code}\n{result.stdout}\n{result.stderr}"
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@rtx
def test_an_engine_for_gpus_that_are_not_here(model: Path) -> None:
    wanted = ("--provider", "tensorrt-rtx", "--compute-capability", "8.6,8.9", "--compute-capability", "sm_120")
    done = build(model, *wanted, "--minShapes=image:1x3x10x13", "--maxShapes=image:4x3x10x13")
    for text in ("built in", "compute capability 8.6, 8.9, 12.0", "1x3x10x13 to 4x3x10x13", "ManhattanKervolution x2"):
        assert text in done.stdout, text
    assert sorted(path.name for path in model.parent.iterdir()) == ["net.engine", "net.engine.json", "net.onnx"]
    again = build(model, *wanted, "--min-shapes", "1x3x10x13", "--max-shapes", "4x3x10x13", "--json", "--no-rebuild")
    report = json.loads(again.stdout)
    assert (report["built"], report["stale"], report["target"]) == (False, [], ["8.6", "8.9", "12.0"])
    assert report["profile"]["image"]["max"] == [4, 3, 10, 13]
    stale = build(model, *wanted, "--no-rebuild", "--tf32", code=1)
    assert "is stale: built with TF32 off, wanted is on; built with shapes of image" in stale.stderr


@rtx
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compute-capability", "9.0"], "builds for no compute capability 9.0"),
        (["--compute-capability", "8.9", "--fp16"], "computes in float32"),
        (["--compute-capability", "8.9", "--workspace", "much"], "--workspace much is not a size"),
        (["--compute-capability", "8.9", "--max-shapes", "image:2x2"], "does not fit input image"),
        (["--compute-capability", "8.9", "--max-shapes", "image=2x2"], "cannot read the shape"),
    ],
)
def test_what_cannot_be_built(arguments: list[str], message: str, model: Path) -> None:
    done = build(model, "--provider", "tensorrt-rtx", *arguments, code=1)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in model.parent.iterdir()] == ["net.onnx"]


@rtx
def test_verbose_shows_the_builders_log(model: Path) -> None:
    arguments = ("--provider", "tensorrt-rtx", "--compute-capability", "8.9")
    quiet = build(model, *arguments, "-o", model.parent / "a.engine")
    assert "verbose:" not in quiet.stderr
    assert "verbose:" in build(model, *arguments, "-o", model.parent / "b.engine", "--verbose").stderr


def test_without_tensorrt(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None, None)
    done = build(model, code=3)
    assert "TensorRT cannot be imported" in done.stderr
    assert "JetPack" in done.stderr


def test_on_a_jetson(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    trt = FakeTensorRt(cuda, version="10.3.0")
    install(monkeypatch, cuda, trt)
    library = model.parent / "plugins.so"
    library.write_bytes(b"plugins")
    monkeypatch.setenv("EDGECONV_TRT_PLUGINS", str(library))
    done = build(model, "--shapes", "2x3x10x13", "--timing-cache", model.parent / "timing", "--workspace", "1G")
    for text in ("tensorrt 10.3.0, Fake Orin (compute capability 8.7)", "by plugins", "2x3x10x13 only", "1024 MiB"):
        assert text in done.stdout, text
    assert (model.parent / "timing").exists()
    trt.cuda.gpu = "Thor"
    assert "stale: built for Fake Orin" in build(model, "--shapes", "2x3x10x13", "--workspace", "1G").stdout


def test_no_such_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    install(monkeypatch, cuda, FakeTensorRt(cuda))
    assert "does not exist" in build(tmp_path / "none.onnx", "--no-plugins", code=1).stderr
    assert list(tmp_path.iterdir()) == []
