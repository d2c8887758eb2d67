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


def qlinear_manhattan(
    x: NDArray[np.integer],
    x_scale: np.float32,
    x_zero_point: np.integer,
    w: NDArray[np.integer],
    w_zero_point: NDArray[np.integer],
    y_scale: np.float32,
    y_zero_point: np.integer,
    bias: NDArray[np.float32] | None,
    *,
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    dilations: tuple[int, int],
    group: int,
) -> NDArray[np.integer]:
    """8-bit Manhattan kervolution with all scales of W equal to X's: int64 sums, and one float32 rounding a step."""
    sums = qlinear_manhattan_sums(
        x, int(x_zero_point), w, w_zero_point, strides=strides, pads=pads, dilations=dilations, group=group
    )
    limits = np.iinfo(y_zero_point.dtype)
    steps = np.empty(sums.shape, np.int64)
    for place in np.ndindex(*sums.shape):
        value = -np.float32(np.float32(x_scale) * np.float32(sums[place]))
        if bias is not None:
            value = np.float32(value + np.float32(bias[place[1]]))
        quotient = np.float32(value / np.float32(y_scale))
        # Python rounds half to even; beyond these bounds every zero-point saturates.
        rounded = round(float(np.clip(quotient, -1000, 1000)))
        steps[place] = min(max(rounded + int(y_zero_point), int(limits.min)), int(limits.max))
    return steps.astype(y_zero_point.dtype)


def qlinear_manhattan_sums(
    x: NDArray[np.integer],
    x_zero_point: int,
    w: NDArray[np.integer],
    w_zero_point: NDArray[np.integer],
    *,
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    dilations: tuple[int, int],
    group: int,
) -> NDArray[np.int64]:
    """Σ|(X - x_zero_point) - (W - w_zero_point)| of (N,C,H,W) with (M,C/group,kH,kW), in int64; a padded X is 0."""
    steps = x.astype(np.int64) - x_zero_point
    weights = w.astype(np.int64) - np.broadcast_to(w_zero_point.astype(np.int64), w.shape[0])[:, None, None, None]
    (batch, _, height, width), (filters, depth, tall, wide) = x.shape, w.shape
    rows = (height + pads[0] + pads[2] - dilations[0] * (tall - 1) - 1) // strides[0] + 1
    columns = (width + pads[1] + pads[3] - dilations[1] * (wide - 1) - 1) // strides[1] + 1
    sums = np.zeros((batch, filters, rows, columns), np.int64)
    for m, row, column, i, j in np.ndindex(filters, rows, columns, tall, wide):
        first = m // (filters // group) * depth
        top, left = row * strides[0] + i * dilations[0] - pads[0], column * strides[1] + j * dilations[1] - pads[1]
        inside = 0 <= top < height and 0 <= left < width
        values = steps[:, first : first + depth, top, left] if inside else np.zeros((batch, depth), np.int64)
        sums[:, m, row, column] += np.abs(values - weights[m, :, i, j]).sum(1)
    return sums
