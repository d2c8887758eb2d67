"""Host execution of CUDA kernels: right kernels give what plain arithmetic gives.

The kernels are in tests/native/simt. Every test runs on fibers with and without assembly, and instrumented for races.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from builds import ROOT, output
from tolerances import assert_close

from .conftest import SEEDS, SOURCES, Cases

INTEGERS = {"s": np.int8, "u": np.uint8}
ARCHITECTURES = (87, 90, 110)


def random_bytes(shape: Any, dtype: Any, seed: int = 0) -> npt.NDArray[Any]:
    information = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(information.min, information.max + 1, shape, dtype)


# Tensor cores


@pytest.mark.parametrize("seed", SEEDS)
def test_mma_f16(cases: Cases, seed: int) -> None:
    cases.set("seed", seed)
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(16, 16)).astype(np.float16), random.normal(size=(16, 8)).astype(np.float16)
    c = random.normal(size=(16, 8)).astype(np.float32)
    expected = c + a.astype(np.float64) @ b.astype(np.float64)
    cases.call("mma_f16", a, b, c, 0)
    assert_close(c, expected, np.float32)


def tf32(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Rounded to 11 bits, ties away from zero."""
    _, exponent = np.frexp(values.astype(np.float64))
    digit = np.ldexp(1.0, np.maximum(exponent, -125) - 11)  # the last one; below -125 numbers are subnormal
    return np.trunc(values / digit + np.copysign(0.5, values)) * digit


def test_mma_tf32(cases: Cases) -> None:
    random = np.random.default_rng(5)
    a, b = random.normal(size=(16, 8)).astype(np.float32), random.normal(size=(8, 8)).astype(np.float32)
    c = random.normal(size=(16, 8)).astype(np.float32)
    expected = c + tf32(a) @ tf32(b)
    cases.call("mma_tf32", a, b, c, 0)
    assert_close(c, expected, np.float32)


@pytest.mark.parametrize("left", INTEGERS)
@pytest.mark.parametrize("right", INTEGERS)
def test_mma_int8(cases: Cases, left: str, right: str) -> None:
    a, b = random_bytes((16, 32), INTEGERS[left], 1), random_bytes((32, 8), INTEGERS[right], 2)
    c = random_bytes((16, 8), np.int32, 3)
    expected = (c.astype(np.int64) + a.astype(np.int64) @ b.astype(np.int64)).astype(np.int32)  # wraps around
    cases.call(f"mma_{left}8{right}8", a, b, c, 0)
    np.testing.assert_array_equal(c, expected)


def test_wrong_fragment_gives_a_wrong_product(cases: Cases) -> None:
    a, b = random_bytes((16, 32), np.int8, 1), random_bytes((32, 8), np.int8, 2)
    c = np.zeros((16, 8), np.int32)
    cases.call("mma_s8s8", a, b, c, 1)
    assert (c != a.astype(np.int32) @ b.astype(np.int32)).any()


@pytest.mark.parametrize("matrices", [2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(cases: Cases, matrices: int, transposed: bool) -> None:
    values = random_bytes((matrices, 8, 8), np.uint16)
    result = np.zeros((32, matrices, 2), np.uint16)
    cases.call("load_matrices", values, result, matrices, transposed)
    # Lane 4 * row + pair holds elements 2 * pair and the next of that row.
    source = values.transpose(0, 2, 1) if transposed else values
    np.testing.assert_array_equal(result, source.reshape(matrices, 32, 2).transpose(1, 0, 2))


# cp.async


@pytest.mark.parametrize("size", [4, 8, 16])
def test_copy_fills_with_zeros(cases: Cases, size: int) -> None:
    # numpy aligns on 16 bytes or more
    values = random_bytes((96, size), np.uint8)
    result = np.full_like(values, 77)
    cases.call("copy_bytes", values, result, size)
    valid = np.arange(96)[:, None] % (size + 1) > np.arange(size)
    np.testing.assert_array_equal(result, np.where(valid, values, 0))


def test_copy_is_there_after_its_wait_and_not_before(load: Callable[[str], Cases]) -> None:
    values = random_bytes((3, 96), np.int32)
    result = np.zeros((2, 3, 96), np.int32)
    load("cases").call("copy_groups", values, result)
    pending = np.full(96, -1, np.int32)
    np.testing.assert_array_equal(result[0], [values[0], pending, pending])
    np.testing.assert_array_equal(result[1], values)


# Arithmetic


def test_byte_functions(cases: Cases) -> None:
    count = 200
    a, b, c = (random_bytes(count, np.uint32, seed) for seed in (1, 2, 3))
    a[:2], b[:2] = [0x807F807F, 0xFF00FF00], [0x7F807F80, 0x00FF00FF]  # the largest differences
    exponents = (a >> 23) % 256
    a = np.where(exponents == 255, a ^ 1 << 30, a)  # the last function takes it for a finite float
    u, s = np.uint8, np.int8
    x = {dtype: a[:, None].view(dtype).astype(np.int64) for dtype in (u, s)}
    y = {dtype: b[:, None].view(dtype).astype(np.int64) for dtype in (u, s)}

    def word(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        return np.ascontiguousarray(values.astype(np.uint8)).view(np.uint32)[:, 0]

    both = np.concatenate([x[u], y[u]], axis=1)
    picks = (c[:, None] >> np.arange(0, 16, 4)) & 7
    wide = b.astype(np.uint64) << np.uint64(32) | a
    expected = [
        *[c + (x[left] * y[right]).sum(1) for left, right in ((s, s), (s, u), (u, s), (u, u), (s, s), (u, u))],
        c + abs(x[u] - y[u]).sum(1),
        c + abs(x[s] - y[s]).sum(1),
        abs(x[u] - y[u]).sum(1),
        word(abs(x[u] - y[u])),
        word(np.maximum(x[u], y[u])),
        word(np.maximum(x[s], y[s])),
        word(np.take_along_axis(both, picks.astype(np.int64), 1)),
        wide >> (c % 32).astype(np.uint64),
        a.astype(np.uint64) * b >> np.uint64(32),
        tf32(a.view(np.float32)).astype(np.float32).view(np.uint32),
    ]
    result = np.zeros((len(expected), count), np.uint32)
    cases.call("byte_functions", a, b, c, result, count)
    for row, (got, want) in enumerate(zip(result, expected, strict=True)):
        np.testing.assert_array_equal(got, want.astype(np.uint64).astype(np.uint32), err_msg=f"function {row}")


def test_half_functions(cases: Cases) -> None:
    random = np.random.default_rng(0)
    count = 100
    a, b, c = ((random.normal(size=(count, 2)) * 4).astype(np.float16) for _ in range(3))
    fused = (a.astype(np.float64) * b + c).astype(np.float16)
    expected = [a + b, a - b, a * b, fused, abs(a - b), np.maximum(a, b), np.minimum(a, b)]
    result = np.zeros((len(expected), count, 2), np.float16)
    cases.call("half_functions", a, b, c, result, count)
    np.testing.assert_array_equal(result, expected)


# Warps and blocks


@pytest.mark.parametrize("seed", SEEDS)
def test_warp_functions(cases: Cases, seed: int) -> None:
    cases.set("seed", seed)
    random = np.random.default_rng(seed)
    v = random.integers(-500, 500, 32, np.int32)
    reals = random.normal(size=32).astype(np.float32)
    lane = np.arange(32)
    halves = np.where(lane < 16, v[1], v[20 ^ 1])
    expected = [
        v[5],
        v[lane // 8 * 8 + 11 % 8],
        v[lane ^ 9],
        np.where(lane >= 3, v[lane - 3], v),
        np.where(lane % 16 >= 3, v[lane - 3], v),
        np.where(lane + 7 < 32, v[(lane + 7) % 32], v),
        np.where(lane % 8 + 7 < 8, v[(lane + 7) % 32], v),
        np.packbits(v > 0, bitorder="little").view(np.int32)[0],
        (v > 1000).any(),
        (v > -1000).all(),
        v.sum(),
        v.min(),
        v.view(np.uint32).max().astype(np.int32),
        None,
        halves,
        v[lane ^ 1],
    ]
    result = np.zeros((len(expected), 32), np.int32)
    cases.call("run_warp_functions", v, reals, result)
    for row, want in enumerate(expected):
        if want is None:
            assert_close(result[row].view(np.float32), np.full(32, reals.astype(np.float64).sum()), np.float32)
        else:
            np.testing.assert_array_equal(result[row], np.broadcast_to(want, 32), err_msg=f"function {row}")


@pytest.mark.parametrize("seed", SEEDS)
def test_returned_lanes_do_not_vote(cases: Cases, seed: int) -> None:
    cases.set("seed", seed)
    lane = np.arange(32)
    voters = lane % 4 != 1
    votes = np.packbits(voters & (lane < 20), bitorder="little").view(np.uint32)[0]
    result = np.zeros(32, np.uint32)
    cases.call("run_vote_without_some", result)
    np.testing.assert_array_equal(result, np.where(voters, votes, 0))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_places_atomics_and_counts(cases: Cases, threads: int) -> None:
    cases.set("threads", threads)
    count = 12 * 45 - 7
    values = np.random.default_rng(0).normal(size=count).astype(np.float32)
    total, counts = np.zeros(1, np.float32), np.zeros(12, np.int32)
    cases.call("run_sums", values, total, counts, count)
    assert_close(total, [values.astype(np.float64).sum()], np.float32)
    positive = np.pad(values > 0, (0, 7)).reshape(12, 45).sum(1)
    np.testing.assert_array_equal(counts, positive)


def test_order_is_the_seeds(cases: Cases) -> None:
    cases.set("threads", 1)

    def turns(seed: int) -> npt.NDArray[np.int32]:
        cases.set("seed", seed)
        result = np.zeros((6, 40), np.int32)
        cases.call("run_order", np.zeros(1, np.int32), result, 6, 40)
        assert sorted(result.ravel()) == list(range(240))
        return result

    np.testing.assert_array_equal(turns(0).ravel(), np.arange(240))
    first, second = turns(1), turns(2)
    assert (first != second).any()
    assert (np.diff(first[0]) < 0).any()
    assert (np.diff(first[:, 0] // 40) < 0).any(), "blocks come in their order"
    np.testing.assert_array_equal(first, turns(1))


@pytest.mark.parametrize(("m", "n", "k"), [(16, 16, 16), (130, 72, 88), (65, 200, 40)])
def test_gemm(cases: Cases, m: int, n: int, k: int) -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(m, k)).astype(np.float16), random.normal(size=(n, k)).astype(np.float16)
    expected = a.astype(np.float64) @ b.astype(np.float64).T
    for function, dtype in (("gemm_tiled", np.float32), ("gemm_pipelined", np.float16)):
        c = np.zeros((m, n), np.float32)
        cases.call(function, a.astype(dtype), b.astype(dtype), c, m, n, k)
        assert_close(c, expected, np.float32, function)


# Other compilers


def test_nvcc_compiles_the_same_sources(cuda_home: Path, tmp_path: Path) -> None:
    architectures = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in ARCHITECTURES]
    options = ["-std=c++17", "-Werror=all-warnings", f"-I{ROOT / 'custom_ops'}", *architectures]
    for source in sorted(SOURCES.glob("*.cu")):
        output(cuda_home / "bin" / "nvcc", *options, "-c", source, "-o", tmp_path / f"{source.stem}.o")


def test_aarch64(cuda_home: Path, libraries: Path, tmp_path: Path) -> None:
    compiler, emulator = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
    missing = [name for name in (compiler, emulator) if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)}: apt-get install g++-aarch64-linux-gnu qemu-user-static")
    program = tmp_path / "program"
    options = ["-std=c++17", "-O1", "-DEDGECONV_SIMT", "-Wno-unknown-pragmas", f"-I{ROOT / 'custom_ops'}"]
    kernels = [SOURCES / name for name in ("gemm.cu", "faults.cu")]
    simt = sorted((ROOT / "custom_ops" / "common" / "simt").glob("*.cc"))
    main = SOURCES / "main.cc"
    output(
        compiler, *options, "-isystem", cuda_home / "include", "-x", "c++", *kernels, main, *simt,
        "-static", "-pthread", "-o", program,
    )  # fmt: skip
    assert output(emulator, program) == "the product is right\nthe error is reported\n"


def test_nothing_of_the_cuda_runtime_is_missing(libraries: Path) -> None:
    assert "cuda" not in output("nm", "-D", "--undefined-only", libraries / "libcases.so")
