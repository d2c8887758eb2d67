"""Oracles that share no code with what they test: plain float64 loops over output positions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def kervolution(
    x: NDArray[np.floating],
    w: NDArray[np.floating],
    bias: NDArray[np.floating] | None,
    *,
    kernel: str,
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    dilations: tuple[int, int],
    group: int,
    degree: int = 3,
    balance: float | NDArray[np.floating] = 1.0,
    gamma: float | NDArray[np.floating] = 1.0,
    scale: float | NDArray[np.floating] = 1.0,
) -> Array:
    """Kervolution of (N,C,H,W) with (M,C/group,kH,kW) as a loop over output positions and filters, in float64."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    top, left, bottom, right = pads
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    batch, _, height, width = x.shape
    filters, depth, tall, wide = w.shape
    rows = (height - dilations[0] * (tall - 1) - 1) // strides[0] + 1
    columns = (width - dilations[1] * (wide - 1) - 1) // strides[1] + 1
    y = np.zeros((batch, filters, rows, columns))
    parameters = {k: np.broadcast_to(v, filters) for k, v in (("b", balance), ("g", gamma), ("s", scale))}
    for row in range(rows):
        for column in range(columns):
            patch = x[
                :,
                :,
                row * strides[0] : row * strides[0] + dilations[0] * (tall - 1) + 1 : dilations[0],
                column * strides[1] : column * strides[1] + dilations[1] * (wide - 1) + 1 : dilations[1],
            ]
            for m in range(filters):
                first = m // (filters // group) * depth
                patches = patch[:, first : first + depth].reshape(batch, -1)
                y[:, m, row, column] = _kernel(
                    kernel, patches, w[m].ravel(), degree, *(float(parameters[k][m]) for k in "bgs")
                )
    return y if bias is None else y + bias.astype(np.float64)[:, None, None]


def _kernel(
    kernel: str, patches: Array, weights: Array, degree: int, balance: float, gamma: float, scale: float
) -> Array:
    difference = patches - weights
    if kernel == "linear":
        return patches @ weights
    if kernel == "polynomial":
        return np.asarray((patches @ weights + balance) ** degree)
    if kernel == "gaussian":
        return np.asarray(np.exp(-gamma * (difference**2).sum(1)))
    if kernel == "sigmoid":
        return np.asarray(np.tanh(scale * (patches @ weights) + balance))
    if kernel == "euclidean":
        return np.asarray(-(difference**2).sum(1))
    if kernel == "manhattan":
        return np.asarray(-np.abs(difference).sum(1))
    return np.asarray(-np.abs(difference).max(1))
