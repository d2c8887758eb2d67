"""ONNX Runtime on an NVIDIA GPU: the provider's options, a stream, and runs on its memory that the GPU times itself."""

from __future__ import annotations

import contextlib
import ctypes
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeconv.errors import InputError
from edgeconv.runtime.engine_device import DeviceBuffer, Stream, Timer, cuda
from edgeconv.runtime.gpu import GpuInfo, select_gpu

if TYPE_CHECKING:
    from edgeconv.runtime.ort import Array, TensorInfo

TF32_ENTRY = "edgeconv.tf32"
"""Session configuration entry that permits edgeconv's operators TF32; read when the op library is registered."""

_RUNS_BEFORE_REPLAY = 3  # ONNX Runtime captures the second run, or the third
_LAUNCHES_OBSERVED = 5
_WARNING, _FATAL = 2, 4


class CudaContext:
    """What an `OrtSession` has on a GPU.

    Args:
        device: Number of the GPU.
        tf32: Let products of float32 values drop to TF32, in ONNX Runtime's operators and in edgeconv's.
        cuda_graph: Capture a CUDA graph at the first runs on bound memory, and launch that from then on.

    Attributes:
        gpu: The GPU.
        stream: On which everything runs.
    """

    def __init__(self, device: int, *, tf32: bool, cuda_graph: bool) -> None:
        self.device, self.tf32, self.cuda_graph = device, tf32, cuda_graph
        self.gpu: GpuInfo = select_gpu(device)
        self.stream = Stream()

    def provider_options(self) -> dict[str, str]:
        """Options of ONNX Runtime's CUDA provider."""
        return {
            "device_id": str(self.device),
            "use_tf32": str(int(self.tf32)),
            "enable_cuda_graph": str(int(self.cuda_graph)),
            "user_compute_stream": str(self.stream.handle),
        }

    def run_options(self, onnxruntime: Any) -> Any:
        """Options of a run on memory that is not bound: never a part of a graph."""
        options = onnxruntime.RunOptions()
        if self.cuda_graph:
            options.add_run_config_entry("gpu_graph_id", "-1")
        return options

    def bind(
        self,
        onnxruntime: Any,
        session: Any,
        feeds: Mapping[str, Array],
        outputs: Sequence[TensorInfo],
        first: Mapping[str, Array],
        *,
        copies: bool,
    ) -> CudaRun:
        """Place inputs and outputs on the GPU.

        Args:
            onnxruntime: The module.
            session: Its session.
            feeds: The inputs.
            outputs: The outputs.
            first: Outputs of an earlier run, of which the shapes are taken.
            copies: Copy inputs and outputs in every run.

        Raises:
            InputError: An output is no tensor of numbers.
            EdgeconvError: The GPU has no room.
        """
        for info in outputs:
            if info.dtype is None:
                raise InputError(f"output {info.name} is a {info.type}, which cannot be bound on a GPU.")
        run = CudaRun(onnxruntime, session, self, feeds, {info.name: first[info.name] for info in outputs}, copies)
        run.stage(feeds)
        run.prepare(_RUNS_BEFORE_REPLAY if self.cuda_graph else 1)
        return run


class CudaRun:
    """One inference on memory of the GPU; the call returns when the outputs are complete.

    Attributes:
        copies: Whether a call copies the inputs to the GPU and the outputs back, through page-locked memory.
        cuda_graph: Whether a call launches a CUDA graph.
        host_bound: Whether the GPU was always done as soon as ONNX Runtime had returned: it waits itself, or launching
            takes longer than computing. Times on the device then hold waiting for the host.
    """

    def __init__(
        self,
        onnxruntime: Any,
        session: Any,
        context: CudaContext,
        feeds: Mapping[str, Array],
        results: Mapping[str, Array],
        copies: bool,
    ) -> None:
        self.copies, self.cuda_graph, self.host_bound = copies, context.cuda_graph, False
        self._session, self._stream = session, context.stream
        self._binding = session.io_binding()
        self._options = onnxruntime.RunOptions()
        # The stream is waited for here, after the second event.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._inputs = [_Placed(name, array) for name, array in feeds.items()]
        self._outputs = [_Placed(name, array) for name, array in results.items()]
        for placed, bind in (
            *((placed, self._binding.bind_input) for placed in self._inputs),
            *((placed, self._binding.bind_output) for placed in self._outputs),
        ):
            array = placed.array
            bind(placed.name, "cuda", context.device, array.dtype, list(array.shape), placed.device.address)
        self._timer: Timer = self._stream.timer()
        self._timed = False

    def __call__(self) -> None:
        """Run once."""
        self._timer.start()
        if self.copies:
            self._upload()
        self._session.run_with_iobinding(self._binding, self._options)
        if self.copies:
            self._download()
        self._timer.stop()
        self._timed = True
        self._stream.synchronize()

    @property
    def device_seconds(self) -> float | None:
        """Time of the last call on the device, by CUDA events; None before the first."""
        return self._timer.seconds() if self._timed else None

    def results(self) -> dict[str, Array]:
        """Return copies of the last call's outputs."""
        self._download()
        self._stream.synchronize()
        return {placed.name: placed.array.copy() for placed in self._outputs}

    def stage(self, feeds: Mapping[str, Array]) -> None:
        """Write other inputs of the same shapes, onto the GPU, too."""
        for placed in self._inputs:
            placed.array[...] = feeds[placed.name]
        self._upload()
        self._stream.synchronize()

    def prepare(self, runs: int) -> None:
        """Run until everything that happens once has happened."""
        for _ in range(runs):
            self()
        idle = []
        for _ in range(_LAUNCHES_OBSERVED):
            self._session.run_with_iobinding(self._binding, self._options)
            (error,) = cuda().cudaStreamQuery(self._stream.handle)
            idle.append(not int(error))
            self._stream.synchronize()
        self.host_bound = all(idle)

    def _upload(self) -> None:
        for placed in self._inputs:
            self._stream.upload(placed.device, placed.host)

    def _download(self) -> None:
        for placed in self._outputs:
            self._stream.download(placed.host, placed.device)


class _Placed:
    """A tensor on the GPU and in page-locked memory of the host, the latter also as an array."""

    def __init__(self, name: str, array: Array) -> None:
        self.name = name
        self.device = DeviceBuffer(array.nbytes, f"{name} on the GPU")
        self.host = DeviceBuffer(array.nbytes, f"{name} on the host", pinned=True)
        memory: Any = (ctypes.c_char * max(1, array.nbytes)).from_address(self.host.address)
        self.array: Array = np.frombuffer(memory, array.dtype, count=array.size).reshape(array.shape)


@contextlib.contextmanager
def loading_cuda(onnxruntime: Any) -> Iterator[None]:
    """Help ONNX Runtime find CUDA's libraries in Python packages, and keep what it says while it loads them."""
    preload = getattr(onnxruntime, "preload_dlls", None)  # from 1.21 on
    onnxruntime.set_default_logger_severity(_FATAL)
    try:
        if preload is not None:
            with contextlib.redirect_stdout(io.StringIO()):
                preload()
        yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
