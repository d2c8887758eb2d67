"""Memory for an engine's inputs and outputs, and runs on it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeconv.errors import EdgeconvError, InputError
from edgeconv.runtime.engine_device import DeviceBuffer, Stream
from edgeconv.runtime.engine_shapes import text_of
from edgeconv.runtime.ort import Array

if TYPE_CHECKING:
    from edgeconv.runtime.engine_session import EngineSession


_LAUNCHES_OBSERVED = 5


class BoundRun:
    """One inference on fixed memory; the call returns when the outputs are complete.

    Attributes:
        device_seconds: Time of the last call on the device, by CUDA events: the engine's layers, and the copies if it
            makes them.
        copies: Whether a call copies inputs and outputs.
        cuda_graph: Whether a call launches a graph.
        host_bound: Whether the GPU was always done as soon as the launch had returned: launching takes longer than
            computing, and times on the device hold waiting for the host.
    """

    def __init__(self, binding: Binding, stream: Stream, *, copies: bool, cuda_graph: bool) -> None:
        self._binding, self._stream = binding, stream
        self.copies, self.cuda_graph = copies, cuda_graph
        self._launch = stream.capture(self._work) if cuda_graph else self._work
        self._timer = stream.timer()
        self._timed = False
        idle = []
        for _ in range(_LAUNCHES_OBSERVED):
            self._launch()
            idle.append(stream.is_idle())
            stream.synchronize()
        self.host_bound = all(idle)

    def __call__(self) -> None:
        """Run once."""
        self._timer.start()
        self._launch()
        self._timer.stop()
        self._timed = True
        self._stream.synchronize()

    @property
    def device_seconds(self) -> float | None:
        """Time of the last call on the device; None before the first."""
        return self._timer.seconds() if self._timed else None

    def results(self) -> dict[str, Array]:
        """Return copies of the last call's outputs."""
        self._binding.download()
        self._stream.synchronize()
        return self._binding.results()

    def _work(self) -> None:
        if self.copies:
            self._binding.upload()
        self._binding.enqueue()
        if self.copies:
            self._binding.download()


class Binding:
    """An execution context with memory for one set of shapes: page-locked on the host, and on the GPU.

    Every binding has a context to itself, so that none disturbs the shapes, addresses or graph of another.
    """

    def __init__(self, session: EngineSession, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self._session = session
        trt = session.backend.trt
        self._context = context = session.take_context()
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise InputError(f"{session.name} does not take the shape {text_of(shape)} for its input {name}.")
        self._dtypes = {
            info.name: numpy_type(trt, session.engine, info.name) for info in (*session.inputs, *session.outputs)
        }
        self._output_shapes: dict[str, tuple[int, ...]] = {}
        for info in session.outputs:
            shape = tuple(context.get_tensor_shape(info.name))
            if any(size < 0 for size in shape):
                raise EdgeconvError(
                    f"the shape of output {info.name} of {session.name} depends on the input's values, which engines "
                    "here do not give.",
                    "Run the model in ONNX Runtime: --provider cuda.",
                )
            self._output_shapes[info.name] = shape
        self._host: dict[str, tuple[DeviceBuffer, Array]] = {}
        self._device: dict[str, DeviceBuffer] = {}
        for name, shape in (*shapes.items(), *self._output_shapes.items()):
            size = int(np.prod(shape, dtype=np.int64)) * self._dtypes[name].itemsize
            pinned = DeviceBuffer(size, f"{name} of {session.name} on the host", pinned=True)
            self._host[name] = (pinned, _view(pinned, shape, self._dtypes[name]))
            self._device[name] = DeviceBuffer(size, f"{name} of {session.name} on the GPU")
            context.set_tensor_address(name, self._device[name].address)

    def stage(self, feeds: Mapping[str, Array]) -> None:
        """Write the inputs into page-locked memory."""
        for name in self.shapes:
            self._host[name][1][...] = feeds[name]

    def upload(self) -> None:
        """Copy the inputs to the GPU; returns before it is done."""
        for name in self.shapes:
            self._session.stream.upload(self._device[name], self._host[name][0])

    def download(self) -> None:
        """Copy the outputs from the GPU; returns before it is done."""
        for name in self._output_shapes:
            self._session.stream.download(self._host[name][0], self._device[name])

    def enqueue(self) -> None:
        """Put the engine's work on the stream."""
        session = self._session
        session.backend.log.forget()
        if not self._context.execute_async_v3(session.stream.handle):
            raise EdgeconvError(
                f"{session.name} fails while running: {session.backend.log.cause() or 'no reason given'}."
            )

    def results(self) -> dict[str, Array]:
        """Return copies of what was downloaded."""
        return {name: self._host[name][1].copy() for name in self._output_shapes}


def numpy_type(trt: Any, engine: Any, name: str) -> np.dtype[Any]:
    """Return the type of an engine's input or output.

    Raises:
        EdgeconvError: numpy has none.
    """
    kind = engine.get_tensor_dtype(name)
    try:
        found: np.dtype[Any] = np.dtype(trt.nptype(kind))
    except TypeError as error:
        raise EdgeconvError(f"tensor {name} is of type {kind}, for which numpy has none.") from error
    return found


def _view(buffer: DeviceBuffer, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a page-locked buffer as an array; the buffer must outlive it."""
    memory: Any = (ctypes.c_char * max(1, buffer.size)).from_address(buffer.address)
    flat: Array = np.frombuffer(memory, dtype, count=int(np.prod(shape, dtype=np.int64)))
    return flat.reshape(shape)
