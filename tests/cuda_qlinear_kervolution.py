"""The CUDA launch functions of 8-bit kervolution, called with nothing but memory: plan, pack, run."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda_kervolution import CudaPlan, How, call
from cuda_memory import LAYOUTS, Device, Format, Place, nhwc
from native_kernels import Attributes, check_shapes
from qlinear_kernels import TYPES, Case, Filters, Params

Array = npt.NDArray[Any]


class CudaArguments(ctypes.Structure):
    """EdgeconvQLinearKervolutionCudaArguments."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        ("packed", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("y_scale", ctypes.c_float),
        ("y_zero_point", ctypes.c_int32),
        ("workspace", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
    ]


def prepare(place: Place, case: Case, device: Device, how: How, *, with_input: bool = True) -> tuple[Params, CudaPlan]:
    """Parameters and plan; without the input part of the shape what packing needs."""
    attributes = Attributes(**case.attributes)
    names = {
        name: TYPES[np.asarray(value).dtype.name]
        for name, value in (("x_type", case.x), ("w_type", case.w), ("y_type", case.y_zero_point))
    }
    params = Params(**names, x_zero_point=int(case.x_zero_point), x_scale=float(case.x_scale))
    scales = np.float32(case.w_scale).reshape(-1)
    params.sums = place.c.edgeconv_qlinear_kervolution_sums(
        ctypes.c_float(case.x_scale), scales.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(scales.size > 1),
        ctypes.c_int64(case.w.shape[0]),
    )  # fmt: skip
    if with_input:
        check_shapes(place.c, attributes, case.x, case.w, params.shape)
    else:
        dims = (ctypes.c_int64 * 4)(*case.w.shape)
        call(
            place, "edgeconv_conv_filter_shape", ctypes.byref(attributes), dims, ctypes.c_size_t(4),
            ctypes.byref(params.shape),
        )  # fmt: skip
    pitches = [how.padded(count) for count in (case.w.shape[1] * case.group, case.w.shape[0])]
    plan, form = CudaPlan(), Format(LAYOUTS.index(how.layout), 0, *pitches)
    pointers = tuple(ctypes.byref(value) for value in (params, form, device, plan))
    call(place, "edgeconv_qlinear_kervolution_cuda_plan", *pointers)
    return params, plan


def plan_with(place: Place, case: Case, device: Device, how: How, **changes: int) -> CudaPlan:
    """The plan with other values in the fields of the parameters or of the format."""
    params, plan = prepare(place, case, device, how)
    for name, value in changes.items():
        setattr(plan.format if hasattr(plan.format, name) else params, name, value)
    other = CudaPlan()
    pointers = (ctypes.byref(value) for value in (params, plan.format, device, other))
    call(place, "edgeconv_qlinear_kervolution_cuda_plan", *pointers)
    return other


def run(place: Place, case: Case, device: Device, how: How, plan: CudaPlan | None = None) -> Array:
    """The case's output as (N, M, H', W'). Packed filters, workspace and y begin as bytes of 0xFF.

    `plan` stands in for the one that is made for the device.
    """
    params, best = prepare(place, case, device, how)
    plan = plan or best
    pack_params, pack_plan = prepare(place, case, device, how, with_input=False)
    assert pack_plan.packed_bytes == plan.packed_bytes, "packed filters must not depend on the input"
    channels_last = how.layout == "nhwc"
    x = place.upload(nhwc(case.x, plan.format.x_channel_pitch, how.fill) if channels_last else case.x)
    packed, workspace = place.empty(plan.packed_bytes), place.empty(plan.workspace_bytes)

    w, scales = place.upload(case.w), np.float32(case.w_scale).reshape(-1)
    points = np.asarray(case.w_zero_point, case.w.dtype).reshape(-1)
    scale, point = place.upload(scales), place.upload(points)
    filters = Filters(w.address, scale.address, scales.size > 1, point.address, points.size > 1)
    call(
        place, "edgeconv_qlinear_kervolution_cuda_pack", ctypes.byref(pack_params), ctypes.byref(pack_plan),
        ctypes.byref(filters), ctypes.c_void_p(packed.address), ctypes.c_void_p(0),
    )  # fmt: skip

    batch, count, height, width = case.output_shape
    y_type = np.asarray(case.y_zero_point).dtype
    y_shape = (batch, height, width, plan.format.y_channel_pitch) if channels_last else case.output_shape
    y = place.empty(int(np.prod(y_shape)))
    bias = None if case.bias is None else place.upload(np.float32(case.bias))
    arguments = CudaArguments(
        x=x.address, packed=packed.address, bias=bias and bias.address, y_scale=float(case.y_scale),
        y_zero_point=int(case.y_zero_point), workspace=workspace.address, y=y.address,
    )  # fmt: skip
    call(
        place, "edgeconv_qlinear_kervolution_cuda_run", ctypes.byref(params), ctypes.byref(plan),
        ctypes.byref(arguments), ctypes.c_void_p(0),
    )  # fmt: skip
    result = y.read(y_type, y_shape)
    if not channels_last:
        return result
    padding = result[..., count:]
    assert np.all(padding == case.y_zero_point), "channels between M and the pitch must be the zero-point"
    return np.moveaxis(result[..., :count], 3, 1)
