from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeconv.bench.compare import MACHINE, VERSIONS, check_alike, compare_reports, interleaved_ratios
from edgeconv.bench.conditions import Conditions, Snapshot
from edgeconv.bench.environment import Environment, read_environment
from edgeconv.bench.measure import Series, Warmup
from edgeconv.bench.model_file import ModelFile
from edgeconv.bench.report import BenchmarkReport, Settings, VariantResult
from edgeconv.bench.statistics import summarize
from edgeconv.errors import InputError
from edgeconv.runtime.gpu import GpuInfo

MS = 1_000_000


def environment() -> Environment:
    return read_environment(
        provider="cpu",
        available_providers=["CPUExecutionProvider"],
        onnxruntime_version="1.31.1",
        threads=2,
        op_library_sha256=None,
        power_mode=lambda: "MAXN",
    )


def variant(path: str, latency: float, kind: str = "standard", sha256: str = "aa", seed: int = 0) -> VariantResult:
    noise = np.random.default_rng(seed).normal(1, 0.01, 200)
    samples = (latency * MS * noise).astype(np.int64)
    return VariantResult(
        model=ModelFile(path, sha256 * 32, 1000, ["x"], {}),
        kind=kind,
        shapes={"x": (1, 3, 9, 7)},
        batch=1,
        creation_ns=(MS,),
        first_run_ns=MS,
        warmup=Warmup(3, 0.5, True, latency * MS),
        series=Series(samples, 10),
        summary=summarize(samples, (50,)),
    )


def report(*variants: VariantResult) -> BenchmarkReport:
    snapshot = Snapshot.take()
    return BenchmarkReport(
        started="2025-01-01T00:00:00+00:00",
        settings=Settings("cpu", 64, 3.0, 0.5, 2, 1, (50.0,), 0, False),
        environment=environment(),
        conditions=Conditions(snapshot, snapshot, 60.0),
        variants=variants,
    )


def test_every_field_of_the_stamp_is_judged_or_left_out_on_purpose() -> None:
    judged = {*MACHINE, *VERSIONS}
    left_out = {"memory", "available_providers", "onnxruntime"}  # the last is in `runtime`
    of_gpu = {name for name in judged if name.startswith("gpu.")}
    assert judged - of_gpu | left_out | {"gpu"} == set(Environment.__dataclass_fields__)
    assert of_gpu | {"gpu.uuid", "gpu.source"} == {f"gpu.{name}" for name in GpuInfo.__dataclass_fields__}
    assert not set(MACHINE) & set(VERSIONS)


def test_like_runs() -> None:
    comparison = compare_reports(report(variant("a/m.onnx", 2.0, seed=1)), report(variant("b/m.onnx", 4.0)))
    (row,) = comparison.ratios
    assert row.ratio.value == pytest.approx(0.5, rel=0.01)
    assert row.ratio.distinguishable
    assert comparison.differences == ()
    assert not comparison.unlike


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cpu_model", "Other CPU"),
        ("threads", 1),
        ("governor", ("powersave",)),
        ("power_mode", "15W"),
        ("isa", ("avx",)),
    ],
)
def test_unlike_machines_are_refused_or_marked(field: str, value: object) -> None:
    present, earlier = report(variant("m.onnx", 2.0)), report(variant("m.onnx", 4.0))
    earlier = replace(earlier, environment=replace(earlier.environment, **{field: value}))
    for refused in (
        lambda: compare_reports(present, earlier),
        lambda: check_alike(present.environment, earlier.environment, "old.json"),
    ):
        with pytest.raises(InputError, match=field.replace("_", " ")) as caught:
            refused()
        assert "--allow-unlike" in caught.value.remedy
    check_alike(present.environment, earlier.environment, "old.json", allow_unlike=True)
    comparison = compare_reports(present, earlier, allow_unlike=True)
    assert comparison.unlike
    assert comparison.differences[0].startswith(field.replace("_", " "))


GPU = GpuInfo("NVIDIA Fake", "8.7", 16, 2**34, "GPU-1", "12.6", "540.4", 300.0, 1300.0, None, 40.0, "sysfs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "NVIDIA Other"}, "GPU name: NVIDIA Fake, earlier NVIDIA Other"),
        ({"clock_min": 1300.0}, "GPU clock min: 300.0, earlier 1300.0"),
        ({"power_limit": 15.0}, "GPU power limit: 40.0, earlier 15.0"),
    ],
)
def test_unlike_gpus_are_refused(change: dict[str, object], message: str) -> None:
    present, earlier = report(variant("m.onnx", 2.0)), report(variant("m.onnx", 4.0))
    other = replace(GPU, **change)  # type: ignore[arg-type]
    present = replace(present, environment=replace(present.environment, gpu=GPU))
    earlier = replace(earlier, environment=replace(earlier.environment, gpu=other))
    with pytest.raises(InputError, match=message):
        compare_reports(present, earlier)
    newer = replace(earlier, environment=replace(earlier.environment, gpu=replace(GPU, uuid="GPU-2", driver="560")))
    assert compare_reports(present, newer).differences == ("GPU driver: 540.4, earlier 560",)


@pytest.mark.parametrize("name", ["tf32", "cuda_graph", "copies", "allow_cpu_fallback"])
def test_unlike_ways_to_use_a_gpu_are_refused(name: str) -> None:
    present, earlier = report(variant("m.onnx", 2.0)), report(variant("m.onnx", 4.0))
    earlier = replace(earlier, settings=replace(earlier.settings, **{name: True}))
    with pytest.raises(InputError, match=f"{name.replace('_', ' ')}: off, earlier on"):
        compare_reports(present, earlier)


def timed(path: str, latency: float, device: float) -> VariantResult:
    """A variant that a device has timed, too."""
    host = variant(path, latency)
    samples = variant(path, device, seed=7).series.samples
    series = replace(host.series, device_samples=samples)
    return replace(host, series=series, device=summarize(samples, (50,)))


def test_times_on_the_device_are_compared_apart() -> None:
    variants = [timed("a.onnx", 4.0, 2.0), timed("b.onnx", 4.0, 1.0), variant("c.onnx", 8.0)]
    (host, _), (device,) = interleaved_ratios(variants), interleaved_ratios(variants, device=True)
    assert host.ratio.value == pytest.approx(1.0, rel=0.01)
    assert device.ratio.value == pytest.approx(0.5, rel=0.01)
    comparison = compare_reports(report(timed("a.onnx", 4.0, 1.0)), report(timed("a.onnx", 4.0, 2.0)))
    assert comparison.ratios[0].ratio.value == pytest.approx(1.0, rel=0.01)
    assert comparison.device_ratios[0].ratio.value == pytest.approx(0.5, rel=0.01)
    assert compare_reports(report(timed("a.onnx", 4.0, 1.0)), report(variant("a.onnx", 4.0))).device_ratios == ()


def test_unlike_batch_and_shapes_are_refused() -> None:
    present, earlier = report(variant("m.onnx", 2.0)), report(variant("m.onnx", 4.0))
    with pytest.raises(InputError, match="batch: 1, earlier 8"):
        compare_reports(present, replace(earlier, settings=replace(earlier.settings, batch=8)))
    other = replace(earlier.variants[0], shapes={"x": (1, 3, 18, 14)})
    with pytest.raises(InputError, match="1x3x9x7, earlier 1x3x18x14"):
        compare_reports(present, replace(earlier, variants=(other,)))


def test_other_versions_and_contents_are_marked() -> None:
    present, earlier = report(variant("m.onnx", 2.0)), report(variant("m.onnx", 4.0, sha256="bb"))
    changed = replace(earlier.environment, runtime="ONNX Runtime 1.20.1", op_library_sha256="cc")
    comparison = compare_reports(present, replace(earlier, environment=changed))
    assert not comparison.unlike
    text = "\n".join(comparison.differences)
    assert "runtime: ONNX Runtime 1.31.1, earlier ONNX Runtime 1.20.1" in text
    assert "op library sha256: none, earlier cc" in text
    assert "m.onnx has another content" in text


def test_variants_are_matched_by_kind() -> None:
    present = report(variant("m.onnx", 1.0, "native"), variant("m.onnx", 9.0, "functions"), variant("n.onnx", 1.0))
    earlier = report(variant("m.onnx", 9.0, "functions"), variant("m.onnx", 2.0, "native"))
    comparison = compare_reports(present, earlier, baseline="old.json")
    assert [row.ratio.value for row in comparison.ratios] == pytest.approx([0.5, 1.0], rel=0.01)
    assert comparison.differences == ("n.onnx (standard) is not in old.json",)


def test_nothing_in_common() -> None:
    with pytest.raises(InputError, match=r"no variant in common .* it has n\.onnx"):
        compare_reports(report(variant("m.onnx", 1.0)), report(variant("n.onnx", 1.0)))


def test_interleaved_ratios_are_to_the_first() -> None:
    rows = interleaved_ratios([variant("a", 2.0), variant("b", 4.0, seed=1), variant("c", 1.0, seed=2)])
    assert [(row.variant, row.reference) for row in rows] == [
        ("b (standard)", "a (standard)"),
        ("c (standard)", "a (standard)"),
    ]
    assert [row.ratio.value for row in rows] == pytest.approx([2.0, 0.5], rel=0.01)


def test_baseline_that_is_no_report(tmp_path: Path) -> None:
    from edgeconv.bench.report import load_report

    for text, message in (
        ("{", "is not JSON"),
        ("[]", "not a benchmark report"),
        ('{"schema": "edgeconv.bench", "schema_version": 99}', "schema version 99"),
        ('{"schema": "edgeconv.bench", "schema_version": 1}', "damaged benchmark report"),
    ):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(InputError, match=message):
            load_report(tmp_path / "r.json")
    with pytest.raises(InputError, match="cannot read"):
        load_report(tmp_path / "missing.json")
