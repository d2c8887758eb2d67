"""Loads an engine and runs it: the interface of `edgeconv.runtime.ort.OrtSession`, for TensorRT and TensorRT-RTX."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgeconv.errors import EdgeconvError, InputError
from edgeconv.runtime.engine_backend import EngineBackend, load_backend
from edgeconv.runtime.engine_binding import Binding, BoundRun, numpy_type
from edgeconv.runtime.engine_device import Stream
from edgeconv.runtime.engine_shapes import text_of
from edgeconv.runtime.engine_stamp import EngineStamp, read_stamp
from edgeconv.runtime.gpu import GpuInfo
from edgeconv.runtime.ort import Array, TensorInfo


class EngineSession:
    """An engine on the GPU.

    Args:
        engine: Path of an engine that `edgeconv build` wrote, with its stamp beside it.
        trust_engine: Load an engine without a stamp, or one whose stamp does not fit. An engine is code for the GPU and
            is read by code that is not made for hostile files: only if you trust its source.
        plugins: Load edgeconv's plugin library, if there is one.
        device: Number of the GPU.
        cuda_graph: Launch what `bind` returns as one CUDA graph.

    Attributes:
        name: The engine's path, for messages.
        inputs: The inputs that a caller has to feed.
        outputs: The outputs.
        metadata: The model's metadata properties.
        provider: ``tensorrt`` or ``tensorrt-rtx``.
        native: Whether edgeconv's plugins are in the engine.
        op_library_path: The loaded plugin library, or None.
        missing_library: Why no plugin library was loaded, where it matters; otherwise empty.
        creation_seconds: Time of loading the library, the engine and its context.
        backend: The library.
        engine: The library's engine.
        stream: Where it runs.
        stamp: What is known of the engine; None for a trusted one without a stamp.
        gpu: The GPU.
        cuda_graph: As asked for.

    Raises:
        InputError: The engine is missing, damaged, without a stamp, or does not fit this machine (the message says in
            which part).
        MissingDependencyError: The library, the CUDA bindings or the GPU is not there.
        EdgeconvError: The GPU has no room for it.
    """

    provider: ClassVar[str]

    def __init__(
        self,
        engine: str | os.PathLike[str],
        *,
        trust_engine: bool = False,
        plugins: bool = True,
        device: int = 0,
        cuda_graph: bool = False,
    ) -> None:
        start = time.perf_counter_ns()
        self.name = os.fspath(engine)
        self.stamp = _stamp(engine, trust_engine)
        self.backend = load_backend(self.provider, plugins=plugins, device=device)
        self.gpu: GpuInfo = self.backend.gpu
        self.cuda_graph = cuda_graph
        if self.stamp is not None and not trust_engine:
            _check_fit(self.name, self.stamp, self.backend)
        self.engine = _deserialize(self.backend, Path(engine))
        self._context: Any = None
        self._context = self.take_context()
        self.stream = Stream()
        self._last: Binding | None = None
        self.creation_seconds = (time.perf_counter_ns() - start) * 1e-9
        stamp = self.stamp
        self.inputs = stamp.inputs if stamp else _tensors(self.backend.trt, self.engine, "INPUT")
        self.outputs = stamp.outputs if stamp else _tensors(self.backend.trt, self.engine, "OUTPUT")
        self.metadata: dict[str, str] = dict(stamp.metadata) if stamp else {}
        self.native = stamp is not None and stamp.key.plugins_sha256 is not None
        path = self.backend.plugins
        self.op_library_path = None if path is None else str(path)
        self.missing_library = self.backend.missing_plugins if self.native else ""

    def take_context(self) -> Any:
        """Return an execution context that nobody else uses.

        Raises:
            EdgeconvError: The GPU has no room for it.
        """
        context, self._context = self._context, None
        if context is None:
            self.backend.log.forget()
            context = self.engine.create_execution_context()
        if context is None:
            raise EdgeconvError(
                f"{self.backend.title} cannot prepare {self.name} to run: "
                f"{self.backend.log.cause() or 'it does not say why'}.",
                "Free memory of the GPU, or build with smaller --max-shapes.",
            )
        return context

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model once.

        Args:
            feeds: An array for every input, by name, of the input's type and of a shape that the engine takes.

        Returns:
            The outputs by name.

        Raises:
            InputError: An input is missing, unknown, or of another type, or of a shape that the engine does not take.
            EdgeconvError: The run failed, or the GPU has no room.
        """
        binding = self._binding(feeds)
        binding.stage(feeds)
        binding.upload()
        binding.enqueue()
        binding.download()
        self.stream.synchronize()
        return binding.results()

    def bind(self, feeds: Mapping[str, Array], *, copies: bool = False) -> BoundRun:
        """Place the inputs and the output buffers on the GPU once, and return a call that runs the model on them.

        The returned `BoundRun` also measures the time on the device. The model is run once here, so that what is built
        at the first run is built.

        Args:
            feeds: As for `run`.
            copies: Copy the inputs to the GPU and the outputs back in every call, through page-locked memory.

        Raises:
            InputError, EdgeconvError: As for `run`; or something in the engine cannot be captured as a graph.
        """
        binding = self._binding(feeds)
        binding.stage(feeds)
        binding.upload()
        binding.enqueue()
        self.stream.synchronize()
        self._last = None  # the next `run` must not change what is bound
        return BoundRun(binding, self.stream, copies=copies, cuda_graph=self.cuda_graph)

    def profile_events(self) -> list[dict[str, Any]]:
        """Engines record no profile yet."""
        raise EdgeconvError("an engine's layers cannot be profiled yet.", "Leave --profile out.")

    def _binding(self, feeds: Mapping[str, Array]) -> Binding:
        shapes = self._check(feeds)
        if self._last is None or self._last.shapes != shapes:
            self._last = None  # its memory goes before new memory is taken
            self._last = Binding(self, shapes)
        return self._last

    def _check(self, feeds: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
        names = [info.name for info in self.inputs]
        if set(feeds) != set(names):
            raise InputError(f"{self.name} has the inputs {', '.join(names)}; got {', '.join(feeds) or 'none'}.")
        for info in self.inputs:
            array = feeds[info.name]
            if info.dtype is not None and array.dtype != info.dtype:
                raise InputError(f"input {info.name} of {self.name} takes {info.dtype}, got {array.dtype}.")
            low, high = self._range(info.name)
            if len(low) != array.ndim or not all(a <= b <= c for a, b, c in zip(low, array.shape, high, strict=True)):
                taken = text_of(low) if low == high else f"{text_of(low)} to {text_of(high)}"
                raise InputError(
                    f"input {info.name} of {self.name} takes {taken}, got {text_of(array.shape)}.",
                    "" if all(isinstance(size, int) for size in info.shape) else "Build it anew with --max-shapes.",
                )
        return {name: feeds[name].shape for name in names}

    def _range(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the least and the largest shape that the engine takes."""
        fixed = tuple(self.engine.get_tensor_shape(name))
        if all(size >= 0 for size in fixed):
            return fixed, fixed
        low, _, high = (tuple(shape) for shape in self.engine.get_tensor_profile_shape(name, 0))
        return low, high


def _stamp(engine: str | os.PathLike[str], trusted: bool) -> EngineStamp | None:
    stamp = read_stamp(engine, trusted=trusted)
    if stamp is None and not trusted:
        raise InputError(
            f"{os.fspath(engine)} has no stamp ({Path(engine).name}.json): nothing says what it was built from, by "
            "what and for what.",
            "An engine is code. Build it here (edgeconv build MODEL.onnx), or say that you trust it: --trust-engine.",
        )
    return stamp


def _check_fit(name: str, stamp: EngineStamp, backend: EngineBackend) -> None:
    found = stamp.key.machine_differences(backend.machine(stamp.key))
    if found:
        raise InputError(
            f"{name} is stale: {'; '.join(found)}.",
            f"Build it again: edgeconv build {stamp.model} --provider {backend.provider}.",
        )


def _deserialize(backend: EngineBackend, path: Path) -> Any:
    runtime = backend.runtime
    backend.log.forget()
    try:
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from error
    if engine is None:
        raise InputError(
            f"{backend.title} {backend.version} cannot load {path}: {backend.log.cause() or 'it does not say why'}.",
            "Build it again on this machine: edgeconv build MODEL.onnx.",
        )
    return engine


def _tensors(trt: Any, engine: Any, mode: str) -> tuple[TensorInfo, ...]:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    chosen = [name for name in names if engine.get_tensor_mode(name) == getattr(trt.TensorIOMode, mode)]
    return tuple(
        TensorInfo(
            name,
            f"tensor({_onnx_type(numpy_type(trt, engine, name))})",
            tuple(None if size < 0 else int(size) for size in engine.get_tensor_shape(name)),
        )
        for name in chosen
    )


def _onnx_type(dtype: np.dtype[Any]) -> str:
    return {"float32": "float", "float64": "double"}.get(str(dtype.name), str(dtype.name))
