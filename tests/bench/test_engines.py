"""The benchmark with the providers of engines, on stand-ins for TensorRT and CUDA (tests/fake_tensorrt.py)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fake_tensorrt import FakeCuda, FakeTensorRt, install
from rich.console import Console

from edgeconv.bench import memory
from edgeconv.bench.api import benchmark
from edgeconv.bench.report import BenchmarkReport, load_report
from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.runtime.engine_build import build_engine

if TYPE_CHECKING:
    from tests.bench.conftest import WriteModel

QUICK: dict[str, Any] = {
    "provider": "tensorrt", "iterations": 70, "duration": 0.02, "warmup": 0.02, "memory": False,
}  # fmt: skip


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRt:
    """TensorRT on a GPU, a plugin library and an empty cache of engines."""
    fake = FakeTensorRt(FakeCuda())
    install(monkeypatch, fake.cuda, fake)
    (tmp_path / "plugins.so").write_bytes(b"plugins 1")
    monkeypatch.setenv("EDGECONV_TRT_PLUGINS", str(tmp_path / "plugins.so"))
    monkeypatch.setenv("EDGECONV_ENGINE_CACHE", str(tmp_path / "cache"))
    return fake


def text_of(report: BenchmarkReport) -> str:
    output = io.StringIO()
    report.render(Console(file=output, width=160))
    return " ".join(output.getvalue().split())


def test_end_to_end(trt: FakeTensorRt, conv_model: WriteModel, tmp_path: Path) -> None:
    report = benchmark([conv_model()], batch=2, **QUICK)
    (variant,) = report.variants
    assert variant.shapes == {"x": (2, 3, 9, 7)}
    assert variant.batch == 2
    device = variant.series.device_samples
    assert device is not None
    assert len(device) == len(variant.series.samples) >= 70
    assert np.all(device == 1_000_000)  # an inference of the stand-in takes 1 ms on the device
    assert variant.device is not None
    assert variant.placement is None
    assert report.environment.runtime == "TensorRT 10.14.1.48"
    assert report.environment.gpu is not None
    assert len(trt.parsed) == 1  # the engine is built once, and loaded for every further session
    report.write_json(tmp_path / "report.json")
    assert load_report(tmp_path / "report.json").to_dict() == report.to_dict()
    text = text_of(report)
    for words in ("TensorRT 10.14.1.48", "provider tensorrt", "Time on the device in ms (CUDA events", "Fake Orin"):
        assert words in text
    benchmark([conv_model()], batch=2, **QUICK)
    assert len(trt.parsed) == 1
    benchmark([conv_model()], batch=3, **QUICK)
    assert len(trt.parsed) == 2


def test_copies_and_graphs(trt: FakeTensorRt, conv_model: WriteModel) -> None:
    report = benchmark([conv_model()], copies=True, cuda_graph=True, **QUICK)
    device = report.variants[0].series.device_samples
    assert device is not None
    assert np.all(device == 1_002_000)
    assert trt.cuda.launches >= 70
    assert "copies included, launched as a CUDA graph" in text_of(report)


def test_plugins_and_functions_side_by_side(trt: FakeTensorRt, function_model: WriteModel) -> None:
    report = benchmark([function_model()], compare=True, **QUICK)
    assert [variant.kind for variant in report.variants] == ["native", "functions"]
    with_plugins, without = trt.parsed
    assert {node.domain for node in with_plugins.graph.node} == {"edgeconv"}
    assert "edgeconv" not in {node.domain for node in without.graph.node}
    assert len(report.ratios) == len(report.device_ratios) == 1
    assert report.environment.op_library_sha256 is not None
    assert [v.kind for v in benchmark([function_model()], op_library=False, **QUICK).variants] == ["functions"]


def test_missing_plugins_are_noted(
    trt: FakeTensorRt, function_model: WriteModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGECONV_TRT_PLUGINS")
    monkeypatch.setattr("edgeconv.runtime.op_library.installed_files", lambda _name: iter(()))
    report = benchmark([function_model()], **QUICK)
    assert [variant.kind for variant in report.variants] == ["functions"]
    assert any("no native operators" in warning for warning in report.warnings)
    monkeypatch.setenv("EDGECONV_TRT_PLUGINS", "nowhere.so")
    with pytest.raises(MissingDependencyError, match=r"nowhere\.so"):
        benchmark([function_model()], **QUICK)


def test_an_engine_that_was_built_before(trt: FakeTensorRt, conv_model: WriteModel, tmp_path: Path) -> None:
    engine = Path(build_engine(conv_model(), tmp_path / "net.engine", max_shapes={"": (4, 3, 9, 7)}).engine)
    report = benchmark([engine], batch=4, **QUICK)
    assert (report.variants[0].kind, report.variants[0].batch) == ("engine", 4)
    assert report.variants[0].model.size == engine.stat().st_size
    assert len(trt.parsed) == 1
    with pytest.raises(InputError, match="no model has an input called z"):
        benchmark([engine], shapes={"z": (1, 3, 9, 7)}, **QUICK)
    with pytest.raises(InputError, match=r"net\.engine takes .*, got 5x3x9x7"):
        benchmark([engine], batch=5, **QUICK)
    with pytest.raises(InputError, match=r"is built: it uses TF32"):
        benchmark([engine], tf32=True, **QUICK)
    with pytest.raises(InputError, match="is an engine, which provider cpu does not run"):
        benchmark([engine], **{**QUICK, "provider": "cpu"})

    Path(f"{engine}.json").write_text("{}")
    with pytest.raises(InputError, match="is not an engine's stamp"):
        benchmark([engine], **QUICK)
    Path(f"{engine}.json").unlink()
    with pytest.raises(InputError, match="has no stamp"):
        benchmark([engine], **QUICK)
    trusted = benchmark([engine], trust_engine=True, shapes={"x": (4, 3, 9, 7)}, **QUICK)
    assert trusted.variants[0].shapes == {"x": (4, 3, 9, 7)}
    assert trusted.settings.trust_engine
    assert list((tmp_path / "cache").glob("*")) == []


def test_memory(trt: FakeTensorRt, conv_model: WriteModel, tmp_path: Path) -> None:
    """In this process, where the GPU is played; measure_memory starts another."""
    engine = build_engine(conv_model(), tmp_path / "net.engine", shapes={"": (1, 3, 9, 7)}).engine
    request = {
        "model": engine, "inputs": {"x": ("tensor(float)", [1, 3, 9, 7])}, "provider": "tensorrt", "threads": None,
        "op_library": False, "seed": 0,
        "gpu": {"device": 0, "tf32": False, "cuda_graph": False, "trust_engine": False},
    }  # fmt: skip
    use = memory._probe(request)
    assert use.device is not None
    assert use.device >= (3 + 5) * 9 * 7 * 4  # at least the input and the output
    assert use.growth >= 0


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, conv_model: WriteModel) -> None:
    install(monkeypatch, FakeCuda(gpu=None), None)
    for provider in ("tensorrt", "tensorrt-rtx"):
        with pytest.raises(MissingDependencyError, match="no NVIDIA GPU can be used here"):
            benchmark([conv_model()], **{**QUICK, "provider": provider})


def test_options_that_are_not_for_engines(conv_model: WriteModel) -> None:
    for option in ("threads", "allow_cpu_fallback"):
        with pytest.raises(InputError, match=f"--{option.replace('_', '-')} is for provider"):
            benchmark([conv_model()], **{**QUICK, option: 1})
    with pytest.raises(InputError, match="--profile times operators on the host"):
        benchmark([conv_model()], profile=True, **QUICK)
