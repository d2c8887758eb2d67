"""The launch functions of the 8-bit kernels, called with nothing but memory, and the loop they are compared with."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import native_kernels
import numpy as np
import numpy.typing as npt
import oracles
from native_kernels import ISAS, Attributes, Shape, Status, Tiling, check_shapes

TYPES = {"uint8": 2, "int8": 3}
INTEGER_SUMS, FLOAT_SUMS = 0, 1
LAYOUTS = ("channels", "columns", "depthwise")
Array = npt.NDArray[Any]


class Params(ctypes.Structure):
    _fields_ = [
        ("shape", Shape),
        *[(name, ctypes.c_int32) for name in ("kernel", "x_type", "w_type", "y_type", "sums", "x_zero_point")],
        ("x_scale", ctypes.c_float),
    ]


class Filters(ctypes.Structure):
    _fields_ = [
        ("w", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("scale_stride", ctypes.c_int64),
        ("zero_point", ctypes.c_void_p),
        ("zero_point_stride", ctypes.c_int64),
    ]


class Plan(ctypes.Structure):
    _fields_ = [
        ("tiling", Tiling),
        ("elements", Shape),
        *[(name, ctypes.c_int64) for name in ("layout", "element_bytes", "filter_bytes")],
        *[(name, ctypes.c_int64) for name in ("sums", "patch_sums", "offsets", "line", "pitch", "scratch_bytes")],
    ]


class Arguments(ctypes.Structure):
    _fields_ = [
        ("x", ctypes.c_void_p),
        ("packed", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("y_scale", ctypes.c_float),
        ("y_zero_point", ctypes.c_int32),
        ("y", ctypes.c_void_p),
    ]


@dataclass
class Case:
    """One call of the operator: inputs, as the node has them, and attributes."""

    x: Array
    w: Array
    x_scale: Any = field(default_factory=lambda: np.float32(0.03))
    x_zero_point: Any = field(default_factory=lambda: np.uint8(120))
    w_scale: Any = field(default_factory=lambda: np.float32(0.03))
    w_zero_point: Any = field(default_factory=lambda: np.int8(0))
    y_scale: Any = field(default_factory=lambda: np.float32(0.3))
    y_zero_point: Any = field(default_factory=lambda: np.uint8(250))
    bias: npt.NDArray[np.float32] | None = None
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes, without kernel_shape."""
        return {name: getattr(self, name) for name in ("strides", "pads", "dilations", "group")}

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Of Y."""
        return native_kernels.Case("manhattan", self.x, self.w, **self.attributes).output_shape

    def loop(self) -> Array:
        """The output as the integer loop gives it: slow."""
        return oracles.qlinear_manhattan(
            self.x, self.x_scale, self.x_zero_point, self.w, np.asarray(self.w_zero_point), self.y_scale,
            self.y_zero_point, self.bias, **self.attributes,
        )  # fmt: skip

    def patches(self) -> Iterator[tuple[int, int, Array]]:
        """For each row and column of the window: (N, C, H', W') of X less its zero-point, 0 in the padding."""
        top, left, bottom, right = self.pads
        steps = self.x.astype(np.int64) - int(self.x_zero_point)
        steps = np.pad(steps, ((0, 0), (0, 0), (top, bottom), (left, right)))
        rows, columns = (1 + self.strides[a] * (self.output_shape[2 + a] - 1) for a in range(2))
        for i, j in np.ndindex(*self.w.shape[2:]):
            y, x = i * self.dilations[0], j * self.dilations[1]
            yield i, j, steps[:, :, y : y + rows : self.strides[0], x : x + columns : self.strides[1]]

    def weights(self) -> Array:
        """W less its zero-points."""
        points = np.broadcast_to(np.asarray(self.w_zero_point, np.int64), self.w.shape[0])
        return np.asarray(self.w.astype(np.int64) - points[:, None, None, None])

    def distances(self, x_scale: Any = 1, w_scale: Any = 1) -> Array:
        """Σ|x - w| with these scales: a loop over the window, all positions at a time."""
        weights = self.weights() * np.broadcast_to(w_scale, self.w.shape[0])[:, None, None, None]
        depth, share = self.w.shape[1], self.w.shape[0] // self.group
        total = np.zeros(self.output_shape, weights.dtype)
        for i, j, patch in self.patches():
            for m in range(self.w.shape[0]):
                first = m // share * depth
                difference = patch[:, first : first + depth] * x_scale - weights[m, :, i, j][:, None, None]
                total[:, m] += np.abs(difference).sum(1)
        return total

    def oracle(self) -> Array:
        """The output, as `loop` gives it."""
        values = -(np.float32(self.x_scale) * self.distances().astype(np.float32))
        if self.bias is not None:
            values = values + self.bias[:, None, None]
        with np.errstate(over="ignore"):
            quotients = values / np.float32(self.y_scale)
        assert quotients.dtype == np.float32
        limits = np.iinfo(np.asarray(self.y_zero_point).dtype)
        steps = np.rint(np.clip(quotients, -1000, 1000)) + int(self.y_zero_point)
        return np.asarray(np.clip(steps, limits.min, limits.max).astype(limits.dtype))

    def real_oracle(self) -> npt.NDArray[np.float64]:
        """The output in float64 from the dequantised tensors, not rounded."""
        values = -self.distances(np.float64(self.x_scale), np.asarray(self.w_scale, np.float64))
        if self.bias is not None:
            values = values + self.bias.astype(np.float64)[:, None, None]
        limits = np.iinfo(np.asarray(self.y_zero_point).dtype)
        return np.asarray(np.clip(values / float(self.y_scale) + int(self.y_zero_point), limits.min, limits.max))

    def tensors(self) -> dict[str, Array]:
        """The node's inputs by name, in order."""
        scales = {name: getattr(self, name) for name in ("w_scale", "w_zero_point", "y_scale", "y_zero_point")}
        found = {"X": self.x, "x_scale": self.x_scale, "x_zero_point": self.x_zero_point, "W": self.w, **scales}
        found |= {"B": self.bias} if self.bias is not None else {}
        return {name: np.asarray(value) for name, value in found.items()}


class Library:
    """The launch functions of one op library."""

    def __init__(self, path: str) -> None:
        self.c = ctypes.CDLL(path)
        self.c.edgeconv_qlinear_kervolution_packed_bytes.restype = ctypes.c_size_t
        self.c.edgeconv_qlinear_kervolution_scratch_bytes.restype = ctypes.c_size_t
        self.isas = ISAS[: self.c.edgeconv_best_isa() + 1]

    def prepare(self, case: Case, isa: str) -> tuple[Params, Plan]:
        """Check the case's shapes and cut the work; a message of the library becomes a ValueError."""
        attributes = Attributes(**case.attributes)
        names = {
            name: TYPES[np.asarray(value).dtype.name]
            for name, value in (("x_type", case.x), ("w_type", case.w), ("y_type", case.y_zero_point))
        }
        params = Params(**names, x_zero_point=int(case.x_zero_point), x_scale=float(case.x_scale))
        scales = np.float32(case.w_scale).reshape(-1)
        params.sums = self.c.edgeconv_qlinear_kervolution_sums(
            ctypes.c_float(case.x_scale), scales.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(scales.size > 1),
            ctypes.c_int64(case.w.shape[0]),
        )  # fmt: skip
        plan, status = Plan(), Status()
        check_shapes(self.c, attributes, case.x, case.w, params.shape)
        pointers = ctypes.byref(plan), ctypes.byref(status)
        number = ISAS.index(isa) if isa in ISAS else len(ISAS)
        if self.c.edgeconv_qlinear_kervolution_plan(ctypes.byref(params), number, *pointers):
            raise ValueError(status.message.decode())
        return params, plan

    def memory(self, case: Case, isa: str) -> tuple[int, int]:
        """Bytes of packed weights, and of one thread's scratch."""
        params, plan = self.prepare(case, isa)
        pointers = ctypes.byref(params), ctypes.byref(plan)
        packed = self.c.edgeconv_qlinear_kervolution_packed_bytes(*pointers)
        return packed, self.c.edgeconv_qlinear_kervolution_scratch_bytes(pointers[1])

    def run(self, case: Case, isa: str, tasks: list[int] | None = None) -> Array:
        """Compute the case's output on one instruction set, the tasks one by one in the order given."""
        params, plan = self.prepare(case, isa)
        pointers = ctypes.byref(params), ISAS.index(isa), ctypes.byref(plan)
        # Just as many bytes as asked for, so that a sanitizer sees one too many.
        packed, scratch = (np.full(count, 0xFF, np.uint8) for count in self.memory(case, isa))
        x, w = (np.array(array, order="C") for array in (case.x, case.w))
        scales, points = np.float32(case.w_scale).reshape(-1), np.asarray(case.w_zero_point, w.dtype).reshape(-1)
        filters = Filters(w.ctypes.data, scales.ctypes.data, scales.size > 1, points.ctypes.data, points.size > 1)
        self.c.edgeconv_qlinear_kervolution_pack(
            *pointers, ctypes.byref(filters), packed.ctypes.data_as(ctypes.c_void_p)
        )
        y = np.full(case.output_shape, 77, np.asarray(case.y_zero_point).dtype)
        bias = None if case.bias is None else np.ascontiguousarray(case.bias, np.float32)
        arguments = Arguments(
            x=x.ctypes.data, packed=packed.ctypes.data, bias=None if bias is None else bias.ctypes.data,
            y_scale=float(case.y_scale), y_zero_point=int(case.y_zero_point), y=y.ctypes.data,
        )  # fmt: skip
        for task in range(plan.tiling.tasks) if tasks is None else tasks:
            self.c.edgeconv_qlinear_kervolution_run(
                *pointers, ctypes.byref(arguments), ctypes.c_int64(task), ctypes.c_int64(task + 1),
                scratch.ctypes.data_as(ctypes.c_void_p),
            )  # fmt: skip
        return y


# x shape, filters, window, attributes
SHAPES: dict[str, tuple[tuple[int, int, int, int], int, tuple[int, int], dict[str, Any]]] = {
    "same": ((2, 5, 9, 13), 7, (3, 3), {"pads": (1, 1, 1, 1)}),
    "whole rows": ((1, 9, 11, 7), 9, (5, 5), {"pads": (2, 2, 2, 2)}),
    "whole rows, far taps": ((1, 6, 9, 5), 3, (1, 3), {"pads": (0, 5, 0, 5), "dilations": (1, 5)}),
    "grouped": ((1, 15, 11, 7), 9, (3, 2), {"pads": (0, 2, 1, 0), "strides": (2, 1), "group": 3}),
    "depthwise": (
        (3, 4, 17, 20),
        4,
        (3, 3),
        {"pads": (2, 1, 0, 3), "strides": (1, 2), "dilations": (2, 3), "group": 4},
    ),
    "depthwise, plain": ((1, 5, 10, 37), 5, (3, 3), {"pads": (1, 1, 1, 1), "group": 5}),
    "depthwise, large": ((1, 3, 90, 160), 6, (5, 3), {"pads": (2, 1, 2, 1), "group": 3}),
    "depthwise, pieces of rows": ((1, 2, 9, 21000), 2, (3, 3), {"pads": (1, 1, 1, 1), "group": 2}),
    "depthwise, pieces with strides": (
        (1, 2, 9, 9000),
        4,
        (3, 5),
        {"strides": (3, 2), "dilations": (2, 3), "group": 2},
    ),
    "depthwise, stride 4": ((1, 3, 19, 23), 3, (2, 3), {"strides": (4, 4), "pads": (0, 1, 2, 0), "group": 3}),
    "depthwise, wide dilation": ((1, 2, 60, 30), 2, (2, 2), {"dilations": (50, 25), "strides": (3, 4), "group": 2}),
    "depthwise, too far apart": ((1, 2, 905, 30), 2, (2, 2), {"dilations": (900, 3), "strides": (3, 4), "group": 2}),
    "depthwise, 257 taps": ((1, 1, 3, 270), 2, (1, 257), {}),
    "depthwise, 255 taps": ((1, 2, 16, 19), 2, (15, 17), {"group": 2}),
    "depthwise, 260 taps": ((1, 2, 14, 23), 2, (13, 20), {"group": 2}),
    "multiplier": ((1, 3, 8, 9), 18, (3, 3), {"pads": (1, 1, 1, 1), "group": 3}),
    "stem": ((1, 3, 30, 33), 17, (7, 7), {"pads": (3, 3, 3, 3), "strides": (2, 2)}),
    "stem, stride 4": ((2, 3, 31, 47), 5, (11, 11), {"pads": (2, 2, 2, 2), "strides": (4, 4)}),
    "stem, stride 7": ((1, 2, 22, 50), 3, (5, 5), {"strides": (7, 7)}),
    "columns, dilation": ((1, 1, 9, 41), 3, (2, 9), {"dilations": (1, 3), "pads": (1, 5, 0, 2)}),
    "columns, dilation 2": ((1, 1, 9, 41), 3, (2, 4), {"dilations": (1, 2), "pads": (1, 5, 0, 2)}),
    "several blocks of taps": ((1, 130, 7, 7), 33, (3, 3), {"pads": (1, 1, 1, 1)}),
    "pointwise": ((2, 13, 5, 13), 11, (1, 1), {}),
    "pointwise, several blocks": ((1, 1100, 3, 5), 10, (1, 1), {}),
    "pointwise, stride 2": ((1, 33, 13, 70), 10, (1, 1), {"strides": (2, 2)}),
    "pointwise, stride 3": ((1, 9, 7, 31), 3, (1, 1), {"strides": (3, 3)}),
    "one channel, one tap": ((2, 1, 5, 19), 3, (1, 1), {}),
    "kernel larger than input": ((1, 2, 3, 3), 3, (5, 4), {"pads": (2, 2, 2, 2)}),
    "one long row": ((1, 1, 3, 900), 2, (1, 5), {"pads": (0, 2, 0, 2)}),
    "one long row of channels": ((1, 6, 3, 900), 2, (1, 5), {"pads": (0, 2, 0, 2)}),
    "pieces as wide as the input": ((1, 4, 2, 208), 2, (1, 1), {"pads": (0, 104, 0, 104)}),
    "too long for the line": ((1, 5, 1, 20001), 3, (1, 2), {"strides": (1, 50), "pads": (0, 3, 0, 0)}),
    "columns too long for the line": ((1, 1, 2, 80001), 2, (1, 3), {"strides": (1, 200), "pads": (0, 1, 0, 0)}),
    "large window": ((1, 2, 20, 20), 2, (17, 18), {"pads": (2, 2, 2, 2)}),
    "wide dilation": ((1, 5, 40, 6), 2, (3, 3), {"pads": (8, 8, 8, 8), "dilations": (8, 7), "strides": (3, 5)}),
    "padding only": ((1, 7, 4, 6), 2, (3, 3), {"pads": (9, 9, 9, 9)}),
    "many filters": ((1, 3, 6, 7), 300, (3, 3), {"pads": (1, 1, 1, 1)}),
    "phases": ((1, 6, 25, 12), 3, (5, 1), {"strides": (2, 1), "dilations": (2, 1)}),
    "odd phases": ((1, 2, 25, 12), 3, (5, 1), {"strides": (2, 3), "dilations": (3, 1)}),
    "one position": ((2, 5, 3, 4), 9, (3, 4), {}),
    "empty batch": ((0, 5, 4, 6), 2, (3, 3), {}),
}


def make_case(
    x_shape: tuple[int, int, int, int],
    filters: int,
    window: tuple[int, int],
    *,
    types: tuple[str, str, str] = ("uint8", "int8", "uint8"),
    bias: bool = True,
    per_channel: bool = True,
    dyadic: bool = False,
    **attributes: Any,
) -> Case:
    """A case with random values, zero-points at the ends of their ranges among them; some outputs saturate.

    Args:
        x_shape: (N, C, H, W).
        filters: M.
        window: (kH, kW).
        types: Of X, W and Y.
        bias: Whether there is one.
        per_channel: Whether w_scale and w_zero_point have one value a filter.
        dyadic: Scales are powers of two and the bias is a multiple of X's: floats are exact, many quotients are ties.
        **attributes: Those that are not at their default.
    """
    generator = np.random.default_rng(list(f"{x_shape}{filters}{window}{types}{sorted(attributes.items())}".encode()))
    x, w, y = (np.iinfo(name) for name in types)
    count = filters if per_channel else ()
    scale = np.float32(2.0**-5 if dyadic else generator.uniform(0.01, 0.05))
    w_shape = (filters, x_shape[1] // attributes.get("group", 1), *window)
    case = Case(
        generator.integers(x.min, x.max + 1, x_shape).astype(x.dtype),
        generator.integers(w.min, w.max + 1, w_shape).astype(w.dtype),
        x_scale=scale,
        w_scale=np.full(count, scale),
        x_zero_point=np.asarray(generator.choice([x.min, x.max, 0, 3, 100]), x.dtype),
        w_zero_point=np.asarray(generator.choice([w.min, w.max, 0, 7], count), w.dtype),
        y_zero_point=np.asarray(generator.choice([y.min + 100, y.max - 100]) if bias else y.max, y.dtype),
        **attributes,
    )  # fmt: skip
    sums = case.distances() if x_shape[0] else np.arange(9)
    spread = max(float(np.ptp(sums)), 1.0) * float(scale)
    if bias:
        shift = generator.standard_normal(filters) * 0.2 * spread
        case.bias = ((sums.mean() * scale + shift) // scale * scale).astype(np.float32)
        case.bias += np.float32(0 if dyadic else 0.3 * scale)
    reach = spread if bias else float(sums.max()) * float(scale)
    case.y_scale = np.float32(2.0 ** np.round(np.log2(reach / 200)) if dyadic else max(reach / 200, 1e-3))
    return case
