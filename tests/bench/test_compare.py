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
    left_out = {"memory", "available_providers"}
    assert set(MACHINE) | set(VERSIONS) | left_out == set(Environment.__dataclass_fields__)
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


def test_unlike_batch_and_shapes_are_refused() -> None:
    present, earlier = report(variant("m.onnx", 2.0)), report(variant("m.onnx", 4.0))
    with pytest.raises(InputError, match="batch: 1, earlier 8"):
        compare_reports(present, replace(earlier, settings=replace(earlier.settings, batch=8)))
    other = replace(earlier.variants[0], shapes={"x": (1, 3, 18, 14)})
    with pytest.raises(InputError, match="1x3x9x7, earlier 1x3x18x14"):
        compare_reports(present, replace(earlier, variants=(other,)))


def test_other_versions_and_contents_are_marked() -> None:
    present, earlier = report(variant("m.onnx", 2.0)), report(variant("m.onnx", 4.0, sha256="bb"))
    changed = replace(earlier.environment, onnxruntime="1.20.1", op_library_sha256="cc")
    comparison = compare_reports(present, replace(earlier, environment=changed))
    assert not comparison.unlike
    text = "\n".join(comparison.differences)
    assert "onnxruntime: 1.31.1, earlier 1.20.1" in text
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
