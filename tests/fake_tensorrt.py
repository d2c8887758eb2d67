"""Stand-ins for the `tensorrt` module and the CUDA runtime's bindings, for machines without either.

They keep to the calls that edgeconv makes, record them, and compute: an engine of theirs is the ONNX model that the
parser got, run by ONNX Runtime on "device" memory. Work on a stream waits until somebody synchronises, so that a
missing synchronisation shows as wrong results.
"""

from __future__ import annotations

import ctypes
import enum
import json
import sys
import weakref
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from edgeconv.ops.kervolution import DOMAIN
from edgeconv.ops.registry import OPERATORS
from edgeconv.runtime.ort import OrtSession

MAGIC = b"fake engine\n"


class Error(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNotReady = 600


class FakeCuda(ModuleType):
    """`cuda.bindings.runtime`, for one GPU or none.

    Attributes:
        memory: What is allocated, by address.
        room: Bytes that may be allocated.
        launches: Graphs launched.
    """

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, gpu: str | None = "Fake Orin", capability: tuple[int, int] = (8, 7)) -> None:
        super().__init__("cuda.bindings.runtime")
        self.gpu, self.capability = gpu, capability
        self.memory: dict[int, Any] = {}
        self.room = 1 << 30
        self.launches = 0
        self.clock = 0.0
        self._pending: list[Callable[[], None]] = []
        self._captured: list[Callable[[], None]] | None = None

    def cudaGetDeviceCount(self) -> tuple[Any, Any]:
        return (Error.cudaSuccess, 1) if self.gpu else (Error.cudaErrorInsufficientDriver, None)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, Any]:
        assert self.gpu
        assert device == 0
        major, minor = self.capability
        return Error.cudaSuccess, SimpleNamespace(
            name=self.gpu.encode() + b"\0\0", major=major, minor=minor, multiProcessorCount=16, totalGlobalMem=1 << 33,
            uuid=SimpleNamespace(bytes=b""),
        )  # fmt: skip

    def cudaSetDevice(self, device: int) -> tuple[Any]:
        assert device == 0
        return (Error.cudaSuccess,)

    def cudaDriverGetVersion(self) -> tuple[Any, int]:
        return Error.cudaSuccess, 12060

    def cudaStreamQuery(self, stream: int) -> tuple[Any]:
        return (Error.cudaErrorNotReady if self._pending else Error.cudaSuccess,)

    def cudaGetErrorString(self, error: Any) -> tuple[Any, bytes]:
        texts = {2: b"out of memory", 35: b"CUDA driver version is insufficient for CUDA runtime version"}
        return Error.cudaSuccess, texts.get(int(error), b"no error")

    def cudaMalloc(self, size: int) -> tuple[Any, Any]:
        if size > self.room:
            return Error.cudaErrorMemoryAllocation, None
        self.room -= size
        block = ctypes.create_string_buffer(b"\xff" * size, size)
        self.memory[ctypes.addressof(block)] = block
        return Error.cudaSuccess, ctypes.addressof(block)

    def cudaMemGetInfo(self) -> tuple[Any, int, int]:
        return Error.cudaSuccess, self.room, 1 << 33

    def cudaFree(self, address: int) -> tuple[Any]:
        self.room += len(self.memory.pop(address))
        return (Error.cudaSuccess,)

    cudaMallocHost, cudaFreeHost = cudaMalloc, cudaFree

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, int]:
        assert flags == self.cudaStreamNonBlocking
        return Error.cudaSuccess, 77

    def cudaStreamDestroy(self, stream: int) -> tuple[Any]:
        return (Error.cudaSuccess,)

    def cudaEventCreate(self) -> tuple[Any, Any]:
        return Error.cudaSuccess, SimpleNamespace(time=None)

    def cudaEventDestroy(self, event: Any) -> tuple[Any]:
        return (Error.cudaSuccess,)

    def cudaEventRecord(self, event: Any, stream: int) -> tuple[Any]:
        def record() -> None:
            event.time = self.clock

        return self.put(record, stream)

    def cudaEventSynchronize(self, event: Any) -> tuple[Any]:
        return self.cudaStreamSynchronize(77)

    def cudaEventElapsedTime(self, start: Any, end: Any) -> tuple[Any, float]:
        return Error.cudaSuccess, (end.time - start.time) * 1e3

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any]:
        assert self._captured is None
        pending, self._pending = self._pending, []
        for work in pending:
            work()
        return (Error.cudaSuccess,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[Any]:
        def copy() -> None:
            ctypes.memmove(target, source, size)
            self.clock += 1e-6

        return self.put(copy, stream)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any]:
        self._captured = []
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, Any]:
        captured, self._captured = self._captured, None
        return Error.cudaSuccess, captured

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, Any]:
        return Error.cudaSuccess, list(graph)

    def cudaGraphLaunch(self, instance: Any, stream: int) -> tuple[Any]:
        self.launches += 1
        self._pending.extend(instance)
        return (Error.cudaSuccess,)

    def cudaGraphExecDestroy(self, instance: Any) -> tuple[Any]:
        return (Error.cudaSuccess,)

    cudaGraphDestroy = cudaGraphExecDestroy

    def put(self, work: Callable[[], None], stream: int) -> tuple[Any]:
        assert stream == 77
        (self._pending if self._captured is None else self._captured).append(work)
        return (Error.cudaSuccess,)


class FakeTensorRt(ModuleType):
    """`tensorrt`.

    Args:
        cuda: The GPU that it is on.
        version: Of itself.
        offered: Operators that a plugin library brings.

    Attributes:
        parsed: Models that its parser got.
        configs: Configurations of the builds.
        networks: The networks.
        libraries: Plugin libraries that were loaded.
        failure: What a builder is to fail with.
        refuses: What a parser is to fail with: code, description, node name, operator.
    """

    def __init__(
        self, cuda: FakeCuda, version: str = "10.14.1.48", offered: tuple[str, ...] = tuple(OPERATORS)
    ) -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        self.cuda, self.offered = cuda, offered
        self.parsed: list[onnx.ModelProto] = []
        self.configs: list[Any] = []
        self.networks: list[Any] = []
        self.libraries: list[str] = []
        self.failure = ""
        self.refuses: tuple[str, str, str, str] | None = None
        self.library_failure = ""
        self._living: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        fake = self

        class ILogger:
            def log(self, severity: Any, message: str) -> None:
                raise NotImplementedError

        class IProgressMonitor:
            pass

        class Builder:
            def __init__(self, logger: Any) -> None:
                fake.begin(self, logger)
                self._logger = logger

            def create_network(self, flags: int) -> Any:
                fake.networks.append(_Network(flags))
                return fake.networks[-1]

            def create_builder_config(self) -> Any:
                fake.configs.append(_Config())
                return fake.configs[-1]

            def create_optimization_profile(self) -> Any:
                return _Profile()

            def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
                if fake.failure:
                    self._logger.log(SimpleNamespace(name="ERROR"), fake.failure)
                    return None
                monitor = config.progress_monitor
                monitor.phase_start("Building engine", None, 2)
                for step in range(2):
                    if not monitor.step_complete("Building engine", step):
                        return None
                monitor.phase_finish("Building engine")
                if config.cache is not None:
                    config.cache.content += b"+"
                shapes = config.profiles[0].shapes if config.profiles else {}
                head = json.dumps({"version": fake.__version__, "shapes": shapes}).encode()
                return MAGIC + head + b"\n" + network.model.SerializeToString()

        class OnnxParser:
            def __init__(self, network: Any, logger: Any) -> None:
                self._network, self._errors = network, []

            def parse(self, content: bytes, path: str) -> bool:
                model = onnx.load_from_string(content)
                fake.parsed.append(model)
                self._network.model = model
                names = {tensor.name for tensor in model.graph.initializer}
                self._network.inputs = [value for value in model.graph.input if value.name not in names]
                if fake.refuses:
                    self._errors.append(_ParserError(*fake.refuses))
                for node in model.graph.node:
                    if (
                        node.domain == DOMAIN
                        and fake.get_plugin_registry().get_creator(node.op_type, "1", DOMAIN) is None
                    ):
                        text = 'creator && "Plugin not found, are the plugin name, version, and namespace correct?"'
                        self._errors.append(_ParserError("INVALID_NODE", text, node.name, node.op_type))
                return not self._errors

            @property
            def num_errors(self) -> int:
                return len(self._errors)

            def get_error(self, index: int) -> Any:
                return self._errors[index]

        class Runtime:
            def __init__(self, logger: Any) -> None:
                fake.begin(self, logger)
                self._logger = logger

            def deserialize_cuda_engine(self, content: bytes) -> Any:
                if not content.startswith(MAGIC):
                    self._logger.log(SimpleNamespace(name="ERROR"), "Error Code 1: Serialization (magicTag is wrong)")
                    return None
                head, _, model = content[len(MAGIC) :].partition(b"\n")
                return _Engine(fake, json.loads(head)["shapes"], onnx.load_from_string(model))

        self.ILogger, self.IProgressMonitor = ILogger, IProgressMonitor
        self.Builder, self.OnnxParser, self.Runtime = Builder, OnnxParser, Runtime
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        self.BuilderFlag = SimpleNamespace(TF32="TF32")
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="WORKSPACE")
        self.TensorIOMode = SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT")

    def begin(self, made: Any, logger: Any) -> None:
        """Make a builder or a runtime: while it lives, the plugin registry has its logger."""
        self._living[made] = logger
        if not self.cuda.gpu:
            logger.log(SimpleNamespace(name="ERROR"), "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def nptype(self, kind: Any) -> Any:
        return kind.type

    def get_plugin_registry(self) -> Any:
        return self

    def load_library(self, path: str) -> Any:
        if self.library_failure:
            for logger in self._living.values():  # without one, nobody hears it
                logger.log(SimpleNamespace(name="ERROR"), self.library_failure)
            return None
        self.libraries.append(path)
        return object()

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        known = bool(self.libraries) and name in self.offered and (version, namespace) == ("1", DOMAIN)
        return SimpleNamespace(name=name) if known else None


class _Network:
    def __init__(self, flags: int) -> None:
        self.flags, self.model, self.inputs = flags, None, []

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, index: int) -> Any:
        return SimpleNamespace(name=self.inputs[index].name, is_shape_tensor=False)


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        self.shapes[name] = (low, best, high)


class _Config:
    def __init__(self) -> None:
        self.profiles: list[_Profile] = []
        self.pools: dict[str, int] = {}
        self.flags = {"TF32"}
        self.cache: Any = None
        self.progress_monitor: Any = None

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.pools[pool] = size

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def create_timing_cache(self, content: bytes) -> Any:
        return SimpleNamespace(content=content, serialize=lambda: self.cache.content)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache.content and not cache.content.startswith(b"+"):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache


class _ParserError:
    def __init__(self, code: str, text: str, node: str, operator: str) -> None:
        self._values = {"code": SimpleNamespace(name=code), "desc": text, "node_name": node, "node_operator": operator}

    def __getattr__(self, name: str) -> Any:
        return lambda: self._values[name]


class _Engine:
    def __init__(self, trt: FakeTensorRt, shapes: dict[str, Any], model: onnx.ModelProto) -> None:
        self.trt, self._shapes = trt, shapes
        self.session = OrtSession(model.SerializeToString())
        self._tensors = {"INPUT": self.session.inputs, "OUTPUT": self.session.outputs}
        self._infos = {info.name: info for infos in self._tensors.values() for info in infos}

    @property
    def num_io_tensors(self) -> int:
        return len(self._infos)

    def get_tensor_name(self, index: int) -> str:
        return list(self._infos)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "INPUT" if any(info.name == name for info in self._tensors["INPUT"]) else "OUTPUT"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self._infos[name].shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
        return self._shapes[name]

    def get_tensor_dtype(self, name: str) -> Any:
        return self._infos[name].dtype

    def create_execution_context(self) -> Any:
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        session = self._engine.session
        feeds = {info.name: np.zeros(self._shapes[info.name], info.dtype) for info in session.inputs}
        return session.run(feeds)[name].shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        session = self._engine.session

        def work() -> None:
            feeds = {}
            for info in session.inputs:
                count = int(np.prod(self._shapes[info.name]))
                raw = ctypes.string_at(self._addresses[info.name], count * info.dtype.itemsize)
                feeds[info.name] = np.frombuffer(raw, info.dtype).reshape(self._shapes[info.name])
            for name, value in session.run(feeds).items():
                ctypes.memmove(self._addresses[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)
            self._engine.trt.cuda.clock += 1e-3

        self._engine.trt.cuda.put(work, stream)
        return True


def install(patch: pytest.MonkeyPatch, cuda: FakeCuda | None, trt: FakeTensorRt | None) -> None:
    """Put the stand-ins in the place of the modules; None takes the module away."""
    patch.setitem(sys.modules, "tensorrt", trt)
    package, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
    package.bindings, bindings.runtime = bindings, cuda  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "cuda", package if cuda else None)
    patch.setitem(sys.modules, "cuda.bindings", bindings if cuda else None)
