"""Memory that a model takes, measured in a process of its own.

The process imports ONNX Runtime, makes the inputs, notes its resident set size, then creates the session and runs it.
What is reported is the growth from there to the peak: weights, packed weights, the arena, activations. Memory of the
interpreter and of the runtime's code is the baseline and is reported beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeconv.errors import EdgeconvError

if TYPE_CHECKING:
    from edgeconv.runtime.ort import TensorInfo

RUNS = 5
"""Inferences before the peak is read: the arena has its final size after the second."""


@dataclass(frozen=True)
class MemoryUse:
    """Resident set sizes in bytes.

    Attributes:
        baseline: Before the session is created.
        loaded: After it is created.
        peak: Highest from the creation of the session to the end of the runs.
        method: How the peak was read.
        device: Memory of the GPU that was taken from the creation of the session to the end of the runs, after CUDA's
            own; None on the CPU. What other processes take or give back meanwhile counts, too.
    """

    baseline: int
    loaded: int
    peak: int
    method: str
    device: int | None = None

    @property
    def growth(self) -> int:
        """Peak above the baseline: what the model costs."""
        return self.peak - self.baseline

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "growth": self.growth}


def measure_memory(
    model: str,
    inputs: Sequence[TensorInfo],
    shapes: Mapping[str, Sequence[int]],
    *,
    provider: str,
    threads: int | None,
    op_library: str | None,
    seed: int = 0,
    device: int = 0,
    tf32: bool = False,
    cuda_graph: bool = False,
    trust_engine: bool = False,
    timeout: float = 600.0,
) -> MemoryUse:
    """Measure one model in a fresh Python process.

    Args:
        model: Path of the model, or of the engine.
        inputs: The model's inputs.
        shapes: Shape of every input.
        provider: Provider to run on.
        threads: Threads, None for the default.
        op_library: Path of the op library, None to run without.
        seed: Seed of the inputs.
        device: Number of the GPU.
        tf32: Whether TF32 is permitted.
        cuda_graph: Whether a CUDA graph is captured.
        trust_engine: Whether an engine without a stamp that fits is loaded.
        timeout: Seconds after which the process is ended.

    Raises:
        EdgeconvError: The process failed (killed for lack of memory, for example).
    """
    request = {
        "model": model,
        "inputs": {info.name: (info.type, list(shapes[info.name])) for info in inputs},
        "provider": provider,
        "threads": threads,
        "op_library": op_library if op_library is not None else False,
        "seed": seed,
        "gpu": {"device": device, "tf32": tf32, "cuda_graph": cuda_graph, "trust_engine": trust_engine},
    }
    # The child finds edgeconv where this process did, however that was arranged.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env=environment,
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EdgeconvError(f"the memory of {model} could not be measured: {error}.") from error
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"])[-1]
        raise EdgeconvError(f"the memory of {model} could not be measured: {reason}")
    return MemoryUse(**json.loads(done.stdout.splitlines()[-1]))


def _probe(request: dict[str, Any]) -> MemoryUse:
    from edgeconv.bench.inputs import synthetic_feeds
    from edgeconv.runtime.ort import TensorInfo
    from edgeconv.runtime.session import open_session, runtime_version

    runtime_version(request["provider"])  # which imports it
    inputs = [TensorInfo(name, type_, tuple(shape)) for name, (type_, shape) in request["inputs"].items()]
    feeds = synthetic_feeds(inputs, {info.name: _sizes(info.shape) for info in inputs}, request["seed"])
    free = _free_on_device(request) if request["provider"] != "cpu" else None
    reset = _reset_peak()
    baseline = _resident()
    session = open_session(
        request["model"],
        provider=request["provider"],
        threads=request["threads"],
        op_library=request["op_library"],
        **request["gpu"],
    )
    loaded = _resident()
    run = session.bind(feeds)
    for _ in range(RUNS):
        run()
    peak, method = _peak(reset)
    left = None if free is None else _free_on_device(request)
    device = None if free is None or left is None else max(0, free - left)
    return MemoryUse(baseline, loaded, max(peak, loaded), method, device)


def _free_on_device(request: dict[str, Any]) -> int | None:
    from edgeconv.runtime.gpu import free_memory, select_gpu

    select_gpu(request["gpu"]["device"])
    return free_memory()


def _sizes(shape: Sequence[int | str | None]) -> list[int]:
    return [size for size in shape if isinstance(size, int)]


def _status(field: str) -> int | None:
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def _resident() -> int:
    resident = _status("VmRSS")
    return resident if resident is not None else _getrusage_peak()


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _peak(reset: bool) -> tuple[int, str]:
    peak = _status("VmHWM")
    if peak is None:
        return _getrusage_peak(), "getrusage ru_maxrss"
    return peak, "VmHWM, reset before" if reset else "VmHWM of the whole process"


def _getrusage_peak() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(_probe(json.load(sys.stdin)))))
    except EdgeconvError as error:
        sys.exit(error.message)
