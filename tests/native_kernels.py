"""The C launch functions of the op library, called with nothing but memory, and the loop they are compared with."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import oracles

KERNELS = ("polynomial", "gaussian", "sigmoid", "euclidean", "manhattan", "chebyshev")
ALGORITHMS = ("direct", "winograd", "depthwise", "bf16x3")
PRECISIONS = ("float32", "bf16x3")
ISAS = ("baseline", "avx2", "avx512", "avx512_vnni", "amx")
Array = npt.NDArray[np.floating]


class Status(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("message", ctypes.c_char * 508)]


class Attributes(ctypes.Structure):
    _fields_ = [
        ("kernel_shape", ctypes.c_int64 * 2),
        ("strides", ctypes.c_int64 * 2),
        ("pads", ctypes.c_int64 * 4),
        ("dilations", ctypes.c_int64 * 2),
        ("group", ctypes.c_int64),
    ]


class Shape(ctypes.Structure):
    _fields_ = [(f"value{index}", ctypes.c_int64) for index in range(16)]


class Params(ctypes.Structure):
    _fields_ = [
        ("shape", Shape),
        ("kernel", ctypes.c_int32),
        ("element_type", ctypes.c_int32),
        ("degree", ctypes.c_int64),
        ("precision", ctypes.c_int64),
    ]


class Tiling(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("tile_rows", "tile_positions", "taps", "tap_block")],
        *[(name, ctypes.c_int64) for name in ("group_channels", "padded_channels", "channel_chunk", "chunks")],
        *[(name, ctypes.c_int64) for name in ("block_rows", "block_columns", "row_blocks", "column_blocks")],
        ("shared_rows", ctypes.c_int),
        *[(name, ctypes.c_int64) for name in ("strip_floats", "sum_floats", "sum_stride", "tasks", "tasks_per_call")],
    ]


class Plan(ctypes.Structure):
    _fields_ = [
        ("tiling", Tiling),
        *[(name, ctypes.c_int64) for name in ("packing", "algorithm", "packed_floats")],
        *[(name, ctypes.c_int64) for name in ("sums", "outputs", "patch_sums", "work", "offsets", "weights")],
        *[
            (name, ctypes.c_int64)
            for name in ("channels", "pitch", "plane", "group_chunk", "scratch_floats", "block_pairs")
        ],
    ]


class ChannelValues(ctypes.Structure):
    _fields_ = [("values", ctypes.c_void_p), ("stride", ctypes.c_int64)]


class Arguments(ctypes.Structure):
    _fields_ = [
        ("x", ctypes.c_void_p),
        ("w", ctypes.c_void_p),
        ("packed", ctypes.c_void_p),
        ("balance", ChannelValues),
        ("scale", ChannelValues),
        ("bias", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
    ]


@dataclass
class Case:
    """One call of a kernel: inputs and attributes."""

    kernel: str
    x: Array
    w: Array
    bias: Array | None = None
    balance: Array = field(default_factory=lambda: np.float32([0.5]))
    scale: Array = field(default_factory=lambda: np.float32([0.1]))
    degree: int = 3
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1
    precision: str = "float32"

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        sizes = [
            (self.x.shape[2 + a] + self.pads[a] + self.pads[2 + a] - self.dilations[a] * (self.w.shape[2 + a] - 1) - 1)
            // self.strides[a]
            + 1
            for a in range(2)
        ]
        return self.x.shape[0], self.w.shape[0], sizes[0], sizes[1]


def check_shapes(library: Any, attributes: Attributes, x: Array, w: Array, shape: Shape) -> None:
    """Fill `shape` from the attributes and the tensors' shapes; a message of the library becomes a ValueError."""
    status = Status()
    for check, array in (("filter", w), ("input", x)):
        dims = (ctypes.c_int64 * array.ndim)(*array.shape)
        function = getattr(library, f"edgeconv_conv_{check}_shape")
        pointers = ctypes.byref(shape), ctypes.byref(status)
        if function(ctypes.byref(attributes), dims, ctypes.c_size_t(array.ndim), *pointers):
            raise ValueError(status.message.decode())


class Library:
    """The launch functions of one op library."""

    def __init__(self, path: str) -> None:
        self.c = ctypes.CDLL(path)
        self.c.edgeconv_kervolution_packed_bytes.restype = ctypes.c_size_t
        self.c.edgeconv_kervolution_scratch_bytes.restype = ctypes.c_size_t
        self.isas = ISAS[: self.c.edgeconv_best_isa() + 1]

    def prepare(self, case: Case, isa: str) -> tuple[Params, Plan]:
        """Check the case's shapes and cut the work; a message of the library becomes a ValueError."""
        number = ISAS.index(isa) if isa in ISAS else len(ISAS)
        attributes = Attributes(
            strides=case.strides, pads=case.pads, dilations=case.dilations,
            group=case.group,
        )  # fmt: skip
        element_type = {"float32": 0, "float16": 1}[case.x.dtype.name]
        params = Params(
            kernel=KERNELS.index(case.kernel), element_type=element_type, degree=case.degree,
            precision=PRECISIONS.index(case.precision),
        )  # fmt: skip
        plan, status = Plan(), Status()
        check_shapes(self.c, attributes, case.x, case.w, params.shape)
        pointers = ctypes.byref(plan), ctypes.byref(status)
        if self.c.edgeconv_kervolution_plan(ctypes.byref(params), number, *pointers):
            raise ValueError(status.message.decode())
        return params, plan

    def memory(self, case: Case, isa: str) -> tuple[int, int]:
        """Bytes of packed weights, and of one thread's scratch."""
        params, plan = self.prepare(case, isa)
        pointers = ctypes.byref(params), ctypes.byref(plan)
        packed = self.c.edgeconv_kervolution_packed_bytes(*pointers)
        return packed, self.c.edgeconv_kervolution_scratch_bytes(pointers[1])

    def run(self, case: Case, isa: str, tasks: list[int] | None = None) -> Array:
        """Compute the case's output on one instruction set, the tasks one by one in the order given."""
        params, plan = self.prepare(case, isa)
        pointers = ctypes.byref(params), ctypes.byref(plan)
        # Just as many bytes as asked for, so that a sanitizer sees one too many.
        packed, scratch = (np.full(count, 0xFF, np.uint8) for count in self.memory(case, isa))
        x, w = np.ascontiguousarray(case.x), np.ascontiguousarray(case.w)
        self.c.edgeconv_kervolution_pack(*pointers, *(a.ctypes.data_as(ctypes.c_void_p) for a in (w, packed)))
        y = np.full(case.output_shape, -77, x.dtype)
        values = {name: np.float32(getattr(case, name)).reshape(-1) for name in ("balance", "scale")}
        arguments = Arguments(
            x=x.ctypes.data,
            w=w.ctypes.data,
            packed=packed.ctypes.data,
            bias=None if case.bias is None else case.bias.ctypes.data,
            y=y.ctypes.data,
            **{name: ChannelValues(array.ctypes.data, int(array.size > 1)) for name, array in values.items()},
        )
        for task in range(plan.tiling.tasks) if tasks is None else tasks:
            self.c.edgeconv_kervolution_run(
                pointers[0], ISAS.index(isa), pointers[1], ctypes.byref(arguments), ctypes.c_int64(task),
                ctypes.c_int64(task + 1), scratch.ctypes.data_as(ctypes.c_void_p),
            )  # fmt: skip
        return y


def oracle(case: Case) -> npt.NDArray[np.float64]:
    """The case's output as a loop over output positions and filters, in float64."""
    if case.x.shape[0] == 0:
        return np.empty(case.output_shape)
    return oracles.kervolution(
        case.x, case.w, case.bias, kernel=case.kernel, strides=case.strides, pads=case.pads, dilations=case.dilations,
        group=case.group, degree=case.degree, balance=case.balance, gamma=case.scale, scale=case.scale,
    )  # fmt: skip


def make_case(
    kernel: str,
    dtype: str,
    x_shape: tuple[int, int, int, int],
    filters: int,
    window: tuple[int, int],
    *,
    bias: bool = True,
    per_channel: bool = True,
    **attributes: Any,
) -> Case:
    """A case with random values, at a scale at which every kernel is alive."""
    seed = f"{kernel}{dtype}{x_shape}{filters}{window}{sorted(attributes.items())}"
    generator = np.random.default_rng(list(seed.encode()))
    w_shape = (filters, x_shape[1] // attributes.get("group", 1), *window)
    depth = int(np.prod(w_shape[1:]))
    count = filters if per_channel else 1
    scale = generator.uniform(0.3, 1.0, count) * (1 / depth if kernel == "gaussian" else 1)
    return Case(
        kernel,
        generator.standard_normal(x_shape).astype(dtype),
        (generator.standard_normal(w_shape) / np.sqrt(depth)).astype(dtype),
        generator.standard_normal(filters).astype(dtype) if bias else None,
        generator.uniform(-1, 1, count).astype(np.float32),
        scale.astype(np.float32),
        **attributes,
    )
