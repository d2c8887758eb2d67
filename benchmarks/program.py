"""What the benchmark programs share: options, clocks, the environment stamp, results files."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from edgeconv.bench.environment import Environment, read_environment
from edgeconv.bench.model_file import file_sha256
from edgeconv.files import write_text
from edgeconv.runtime.op_library import op_library
from edgeconv.runtime.ort import PROVIDERS, require_onnxruntime

RESULTS = Path(__file__).parent / "results"
CLOCKS: Mapping[str, Callable[[], int]] = {"process CPU time": time.process_time_ns, "wall": time.perf_counter_ns}

OPENMP = {"GOMP_SPINCOUNT": "30000"}
"""Half a millisecond: PyTorch's threads wait awake between the loops of one inference, but not into another's turn."""


def hold_openmp() -> None:
    """Set `OPENMP` for this process, but for what its caller has set; before torch is imported."""
    os.environ.update({name: value for name, value in OPENMP.items() if name not in os.environ})


def clock_name(threads: int) -> str:
    """Process CPU time for one thread, so that other load on the machine counts less; the wall's for several."""
    return "process CPU time" if threads == 1 else "wall"


def choose(names: str, known: Sequence[str]) -> list[str]:
    """Read a comma-separated option; all that are known where it is empty.

    Raises:
        BadParameter: A name is not known.
    """
    chosen = [name.strip() for name in names.split(",")] if names else list(known)
    if unknown := [name for name in chosen if name not in known]:
        raise typer.BadParameter(f"{', '.join(unknown)}: expected some of {', '.join(known)}")
    return chosen


def choose_or_none(names: str, known: Sequence[str]) -> list[str]:
    """Read a comma-separated option in which "none" chooses nothing.

    Raises:
        BadParameter: A name is not known.
    """
    return [] if names == "none" else choose(names, known)


def thread_counts(text: str) -> list[int]:
    """Read the option --threads; one and two, of the CPUs that there are, where it is empty.

    Raises:
        BadParameter: They are no rising numbers, or more than there are CPUs.
    """
    usable = len(os.sched_getaffinity(0))
    try:
        counts = [int(part) for part in text.split(",")] if text else list(range(1, min(usable, 2) + 1))
    except ValueError:
        raise typer.BadParameter(f"{text}: expected numbers such as 1,2") from None
    if counts != sorted(set(counts)) or counts[0] < 1 or counts[-1] > usable:
        raise typer.BadParameter(f"{text}: expected rising numbers from 1 to {usable}, the CPUs of this process")
    return counts


def stamp(threads: int | None) -> Environment:
    """The environment of a run in ONNX Runtime on the CPU with the op library."""
    onnxruntime = require_onnxruntime()
    return read_environment(
        provider=PROVIDERS["cpu"], available_providers=onnxruntime.get_available_providers(),
        onnxruntime_version=onnxruntime.__version__, threads=threads, op_library_sha256=file_sha256(op_library()),
    )  # fmt: skip


def results_path(benchmark: str, environment: Environment, suffix: str = ".json") -> Path:
    """Where a benchmark's results from this machine's kind of CPU are kept; the directory is made."""
    slug = re.sub(r"[^a-z0-9]+", "-", (environment.cpu_model or environment.architecture).lower()).strip("-")
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{benchmark}-{slug}{suffix}"


def write_results(path: Path, result: Mapping[str, Any]) -> None:
    """Write one JSON object, whole or not at all."""
    write_text(path, json.dumps(result, indent=1) + "\n")
