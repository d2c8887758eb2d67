from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import builds
import pytest
from builds import ROOT
from native_kernels import Library

from edgeconv.runtime.op_library import op_library


@pytest.fixture(scope="session")
def library() -> Library:
    """The launch functions of the installed library."""
    return Library(op_library())


def cmake(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run cmake."""
    return builds.run(builds.cmake(), *arguments)


@pytest.fixture(scope="session")
def build() -> Callable[..., Path]:
    """Build custom_ops, without CUDA unless the options ask for it, in build/tests/<name>; earlier runs are reused."""

    def run(name: str, *options: str) -> Path:
        with builds.ALONE:
            # One build has found or fetched the headers; the others take them from it.
            cache = builds.TESTS / "native" / "CMakeCache.txt"
            found = (
                [line for line in cache.read_text().splitlines() if "ORT_INCLUDE_DIR:" in line]
                if cache.exists()
                else []
            )
            headers = [f"-D{line}" for line in found if "NOTFOUND" not in line]
            return builds.build(ROOT / "custom_ops", builds.TESTS / name, "-DEDGECONV_CUDA=OFF", *headers, *options)

    return run


@pytest.fixture(scope="session")
def native_build(build: Callable[..., Path]) -> Path:
    """A plain build with its object files."""
    return build("native", "-DCMAKE_BUILD_TYPE=Release")
