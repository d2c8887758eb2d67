"""A GPU that is none: what Python code asks of CUDA's bindings and of ONNX Runtime's CUDA provider, played on the CPU.

Device memory is the host's, the stream is empty as soon as it is asked, and ONNX Runtime's sessions run on the CPU and
say otherwise. So everything but kernels and figures is tested without a GPU.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

UUID = bytes(range(16))
UUID_TEXT = "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"
NOT_READY = 600


class FakeRuntime(types.ModuleType):
    """The functions of cuda.bindings.runtime that edgeconv calls; each gives an error number and values."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self, names: Sequence[str] = ("NVIDIA Fake",), error: int = 0) -> None:
        super().__init__("cuda.bindings.runtime")
        self.names, self.error = names, error
        self.device = 0
        self.busy = False  # what cudaStreamQuery says
        self.copied = 0
        self.free = 2**33
        self._memory: dict[int, Any] = {}
        self._next = 1000

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return self.error, 0 if self.error else len(self.names)

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:
        texts = {100: b"no CUDA-capable device is detected", 35: b"CUDA driver version is insufficient"}
        return 0, texts.get(error, b"something else")

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:
        uuid = types.SimpleNamespace(bytes=UUID)
        return 0, types.SimpleNamespace(
            name=self.names[device].encode(), major=8, minor=7, multiProcessorCount=16, totalGlobalMem=2**34, uuid=uuid
        )

    def cudaDriverGetVersion(self) -> tuple[int, int]:
        return 0, 12060

    def cudaSetDevice(self, device: int) -> tuple[int]:
        self.device = device
        return (0,)

    def cudaMemGetInfo(self) -> tuple[int, int, int]:
        self.free -= 2**20  # as if a model had been loaded since the last time
        return 0, self.free, 2**34

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        # Aligned as a GPU's memory is.
        memory = np.empty(size + 256, np.uint8)
        address = -(-memory.ctypes.data // 256) * 256
        self._memory[address] = memory
        return 0, address

    cudaMallocHost = cudaMalloc

    def cudaFree(self, address: int) -> tuple[int]:
        del self._memory[address]
        return (0,)

    cudaFreeHost = cudaFree

    def cudaMemcpyAsync(self, target: int, source: int, size: int, _kind: int, _stream: int) -> tuple[int]:
        ctypes.memmove(target, source, size)
        self.copied += size
        return (0,)

    def cudaStreamCreateWithFlags(self, _flags: int) -> tuple[int, int]:
        self._next += 1
        return 0, self._next

    def cudaStreamSynchronize(self, _stream: int) -> tuple[int]:
        return (0,)

    cudaStreamDestroy = cudaStreamSynchronize
    cudaEventDestroy = cudaStreamSynchronize
    cudaEventSynchronize = cudaStreamSynchronize

    def cudaStreamQuery(self, _stream: int) -> tuple[int]:
        return (NOT_READY if self.busy else 0,)

    def cudaEventCreate(self) -> tuple[int, list[float]]:
        return 0, []

    def cudaEventRecord(self, event: list[float], _stream: int) -> tuple[int]:
        event[:] = [time.perf_counter()]
        return (0,)

    def cudaEventElapsedTime(self, start: list[float], stop: list[float]) -> tuple[int, float]:
        return 0, (stop[0] - start[0]) * 1e3


@dataclass
class FakeGpu:
    """What the fakes do, and what was asked of them.

    Attributes:
        runtime: CUDA's bindings.
        cpu_operators: Operator types that the "CUDA provider" has no kernel for.
        loads: Whether the CUDA provider's library loads.
        creation_error: What making a session fails with, if not empty.
        sessions: Provider options of the sessions made, and the session configuration entries.
        run_entries: Configuration entries of the runs made.
    """

    runtime: FakeRuntime
    cpu_operators: tuple[str, ...] = ()
    loads: bool = True
    creation_error: str = ""
    sessions: list[dict[str, str]] = field(default_factory=list)
    run_entries: list[dict[str, str]] = field(default_factory=list)


def install(monkeypatch: pytest.MonkeyPatch, runtime: FakeRuntime | None = None) -> FakeGpu:
    """Put the fakes in the place of CUDA's bindings and of ONNX Runtime's sessions."""
    gpu = FakeGpu(runtime or FakeRuntime())
    bindings = types.ModuleType("cuda.bindings")
    bindings.runtime = gpu.runtime  # type: ignore[attr-defined]
    for name, module in (("cuda", types.ModuleType("cuda")), ("cuda.bindings", bindings)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", gpu.runtime)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("chatter"), raising=False)
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: _Session(gpu, real, *a, **k))
    options = onnxruntime.RunOptions
    monkeypatch.setattr(onnxruntime, "RunOptions", lambda: _RunOptions(options()))
    return gpu


class _RunOptions:
    def __init__(self, real: Any) -> None:
        self.real, self.entries = real, dict[str, str]()

    def add_run_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


class _Session:
    def __init__(
        self,
        gpu: FakeGpu,
        real: Callable[..., Any],
        source: Any,
        options: Any,
        providers: Any,
        enable_fallback: int = 1,
    ) -> None:
        self._gpu, self._cuda = gpu, isinstance(providers[0], tuple)
        if self._cuda:
            assert enable_fallback == 0
            assert [name for name, _ in providers[:1]] + providers[1:] == [
                "CUDAExecutionProvider",
                "CPUExecutionProvider",
            ]
            if gpu.creation_error:
                raise RuntimeError(gpu.creation_error)
            gpu.sessions.append(dict(providers[0][1]))
        self._real = real(source, options, providers=["CPUExecutionProvider"])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_providers(self) -> list[str]:
        return (["CUDAExecutionProvider"] if self._cuda and self._gpu.loads else []) + ["CPUExecutionProvider"]

    def run(self, names: Any, feeds: Any, options: Any = None) -> Any:
        if options is not None:
            self._gpu.run_entries.append(options.entries)
        return self._real.run(names, feeds)

    def io_binding(self) -> _Binding:
        return _Binding(self._real.io_binding())

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        if options is not None:
            self._gpu.run_entries.append(options.entries)
        self._real.run_with_iobinding(getattr(binding, "real", binding))

    def end_profiling(self) -> str:
        path = str(self._real.end_profiling())
        if self._cuda:
            events = json.loads(Path(path).read_text())
            for event in events:
                arguments = event.get("args", {})
                if "provider" in arguments and arguments.get("op_name") not in self._gpu.cpu_operators:
                    arguments["provider"] = "CUDAExecutionProvider"
            Path(path).write_text(json.dumps(events))
        return path


class _Binding:
    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def bind_input(self, name: str, place: str, _device: int, kind: Any, shape: list[int], address: int) -> None:
        assert place == "cuda"
        self.real.bind_input(name, "cpu", 0, kind, shape, address)

    def bind_output(self, name: str, place: str, _device: int, kind: Any, shape: list[int], address: int) -> None:
        assert place == "cuda"
        self.real.bind_output(name, "cpu", 0, kind, shape, address)
