"""CUDA's compiler and headers, and the kernels of tests/native/simt with host execution."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builds import TESTS, build, fetched, run

SOURCES = Path(__file__).with_name("simt")
VARIANTS = ("cases", "cases_races", "cases_address", "cases_ucontext")
SEEDS = (0, 1, 2, 3)
"""Orders of threads: as they are numbered, and three others."""


class Cases:
    """A library of kernels, called with NumPy arrays and integers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = ctypes.CDLL(str(path))
        self.library.edgeconv_simt_last_error.restype = ctypes.c_char_p
        self.library.edgeconv_simt_set_seed.argtypes = [ctypes.c_uint64]

    @property
    def message(self) -> str:
        """The sentence of the latest error."""
        message: bytes = self.library.edgeconv_simt_last_error()
        return message.decode()

    def attempt(self, function: str, *arguments: Any) -> int:
        """Call a launch function, and return its cudaError_t."""
        values = [
            value.ctypes.data_as(ctypes.c_void_p) if isinstance(value, np.ndarray) else value for value in arguments
        ]
        code: int = getattr(self.library, function)(*values)
        return code

    def call(self, function: str, *arguments: Any) -> None:
        """Call a launch function that must succeed."""
        assert self.attempt(function, *arguments) == 0, self.message

    def set(self, setting: str, value: int) -> None:
        """Change a setting: seed, threads, strict, device."""
        getattr(self.library, f"edgeconv_simt_set_{setting}")(value)


@pytest.fixture(scope="session")
def cuda_home() -> Path:
    """A CUDA toolkit: of CUDA_HOME, of the nvcc on the path, or NVIDIA's wheels below build/."""
    home = os.environ.get("CUDA_HOME")
    if home:
        return Path(home)
    compiler = shutil.which("nvcc")
    if compiler:
        # The program may be a script beside the toolkit; it knows where that is.
        lines = run(compiler, "--dryrun", "-c", "-x", "cu", os.devnull, "-o", os.devnull).stderr.splitlines()
        tops = [Path(line.split("=", 1)[1].strip()) for line in lines if line.startswith("#$ TOP=")]
        if tops and (tops[0] / "include" / "cuda_runtime.h").exists():
            return tops[0].resolve()
    return fetched("cuda_toolkit.sh", "cuda")


@pytest.fixture(scope="session")
def libraries(cuda_home: Path) -> Path:
    """The directory of libcases*.so, built with warnings as errors."""
    return build(SOURCES, TESTS / "simt", f"-DEDGECONV_CUDA_INCLUDE={cuda_home / 'include'}")


@pytest.fixture(scope="session")
def load(libraries: Path) -> Callable[[str], Cases]:
    """Load one of VARIANTS, once."""
    loaded: dict[str, Cases] = {}

    def get(variant: str) -> Cases:
        if variant not in loaded:
            loaded[variant] = Cases(libraries / f"lib{variant}.so")
        return loaded[variant]

    return get


@pytest.fixture(params=[name for name in VARIANTS if name != "cases_address"])
def cases(request: pytest.FixtureRequest, load: Callable[[str], Cases]) -> Cases:
    """Each variant that runs in this process, with the settings that it starts with."""
    library = load(request.param)
    for setting, value in (("seed", 1), ("threads", 2), ("strict", 1), ("device", 87)):
        library.set(setting, value)
    return library
