"""The launch functions of the whitening kernels for CUDA, called with nothing but memory."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
from cuda_memory import LAYOUTS, MATHS, Device, Format, Place, nhwc
from deconv_kernels import Arguments, Array, Case, Params, WhiteningAttributes
from native_kernels import Attributes, Status

PACKED_BYTES, GROUPS_BYTES = 32 << 20, 64 << 20
"""What packed samples of all groups at work take at most, and up to where groups are at work together."""


class Plan(ctypes.Structure):
    """EdgeconvDeconvWhiteningCudaPlan."""

    _fields_ = [
        ("format", Format),
        *[(name, ctypes.c_int32) for name in ("few_samples", "splits")],
        ("workspace_bytes", ctypes.c_int64),
        *[
            (name, ctypes.c_int32)
            for name in (
                "small", "order", "pitch", "feature_pitch", "sum_parts", "part_tiles", "norm_parts", "group_batch",
                "chunk_positions", "sample_tile", "root_tile", "whole_tile", "spread_tile", "result_tile",
            )
        ],
        *[
            (name, ctypes.c_int64)
            for name in (
                "scalars", "norms", "means", "magnitudes", "sums", "least", "largest", "rows", "columns", "partials",
                "y0", "y1", "z0", "z1", "t", "t_mirror", "d", "factor", "d_samples", "group_bytes",
            )
        ],
    ]  # fmt: skip


class CudaWhitening:
    """Whitening at one place, planned for one device."""

    def __init__(self, place: Place, device: Device) -> None:
        self.place, self.device, self.c = place, device, place.c

    def prepare(self, case: Case, layout: str = "nchw", pitch: int | None = None) -> tuple[Params, Plan]:
        """Check the case's shapes and plan the work; a message of the library becomes a ValueError.

        Args:
            case: Input and attributes.
            layout: One of LAYOUTS.
            pitch: NHWC: elements from one pixel to the next; by default channels, rounded up to a multiple of 8.
        """
        names = ("kernel_shape", "strides", "pads", "dilations", "group")
        attributes = WhiteningAttributes(
            Attributes(**{name: getattr(case, name) for name in names}),
            **{name: getattr(case, name) for name in ("block", "n_iter", "sampling_stride", "centered", "eps")},
        )
        params, plan, status = Params(), Plan(), Status()
        dims = (ctypes.c_int64 * case.x.ndim)(*case.x.shape)
        if self.c.edgeconv_deconv_whitening_params(
            ctypes.byref(attributes), dims, ctypes.c_size_t(case.x.ndim),
            {"float32": 0, "float16": 1}[case.x.dtype.name], ctypes.byref(params), ctypes.byref(status),
        ):  # fmt: skip
            raise ValueError(status.message.decode())
        channel_pitch = -(-case.x.shape[1] // 8) * 8 if pitch is None else pitch
        # TF32 is a permission that these kernels do not take.
        form = Format(LAYOUTS.index(layout), MATHS.index("tf32"), channel_pitch, 0)
        if self.c.edgeconv_deconv_whitening_cuda_plan(
            ctypes.byref(params), ctypes.byref(form), ctypes.byref(self.device), ctypes.byref(plan),
            ctypes.byref(status),
        ):  # fmt: skip
            raise ValueError(status.message.decode())
        return params, plan

    def run(self, case: Case, layout: str = "nchw", pitch: int | None = None, **changes: int) -> tuple[Array, Array]:
        """Compute mean (G, F) and deconv (G, F, F) from memory that holds NaN wherever it may hold anything.

        Args:
            case: Input and attributes.
            layout: One of LAYOUTS.
            pitch: NHWC: elements from one pixel to the next; by default channels, rounded up to a multiple of 8.
            **changes: Fields of the plan that are to be otherwise: tiles, or less at a time.
        """
        params, plan = self.prepare(case, layout, pitch)
        for name, value in changes.items():
            setattr(plan, name, value)
        x: npt.NDArray[np.floating] = case.x
        if layout == "nhwc":
            x = nhwc(x, plan.format.x_channel_pitch, fill=np.nan)
        shape = (case.group, params.features, params.features)
        mean, deconv = (self.place.empty(4 * int(np.prod(dims))) for dims in (shape[:2], shape))
        source, workspace = self.place.upload(x), self.place.empty(plan.workspace_bytes)
        arguments, status = Arguments(*(buffer.address for buffer in (source, workspace, mean, deconv))), Status()
        code = self.c.edgeconv_deconv_whitening_cuda_run(
            ctypes.byref(params), ctypes.byref(plan), ctypes.byref(arguments), None, ctypes.byref(status)
        )
        assert code == 0, status.message.decode()
        return mean.read(np.float32, shape[:2]), deconv.read(np.float32, shape)
