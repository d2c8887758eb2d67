"""Runs a cell of the export matrix, stage by stage, each in a process with limits of time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matrix_cells import SMALL, Cell
from matrix_stages import EXPORT, OPENING, REFERENCE

PROGRAM = Path(__file__).with_name("matrix_stages.py")
PASSED, FAILED, LEFT_OUT = "passed", "failed", "not asked for"
Stages = dict[str, dict[str, Any]]
"""Stage -> what came of it."""

_POLL = 0.1
_REASON = 300


@dataclass(frozen=True)
class Limits:
    """Of one stage.

    Attributes:
        seconds: Time.
        memory_mib: Memory that its process may hold.
        threads: Threads of PyTorch and the runtimes.
    """

    seconds: float
    memory_mib: int
    threads: int = 1


def stages_of(cell: Cell) -> tuple[str, ...]:
    """The stages of a cell: at the paper's resolution the reference evaluator, an interpreter, is left out."""
    return tuple(stage for stage in (EXPORT, *OPENING) if stage != REFERENCE or cell.size == SMALL)


def run_cell(
    cell: Cell,
    limits: Limits,
    tell: Callable[[str], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
    first: Sequence[Any] = (),
) -> Stages:
    """Run every stage of a cell; without the export's file nothing else is tried.

    `first` is what `matrix_prepare.build` tries before all else.

    Returns:
        Stage -> its status, seconds, peak memory (MiB), figures, and the reason where it failed.

    Raises:
        KeyboardInterrupt: `interrupted` said so.
    """
    outcomes: Stages = {}
    with tempfile.TemporaryDirectory(prefix="export_matrix_") as name:
        folder = Path(name)
        (folder / "cell.json").write_text(json.dumps({**cell.to_dict(), "first": list(first)}), encoding="utf-8")
        for stage in stages_of(cell):
            tell(stage)
            outcomes[stage] = run_stage([sys.executable, str(PROGRAM), stage], folder, limits, interrupted)
            if stage == EXPORT and outcomes[stage]["status"] != PASSED:
                break
    return outcomes


def run_stage(
    command: Sequence[str], folder: Path, limits: Limits, interrupted: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Run one stage in a process of its own, and end it where it exceeds a limit.

    Args:
        command: Is given the folder and the number of threads.
        folder: Where the stage leaves `result.json` or `error.txt`.
        limits: What it may take.
        interrupted: Asked while it runs, whether to end it.

    Raises:
        KeyboardInterrupt: `interrupted` said so.
    """
    for left in ("result.json", "error.txt"):
        (folder / left).unlink(missing_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(limits.threads), "OPENBLAS_NUM_THREADS": str(limits.threads)}
    start, reason = time.monotonic(), ""
    with open(folder / "stderr.txt", "wb") as errors:
        process = subprocess.Popen(
            [*command, str(folder), str(limits.threads)], stdout=subprocess.DEVNULL, stderr=errors, env=environment,
            start_new_session=True,
        )  # fmt: skip
    try:
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if interrupted():
                raise KeyboardInterrupt
            if not reason and time.monotonic() - start > limits.seconds:
                reason = f"more than {limits.seconds:g} s"
            elif not reason and _held_mib(process.pid) > limits.memory_mib:
                reason = f"more than {limits.memory_mib} MiB"
            if reason:
                _end(process)
            time.sleep(_POLL)
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        _end(process)
        process.wait()
        raise
    outcome = {
        "status": PASSED,
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
    }
    if not reason and process.returncode == 0:
        return {**outcome, **json.loads((folder / "result.json").read_text(encoding="utf-8"))}
    return {**outcome, "status": FAILED, "reason": reason or _reason(folder, process.returncode)}


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _held_mib(pid: int) -> float:
    """Memory that a process holds; 0 where the system does not say, or the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    line = next((line for line in status.splitlines() if line.startswith("VmRSS:")), "VmRSS: 0")
    return int(line.split()[1]) / 1024


def _reason(folder: Path, code: int) -> str:
    told = folder / "error.txt"
    if told.exists():
        text = told.read_text(encoding="utf-8").strip()
    else:
        last = (folder / "stderr.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        text = ": ".join([ended, *last])
    return " ".join(text.replace(str(folder) + os.sep, "").split())[:_REASON]
