"""The pictures: patches beside their reconstructions (the paper's figure 2), and the first layer's filters."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeconv.files import atomic_output
from edgeconv.visualization.window import Box, Pair

Image = NDArray[np.float32]
"""(H, W, 3), from 0 to 1."""

_BORDER = np.array([0.36, 0.52, 0.75], np.float32)
"""Between tiles, and beyond an image's borders: a colour that is neither the pictures' white nor the middle grey."""
_BLOCK_INCHES = (3.4, 9.0)
"""Least and greatest width of a feature's block."""
_DPI = 100


@dataclass(frozen=True)
class Patch:
    """What an activation saw, and what it became on the way down.

    Attributes:
        pixels: (C, h, w) of the image, from 0 to 1.
        reconstruction: (C, h, w).
        box: Where both are in the image.
        field: The same without clipping at the image's borders.
    """

    pixels: NDArray[Any]
    reconstruction: NDArray[Any]
    box: Box
    field: Box


def draw_features(features: Sequence[tuple[str, Sequence[Patch]]], size: Pair, path: str | os.PathLike[str]) -> None:
    """Draw for each feature a grid of patches beside the grid of their reconstructions.

    Args:
        features: Titles and patches, strongest first.
        size: Height and width of the images.
        path: The picture; its ending says the format.
    """
    from matplotlib.figure import Figure

    across = min(3, len(features))
    down = math.ceil(len(features) / across)
    field = features[0][1][0].field
    tile = (min(field.height, size[0]), min(field.width, size[1]))
    side = math.ceil(math.sqrt(max(len(patches) for _, patches in features)))
    inches = min(max(2 * side * tile[1] / _DPI, _BLOCK_INCHES[0]), _BLOCK_INCHES[1])
    height = inches / 2 * tile[0] / tile[1]
    figure = Figure(figsize=(across * inches, down * (height + 0.3)), layout="constrained")
    blocks: Any = figure.subfigures(down, across, wspace=0.04, squeeze=False)
    for block, (title, patches) in zip(blocks.ravel(), features, strict=False):
        block.suptitle(title, fontsize=8)
        left, right = block.subplots(1, 2)
        _show(left, grid([_placed(as_image(each.pixels), each, tile) for each in patches]))
        _show(right, grid([_placed(as_image(around_grey(each.reconstruction)), each, tile) for each in patches]))
    _save(figure, path)


def draw_filters(weights: NDArray[Any], title: str, path: str | os.PathLike[str]) -> None:
    """Draw filters, each scaled around grey.

    Args:
        weights: (M, C, kH, kW), C being 1 or 3.
        title: Above the picture.
        path: The picture; its ending says the format.
    """
    from matplotlib.figure import Figure

    whole = grid([as_image(around_grey(each)) for each in weights])
    inches = min(max(whole.shape[1] / _DPI, _BLOCK_INCHES[0]), _BLOCK_INCHES[1])
    figure = Figure(figsize=(inches, inches * whole.shape[0] / whole.shape[1] + 0.3), layout="constrained")
    figure.suptitle(title, fontsize=8)
    _show(figure.subplots(), whole)
    _save(figure, path)


def around_grey(values: NDArray[Any]) -> NDArray[Any]:
    """Scale values to [0, 1] with 0 in the middle; the largest magnitude reaches an end."""
    largest = float(np.abs(values).max(initial=0))
    return 0.5 + (0.5 / largest * values if largest > 0 else np.zeros_like(values))


def as_image(values: NDArray[Any]) -> Image:
    """Return (H, W, 3) for (1, H, W), (3, H, W), or the mean of other channels; values are cut to [0, 1]."""
    if values.shape[0] not in (1, 3):
        values = values.mean(0, keepdims=True)
    colours = np.broadcast_to(values, (3, *values.shape[1:]))
    image: Image = np.clip(np.moveaxis(colours, 0, 2), 0, 1).astype(np.float32)
    return image


def grid(tiles: Sequence[Image]) -> Image:
    """Return tiles of one size in a square, row by row, with lines between."""
    side = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / side)
    height, width = tiles[0].shape[:2]
    gap = max(1, max(height, width) // 30)
    whole = np.empty((rows * (height + gap) - gap, side * (width + gap) - gap, 3), np.float32)
    whole[:] = _BORDER
    for index, tile in enumerate(tiles):
        top, left = index // side * (height + gap), index % side * (width + gap)
        whole[top : top + height, left : left + width] = tile
    return whole


def _placed(image: Image, patch: Patch, tile: Pair) -> Image:
    """Return a patch in a tile, where it would be if the image went on beyond its borders."""
    whole = np.empty((*tile, 3), np.float32)
    whole[:] = _BORDER
    height, width = image.shape[:2]
    top = min(patch.box.top - patch.field.top, tile[0] - height)
    left = min(patch.box.left - patch.field.left, tile[1] - width)
    whole[top : top + height, left : left + width] = image
    return whole


def _show(axes: Any, image: Image) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_axis_off()


def _save(figure: Any, path: str | os.PathLike[str]) -> None:
    with atomic_output(path) as temporary:
        figure.savefig(temporary, format=os.fspath(path).lower().rsplit(".", 1)[1], dpi=_DPI)
