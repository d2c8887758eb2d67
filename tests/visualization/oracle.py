"""The deconvnet said otherwise: as autograd with other rules for ReLU, and in numpy, pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeconv.nn.blocks import LocalResponseNorm


class _DeconvRelu(torch.autograd.Function):
    """Backwards it rectifies the gradient, whatever the forward pass was."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float) -> Tensor:
        return x.clamp(0, ceiling)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.clamp(min=0), None


class _GuidedRelu(torch.autograd.Function):
    """Backwards it rectifies the gradient, and passes it where the forward pass was active."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0, ceiling)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradient.clamp(min=0) * (x > 0), None


class _Through(torch.autograd.Function):
    """Backwards it is the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def backpropagate(
    module: nn.Sequential, last: int, images: Tensor, feature: int, *, guided: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each image's largest activation of a feature of layer `last`, its place, and what it becomes.

    The gradient at the activation is the activation itself.
    """
    relu = _GuidedRelu if guided else _DeconvRelu
    x = images.clone().requires_grad_()
    y = x
    layers = list(module)
    rectified = last + 1 < len(layers) and isinstance(layers[last + 1], (nn.ReLU, nn.ReLU6))
    rectified |= last + 2 < len(layers) and isinstance(layers[last + 1], nn.BatchNorm2d)
    stop = last + 1
    while rectified and not isinstance(layers[stop - 1], (nn.ReLU, nn.ReLU6)):
        stop += 1
    for layer in layers[:stop]:
        if isinstance(layer, (nn.ReLU, nn.ReLU6)):
            y = relu.apply(y, 6.0 if isinstance(layer, nn.ReLU6) else float("inf"))
        elif isinstance(layer, (LocalResponseNorm, nn.LocalResponseNorm)):
            y = _Through.apply(y, layer(y.detach()))
        else:
            y = layer(y)
    flat = y[:, feature].flatten(1)
    values, places = flat.detach().max(1)
    seed = torch.zeros_like(flat).scatter_(1, places[:, None], values[:, None])
    flat.backward(seed)
    assert x.grad is not None
    return values, places, x.grad


Array = NDArray[np.float64]


def pool_and_scatter(x: Array, y: Array, kernel: int, stride: int) -> tuple[Array, Array]:
    """Pool (N, C, H, W) by loops; return the maxima, and `y` of their shape put back where they came from, added."""
    pooled, back = np.zeros_like(y), np.zeros_like(x)
    for n, c, i, j in np.ndindex(*y.shape):
        top, left = i * stride, j * stride
        window = x[n, c, top : top + kernel, left : left + kernel]
        row, column = np.unravel_index(window.argmax(), window.shape)
        pooled[n, c, i, j] = window[row, column]
        back[n, c, top + row, left + column] += y[n, c, i, j]
    return pooled, back


def convolve(x: Array, weight: Array) -> Array:
    """Convolve (N, C, H, W) with (M, C, k, k) without padding."""
    return F.conv2d(torch.from_numpy(x), torch.from_numpy(weight)).numpy()


def filter_back(y: Array, weight: Array, shape: tuple[int, ...]) -> Array:
    """Filter (N, M, h, w) with the transposed weights: each value adds its filter, scaled, where it looked."""
    x = np.zeros(shape)
    kernel = weight.shape[2]
    for n, m, i, j in np.ndindex(*y.shape):
        x[n, :, i : i + kernel, j : j + kernel] += y[n, m, i, j] * weight[m]
    return x
