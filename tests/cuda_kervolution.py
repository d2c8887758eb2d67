"""The CUDA launch functions of kervolution, called with nothing but memory: plan, pack, run."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda_memory import LAYOUTS, MATHS, Device, Format, Place, nhwc
from native_kernels import KERNELS, Attributes, Case, ChannelValues, Params, Status, check_shapes

Array = npt.NDArray[Any]


class CudaPlan(ctypes.Structure):
    """EdgeconvKervolutionCudaPlan."""

    _fields_ = [
        ("format", Format),
        ("tile", ctypes.c_int32),
        ("splits", ctypes.c_int32),
        ("packed_bytes", ctypes.c_int64),
        ("workspace_bytes", ctypes.c_int64),
    ]


class CudaArguments(ctypes.Structure):
    """EdgeconvKervolutionCudaArguments."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        ("w", ctypes.c_void_p),
        ("packed", ctypes.c_void_p),
        ("balance", ChannelValues),
        ("scale", ChannelValues),
        ("bias", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
    ]


@dataclass(frozen=True)
class How:
    """What a call leaves open beside its case.

    Attributes:
        layout: One of LAYOUTS.
        math: One of MATHS.
        pitch: NHWC: channels a pixel are padded to a multiple of this.
        fill: NHWC: what the padding of x holds.
    """

    layout: str = "nchw"
    math: str = "float32"
    pitch: int = 8
    fill: float = 0

    def padded(self, channels: int) -> int:
        """Elements from one pixel to the next."""
        return -(-channels // self.pitch) * self.pitch


def call(place: Place, function: str, *arguments: Any) -> None:
    """Call a launch function; its message becomes a ValueError."""
    status = Status()
    if getattr(place.c, function)(*arguments, ctypes.byref(status)):
        raise ValueError(status.message.decode())


def prepare(place: Place, case: Case, device: Device, how: How, *, with_input: bool = True) -> tuple[Params, CudaPlan]:
    """Parameters and plan; without the input part of the shape what packing needs."""
    attributes = Attributes(strides=case.strides, pads=case.pads, dilations=case.dilations, group=case.group)
    params = Params(
        kernel=KERNELS.index(case.kernel), element_type={"float32": 0, "float16": 1}[case.x.dtype.name],
        degree=case.degree,
    )  # fmt: skip
    if with_input:
        check_shapes(place.c, attributes, case.x, case.w, params.shape)
    else:
        dims = (ctypes.c_int64 * 4)(*case.w.shape)
        shape = ctypes.byref(params.shape)
        call(place, "edgeconv_conv_filter_shape", ctypes.byref(attributes), dims, ctypes.c_size_t(4), shape)
    pitches = [how.padded(count) for count in (case.w.shape[1] * case.group, case.w.shape[0])]
    plan, form = CudaPlan(), Format(LAYOUTS.index(how.layout), MATHS.index(how.math), *pitches)
    pointers = tuple(ctypes.byref(value) for value in (params, form, device, plan))
    call(place, "edgeconv_kervolution_cuda_plan", *pointers)
    return params, plan


def run(place: Place, case: Case, device: Device, how: How, plan: CudaPlan | None = None) -> Array:
    """The case's output as (N, M, H', W'). Packed filters and workspace begin as NaN, and so does y.

    `plan` stands in for the one that is made for the device.
    """
    params, best = prepare(place, case, device, how)
    plan = plan or best
    pack_params, pack_plan = prepare(place, case, device, how, with_input=False)
    assert pack_plan.packed_bytes == plan.packed_bytes, "packed filters must not depend on the input"
    x_pitch, y_pitch = plan.format.x_channel_pitch, plan.format.y_channel_pitch
    channels_last = how.layout == "nhwc"
    x = place.upload(nhwc(case.x, x_pitch, how.fill) if channels_last else case.x)
    w, packed, workspace = place.upload(case.w), place.empty(plan.packed_bytes), place.empty(plan.workspace_bytes)
    pointers = ctypes.byref(pack_params), ctypes.byref(pack_plan)
    addresses = (ctypes.c_void_p(address) for address in (w.address, packed.address, 0))
    call(place, "edgeconv_kervolution_cuda_pack", *pointers, *addresses)

    batch, filters, height, width = case.output_shape
    y_shape = (batch, height, width, y_pitch) if channels_last else case.output_shape
    y = place.empty(int(np.prod(y_shape)) * case.x.itemsize)
    values = {name: np.float32(getattr(case, name)).reshape(-1) for name in ("balance", "scale")}
    uploaded = {name: place.upload(array) for name, array in values.items()}
    bias = None if case.bias is None else place.upload(case.bias)
    arguments = CudaArguments(
        x=x.address, w=w.address, packed=packed.address, bias=bias and bias.address,
        workspace=workspace.address, y=y.address,
        **{name: ChannelValues(uploaded[name].address, int(array.size > 1)) for name, array in values.items()},
    )  # fmt: skip
    call(
        place, "edgeconv_kervolution_cuda_run", ctypes.byref(params), ctypes.byref(plan), ctypes.byref(arguments),
        ctypes.c_void_p(0),
    )  # fmt: skip
    result = y.read(case.x.dtype, y_shape)
    if not channels_last:
        return result
    assert not result[..., filters:].any(), "channels between M and the pitch must be zero"
    return np.moveaxis(result[..., :filters], 3, 1)


def hows(dtype: str, maths: Sequence[str] = MATHS, **more: Any) -> list[How]:
    """Every layout and arithmetic of a dtype."""
    return [How(layout, math, **more) for layout in LAYOUTS for math in (maths if dtype == "float32" else MATHS[:1])]


@dataclass(frozen=True)
class Checked:
    """One way to run, as kernel_checks takes a library of kernels."""

    place: Place
    device: Device
    how: How
    isas: tuple[str, ...] = ("cuda",)

    def run(self, case: Case, isa: str) -> Array:
        """Compute the case's output."""
        assert isa in self.isas
        return run(self.place, case, self.device, self.how)
