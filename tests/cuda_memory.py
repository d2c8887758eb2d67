"""Where the CUDA kernels' tests run: on the host, from the host-executed build, or on a GPU. Memory for both.

A `Place` has a library of launch functions and memory that they can read. `places()` gives the host's always, and the
GPU's where torch has one and EDGECONV_CUDA_LIBRARY names an op library built with CUDA (`make test-gpu` sets it).
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import builds
import numpy as np
import numpy.typing as npt
from builds import ROOT, TESTS

Array = npt.NDArray[Any]
BUILD = TESTS / "simt"
ALIGNMENT = 256
"""Of device memory."""


class Device(ctypes.Structure):
    """EdgeconvCudaDevice."""

    _fields_ = [
        ("compute_capability", ctypes.c_int32),
        ("multiprocessors", ctypes.c_int32),
        ("shared_bytes", ctypes.c_int64),
    ]


class Format(ctypes.Structure):
    """EdgeconvCudaFormat."""

    _fields_ = [
        ("layout", ctypes.c_int32),
        ("math", ctypes.c_int32),
        ("x_channel_pitch", ctypes.c_int64),
        ("y_channel_pitch", ctypes.c_int64),
    ]


LAYOUTS = ("nchw", "nhwc")
MATHS = ("float32", "tf32")
DEVICES = {87: Device(87, 16, 163 << 10), 90: Device(90, 132, 227 << 10), 110: Device(110, 20, 227 << 10)}
"""Jetson Orin, H100 and H200, Jetson Thor: what tiles are chosen for, wherever the test runs."""


class Buffer(Protocol):
    """Memory that kernels can use."""

    @property
    def address(self) -> int:
        """Where it begins; 0 if it has no bytes."""
        ...

    def read(self, dtype: npt.DTypeLike, shape: Sequence[int]) -> Array:
        """What is in it now."""
        ...


class HostBuffer:
    """Just as many bytes as asked for, so that a sanitizer sees one too many, aligned as a device's are."""

    def __init__(self, data: bytes) -> None:
        self._size, self._pointer = len(data), ctypes.c_void_p()
        if ctypes.CDLL(None).posix_memalign(
            ctypes.byref(self._pointer), ctypes.c_size_t(ALIGNMENT), ctypes.c_size_t(max(1, len(data)))
        ):
            raise MemoryError
        ctypes.memmove(self._pointer, data, len(data))

    def __del__(self) -> None:
        ctypes.CDLL(None).free(self._pointer)

    @property
    def address(self) -> int:
        return (self._pointer.value or 0) if self._size else 0

    def read(self, dtype: npt.DTypeLike, shape: Sequence[int]) -> Array:
        return np.frombuffer(ctypes.string_at(self._pointer, self._size), dtype).reshape(shape).copy()


class GpuBuffer:
    """A torch tensor of bytes."""

    def __init__(self, data: bytes) -> None:
        import torch

        self._tensor = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8).cuda()
        self._size = len(data)

    @property
    def address(self) -> int:
        return self._tensor.data_ptr() if self._size else 0

    def read(self, dtype: npt.DTypeLike, shape: Sequence[int]) -> Array:
        import torch

        torch.cuda.synchronize()
        return np.frombuffer(self._tensor.cpu().numpy().tobytes()[: self._size], dtype).reshape(shape).copy()


@dataclass(frozen=True)
class Place:
    """Where launch functions run.

    Attributes:
        name: "host" or the GPU's name.
        path: Of the library.
        devices: What to plan for: on the host every kind that matters, on a GPU itself.
    """

    name: str
    path: str
    devices: tuple[Device, ...]

    @property
    def c(self) -> ctypes.CDLL:
        """The library."""
        return ctypes.CDLL(self.path)

    @property
    def is_host(self) -> bool:
        """Whether kernels are executed on the host."""
        return self.name == "host"

    def upload(self, array: Array) -> Buffer:
        """A copy of an array."""
        data = np.ascontiguousarray(array).tobytes()
        return HostBuffer(data) if self.is_host else GpuBuffer(data)

    def empty(self, size: int) -> Buffer:
        """So many bytes, each 0xFF: as floats not a number."""
        return HostBuffer(b"\xff" * size) if self.is_host else GpuBuffer(b"\xff" * size)


def nhwc(x: Array, pitch: int, fill: float = 0) -> Array:
    """(N, C, H, W) as pixels of `pitch` channels, those beyond C holding `fill`."""
    padded = np.full((x.shape[0], *x.shape[2:], pitch), fill, x.dtype)
    padded[..., : x.shape[1]] = np.moveaxis(x, 1, 3)
    return padded


@lru_cache
def simt_library(sanitize: str = "") -> str:
    """The op library whose CUDA kernels are executed on the host: EDGECONV_SIMT_LIBRARY, or built here.

    Args:
        sanitize: "address", or nothing. With it the library is that of all tests of memory, those of the CPU's kernels,
            too: AMX tiles are in software, so that their code is instrumented.
    """
    if not sanitize and (found := os.environ.get("EDGECONV_SIMT_LIBRARY")):
        return found
    tiles = "ON" if sanitize else "OFF"
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DEDGECONV_SIMT=ON"]
    options += [f"-DEDGECONV_SANITIZE={sanitize}", f"-DEDGECONV_SOFTWARE_TILES={tiles}"]
    return str(builds.build(ROOT / "custom_ops", BUILD / (sanitize or "plain"), *options) / "libedgeconv_ort.so")


@lru_cache
def places() -> tuple[Place, ...]:
    """The host; and the GPU, if there is one."""
    found = [Place("host", simt_library(), tuple(DEVICES.values()))]
    if (path := os.environ.get("EDGECONV_CUDA_LIBRARY")) and (gpu := _gpu(path)):
        found.append(gpu)
    return tuple(found)


def _gpu(path: str) -> Place | None:
    import torch

    if not torch.cuda.is_available():
        return None
    from native_kernels import Status

    device, status = Device(), Status()
    code = ctypes.CDLL(path).edgeconv_cuda_device(ctypes.byref(device), ctypes.byref(status))
    assert code == 0, status.message.decode()
    return Place(torch.cuda.get_device_name(), path, (device,))


def sweep_elsewhere(test: str, library: str, **environment: str) -> None:
    """Run `sweep()` of a test's module in a process of its own, with that library and environment."""
    tests = Path(__file__).resolve().parent
    result = subprocess.run(
        [sys.executable, "-c", f"import {Path(test).stem} as tests; tests.sweep()"],
        capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests / "native")]),
             "EDGECONV_SIMT_LIBRARY": library, **environment},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-4000:]


def sweep_under_address_sanitizer(test: str) -> None:
    """The same with a library in which every access is checked: buffers are as large as they are said to be."""
    sweep_elsewhere(test, simt_library("address"), **builds.address_sanitizer())
