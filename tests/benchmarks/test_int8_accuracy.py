"""`int8_accuracy.py`: the photographs' way into two sets, the judging of goals, and the program as its users run it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import int8_accuracy
import int8_peers
import numpy as np
import onnx
import photographs
import pytest
from int8_results import DEFAULTS, Row, Run, judge
from int8_subjects import Subject, judge_logits, run_file
from onnx import numpy_helper
from photographs import Package, gather
from PIL import Image
from typer.testing import CliRunner

from edgeconv.errors import InputError
from edgeconv.normalization import Normalization
from edgeconv.quantize.images import InputSpec, open_images

SPEC = InputSpec("x", (3, 32, 32), Normalization((0.5,), (0.5,)))


def picture(seed: int, *, size: tuple[int, int] = (260, 220), kind: str = "PNG", mode: str = "RGB") -> bytes:
    """A few large patches, so that pictures of different seeds look different."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC).convert(mode).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two wheels in the cache, one of them with a resource file, and a package that cannot be had."""
    contents = {
        "one": {f"one/{i:02}.png": picture(i) for i in range(12)}
        | {
            "one/small.png": picture(90, size=(80, 80)),
            "one/clear.png": picture(91, mode="RGBA"),
            "one/bad.png": b"no",
        },
        "two": {
            "two/res.rcc": b"qres" + b"".join(picture(i, kind="WEBP") for i in (20, 21)) + b"RIFF\x00\x00\x00\x00WAVE",
            "two/again.png": picture(3, size=(390, 330)),  # a photograph of the other package, scaled
        },
    }
    for name, files in contents.items():
        (tmp_path / "cache" / "pip" / name).mkdir(parents=True)
        with zipfile.ZipFile(tmp_path / "cache" / "pip" / name / f"{name}-1.whl", "w") as archive:
            for path, content in files.items():
                archive.writestr(path, content)
    found = [Package("pip", name, ("*.png", "*.rcc")) for name in contents]
    monkeypatch.setattr(photographs, "PACKAGES", (*found, Package("deb", "three", ("*",))))
    monkeypatch.setattr(photographs, "CALIBRATION", 5)
    monkeypatch.setattr(photographs.shutil, "which", lambda _: None)
    return tmp_path / "cache"


def test_photographs_are_taken_once_and_into_one_set(packages: Path, tmp_path: Path) -> None:
    found = gather(packages, tmp_path / "sets")
    assert found.packages == {"one-1.whl": 12, "two-1.whl": 2}
    assert found.missing == {"three": "there is no apt-get on this machine"}
    calibration, comparison = (
        {file.name for file in place.iterdir()} for place in (found.calibration, found.comparison)
    )
    assert (len(calibration), len(comparison)) == (5, 9)
    assert calibration.isdisjoint(comparison)
    assert sum(name.endswith(".webp") for name in calibration | comparison) == 2
    again = gather(packages, tmp_path / "again")
    assert again.digest == found.digest
    assert {file.name for file in again.calibration.iterdir()} == calibration


def test_too_few_photographs(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "CALIBRATION", 8)
    with pytest.raises(InputError, match="only 14 photographs were found; 16 are needed"):
        gather(packages, tmp_path / "sets")


def test_logits_are_judged() -> None:
    want = np.float32([[1, 0, 0], [0, 2, 0], [0, 0, 2], [3, 0, 0]])
    got = want.copy()
    got[0] = [0, 1, 0]
    found = judge_logits(want, got, np.array([0, 1, 2, 1]))
    assert found.agreement == 0.75
    assert found.top1 == 0.5
    assert found.sqnr_db == pytest.approx(10 * np.log10(18 / 2))
    same = judge_logits(want, want, None)
    assert (same.agreement, same.sqnr_db, same.top1) == (1, float("inf"), None)


def row(tool: str, agreement: float, sqnr_db: float, **others: Any) -> Row:
    about: dict[str, Any] = {"top1": None, "top1_float": None, "seconds": 1, "bytes": 1, "in_float": 0, **others}
    return Row(about.pop("network", "EfficientNet-Lite0"), tool, agreement, sqnr_db, **about)


def test_goals() -> None:
    def states(*rows: Row) -> dict[str, bool | None]:
        return {f"{v.goal.network} {v.goal.metric}": v.met for v in judge(Run(list(rows)))}

    assert set(states().values()) == {None}
    good = states(row(DEFAULTS, 0.96, 23), row("NNCF", 0.9, 13), row(f"{DEFAULTS} --method mse", 0.99, 30))
    assert [name for name, state in good.items() if state is not None] == [
        f"EfficientNet-Lite0 {metric}"
        for metric in (
            *("agreement", "SQNR in dB", "layers in float"),
            *("agreement above the best peer's", "dB above the best peer's"),
        )
    ]
    assert False not in good.values()
    bad = states(row(DEFAULTS, 0.94, 21, in_float=1), row("NNCF", 0.95, 20))
    assert [bad[f"EfficientNet-Lite0 {name}"] for name in ("agreement", "SQNR in dB", "layers in float")] == [False] * 3
    assert bad["EfficientNet-Lite0 agreement above the best peer's"] is False
    assert bad["EfficientNet-Lite0 dB above the best peer's"] is True
    lost = states(row(DEFAULTS, 1, 30, network="MobileNetV2", top1=0.985, top1_float=0.9869))
    assert lost["MobileNetV2 points of accuracy lost"] is True
    lost = states(row(DEFAULTS, 1, 30, network="MobileNetV2", top1=0.985, top1_float=0.9871))
    assert lost["MobileNetV2 points of accuracy lost"] is False


@pytest.fixture
def subject(tmp_path: Path) -> Callable[..., Subject]:
    """A small network in the place of EfficientNet-Lite0."""
    built = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 3, 32, 32] x) => (float[N, 7] y) {
            [first] a = Conv <strides = [2, 2]> (x, w)
            [clip] b = Clip (a, zero, six)
            [second] c = Conv (b, v)
            [pool] p = GlobalAveragePool (c)
            [flat] y = Flatten (p)
        }""")
    generator = np.random.default_rng(0)
    for name, value in {
        "w": generator.standard_normal((8, 3, 3, 3)), "v": generator.standard_normal((7, 8, 3, 3)),
        "zero": 0, "six": 6,
    }.items():  # fmt: skip
        built.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    onnx.save(built, tmp_path / "net.onnx")
    for name, seed in (("calib", 1), ("judged", 2)):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(seed).integers(0, 256, (20, 3, 32, 32), dtype=np.uint8))

    def make(*_: Any) -> Subject:
        judged = tmp_path / "judged.npy"
        logits = run_file(tmp_path / "net.onnx", open_images(judged, SPEC))
        about = {"calibration": 20, "comparison": 20}
        return Subject(
            "EfficientNet-Lite0", tmp_path / "net.onnx", tmp_path / "calib.npy", judged, SPEC, logits, None, about
        )

    return make


@pytest.mark.parametrize("peer", [name for name in int8_peers.PEERS if name != "NNCF"])
def test_onnx_runtime_takes_part(peer: str, subject: Callable[..., Subject], tmp_path: Path) -> None:
    run, found = Run(), subject()
    int8_accuracy.measure(run, found, peer, int8_accuracy.theirs(found, peer), tmp_path)
    assert run.notes == []
    assert run.rows[0].peer
    assert run.rows[0].sqnr_db > 10


def test_a_tool_that_fails_is_noted(subject: Callable[..., Subject], tmp_path: Path) -> None:
    def broken(_: Path) -> int:
        raise RuntimeError("no\nsecond line")

    run = Run()
    int8_accuracy.measure(run, subject(), "NNCF", broken, tmp_path)
    assert run.rows == []
    assert run.notes == ["EfficientNet-Lite0: NNCF failed: RuntimeError: no"]


def test_the_program(subject: Callable[..., Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_accuracy, "lite0", subject)
    monkeypatch.setattr(int8_accuracy, "missing", lambda _: "NNCF is not installed")
    monkeypatch.setattr(int8_accuracy, "results_path", lambda *_: tmp_path / "result.json")
    done = CliRunner().invoke(
        int8_accuracy.app,
        ["--networks", "EfficientNet-Lite0", "--settings", DEFAULTS, "--peers", "NNCF", "--json"],
    )
    assert done.exit_code in (0, 1), done.output
    text = " ".join(done.output.split())
    for expected in (
        "quantised by",
        "EfficientNet-Lite0: SQNR in dB >= 22",
        "note: NNCF is not installed",
        "not measured",
    ):
        assert expected in text, expected
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["benchmark"], result["complete"]) == ("int8_accuracy", True)
    assert [each["tool"] for each in result["rows"]] == [DEFAULTS]
    assert result["subjects"]["EfficientNet-Lite0"]["comparison"] == 20
    assert "cpu_model" in result["environment"]
