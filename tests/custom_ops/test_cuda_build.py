"""What nvcc makes of the kernels: code for every architecture, no spills, a library that needs no driver to load."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from builds import ROOT, fetched

ARCHITECTURES = ("87", "90", "110")
"""Jetson Orin; H100 and H200; Jetson Thor."""
PTX = "80"
"""Of which PTX is kept for what is not among them."""
WITHOUT_KERNELS = {"device_cuda", "kervolution_cuda", "kervolution_cuda_dot"}
"""Sources that plan and launch what others hold."""


@pytest.fixture(scope="session")
def cuda_build(build: Callable[..., Path]) -> Path:
    """A build with nvcc: that of the installation where it has one."""
    installed = ROOT / "build" / "Release"
    cache = installed / "CMakeCache.txt"
    if cache.exists() and "EDGECONV_CUDA_OFF_REASON" not in cache.read_text() and (installed / "cuda").is_dir():
        return installed
    home = os.environ.get("CUDA_HOME")
    if home is None and shutil.which("nvcc") is None:
        os.environ["CUDA_HOME"] = str(fetched("cuda_toolkit.sh", "cuda"))
    return build("cuda", "-DEDGECONV_CUDA=ON", "-DCMAKE_BUILD_TYPE=Release")


@pytest.fixture(scope="session")
def reports(cuda_build: Path) -> dict[str, str]:
    """What ptxas says, by source."""
    found = {path.name.removesuffix(".ptxas.txt"): path.read_text() for path in cuda_build.rglob("*.ptxas.txt")}
    sources = {path.stem for path in (ROOT / "custom_ops").glob("*/*_cuda*.cu")}
    assert set(found) == sources
    return found


def test_every_kernel_is_compiled_for_every_architecture(reports: dict[str, str]) -> None:
    for name, report in reports.items():
        kernels = re.findall(r"Compiling entry function '(\w+)' for 'sm_(\d+)\w?'", report)
        by_kernel: dict[str, set[str]] = {}
        for kernel, architecture in kernels:
            by_kernel.setdefault(kernel, set()).add(architecture)
        assert bool(by_kernel) != (name in WITHOUT_KERNELS), name
        for kernel, architectures in by_kernel.items():
            assert architectures == set(ARCHITECTURES), f"{name}: {kernel}"


def test_nothing_spills(reports: dict[str, str]) -> None:
    """A spilled sum is a store and a load in the inner loop."""
    for name, report in reports.items():
        functions = re.findall(r"Function properties for (\w+)\n\s*(\d+) bytes stack frame, (.+)", report)
        assert bool(functions) != (name in WITHOUT_KERNELS), name
        spills = [
            f"{function}: {stores}" for function, _, stores in functions if not stores.startswith("0 bytes spill")
        ]
        spills = [spill for spill in spills if not spill.endswith("0 bytes spill stores, 0 bytes spill loads")]
        assert not spills, f"{name}: {spills}"


def test_the_library_carries_code_for_every_architecture(cuda_build: Path) -> None:
    cuobjdump = shutil.which("cuobjdump") or next(
        (str(path) for path in Path("/usr/local").glob("cuda*/bin/cuobjdump")), None
    )
    data = (cuda_build / "libedgeconv_ort.so").read_bytes()
    assert b".nv_fatbin" in data
    if cuobjdump is None:
        assert all(f"sm_{architecture}".encode() in data for architecture in ARCHITECTURES)
        return
    listed = subprocess.run(
        [cuobjdump, "--list-elf", "--list-ptx", cuda_build / "libedgeconv_ort.so"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for architecture in ARCHITECTURES:
        assert re.search(rf"sm_{architecture}\w?\.cubin", listed), architecture
    assert re.search(rf"sm_{PTX}\.ptx", listed)


def test_it_loads_without_a_driver(cuda_build: Path) -> None:
    """The static runtime looks for the driver when a kernel is asked for, and says that there is none."""
    from native_kernels import Status

    library = ctypes.CDLL(str(cuda_build / "libedgeconv_ort.so"))
    device, status = (ctypes.c_int64 * 2)(), Status()
    code = library.edgeconv_cuda_device(device, ctypes.byref(status))
    assert (code == 0) == (not status.message)
    needed = subprocess.run(
        ["readelf", "-d", cuda_build / "libedgeconv_ort.so"], capture_output=True, text=True, check=True
    ).stdout
    assert "libcuda" not in needed
