"""Kervolution in PyTorch: the six operators as torch operators, differentiable, with bounded memory.

Each operator is registered as `torch.ops.edgeconv.<Name>` with a composite implementation, so autograd, `torch.compile`
and `torch.export` see through it, while an `ExportedProgram` keeps it as one node, which the ONNX exporter translates.
Formulas and source: see `edgeconv.ops.kervolution`.

The argument `precision` of the operators that take it only travels: PyTorch computes in float32, and the exporter
writes it into the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeconv.ops.kervolution import (
    DOMAIN,
    OPERATOR_OF_KERNEL,
    OPERATORS,
    PRECISIONS,
    KervolutionOperator,
    check_precision,
)
from edgeconv.ops.patch_distance_torch import patch_distance


def kervolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel: str,
    stride: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    degree: int = 3,
    balance: Tensor | float = 1.0,
    gamma: Tensor | float = 1.0,
    scale: Tensor | float = 1.0,
    precision: str = PRECISIONS[0],
) -> Tensor:
    """Apply a 2-D kervolution.

    Args:
        x: Input, (N, C, H, W).
        weight: Filters, (M, C/groups, kH, kW).
        bias: Added last, (M), or none.
        kernel: One of `edgeconv.ops.kervolution.KERNELS`.
        stride: (vertical, horizontal).
        pads: Zero padding (top, left, bottom, right), which takes part in the distances.
        dilation: (vertical, horizontal).
        groups: As in a convolution.
        degree: Exponent of the polynomial kernel, at least 1.
        balance: Polynomial and sigmoid kernels; a scalar or (M).
        gamma: Gaussian kernel, positive; a scalar or (M).
        scale: Sigmoid kernel; a scalar or (M).
        precision: How an exported file asks runtimes to compute x·w (`edgeconv.ops.kervolution.Precision`); here it
            changes nothing.

    Returns:
        (N, M, H', W') in x's dtype. Half precision is accumulated in float32, under autocast too. In float32 the
        polynomial kernel overflows where |x·w + balance| > 3.4e38^(1/degree), 7.0e12 for degree 3, and the gradient of
        its weights where degree·|x·w + balance|^(degree-1)·|x| > 3.4e38; the squared distances of the gaussian and
        euclidean kernels become infinite for |x| > 1.8e19 (0 and -inf), their gradients stay finite.

    Raises:
        ValueError: The precision is not one, or the kernel does not take it.
    """
    check_precision(precision, kernel)
    if kernel == "linear":
        top, left, bottom, right = pads
        return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, tuple(stride), 0, tuple(dilation), groups)
    operator = OPERATOR_OF_KERNEL[kernel]
    given = {"balance": balance, "gamma": gamma, "scale": scale}
    parameters = [_parameter(given[name], x) for name in operator.parameters]
    attributes: list[Any] = [list(stride), list(pads), list(dilation), groups]
    if operator.has_degree:
        attributes.append(degree)
    if operator.has_precision and precision != PRECISIONS[0]:
        attributes.append(precision)
    result: Tensor = getattr(torch.ops.edgeconv, operator.name)(x, weight, *parameters, bias, *attributes)
    return result


def _parameter(value: Tensor | float, x: Tensor) -> Tensor:
    # float64 inputs keep float64 parameters (gradcheck, oracles); everything else takes the operator's float32.
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.as_tensor(value, dtype=dtype, device=x.device)


class _Window(NamedTuple):
    """Where the patches lie: the operators' attributes."""

    strides: Sequence[int]
    pads: Sequence[int]
    dilations: Sequence[int]
    group: int


def _dot(x: Tensor, w: Tensor, window: _Window) -> Tensor:
    top, left, bottom, right = window.pads
    padding: tuple[int, int] = (top, left)
    if padding != (bottom, right):
        x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
    return F.conv2d(x, w, None, tuple(window.strides), padding, tuple(window.dilations), window.group)


def _squared_distance(x: Tensor, w: Tensor, window: _Window) -> Tensor:
    """‖x - w‖² as ‖x‖² + ‖w‖² - 2x·w; ‖x‖² is a box sum of the channel-summed squares. Clamped at 0 (cancellation)."""
    channels, filters, group = x.shape[1], w.shape[0], window.group
    energy = x.square().unflatten(1, (group, channels // group)).sum(2)
    box = torch.ones((group, 1, *w.shape[2:]), dtype=x.dtype, device=x.device)
    energy = _dot(energy, box, window).repeat_interleave(filters // group, 1)
    norm = w.square().sum((1, 2, 3))[:, None, None]
    distance = (energy + norm - 2 * _dot(x, w, window)).clamp_min(0)
    return torch.where(energy.isinf(), energy, distance)  # inf - inf would be NaN


def _per_channel(parameter: Tensor) -> Tensor:
    return parameter.reshape(-1, 1, 1)


def _polynomial(x: Tensor, w: Tensor, window: _Window, balance: Tensor, degree: int) -> Tensor:
    return torch.pow(_dot(x, w, window) + _per_channel(balance), degree)


def _gaussian(x: Tensor, w: Tensor, window: _Window, gamma: Tensor) -> Tensor:
    distance = _squared_distance(x, w, window)
    # Finite, because gamma's gradient is distance·exp(…), and inf·0 would be NaN.
    return torch.exp(-_per_channel(gamma) * distance.clamp_max(torch.finfo(distance.dtype).max))


def _sigmoid(x: Tensor, w: Tensor, window: _Window, scale: Tensor, balance: Tensor) -> Tensor:
    return torch.tanh(_per_channel(scale) * _dot(x, w, window) + _per_channel(balance))


def _euclidean(x: Tensor, w: Tensor, window: _Window) -> Tensor:
    return -_squared_distance(x, w, window)


def _manhattan(x: Tensor, w: Tensor, window: _Window) -> Tensor:
    distance: Tensor = patch_distance(x, w, 1.0, *window)
    return -distance


def _chebyshev(x: Tensor, w: Tensor, window: _Window) -> Tensor:
    distance: Tensor = patch_distance(x, w, math.inf, *window)
    return -distance


_BODIES: dict[str, Callable[..., Tensor]] = {
    "PolynomialKervolution": _polynomial,
    "GaussianKervolution": _gaussian,
    "SigmoidKervolution": _sigmoid,
    "EuclideanKervolution": _euclidean,
    "ManhattanKervolution": _manhattan,
    "ChebyshevKervolution": _chebyshev,
}


def _register(operator: KervolutionOperator, library: torch.library.Library) -> None:
    tensors = "".join(f"Tensor {name}, " for name in ("X", "W", *operator.parameters))
    window = "SymInt[2] strides, SymInt[4] pads, SymInt[2] dilations, int group"
    degree = ", int degree" if operator.has_degree else ""
    # With a default, so that programs that were saved without it load.
    precision = f', str precision="{PRECISIONS[0]}"' if operator.has_precision else ""
    library.define(f"{operator.name}({tensors}Tensor? B, {window}{degree}{precision}) -> Tensor")
    body = _BODIES[operator.name]
    count = len(operator.parameters)
    after = count + 5 + operator.has_degree

    def composite(x: Tensor, w: Tensor, *rest: Any) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            # Convolutions in half precision would leave little of ‖x‖² + ‖w‖² - 2x·w.
            with torch.autocast(x.device.type, enabled=False):
                return composite(x, w, *rest)
        parameters, bias, window = rest[:count], rest[count], rest[count + 1 : count + 5]
        degree, precision = rest[count + 5 : after], rest[after:]
        if precision:
            check_precision(precision[0])
        half = x.dtype in (torch.float16, torch.bfloat16)
        wide = (x.float(), w.float()) if half else (x, w)
        y = body(*wide, _Window(*window), *parameters, *degree)
        if bias is not None:
            y = y + bias[:, None, None]
        return y.to(x.dtype)

    library.impl(operator.name, composite, "CompositeImplicitAutograd")


_LIBRARY = torch.library.Library(DOMAIN, "DEF")
for _operator in OPERATORS.values():
    _register(_operator, _LIBRARY)
