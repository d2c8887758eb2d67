"""Host execution of CUDA kernels: what a GPU refuses is refused, and wrong kernels (simt/faults.cu) are noticed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from builds import address_sanitizer, output, run

from .conftest import SEEDS, Cases

OK, INVALID_VALUE, INVALID_CONFIGURATION, ILLEGAL_ADDRESS, TIMEOUT, MISALIGNED, FAILURE = 0, 1, 9, 700, 702, 716, 719


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((1, 1, 1, 1024, 1, 48 << 10, 0), OK, ""),
        ((1, 1, 1, 1025, 1, 0, 0), INVALID_CONFIGURATION, "1025 x 1 x 1 threads"),
        ((1, 1, 1, 4, 65, 0, 0), INVALID_CONFIGURATION, "64 in z"),
        ((1, 1, 1, 0, 1, 0, 0), INVALID_CONFIGURATION, "0 x 1 x 1 threads"),
        ((0, 1, 1, 32, 1, 0, 0), INVALID_CONFIGURATION, "0 x 1 x 1 blocks"),
        ((1, 65536, 1, 32, 1, 0, 0), INVALID_CONFIGURATION, "y and z at most 65535"),
        ((1, 1, 65536, 32, 1, 0, 0), INVALID_CONFIGURATION, "y and z at most 65535"),
        ((70000, 1, 1, 1, 1, 0, 0), OK, ""),
        ((1, 1, 1, 32, 1, 100 << 10, 100 << 10), OK, ""),
        ((1, 1, 1, 32, 1, 101 << 10, 100 << 10), INVALID_VALUE, "call allow_dynamic_shared()"),
        ((1, 1, 1, 32, 1, 0, 164 << 10), INVALID_VALUE, "Orin (host execution) has 166912"),
    ],
)
def test_launch_limits(cases: Cases, arguments: tuple[int, ...], code: int, message: str) -> None:
    assert cases.attempt("launch_nothing", *arguments) == code
    assert message in cases.message
    assert cases.library.cudaGetLastError() == code
    assert cases.library.cudaGetLastError() == OK


def test_devices_differ(cases: Cases) -> None:
    assert cases.attempt("launch_nothing", 1, 1, 1, 32, 1, 0, 227 << 10) == INVALID_VALUE
    cases.set("device", 90)
    cases.call("launch_nothing", 1, 1, 1, 32, 1, 227 << 10, 227 << 10)
    assert cases.attempt("launch_nothing", 1, 1, 1, 32, 1, 0, 228 << 10) == INVALID_VALUE


# Wrong kernels: tests/native/simt/faults.cu

ERRORS = {
    "barrier_after_return": (FAILURE, r"__syncthreads \(.*faults.cu:\d+\)"),
    "barrier_after_first_returned": (FAILURE, r"is not reached by all threads: 1 of 64 have returned|returns while"),
    "two_barriers": (FAILURE, "while others wait at another barrier"),
    "barrier_and_shuffle": (FAILURE, "while others wait at another barrier|divergent warp"),
    "deadlock": (TIMEOUT, r"threads 0 to 15 wait in __syncwarp .*; threads 16 to 31 wait in __syncthreads"),
    "partial_warp_mma": (FAILURE, "mma.m16n8k16.f16 .* needs a full warp|returns while lanes .* mma.m16n8k16.f16"),
    "unaligned_ldmatrix": (MISALIGNED, "ldmatrix: the address of lane 1 is not a multiple of 16"),
    "unaligned_copy": (MISALIGNED, "cp.async of 16 bytes: the address in global memory is not a multiple of 16"),
    "copy_to_global": (ILLEGAL_ADDRESS, "not all in one array of shared memory"),
    "lane_outside_mask": (FAILURE, "with mask 0x0000ffff, which it is not in"),
    "divergent_shuffles": (FAILURE, "divergent warp"),
    "shuffle_from_absent_lane": (FAILURE, "a shuffle's lane 16 reads lane 24, which takes no part"),
    "dynamic_overrun": (ILLEGAL_ADDRESS, "writes just outside dynamic shared memory"),
    "too_much_static": (INVALID_VALUE, "49156 bytes of static shared memory with one_more"),
}
# Right only by luck of the order; and, without the race detector, wrong results.
RACES = {
    "no_barrier_before_read": "race in tile, byte .* nothing orders them",
    "no_barrier_before_write": "race in tile, byte .* nothing orders them",
    "no_syncwarp": "race in tile, byte .* nothing orders them",
    "no_wait": "has not waited for its cp.async",
    "waits_for_too_few": "has not waited for its cp.async",
}
RIGHT: dict[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    "no_barrier_before_read": lambda lane: 63 - lane,
    "no_barrier_before_write": lambda lane: 600 + 4 * (63 - lane),
    "no_syncwarp": lambda lane: lane ^ 1,
    "no_wait": lambda lane: lane,
    "waits_for_too_few": lambda lane: lane,
}


def attempt(cases: Cases, fault: str) -> tuple[int, npt.NDArray[np.float32]]:
    result = np.zeros(65, np.float32)
    return cases.attempt("fault", fault.encode(), np.arange(300, dtype=np.float32), result), result[:64]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fault", ERRORS)
def test_error(cases: Cases, fault: str, seed: int) -> None:
    cases.set("seed", seed)
    code, pattern = ERRORS[fault]
    got, _ = attempt(cases, fault)
    message = cases.message
    assert got == code, message
    assert re.search(pattern, message), message
    assert "kernel " in message
    assert "block (" in message
    assert f"(seed {seed})" in message
    # The next launch knows nothing of it.
    cases.call("launch_nothing", 1, 1, 1, 32, 1, 0, 0)
    assert cases.message == ""


@pytest.mark.parametrize("fault", RACES)
@pytest.mark.parametrize("variant", ["cases", "cases_ucontext"])
def test_missing_barrier_gives_wrong_results(load: Callable[[str], Cases], variant: str, fault: str) -> None:
    cases = load(variant)
    for seed in (1, 2, 3):
        cases.set("seed", seed)
        code, result = attempt(cases, fault)
        assert code == OK, cases.message
        assert (result != RIGHT[fault](np.arange(64))).any()


@pytest.mark.parametrize("fault", RACES)
@pytest.mark.parametrize("seed", SEEDS)
def test_race_is_found(load: Callable[[str], Cases], fault: str, seed: int) -> None:
    cases = load("cases_races")
    assert cases.library.edgeconv_simt_finds_races()
    cases.set("seed", seed)
    code, _ = attempt(cases, fault)
    assert code == FAILURE
    assert re.search(RACES[fault], cases.message), cases.message


def test_returned_threads_may_count_at_a_barrier(cases: Cases) -> None:
    cases.set("strict", 0)
    code, result = attempt(cases, "barrier_after_return")
    assert code == OK, cases.message
    np.testing.assert_array_equal(result, np.arange(64) != 63)


# Sanitizers: in another process, because they end it


def sanitized(libraries: Path, program: str) -> subprocess.CompletedProcess[str]:
    start = (
        "import ctypes; import numpy as np; from pathlib import Path; "
        f"library = ctypes.CDLL({str(libraries / 'libcases_address.so')!r}); "
        "address = lambda array: array.ctypes.data_as(ctypes.c_void_p); "
        "values = np.arange(300, dtype=np.float32); result = np.zeros(64, np.float32); "
        "fault = lambda name: library.fault(name, address(values), address(result)); "
    )
    environment = {**address_sanitizer(), "UBSAN_OPTIONS": "print_stacktrace=1"}
    return run(sys.executable, "-c", start + program, **environment)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("global_overrun", "heap-buffer-overflow"),
        ("dynamic_overrun", "use-after-poison"),
        ("unaligned_vector", "misaligned address .* which requires 16 byte alignment"),
    ],
)
def test_sanitizer_reports(libraries: Path, fault: str, message: str) -> None:
    result = sanitized(libraries, f"fault({fault.encode()!r})")
    assert result.returncode != 0
    assert re.search(message, result.stderr), result.stderr[-3000:]
    assert f"{fault}" in result.stderr


def test_sanitizer_has_nothing_against_right_kernels_and_forgotten_fibers(libraries: Path) -> None:
    errors = [name.encode() for name in ERRORS if name != "dynamic_overrun"]
    result = sanitized(
        libraries,
        "half = np.ones((130, 88), np.float16); c = np.zeros((130, 130), np.float32); "
        f"assert all(fault(name) for name in {errors!r} * 3); "
        "assert library.gemm_pipelined(address(half), address(half), address(c), 130, 130, 88) == 0; "
        "assert (c == 88).all(); print('fine')",
    )
    assert result.stdout == "fine\n", result.stderr[-3000:]


def test_failed_kernels_leak_nothing(libraries: Path) -> None:
    program = libraries / "program_address"
    assert output(program, ASAN_OPTIONS="detect_leaks=1") == "the product is right\nthe error is reported\n"
    leaking = run(program, "leak", ASAN_OPTIONS="detect_leaks=1")
    assert leaking.returncode != 0, "the leak sanitizer does not see a leak"
    assert "LeakSanitizer" in leaking.stderr
