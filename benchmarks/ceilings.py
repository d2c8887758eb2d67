"""This machine's own ceilings, by `ceilings.cc`: rates of each accumulation and read bandwidths."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeconv.bench.environment import read_text
from edgeconv.errors import EdgeconvError, MissingDependencyError

SOURCE = Path(__file__).with_suffix(".cc")
BUILD = SOURCE.parents[1] / "build" / "benchmarks"
FLAGS = ("-O2", "-std=c++17", "-pthread")

QUANTILE = 0.9
"""Of the rounds: a ceiling is what the machine does while nothing else disturbs it, and no single lucky round."""

LEVELS = ("baseline", "avx2", "avx512", "avx512_vnni", "amx")
"""EDGECONV_CPU_ISA's levels in rising order, by the name that they begin with."""

_LEVEL_OF_ISA = {
    "avx2": "avx2",
    "avx_vnni": "avx2",
    "avx512": "avx512",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_vnni",
    "amx": "amx",
}
"""The level that has to be allowed for a form's instructions."""


@dataclass(frozen=True)
class Rate:
    """What was measured of one instruction form, or of one memory level.

    Attributes:
        name: The accumulation, or the level.
        form: The instructions; empty for a level.
        isa: Their instruction set; empty for a level.
        rate: 10^9 elements a second, for a level 10^9 bytes.
        median: The median of the rounds, which shows how quiet the machine was.
        bytes: Size of what was read; 0 for an accumulation.
    """

    name: str
    form: str
    isa: str
    rate: float
    median: float
    bytes: int = 0


@dataclass(frozen=True)
class Ceilings:
    """Ceilings of a number of threads.

    Attributes:
        threads: How many ran at a time, each pinned to a CPU.
        forms: Every instruction form.
        bandwidths: Every memory level.
    """

    threads: int
    forms: tuple[Rate, ...]
    bandwidths: tuple[Rate, ...]

    def best(self, accumulation: str, isa: str | None = None) -> Rate | None:
        """The fastest form of an accumulation, None where none was measured.

        Args:
            accumulation: Such as "dot" or "manhattan u8".
            isa: A level of EDGECONV_CPU_ISA above which nothing counts.
        """
        found = [form for form in self.forms if form.name == accumulation and _allowed(form.isa, isa)]
        return max(found, key=lambda form: form.rate, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def limit(ceilings: Ceilings | None, accumulation: str, isa: str | None = None) -> Rate | None:
    """The ceiling of a kernel's accumulation; the two-bfloat16 split is three products of half precision.

    Args:
        ceilings: What was measured, None where nothing was.
        accumulation: As `Ceilings.best` takes it, or "dot bf16x3".
        isa: As `Ceilings.best` takes it.
    """
    if ceilings is None:
        return None
    if accumulation == "dot bf16x3":
        best = ceilings.best("dot bf16", isa)
        return best and Rate(accumulation, f"{best.form}, three a product", best.isa, best.rate / 3, best.median / 3)
    return ceilings.best(accumulation, isa)


def _allowed(isa: str, level: str | None) -> bool:
    if not level:
        return True
    known = [name for name in LEVELS if level.lower().replace("-", "_").startswith(name)]
    return not known or LEVELS.index(_LEVEL_OF_ISA[isa]) <= LEVELS.index(known[-1])


def measure_ceilings(threads: Sequence[int]) -> dict[int, Ceilings]:
    """Compile the program if it is new, and run it for each number of threads.

    Raises:
        MissingDependencyError: There is no C++ compiler.
        EdgeconvError: Compiling or running fails.
    """
    program = build_program()
    cpus = sorted(os.sched_getaffinity(0))
    return {count: _measure(program, cpus[:count]) for count in threads}


def build_program() -> Path:
    """Compile `ceilings.cc` into build/, unless the same source was compiled by the same compiler before.

    Raises:
        MissingDependencyError: There is no C++ compiler.
        EdgeconvError: The compiler fails.
    """
    command = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    if shutil.which(command[0]) is None:
        raise MissingDependencyError(
            f"The machine's ceilings are measured by a C++ program, and there is no compiler {command[0]!r}.",
            "Install one (apt-get install g++) or set CXX; --no-ceilings leaves the fractions of the limit out.",
        )
    digest = hashlib.sha256(SOURCE.read_bytes() + repr((command, FLAGS)).encode()).hexdigest()[:16]
    program = BUILD / f"ceilings-{digest}"
    if not program.is_file():
        BUILD.mkdir(parents=True, exist_ok=True)
        temporary = program.with_suffix(f".{os.getpid()}")
        try:
            _run([*command, *FLAGS, str(SOURCE), "-o", str(temporary)])
            temporary.replace(program)
        finally:
            temporary.unlink(missing_ok=True)
    return program


def _measure(program: Path, cpus: Sequence[int]) -> Ceilings:
    levels = [f"{name}={size}" for name, size in read_sizes(cache_sizes()).items()]
    return parse(_run([str(program), ",".join(map(str, cpus)), *levels]), len(cpus))


def parse(output: str, threads: int) -> Ceilings:
    """Read what the program prints."""
    forms, bandwidths = [], []
    for result in json.loads(output)["results"]:
        rate, median = (float(np.quantile(result["rates"], q)) for q in (QUANTILE, 0.5))
        if "level" in result:
            bandwidths.append(Rate(result["level"], "", "", rate, median, result["bytes"]))
        else:
            forms.append(Rate(result["accumulation"], result["form"], result["isa"], rate, median))
    return Ceilings(threads, tuple(forms), tuple(bandwidths))


def _run(command: Sequence[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise EdgeconvError(f"{Path(command[0]).name} fails: {lines[0]}", "--no-ceilings leaves the ceilings out.")
    return result.stdout


def cache_sizes(root: Path = Path("/")) -> dict[int, int]:
    """Bytes of the first CPU's data caches by level, of those that the kernel tells."""
    sizes = {}
    for cache in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (read_text(cache / name) or "" for name in ("level", "type", "size"))
        factor = {"K": 2**10, "M": 2**20}.get(size[-1:], 0)
        if level.isdigit() and kind in ("Data", "Unified") and size[:-1].isdigit() and factor:
            sizes[int(level)] = int(size[:-1]) * factor
    return sizes


def read_sizes(caches: Mapping[int, int]) -> dict[str, int]:
    """How much to read to see each level: half a cache, so that nothing else pushes it out; four times the last cache.

    A level that is not much larger than the one before it cannot be seen. DRAM is at most 256 MiB.
    """
    sizes, previous = {}, caches.get(1, 32 * 2**10)
    for level in (2, 3):
        if caches.get(level, 0) >= 4 * previous:
            previous = caches[level]
            sizes[f"L{level}"] = previous // 2
    sizes["DRAM"] = min(max(4 * previous, 64 * 2**20), 256 * 2**20)
    return {name: math.ceil(size / 4096) * 4096 for name, size in sizes.items()}
