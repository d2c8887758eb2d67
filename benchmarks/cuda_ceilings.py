"""A GPU's own ceilings, by `cuda_ceilings.cu`: rates of each accumulation, and the bandwidth of its memory."""

from __future__ import annotations

import ctypes
import os
import shutil
import statistics
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeconv.errors import EdgeconvError, MissingDependencyError

SOURCE = Path(__file__).with_suffix(".cu")
ROOT = SOURCE.parents[1]
BUILD = ROOT / "build" / "benchmarks"

FORMS = (
    "dot float32", "dot tf32", "dot float16", "dot int8", "manhattan float32", "chebyshev float32",
    "manhattan float16", "chebyshev float16", "manhattan uint8",
)  # fmt: skip
"""As `edgeconv_ceiling` numbers them."""
BLOCKS_A_MULTIPROCESSOR = 8
ROUNDS = 15
TURN_SECONDS = 5e-3
READ_BYTES = 1 << 30


@dataclass(frozen=True)
class GpuRate:
    """What was measured of one accumulation, or of the memory.

    Attributes:
        name: One of `FORMS`, or "read".
        rate: 10^9 elements (or bytes) a second: the best of the rounds.
        median: The median of the rounds.
    """

    name: str
    rate: float
    median: float


@dataclass(frozen=True)
class GpuCeilings:
    """Ceilings of one GPU."""

    rates: tuple[GpuRate, ...]

    def of(self, name: str) -> GpuRate:
        """The ceiling of an accumulation."""
        return next(rate for rate in self.rates if rate.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def find_nvcc() -> str:
    """The CUDA compiler: CUDACXX, CUDA_HOME, PATH, /usr/local/cuda.

    Raises:
        MissingDependencyError: There is none.
    """
    home = os.environ.get("CUDA_HOME")
    places = [os.environ.get("CUDACXX"), home and f"{home}/bin/nvcc", shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"]
    found = next((place for place in places if place and Path(place).is_file()), None)
    if found is None:
        raise MissingDependencyError(
            "The GPU's ceilings are measured by a CUDA program, and there is no nvcc.",
            "Set CUDA_HOME; scripts/cuda_toolkit.sh fetches one. --no-ceilings leaves the fractions of the limit out.",
        )
    return found


def build_library(capability: int) -> Path:
    """Compile `cuda_ceilings.cu` for a compute capability (90 for 9.0) into build/.

    Raises:
        MissingDependencyError: There is no nvcc.
        EdgeconvError: It fails.
    """
    library = BUILD / f"cuda_ceilings-{capability}.so"
    newest = max(path.stat().st_mtime for path in (SOURCE, ROOT / "custom_ops" / "common" / "cuda_device.h"))
    if library.is_file() and library.stat().st_mtime > newest:
        return library
    BUILD.mkdir(parents=True, exist_ok=True)
    temporary = library.with_suffix(f".{os.getpid()}.so")
    command = [
        find_nvcc(), "-O3", "-std=c++17", f"-I{ROOT / 'custom_ops'}", "-gencode",
        f"arch=compute_{capability},code=sm_{capability}", "-Xcompiler=-fPIC", "-shared", "-cudart=static",
        str(SOURCE), "-o", str(temporary),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = (result.stderr + result.stdout).strip().splitlines() or [f"exit status {result.returncode}"]
        raise EdgeconvError(f"nvcc fails: {lines[0]}", "--no-ceilings leaves the ceilings out.")
    temporary.replace(library)
    return library


def measure_gpu_ceilings() -> GpuCeilings:
    """Measure the current GPU, each form for some rounds of milliseconds. Imports torch.

    Raises:
        MissingDependencyError: There is no nvcc.
        EdgeconvError: Compiling or running fails.
    """
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    library = ctypes.CDLL(str(build_library(10 * properties.major + properties.minor)))
    blocks = BLOCKS_A_MULTIPROCESSOR * properties.multi_processor_count
    sink = torch.empty(1 << 16, dtype=torch.uint8, device="cuda")
    elements = ctypes.c_double()
    rates = []
    for index, name in enumerate(FORMS):

        def launch(iterations: int, index: int = index) -> float:
            return _timed(
                lambda: library.edgeconv_ceiling(
                    index, blocks, iterations, ctypes.c_void_p(sink.data_ptr()), _stream(), ctypes.byref(elements)
                )
            )

        iterations = 16
        while (seconds := launch(iterations)) < TURN_SECONDS / 4:
            iterations *= 2
        iterations = max(1, int(iterations * TURN_SECONDS / seconds))
        rates.append(_rate(name, [elements_of(launch(iterations), elements) for _ in range(ROUNDS)]))
    data = torch.zeros(READ_BYTES, dtype=torch.uint8, device="cuda")
    pointers = ctypes.c_void_p(data.data_ptr()), ctypes.c_int64(READ_BYTES), ctypes.c_void_p(sink.data_ptr())
    reads = [_timed(lambda: library.edgeconv_read(blocks, *pointers, _stream())) for _ in range(ROUNDS)]
    rates.append(_rate("read", [READ_BYTES / seconds * 1e-9 for seconds in reads]))
    return GpuCeilings(tuple(rates))


def elements_of(seconds: float, elements: ctypes.c_double) -> float:
    """10^9 elements a second."""
    return elements.value / seconds * 1e-9


def _rate(name: str, values: list[float]) -> GpuRate:
    return GpuRate(name, max(values), statistics.median(values))


def _stream() -> ctypes.c_void_p:
    import torch

    return ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)


def _timed(launch: Any) -> float:
    """Seconds of one launch, by CUDA's events."""
    import torch

    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()  # type: ignore[no-untyped-call]
    if code := launch():
        raise EdgeconvError(f"a ceiling's kernel does not run: CUDA error {code}.")
    end.record()  # type: ignore[no-untyped-call]
    end.synchronize()  # type: ignore[no-untyped-call]
    return float(start.elapsed_time(end)) * 1e-3  # type: ignore[no-untyped-call]
