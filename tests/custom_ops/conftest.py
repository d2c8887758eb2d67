from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import builds
import pytest
from builds import ROOT
from native_kernels import Library

from edgeconv.runtime.op_library import FILE_NAME, op_library

INSTALLED_HAS_TILES = "amx" in Library(op_library()).isas


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


@pytest.fixture(scope="session", params=["software tiles", *(["the tiles of this CPU"] if INSTALLED_HAS_TILES else [])])
def tile_library(request: pytest.FixtureRequest, build: Callable[..., Path]) -> str:
    """A library with AMX tiles: those of tests/native/software_tiles.h, and those of the CPU where it has any."""
    if request.param != "software tiles":
        return op_library()
    options = ("-DEDGECONV_SOFTWARE_TILES=ON", "-DCMAKE_BUILD_TYPE=Release")
    built = str(build("software_tiles", *options) / FILE_NAME)
    if "amx" not in Library(built).isas:
        pytest.skip("this CPU has no AVX-512 BF16, with which the tiles' operands are made")
    return built


@pytest.fixture(scope="session")
def native_build(build: Callable[..., Path]) -> Path:
    """A plain build with its object files."""
    return build("native", "-DCMAKE_BUILD_TYPE=Release")
