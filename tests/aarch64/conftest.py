"""The op library for 64-bit Arm, a runner of models, and an emulator of processors that runs both."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from builds import ROOT, TESTS, build, fetched, output, run

from edgeconv.runtime.op_library import FILE_NAME

from .jobs import Array, Job

BUILD = TESTS / "aarch64"
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"


@pytest.fixture(scope="session")
def tools() -> None:
    """Skip where there is no cross compiler or no emulator."""
    missing = [name for name in (COMPILER, EMULATOR) if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)}: apt-get install g++-aarch64-linux-gnu qemu-user-static")


@pytest.fixture(scope="session")
def library(tools: None) -> Path:
    """The op library, built by the toolchain file; its objects lie beside it."""
    # Another build has found or fetched the headers already.
    caches = [ROOT / "build" / name / "CMakeCache.txt" for name in ("Release", "tests/native")]
    lines = [line for cache in caches if cache.exists() for line in cache.read_text().splitlines()]
    headers = [f"-D{line}" for line in lines if line.startswith("EDGECONV_ORT_INCLUDE_DIR:") and "NOTFOUND" not in line]
    options = [
        "-DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake",
        "-DCMAKE_CXX_FLAGS=-Werror",
        "-DEDGECONV_CUDA=OFF",
        *headers[:1],
    ]
    return build(ROOT / "custom_ops", BUILD, *options) / FILE_NAME


@dataclass(frozen=True)
class Machine:
    """An emulated machine with ONNX Runtime."""

    directory: Path
    runner: Path
    library: Path

    def run(
        self, jobs: Sequence[Job], where: Path, cpu: str, *, native: bool = True, isa: str = ""
    ) -> tuple[str, list[Array | str]]:
        """Run jobs in one process.

        Args:
            jobs: What to run.
            where: An empty directory for models and tensors.
            cpu: A processor, as the emulator names it.
            native: Whether the op library is registered; otherwise the function bodies run.
            isa: The value of EDGECONV_CPU_ISA.

        Returns:
            The instruction set that the library has chosen, and for each job its output, or the error's message.
        """
        directories = [where / str(index) for index in range(len(jobs))]
        for job, directory in zip(jobs, directories, strict=True):
            directory.mkdir()
            (directory / "model.onnx").write_bytes(job.model.SerializeToString())
            for name, value in job.feeds.items():
                (directory / f"{name}.bin").write_bytes(np.ascontiguousarray(value).tobytes())
        (where / "list").write_text("".join(f"{directory}\n" for directory in directories))
        arguments = [self.runner, where / "list", *([self.library] if native else [])]
        environment = {
            "QEMU_LD_PREFIX": str(self.directory / "sysroot"),
            "QEMU_SET_ENV": f"LD_LIBRARY_PATH={self.directory / 'lib'}",
            "EDGECONV_CPU_ISA": isa,
        }
        result = run(EMULATOR, "-cpu", cpu, *arguments, **environment)
        lines = result.stdout.splitlines()
        chosen = lines.pop(0).removeprefix("isa ") if native and lines else ""
        assert result.returncode in (0, 1), f"status {result.returncode}: {result.stdout[-500:]}{result.stderr}"
        assert len(lines) == len(jobs), f"{len(lines)} results of {len(jobs)} jobs on {cpu}: {result.stderr}"
        outputs: list[Array | str] = []
        for job, directory, line in zip(jobs, directories, lines, strict=True):
            if line == "ok":
                (name,) = [entry.name for entry in job.model.graph.output]
                outputs.append(np.frombuffer((directory / f"{name}.out").read_bytes(), job.dtype))
            else:
                outputs.append(line)
        return chosen, outputs


@pytest.fixture(scope="session")
def machine(library: Path) -> Machine:
    """The emulator, the runner and ONNX Runtime for aarch64, made under build/."""
    directory = fetched("aarch64_env.sh", "aarch64")
    cache = (BUILD / "CMakeCache.txt").read_text().splitlines()
    headers = next(line.split("=", 1)[1] for line in cache if line.startswith("EDGECONV_ORT_INCLUDE_DIR:"))
    runner = BUILD / "runner"
    output(
        COMPILER, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-isystem", headers,
        Path(__file__).with_name("runner.cc"), "-o", runner, directory / "lib" / "libonnxruntime.so.1", "-ldl",
    )  # fmt: skip
    return Machine(directory, runner, library)
