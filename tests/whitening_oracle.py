"""The float64 oracle of `DeconvWhitening`: it shares no code with the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Double = NDArray[np.float64]


def samples(x: NDArray[Any], attributes: Mapping[str, Any]) -> Double:
    """The samples (G, P, F), patch by patch.

    Args:
        x: (N, C, H, W).
        attributes: All of the node's, those for TensorRT aside.
    """
    a, x = attributes, np.asarray(x, np.float64)
    n, channels, height, width = x.shape
    (kh, kw), (sh, sw) = a["kernel_shape"], (a["sampling_stride"] * stride for stride in a["strides"])
    if kh * kw == 1:
        rows = np.moveaxis(x, 1, 3).reshape(n * height * width, channels)[:: sh * sw]
    else:
        top, left, bottom, right = a["pads"]
        padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        (dh, dw), reach = a["dilations"], [d * (k - 1) for d, k in zip(a["dilations"], (kh, kw), strict=True)]
        rows = np.array(
            [
                padded[i, :, r : r + reach[0] + 1 : dh, c : c + reach[1] + 1 : dw].ravel()
                for i in range(n)
                for r in range(0, padded.shape[2] - reach[0], sh)
                for c in range(0, padded.shape[3] - reach[1], sw)
            ]
        )
    features = a["block"] * kh * kw
    if a["group"] > 1:
        return np.stack([rows[:, g * features : (g + 1) * features] for g in range(a["group"])])
    blocks = channels // a["block"]
    return np.concatenate([rows[:, q::blocks] for q in range(blocks)])[None]


def covariances(x: NDArray[Any], attributes: Mapping[str, Any]) -> tuple[Double, Double]:
    """Mean (G, F) and covariance (G, F, F) with eps on the diagonal."""
    found = samples(x, attributes)
    mean = found.mean(1)
    centred = found - mean[:, None] if attributes["centered"] else found
    moment = np.einsum("gpi,gpj->gij", centred, centred) / found.shape[1]
    return mean, moment + attributes["eps"] * np.eye(found.shape[2])


def inverse_root(matrix: Double, n_iter: int) -> Double:
    """n_iter coupled Newton-Schulz steps, on the eigenvalues: exact whatever the condition."""
    values, vectors = np.linalg.eigh(matrix)
    norm = np.sqrt(np.sum(values**2, -1, keepdims=True))
    y = np.maximum(values, 0) / norm
    z = np.ones_like(y)
    for _ in range(n_iter):
        t = (3 - z * y) / 2
        y, z = y * t, t * z
    return np.asarray((vectors * (z / np.sqrt(norm))[..., None, :]) @ np.swapaxes(vectors, -1, -2))


def whitening(x: NDArray[Any], attributes: Mapping[str, Any]) -> tuple[Double, Double]:
    """Mean (G, F) and deconv (G, F, F)."""
    mean, matrix = covariances(x, attributes)
    return mean, inverse_root(matrix, attributes["n_iter"])
