from __future__ import annotations

import gc
import io
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper
from rich.console import Console

from edgeconv.bench.api import _result_warnings, benchmark
from edgeconv.bench.memory import measure_memory
from edgeconv.bench.model_file import file_sha256, read_model_file
from edgeconv.bench.profile import profile_model
from edgeconv.bench.progress import show_progress
from edgeconv.bench.report import BenchmarkReport, load_report
from edgeconv.bench.statistics import summarize
from edgeconv.bench.variants import plan_variants
from edgeconv.errors import EdgeconvError, InputError, MissingDependencyError
from edgeconv.runtime.op_library import op_library
from edgeconv.runtime.ort import OrtSession, TensorInfo

if TYPE_CHECKING:
    from tests.bench.conftest import WriteModel

QUICK: dict[str, Any] = {"iterations": 70, "duration": 0.05, "warmup": 0.05, "threads": 1}
ALONE: dict[str, Any] = {**QUICK, "op_library": False, "memory": False}


def text_of(report: BenchmarkReport, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    report.render(console)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_end_to_end(conv_model: WriteModel, tmp_path: Path) -> None:
    report = benchmark([conv_model()], batch=3, profile=True, op_library=False, **QUICK)
    (variant,) = report.variants
    assert variant.name.endswith("tiny.onnx (standard)")
    assert variant.shapes == {"x": (3, 3, 9, 7)}
    assert variant.batch == 3
    assert len(variant.series.samples) >= 70
    assert variant.series.samples.sum() >= 0.05e9
    assert variant.series.samples.min() > report.conditions.clock_overhead_ns
    assert variant.summary.throughput == pytest.approx(3e9 / variant.series.samples.mean())
    assert variant.summary.percentiles[90] is not None
    assert variant.memory is not None
    assert 0 < variant.memory.growth < 2**30
    assert variant.profile is not None
    assert any(node.operator in ("Conv", "FusedConv") for node in variant.profile.nodes)
    total = sum(node.share for node in variant.profile.nodes)
    outside = variant.profile.unattributed_milliseconds / variant.profile.run_milliseconds
    assert total + outside == pytest.approx(1)

    report.write_json(tmp_path / "report.json")
    again = load_report(tmp_path / "report.json")
    assert again.to_dict() == report.to_dict()
    assert json.loads((tmp_path / "report.json").read_text())["variants"][0]["samples_ns"] == (
        variant.series.samples.tolist()
    )
    for width in (80, 160):
        text = text_of(report, width)
        for heading in ("p50", "p90", "p99", "spread", "items/s", "memory MiB", "create ms", "samples", "Conv"):
            assert heading in text
        assert max(len(line) for line in text.splitlines()) <= width


def test_percentiles_without_samples_are_dashes(conv_model: WriteModel) -> None:
    report = benchmark([conv_model()], **{**ALONE, "iterations": 12, "duration": 0.0}, percentiles=(99, 50))
    (variant,) = report.variants
    assert len(variant.series.samples) < 662
    assert variant.summary.percentiles[99] is None
    text = text_of(report)
    assert "p99 takes 662 samples (--iterations 662)" in text


def test_compare_interleaves_and_gives_ratios(conv_model: WriteModel) -> None:
    models = [conv_model(), conv_model("larger.onnx", "float[N, 3, 90, 70]")]
    report = benchmark(models, compare=True, **ALONE)
    small, large = report.variants
    assert small.series.turns == large.series.turns
    (row,) = report.ratios
    assert (row.variant, row.reference) == (large.name, small.name)
    assert row.ratio.value == pytest.approx(large.summary.median / small.summary.median)
    assert row.ratio.value > 1
    assert "interleaved" in text_of(report)
    assert BenchmarkReport.from_dict(json.loads(report.to_json())) is not None


def test_baseline(conv_model: WriteModel, tmp_path: Path) -> None:
    model = conv_model()
    old = tmp_path / "old.json"
    benchmark([model], **ALONE).write_json(old)
    report = benchmark([model], baseline=old, **ALONE)
    assert report.comparison is not None
    assert len(report.comparison.ratios) == 1
    assert not report.comparison.unlike
    assert "old.json" in text_of(report)
    assert BenchmarkReport.from_dict(json.loads(report.to_json())).to_dict() == report.to_dict()

    started: list[str] = []
    with pytest.raises(InputError, match="threads: 2, earlier 1"):
        benchmark([model], baseline=old, progress=lambda what, _: started.append(what), **{**ALONE, "threads": 2})
    assert not started  # refused before anything ran
    marked = benchmark([model], baseline=old, allow_unlike=True, **{**ALONE, "threads": 2})
    assert marked.comparison is not None
    assert marked.comparison.unlike
    assert "UNLIKE RUNS" in text_of(marked)


@pytest.mark.usefixtures("no_op_library")
def test_without_the_op_library_the_functions_run_and_the_report_says_so(
    function_model: WriteModel, conv_model: WriteModel
) -> None:
    report = benchmark([function_model()], **{**ALONE, "op_library": True})
    assert [variant.kind for variant in report.variants] == ["functions"]
    assert report.variants[0].model.operators == {"EuclideanKervolution": 2}
    assert any("the functions in the file run instead" in warning for warning in report.warnings)
    plain = benchmark([conv_model()], **{**ALONE, "op_library": True})
    assert not any("functions" in warning for warning in plain.warnings)


def test_native_operators_against_the_functions(function_model: WriteModel) -> None:
    report = benchmark([function_model()], compare=True, **{**QUICK, "op_library": True})
    assert [variant.kind for variant in report.variants] == ["native", "functions"]
    assert report.environment.op_library_sha256 == file_sha256(op_library())
    assert report.ratios[0].reference == report.variants[0].name
    assert not any("functions in the file run instead" in warning for warning in report.warnings)
    assert all(variant.memory is not None for variant in report.variants)


def test_native_operators_are_what_runs(function_model: WriteModel) -> None:
    path = function_model()
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 7)).astype(np.float32)
    native, functions = OrtSession(path), OrtSession(path, op_library=False)
    assert native.native
    np.testing.assert_allclose(native.run({"x": x})["y"], functions.run({"x": x})["y"], rtol=1e-4)
    options: dict[str, Any] = {"provider": "cpu", "threads": 1, "seconds": 0.0}
    profile = profile_model(str(path), {"x": x}, op_library=op_library(), **options)
    assert {node.operator for node in profile.nodes} == {"EuclideanKervolution"}
    profile = profile_model(str(path), {"x": x}, op_library=None, **options)
    assert "EuclideanKervolution" not in {node.operator for node in profile.nodes}


def test_a_file_without_bodies_is_compared_natively_only(function_model: WriteModel) -> None:
    report = benchmark([function_model(body=False)], compare=True, **{**ALONE, "op_library": True})
    assert [variant.kind for variant in report.variants] == ["native"]
    assert any("left out" in warning for warning in report.warnings)
    assert any("nothing to compare with" in warning for warning in report.warnings)
    assert report.ratios == ()


def test_ways_to_run(function_model: WriteModel, conv_model: WriteModel) -> None:
    file, plain = read_model_file(function_model()), read_model_file(conv_model())
    assert [v.kind for v in plan_variants(file, "lib.so", both=True)] == ["native", "functions"]
    assert [v.kind for v in plan_variants(file, "lib.so", both=False)] == ["native"]
    assert [v.kind for v in plan_variants(file, None, both=True)] == ["functions"]
    assert [v.kind for v in plan_variants(plain, "lib.so", both=True)] == ["standard"]


def test_operators_inside_other_functions_and_branches_are_counted(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """
        <ir_version: 9, opset_import: ["" : 17, "edgeconv" : 1, "block" : 1]>
        g (float[N] x, bool c) => (float[N] y) {
          a = block.Twice (x)
          b = block.Twice (a)
          y = If (c) <then_branch = t () => (float[N] o) { o = edgeconv.Manhattan (b) },
                      else_branch = e () => (float[N] o) { o = Identity (b) }>
        }
        <domain: "block", opset_import: ["edgeconv" : 1]>
        Twice (X) => (Y) { M = edgeconv.Gaussian (X)  Y = edgeconv.Gaussian (M) }
        """
    )
    onnx.save(model, tmp_path / "m.onnx")
    assert read_model_file(tmp_path / "m.onnx").operators == {"Gaussian": 4, "Manhattan": 1}


def test_digest_covers_external_data(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[4] x) => (float[4] y) { y = Add (x, w) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.arange(4, dtype=np.float32), "w"))
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    before = read_model_file(path)
    assert before.size == path.stat().st_size + (tmp_path / "m.data").stat().st_size
    (tmp_path / "m.data").write_bytes(np.arange(1, 5, dtype=np.float32).tobytes())
    assert read_model_file(path).sha256 != before.sha256
    (tmp_path / "m.data").unlink()
    with pytest.raises(InputError, match=r"needs its weights in .*m\.data"):
        read_model_file(path)


def test_memory_sees_the_weights(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[1, 4096] x) => (float[1, 4096] y) { y = MatMul (x, w) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4096, 4096), np.float32), "w"))
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    inputs = [TensorInfo("x", "tensor(float)", (1, 4096))]
    use = measure_memory(str(path), inputs, {"x": (1, 4096)}, provider="cpu", threads=1, op_library=None)
    weights = 4096 * 4096 * 4
    assert weights <= use.growth < 5 * weights
    assert use.baseline < use.loaded <= use.peak


def test_memory_failure_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EdgeconvError, match=r"could not be measured: .*nowhere\.onnx does not exist"):
        measure_memory(str(tmp_path / "nowhere.onnx"), [], {}, provider="cpu", threads=None, op_library=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations must be 1 or more"),
        ({"duration": -1.0}, "duration must be a number of seconds"),
        ({"duration": float("nan")}, "duration must be a number of seconds"),
        ({"warmup": float("inf")}, "warmup must be a number of seconds"),
        ({"batch": 0}, "batch must be 1 or more"),
        ({"threads": 0}, "threads must be 1 or more"),
        ({"percentiles": (50, 100)}, "between 0 and 100"),
        ({"provider": "npu"}, "unknown provider"),
        ({"shapes": {"z": (1, 3, 9, 7)}}, "no model has an input called z"),
        ({"shapes": {"x": (1, 4, 9, 7)}}, "does not fit input x"),
    ],
)
def test_unusable_settings(conv_model: WriteModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        benchmark([conv_model()], **{**ALONE, **options})


def test_foreign_provider(conv_model: WriteModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingDependencyError, match="provider cuda"):
        benchmark([conv_model()], provider="cuda", **ALONE)


def test_doubtful_results_are_noted(conv_model: WriteModel) -> None:
    report = benchmark([conv_model()], **{**ALONE, "warmup": 0.0})
    assert "tiny.onnx (standard) was not warmed up: its first samples are slow" in report.warnings
    (variant,) = report.variants
    samples = np.array([1000] * 70 + [100_000] * 30)
    shaky = replace(
        variant, warmup=replace(variant.warmup, stable=False, seconds=5.0), summary=summarize(samples, (50,))
    )
    notes = _result_warnings([shaky, replace(shaky, batch=2)], compare=True)
    for text in ("not stable after 5.0 s", "spreads over", "the mean is 30.7 times the median", "different batches"):
        assert any(text in note for note in notes), text
    calm = replace(variant, warmup=replace(variant.warmup, stable=True), summary=summarize(samples[:70], (50,)))
    assert _result_warnings([calm], compare=False) == []


def test_no_model() -> None:
    with pytest.raises(InputError, match="no model to measure"):
        benchmark([], **ALONE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"\xff" * 100, "not an ONNX model"),
        (b"PK\x03\x04 and so on", "is a zip archive, as PyTorch writes them, not an ONNX model"),
        ("truncated", "is truncated"),
        ("directory", "is a directory"),
    ],
)
def test_unusable_files(conv_model: WriteModel, tmp_path: Path, content: bytes | str | None, message: str) -> None:
    good, bad = conv_model(), tmp_path / "bad.onnx"
    if content == "truncated":
        bad.write_bytes(good.read_bytes()[:-40])
    elif content == "directory":
        bad.mkdir()
    elif isinstance(content, bytes):
        bad.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        benchmark([good, bad], **ALONE)
    assert "bad.onnx" in caught.value.message


@pytest.mark.usefixtures("no_op_library")
def test_operator_without_kernel_and_function(function_model: WriteModel) -> None:
    with pytest.raises(InputError, match="edgeconv:EuclideanKervolution, which is neither native nor a function"):
        benchmark([function_model(body=False)], **{**ALONE, "op_library": True})


def test_open_size_asks_for_a_shape(conv_model: WriteModel) -> None:
    model = conv_model(type="float[N, 3, H, W]")
    with pytest.raises(InputError) as caught:
        benchmark([model], **ALONE)
    assert "--shapes x:1x3xSIZExSIZE" in caught.value.remedy
    report = benchmark([model], shapes={"": (2, 3, 8, 6)}, **ALONE)
    assert report.variants[0].batch == 2
    exported = conv_model("exported.onnx", "float[N, 3, H, W]", edgeconv__input_shape="[1, 3, 12, 10]")
    assert benchmark([exported], batch=2, **ALONE).variants[0].shapes == {"x": (2, 3, 12, 10)}


@pytest.mark.parametrize("stage", ["loading", "warming up", "measuring", "profiling"])
def test_interruption_leaves_nothing_behind(
    conv_model: WriteModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    model = conv_model()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def interrupt(what: str, _done: float) -> None:
        if what.startswith(stage):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark([model], profile=True, progress=interrupt, **ALONE)
    gc.collect()
    assert gc.isenabled()
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.onnx"]


def test_progress_bar_names_the_stages_and_vanishes(conv_model: WriteModel) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with show_progress(console) as progress:
        benchmark([conv_model()], progress=progress, **ALONE)
    output = console.file
    assert isinstance(output, io.StringIO)
    assert "measuring tiny.onnx (standard)" in output.getvalue()
    quiet = Console(file=io.StringIO(), force_terminal=False)
    with show_progress(quiet) as progress:
        progress("measuring", 0.5)
    assert isinstance(quiet.file, io.StringIO)
    assert quiet.file.getvalue().strip() == ""


def test_unwritable_report(conv_model: WriteModel, tmp_path: Path) -> None:
    report = benchmark([conv_model()], **ALONE)
    with pytest.raises(InputError, match="cannot write"):
        report.write_json(tmp_path / "nowhere" / "report.json")


def test_missing_onnxruntime(conv_model: WriteModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = conv_model()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError) as caught:
        benchmark([model], **ALONE)
    assert "edgeconv[cpu]" in caught.value.remedy
