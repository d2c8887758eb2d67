"""The benchmark with provider cuda, on a GPU that is played (tests/fake_gpu.py)."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fake_gpu import FakeGpu, FakeRuntime, install
from rich.console import Console

from edgeconv.bench import api, memory
from edgeconv.bench.api import benchmark
from edgeconv.bench.conditions import Conditions, GpuWatch, Snapshot
from edgeconv.bench.measure import Plan, Subject, measure, warm_up
from edgeconv.bench.report import BenchmarkReport, load_report
from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.runtime.gpu import GpuInfo, GpuState

if TYPE_CHECKING:
    from tests.bench.conftest import FakeClock, WriteModel

QUICK: dict[str, Any] = {
    "provider": "cuda", "iterations": 70, "duration": 0.02, "warmup": 0.02, "threads": 1, "memory": False,
    "op_library": False,
}  # fmt: skip
INFO = GpuInfo("NVIDIA Fake", "8.7", clock_max=1300.0, source="NVML")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return install(monkeypatch)


def text_of(report: BenchmarkReport, width: int = 100) -> str:
    output = io.StringIO()
    report.render(Console(file=output, width=width))
    return output.getvalue()


def test_end_to_end(gpu: FakeGpu, conv_model: WriteModel, tmp_path: Path) -> None:
    gpu.runtime.busy = True
    report = benchmark([conv_model()], **QUICK)
    (variant,) = report.variants
    device = variant.series.device_samples
    assert device is not None
    assert variant.device is not None
    assert len(device) == len(variant.series.samples) >= 70
    # The device's clock starts later and stops earlier than the host's.
    assert np.all(device < variant.series.samples)
    assert variant.device.median < variant.summary.median
    assert variant.host_bound is False
    assert variant.placement is not None
    assert set(variant.placement.counts) == {"CUDA"}
    assert report.environment.gpu is not None
    assert report.environment.gpu.name == "NVIDIA Fake"
    assert any("clocks, power and throttling are not recorded" in warning for warning in report.warnings)

    report.write_json(tmp_path / "report.json")
    assert load_report(tmp_path / "report.json").to_dict() == report.to_dict()
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["variants"][0]["device_samples_ns"] == device.tolist()
    for width in (80, 160):
        text = text_of(report, width)
        for heading in (
            "Host latency in ms (inputs and outputs on the GPU, no copies)", "Time on the device in ms (CUDA events",
            "without a CUDA graph", "nodes on", "NVIDIA Fake (compute capability 8.7)", "CUDA 12.6",
        ):  # fmt: skip
            assert " ".join(heading.split()) in " ".join(text.split()), heading
        assert max(len(line) for line in text.splitlines()) <= width


def test_copies_are_made_and_said(gpu: FakeGpu, conv_model: WriteModel) -> None:
    report = benchmark([conv_model()], copies=True, **QUICK)
    per_run = (3 * 9 * 7 + 5 * 9 * 7) * 4
    assert gpu.runtime.copied >= 70 * per_run
    text = text_of(report)
    assert "Host latency in ms (copies to the GPU and back included)" in text
    assert "same inferences, copies included" in " ".join(text.split())


def test_graph_and_tf32_are_asked_for_and_said(gpu: FakeGpu, conv_model: WriteModel) -> None:
    report = benchmark([conv_model()], cuda_graph=True, tf32=True, **QUICK)
    measured = gpu.sessions[-1]
    assert (measured["enable_cuda_graph"], measured["use_tf32"]) == ("1", "1")
    assert gpu.sessions[0]["enable_cuda_graph"] == "0"  # of the session whose record tells the places
    text = " ".join(text_of(report).split())
    assert "launched as a CUDA graph" in text
    assert "float32 products may drop to TF32" in text
    assert report.settings.tf32
    assert "TF32" not in text_of(benchmark([conv_model()], **QUICK))


def test_a_gpu_that_waits_for_the_host_is_noted(gpu: FakeGpu, conv_model: WriteModel) -> None:
    report = benchmark([conv_model()], **QUICK)
    assert report.variants[0].host_bound is True
    (note,) = (warning for warning in report.warnings if "waiting for the host" in warning)
    assert "--cuda-graph" in note
    graph = benchmark([conv_model()], cuda_graph=True, **QUICK)
    assert not any("try --cuda-graph" in warning for warning in graph.warnings)


def test_nodes_on_the_cpu_are_refused_or_marked(gpu: FakeGpu, conv_model: WriteModel) -> None:
    gpu.cpu_operators = ("Conv", "FusedConv")
    with pytest.raises(InputError, match=r"nodes of tiny\.onnx \(standard\) do not run on CUDA") as caught:
        benchmark([conv_model()], **QUICK)
    assert "Conv '" in caught.value.message
    assert len(gpu.sessions) == 1  # nothing was measured
    report = benchmark([conv_model()], allow_cpu_fallback=True, **QUICK)
    assert any("nodes of tiny.onnx (standard) run on the CPU" in warning for warning in report.warnings)
    assert "CPU 1" in text_of(report)


def test_ratios_on_the_device_are_apart(gpu: FakeGpu, conv_model: WriteModel, tmp_path: Path) -> None:
    models = [conv_model(), conv_model("larger.onnx", "float[N, 3, 90, 70]")]
    report = benchmark(models, compare=True, **QUICK)
    assert len(report.ratios) == len(report.device_ratios) == 1
    assert report.device_ratios[0].ratio.value != report.ratios[0].ratio.value
    assert "time on the device relative to tiny.onnx" in text_of(report)
    report.write_json(tmp_path / "old.json")
    later = benchmark(models[:1], baseline=tmp_path / "old.json", **QUICK)
    assert later.comparison is not None
    assert len(later.comparison.device_ratios) == 1
    assert BenchmarkReport.from_dict(json.loads(later.to_json())).to_dict() == later.to_dict()


def test_an_op_library_without_cuda_is_found_out_first(
    gpu: FakeGpu, function_model: WriteModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(library: str) -> None:
        raise MissingDependencyError(f"op library {library} was built without CUDA.", "Build it.")

    monkeypatch.setattr(api, "require_cuda_kernels", refuse)
    with pytest.raises(MissingDependencyError, match="built without CUDA"):
        benchmark([function_model()], **{**QUICK, "op_library": True})
    assert gpu.sessions == []
    # The functions need no library.
    assert benchmark([function_model()], **QUICK).variants[0].kind == "functions"


def test_memory_of_the_gpu(gpu: FakeGpu, conv_model: WriteModel) -> None:
    """In this process, where the GPU is played; measure_memory starts another."""
    request = {
        "model": str(conv_model()), "inputs": {"x": ("tensor(float)", [1, 3, 9, 7])}, "provider": "cuda", "threads": 1,
        "op_library": False, "seed": 0, "gpu": {"device": 0, "tf32": False, "cuda_graph": True},
    }  # fmt: skip
    use = memory._probe(request)
    assert use.device == 2**20
    assert use.growth >= 0
    assert gpu.sessions[-1]["enable_cuda_graph"] == "1"
    report = benchmark([conv_model()], **QUICK)
    with_memory = replace(report, variants=(replace(report.variants[0], memory=use),))
    assert "GPU MiB" in text_of(with_memory)
    assert BenchmarkReport.from_dict(json.loads(with_memory.to_json())).variants[0].memory == use
    assert "GPU MiB" not in text_of(report)


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, conv_model: WriteModel) -> None:
    install(monkeypatch, FakeRuntime(error=35))
    with pytest.raises(MissingDependencyError, match="CUDA driver version is insufficient"):
        benchmark([conv_model()], **QUICK)


@pytest.mark.parametrize("option", ["device", "tf32", "cuda_graph", "copies", "allow_cpu_fallback"])
def test_options_of_gpus_are_refused_on_the_cpu(conv_model: WriteModel, option: str) -> None:
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')} is for provider"):
        benchmark([conv_model()], **{**QUICK, "provider": "cpu", option: 1})


def test_launches_are_not_sold_as_operators(gpu: FakeGpu, conv_model: WriteModel) -> None:
    with pytest.raises(InputError, match="--profile times operators on the host") as caught:
        benchmark([conv_model()], profile=True, **QUICK)
    assert "nsys" in caught.value.remedy


def test_every_sample_has_its_time_on_the_device(clock: FakeClock) -> None:
    now = {"device": 0.0}

    def run() -> None:
        clock.now += 5_000_000
        now["device"] += 1e-6

    timed = Subject("gpu", run, lambda: now["device"])
    plain = Subject("cpu", run)
    plan = Plan(20, 0, 0)
    first, second = measure([timed, plain], [warm_up(s, 0, clock) for s in (timed, plain)], plan, clock=clock)
    assert second.device_samples is None
    assert first.device_samples is not None
    assert len(first.device_samples) == len(first.samples) >= 20
    assert np.all(np.diff(first.device_samples) > 0)
    assert set(first.samples) == {5_000_000}  # reading the device's time is not timed


class PlayedSource:
    """States one after the other."""

    name = "NVML"

    def __init__(self, *states: dict[str, Any]) -> None:
        self.states = list(states)

    def limits(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Any]:
        return self.states.pop(0)


def test_the_gpu_is_looked_at_now_and_then() -> None:
    source = PlayedSource({"clock": 1300.0}, {"clock": 600.0})
    watch = GpuWatch(source, interval=3600)
    for _ in range(5):
        watch.look()
    assert [state.clock for state in watch.states] == [1300.0]
    eager = GpuWatch(PlayedSource({"clock": 1300.0}, {"clock": 600.0}), interval=0)
    eager.look()
    eager.look()
    assert [state.clock for state in eager.states] == [1300.0, 600.0]
    GpuWatch(None).look()


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ([{"clock": 1300.0, "throttling": ()}] * 3, None),
        ([{"throttling": ("power cap",)}, {"throttling": ()}], r"throttled \(power cap\) in 1 of 2 looks"),
        ([{"clock": 1300.0}, {"clock": 900.0}], "varied between 900 and 1300 MHz"),
    ],
)
def test_what_casts_doubt_on_times_on_a_gpu(states: list[dict[str, Any]], message: str | None) -> None:
    seen = tuple(GpuState(float(index), **state) for index, state in enumerate(states))
    conditions = Conditions(Snapshot.take(), Snapshot.take(), 60.0, seen)
    found = conditions.gpu_warnings(INFO)
    if message is None:
        assert found == []
    else:
        (warning,) = found
        assert re.search(message, warning)
    assert Conditions.from_dict(json.loads(json.dumps(conditions.to_dict()))) == conditions
    (note,) = replace(conditions, gpu=()).gpu_warnings(replace(INFO, source=None))
    assert "nvidia-ml-py" in note


def test_reports_of_versions_without_gpus_are_read(conv_model: WriteModel) -> None:
    data = benchmark([conv_model()], **{**QUICK, "provider": "cpu"}).to_dict()
    for name in ("device", "tf32", "cuda_graph", "copies", "allow_cpu_fallback"):
        del data["settings"][name]
    for name in ("device_samples_ns", "device_summary", "host_bound", "placement"):
        del data["variants"][0][name]
    del data["environment"]["gpu"], data["conditions"]["gpu"], data["device_ratios"]
    again = BenchmarkReport.from_dict(json.loads(json.dumps(data)))
    assert again.variants[0].device is None
    damaged = benchmark([conv_model()], **{**QUICK, "provider": "cpu"}).to_dict()
    damaged["variants"][0]["device_samples_ns"] = [1, 2]
    with pytest.raises(InputError, match="damaged benchmark report"):
        BenchmarkReport.from_dict(damaged)
