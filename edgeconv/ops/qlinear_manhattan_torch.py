"""`QLinearManhattanKervolution` in PyTorch: a torch operator on 8-bit tensors, without a gradient.

The arithmetic is in `edgeconv.ops.qlinear_manhattan`. The operator is opaque, because the choice between integers and
float32 depends on the values of the scales; exporters and compilers see one node with a known shape and type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from edgeconv.ops.kervolution_torch import kervolution
from edgeconv.ops.patch_distance_torch import output_shape, patch_distance
from edgeconv.ops.qlinear_manhattan import OPERATOR


@torch.library.custom_op(f"edgeconv::{OPERATOR.name}", mutates_args=())
def qlinear_manhattan_kervolution(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    bias: Tensor | None,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
) -> Tensor:
    """Apply a 2-D Manhattan kervolution to quantised tensors.

    Args:
        x: (N, C, H, W), uint8 or int8.
        x_scale: float32, a scalar.
        x_zero_point: Of x's type, a scalar; the value of a padded position.
        w: (M, C/group, kH, kW), int8 or uint8.
        w_scale: float32, a scalar or (M).
        w_zero_point: Of w's type, a scalar or (M).
        y_scale: float32, a scalar.
        y_zero_point: uint8 or int8, a scalar; its type is the result's.
        bias: float32, (M), or none.
        strides: (vertical, horizontal).
        pads: Padding (top, left, bottom, right).
        dilations: (vertical, horizontal).
        group: As in a convolution.

    Returns:
        (N, M, H', W') in y_zero_point's type. Where every w_scale equals x_scale the sums are exact.

    Raises:
        ValueError: The window is larger than the padded input, or a tensor is of another type.
    """
    tensors = (x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, bias)
    _check_types(dict(zip(OPERATOR.inputs, tensors, strict=True)))
    # float64 holds the integers, and their sums, exactly.
    x_steps, w_steps = x.double() - x_zero_point, w.double() - w_zero_point.reshape(-1, 1, 1, 1)
    if bool((w_scale == x_scale).all()):
        distance: Tensor = patch_distance(x_steps, w_steps, 1.0, strides, pads, dilations, group)
        v = -(x_scale * distance.float())
        if bias is not None:
            v = v + bias[:, None, None]
    else:
        reals = x_steps.float() * x_scale, w_steps.float() * w_scale.reshape(-1, 1, 1, 1)
        window = {"stride": strides, "pads": pads, "dilation": dilations, "groups": group}
        v = kervolution(*reals, bias, kernel=OPERATOR.kernel, **window)  # type: ignore[arg-type]
    limits = torch.iinfo(y_zero_point.dtype)
    steps = torch.round(v / y_scale).double() + y_zero_point  # torch rounds half to even
    return steps.clamp(limits.min, limits.max).to(y_zero_point.dtype)


def _check_types(tensors: Mapping[str, Tensor | None]) -> None:
    """Hold the tensors to the types that the ONNX operator takes: other ones would export as an invalid file."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        real = name == "B" or name.endswith("scale")
        if tensor.dtype not in ((torch.float32,) if real else (torch.uint8, torch.int8)):
            allowed = "float32" if real else "uint8 or int8"
            raise ValueError(f"{name} of {OPERATOR.name} is {str(tensor.dtype)[6:]}; it must be {allowed}")
        like = tensors.get(name[0].upper()) if name.endswith("zero_point") else None
        if like is not None and like.dtype != tensor.dtype:
            raise ValueError(
                f"{name} of {OPERATOR.name} is {str(tensor.dtype)[6:]}, {name[0].upper()} is {str(like.dtype)[6:]}; "
                "they must be the same"
            )


@qlinear_manhattan_kervolution.register_fake
def _(*inputs: Any) -> Tensor:
    tensors: dict[str, Any] = dict(zip(OPERATOR.inputs, inputs, strict=False))
    _check_types(tensors)
    strides, pads, dilations, _group = inputs[len(tensors) :]
    shape = output_shape(tensors["X"], tensors["W"], strides, pads, dilations)
    result: Tensor = tensors["y_zero_point"].new_empty(shape)
    return result
