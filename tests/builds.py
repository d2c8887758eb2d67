"""What tests build and fetch below build/: by one process at a time, and found there by every other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "build" / "tests"

TESTS.mkdir(parents=True, exist_ok=True)
ALONE = FileLock(TESTS / "lock")
"""To be held (`with ALONE:`) while something below build/ is made; a process may take it again while it holds it."""

TIMEOUT = 900


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command and keep what it prints."""
    return subprocess.run(
        [str(part) for part in command], env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=TIMEOUT, check=False,
    )  # fmt: skip


def output(*command: str | Path, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    result = run(*command, **environment)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-6000:]
    return result.stdout


def address_sanitizer() -> dict[str, str]:
    """The environment in which a program that is not instrumented loads a library that is.

    A library with thread-local variables of its own (host execution's) needs room for them beside PyTorch's.
    """
    preload = [output("g++", f"-print-file-name={name}.so").strip() for name in ("libasan", "libstdc++")]
    return {
        "LD_PRELOAD": " ".join(preload),
        "ASAN_OPTIONS": "detect_leaks=0",
        "GLIBC_TUNABLES": "glibc.rtld.optional_static_tls=16384",
    }


def cmake() -> str:
    """CMake, that of the environment before that of the system."""
    program = shutil.which("cmake", path=str(Path(sys.executable).parent)) or shutil.which("cmake")
    assert program, "cmake is not installed: pip install cmake"
    return program


def build(source: Path, directory: Path, *options: str | Path, target: str = "all") -> Path:
    """Configure and build a CMake project; what is up to date stays. Returns the directory."""
    with ALONE:
        output(cmake(), "-S", source, "-B", directory, *options)
        output(cmake(), "--build", directory, "--parallel", "2", "--target", target)
    return directory


def fetched(script: str, directory: str) -> Path:
    """What a script of scripts/ puts below build/, and prints the path of."""
    with ALONE:
        return Path(output(ROOT / "scripts" / script, ROOT / "build" / directory, PYTHON=sys.executable).strip())
