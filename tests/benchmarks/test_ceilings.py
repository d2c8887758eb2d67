"""Reading, choosing and measuring the machine's ceilings."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
from ceilings import SOURCE, Ceilings, Rate, build_program, cache_sizes, limit, measure_ceilings, parse, read_sizes

from edgeconv.bench.environment import ISA_FLAGS, read_text
from edgeconv.errors import EdgeconvError, MissingDependencyError

FORMS = (
    Rate("dot", "fma", "avx2", 50.0, 49.0),
    Rate("dot", "fma", "avx512", 100.0, 99.0),
    Rate("dot bf16", "dpbf16", "avx512_bf16", 200.0, 200.0),
    Rate("dot bf16", "tdpbf16ps", "amx", 1200.0, 1200.0),
    Rate("manhattan", "max, add", "avx512", 60.0, 59.0),
    Rate("manhattan", "max, fma", "avx512", 90.0, 89.0),
)


def test_best() -> None:
    ceilings = Ceilings(1, FORMS, ())
    assert ceilings.best("manhattan") == FORMS[5]
    assert ceilings.best("chebyshev") is None
    for isa, expected in ((None, 100.0), ("avx512", 100.0), ("avx2", 50.0), ("AVX512-VNNI", 100.0), ("amx", 100.0)):
        best = ceilings.best("dot", isa)
        assert best is not None
        assert best.rate == expected, isa
    assert ceilings.best("dot", "baseline") is None


def test_limit_of_the_split() -> None:
    """Three products a product: a third of what the tiles do."""
    split = limit(Ceilings(1, FORMS, ()), "dot bf16x3")
    assert split is not None
    assert (split.rate, split.isa) == (400.0, "amx")
    below = limit(Ceilings(1, FORMS, ()), "dot bf16x3", "avx512_vnni")
    assert below is not None
    assert below.rate == pytest.approx(200 / 3)
    assert limit(None, "dot") is None


def test_parse() -> None:
    """The 0.9 quantile of the rounds, beside the median."""
    rates = [float(value) for value in range(11)]
    results = [
        {"accumulation": "dot", "form": "fma", "isa": "avx2", "rates": rates},
        {"level": "L2", "bytes": 4096, "rates": [7.0, 7.0]},
    ]
    ceilings = parse(json.dumps({"rounds": 11, "results": results}), 2)
    assert ceilings == Ceilings(2, (Rate("dot", "fma", "avx2", 9.0, 5.0),), (Rate("L2", "", "", 7.0, 7.0, 4096),))
    assert json.loads(json.dumps(ceilings.to_dict()))["threads"] == 2


def test_cache_sizes(tmp_path: Path) -> None:
    for index, (level, kind, size) in enumerate(
        [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "1024K"), ("3", "Unified", "32M")]
    ):
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        folder.mkdir(parents=True)
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(value + "\n")
    found = cache_sizes(tmp_path)
    assert found == {1: 48 * 2**10, 2: 2**20, 3: 32 * 2**20}
    assert read_sizes(found) == {"L2": 2**19, "L3": 16 * 2**20, "DRAM": 128 * 2**20}
    assert cache_sizes(tmp_path / "none") == {}
    assert read_sizes({}) == {"DRAM": 64 * 2**20}
    assert read_sizes({1: 2**15, 2: 2**21, 3: 2**22}) == {"L2": 2**20, "DRAM": 64 * 2**20}


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    with pytest.raises(MissingDependencyError, match="no compiler 'no-such-compiler'") as raised:
        measure_ceilings([1])
    assert "--no-ceilings" in raised.value.remedy


def test_compiler_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    before = set(SOURCE.parents[1].glob("build/benchmarks/*"))
    with pytest.raises(EdgeconvError, match="false fails"):
        build_program()
    assert set(SOURCE.parents[1].glob("build/benchmarks/*")) == before


def test_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each accumulation that the CPU has instructions for has a rate, and so has memory."""
    monkeypatch.setattr("ceilings.cache_sizes", lambda: {1: 2**15, 2: 2**18})
    ceilings = measure_ceilings([1])[1]
    assert all(rate.rate >= rate.median > 0 for rate in (*ceilings.forms, *ceilings.bandwidths))
    assert [level.name for level in ceilings.bandwidths] == ["L2", "DRAM"]
    flags = set((read_text(Path("/proc/cpuinfo")) or "").split())
    expected = {"dot": "avx2", "manhattan": "avx2", "chebyshev": "avx2", "manhattan u8": "avx2"}
    expected |= {"dot u8": "avx512_vnni", "dot bf16": "avx512_bf16"}
    assert set(expected.values()) <= set(ISA_FLAGS)
    if platform.machine() == "x86_64":
        for accumulation, flag in expected.items():
            if flag in flags:
                assert ceilings.best(accumulation) is not None, accumulation
        if "avx512dq" in flags:
            assert {form.isa for form in ceilings.forms} >= {"avx2", "avx512"}
