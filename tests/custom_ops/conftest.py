from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from native_kernels import Library

from edgeconv.runtime.op_library import op_library

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def library() -> Library:
    """The launch functions of the installed library."""
    return Library(op_library())


def cmake(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run cmake, that of the environment before that of the system."""
    program = shutil.which("cmake", path=str(Path(sys.executable).parent)) or shutil.which("cmake")
    assert program, "cmake is not installed: pip install cmake"
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="session")
def build() -> Callable[..., Path]:
    """Build custom_ops, without CUDA unless the options ask for it, in build/tests/<name>; earlier runs are reused."""

    def run(name: str, *options: str) -> Path:
        directory = ROOT / "build" / "tests" / name
        # One build has found or fetched the headers; the others take them from it.
        cache = ROOT / "build" / "tests" / "native" / "CMakeCache.txt"
        found = (
            [line for line in cache.read_text().splitlines() if "ORT_INCLUDE_DIR:" in line] if cache.exists() else []
        )
        headers = [f"-D{line}" for line in found if "NOTFOUND" not in line]
        for arguments in (("-S", str(ROOT / "custom_ops"), "-B", str(directory), "-DEDGECONV_CUDA=OFF", *headers,
                           *options),
                          ("--build", str(directory), "--parallel", "2")):  # fmt: skip
            result = cmake(*arguments)
            assert result.returncode == 0, result.stdout + result.stderr
        return directory

    return run


@pytest.fixture(scope="session")
def native_build(build: Callable[..., Path]) -> Path:
    """A plain build with its object files."""
    return build("native", "-DCMAKE_BUILD_TYPE=Release")
