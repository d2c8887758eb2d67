"""The GPU as engines need it: what it is, memory, copies, a stream, events and graphs. Uses cuda-bindings, lazily."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgeconv.errors import EdgeconvError, MissingDependencyError
from edgeconv.runtime.ort import Array

_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: As the driver gives it.
        compute_capability: Such as ``8.7``.
    """

    name: str
    compute_capability: str


def cuda() -> Any:
    """Import the CUDA runtime's Python bindings.

    Raises:
        MissingDependencyError: They are not installed, or do not load.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise MissingDependencyError(
            f"the CUDA runtime's Python bindings cannot be imported: {error}.", "pip install 'cuda-bindings>=12.6'"
        ) from error
    return runtime


def find_gpu() -> Gpu:
    """Identify the GPU of this process (the first one that CUDA_VISIBLE_DEVICES leaves).

    Raises:
        MissingDependencyError: There is no GPU, its driver is missing or too old, or cuda-bindings is not installed.
    """
    runtime = cuda()
    error, count = runtime.cudaGetDeviceCount()
    if int(error) or not count:
        raise MissingDependencyError(
            f"no NVIDIA GPU can be used here: {_explain(runtime, error) if int(error) else 'none is visible'}.",
            "Run this on a machine with an NVIDIA GPU and its driver (nvidia-smi must work); in a container, start it "
            "with --gpus all or --runtime nvidia. For a driver of CUDA 12 (JetPack 6): pip install 'cuda-bindings<13'.",
        )
    error, properties = runtime.cudaGetDeviceProperties(0)
    _check(runtime, error, "asking for the GPU's properties")
    name = properties.name.decode(errors="replace").strip("\0") if properties.name else "NVIDIA GPU"
    return Gpu(name, f"{properties.major}.{properties.minor}")


class DeviceBuffer:
    """Memory on the GPU, or (`pinned`) memory of the host that the GPU reads at full speed.

    Args:
        size: Bytes; at least one is allocated.
        what: What it is for, for messages.
        pinned: On the host.

    Raises:
        EdgeconvError: There is no room.
    """

    def __init__(self, size: int, what: str, *, pinned: bool = False) -> None:
        runtime = cuda()
        self.size = size
        allocate, free = ("cudaMallocHost", "cudaFreeHost") if pinned else ("cudaMalloc", "cudaFree")
        error, address = getattr(runtime, allocate)(max(1, size))
        _check(runtime, error, f"allocating {size / 2**20:.1f} MiB for {what}")
        self.address = int(address)
        self._free = weakref.finalize(self, getattr(runtime, free), self.address)

    def free(self) -> None:
        """Give the memory back now; it also goes with the object."""
        self._free()


class Stream:
    """A CUDA stream: work in order."""

    def __init__(self) -> None:
        self._cuda = cuda()
        flags = self._cuda.cudaStreamNonBlocking
        self._stream = self._call("cudaStreamCreateWithFlags", flags)
        self._free = weakref.finalize(self, self._cuda.cudaStreamDestroy, self._stream)

    @property
    def handle(self) -> int:
        """The stream as TensorRT takes it."""
        return int(self._stream)

    def upload(self, buffer: DeviceBuffer, source: Array | DeviceBuffer) -> None:
        """Copy to the device; returns before it is done."""
        address = source.address if isinstance(source, DeviceBuffer) else source.ctypes.data
        self._copy(buffer.address, address, buffer.size, self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def download(self, target: Array | DeviceBuffer, buffer: DeviceBuffer) -> None:
        """Copy from the device; returns before it is done."""
        address = target.address if isinstance(target, DeviceBuffer) else target.ctypes.data
        self._copy(address, buffer.address, buffer.size, self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def synchronize(self) -> None:
        """Wait until everything is done."""
        self._call("cudaStreamSynchronize", self._stream)

    def is_idle(self) -> bool:
        """Tell whether everything is done, without waiting."""
        (error,) = self._cuda.cudaStreamQuery(self._stream)
        return not int(error)

    def timer(self) -> Timer:
        """Return what measures the device's time on this stream."""
        return Timer(self._cuda, self._stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` puts on the stream as a CUDA graph, and return a call that launches it.

        Raises:
            EdgeconvError: Something in it cannot be captured.
        """
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException:
            self._cuda.cudaStreamEndCapture(self._stream)  # leave the stream usable; the first error is the one to show
            raise
        graph = self._call("cudaStreamEndCapture", self._stream)
        instance = self._call("cudaGraphInstantiate", graph, 0)
        weakref.finalize(self, _release_graph, self._cuda, graph, instance)
        return lambda: self._call("cudaGraphLaunch", instance, self._stream)

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        if size:
            self._call("cudaMemcpyAsync", target, source, size, kind, self._stream)

    def _call(self, function: str, *arguments: Any) -> Any:
        return _call(self._cuda, function, *arguments)


class Timer:
    """Two CUDA events on a stream.

    Args:
        runtime: The CUDA bindings.
        stream: The stream, as they take it.
    """

    def __init__(self, runtime: Any, stream: Any) -> None:
        self._cuda, self._stream = runtime, stream
        self._events = tuple(_call(runtime, "cudaEventCreate") for _ in range(2))
        self._free = weakref.finalize(self, _release_events, runtime, self._events)

    def start(self) -> None:
        """Begin to measure."""
        _call(self._cuda, "cudaEventRecord", self._events[0], self._stream)

    def stop(self) -> None:
        """End."""
        _call(self._cuda, "cudaEventRecord", self._events[1], self._stream)

    def seconds(self) -> float:
        """Time on the device between the two, with a resolution of about half a microsecond; waits for the second."""
        _call(self._cuda, "cudaEventSynchronize", self._events[1])
        return float(_call(self._cuda, "cudaEventElapsedTime", *self._events)) * 1e-3


def _call(runtime: Any, function: str, *arguments: Any) -> Any:
    error, *values = getattr(runtime, function)(*arguments)
    _check(runtime, error, f"calling {function}")
    return values[0] if values else None


def _release_events(runtime: Any, events: tuple[Any, ...]) -> None:
    for event in events:
        runtime.cudaEventDestroy(event)


def _release_graph(runtime: Any, graph: Any, instance: Any) -> None:
    runtime.cudaGraphExecDestroy(instance)
    runtime.cudaGraphDestroy(graph)


def _check(runtime: Any, error: Any, what: str) -> None:
    if not int(error):
        return
    remedy = "Free memory of the GPU, or use smaller shapes." if int(error) == _OUT_OF_MEMORY else ""
    raise EdgeconvError(f"CUDA failed while {what}: {_explain(runtime, error)}.", remedy)


def _explain(runtime: Any, error: Any) -> str:
    _, text = runtime.cudaGetErrorString(error)
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)
