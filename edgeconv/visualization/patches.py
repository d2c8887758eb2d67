"""Patches of images, and what their activations become on the way down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeconv.normalization import Normalization
from edgeconv.visualization.image_set import ImageSet
from edgeconv.visualization.picture import Patch
from edgeconv.visualization.project import single_activation
from edgeconv.visualization.search import Found
from edgeconv.visualization.stack import Stack


@torch.no_grad()
def project_patches(
    stack: Stack,
    place: ImageSet,
    found: Sequence[Found],
    feature: int,
    normalization: Normalization | None,
    batch: int,
) -> list[Patch]:
    """Read a feature's images again and project its activations, a batch at a time.

    Args:
        stack: Of the layer.
        place: The images that were searched.
        found: The feature's strongest activations.
        feature: Its number.
        normalization: Undone for the pixels; without one, an image's values are spread from 0 to 1.
        batch: Images at a time.
    """
    patches = []
    for start in range(0, len(found), batch):
        chunk = found[start : start + batch]
        images = np.stack([place.read(each.key) for each in chunk])
        recording = stack.record(torch.from_numpy(images))
        places = torch.tensor([each.row * stack.output_shape[2] + each.column for each in chunk])
        pixels = stack.project(single_activation(recording.maps, feature, places), recording).numpy()
        for each, image, reconstruction in zip(chunk, images, pixels, strict=True):
            box = stack.receptive_field(each.row, each.column)
            window = (slice(None), slice(box.top, box.bottom + 1), slice(box.left, box.right + 1))
            shown, scale = _pixels(image, normalization)
            field = stack.unclipped_field(each.row, each.column)
            patches.append(Patch(shown[window], (reconstruction * scale)[window], box, field))
    return patches


def _pixels(image: NDArray[Any], normalization: Normalization | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return an image from 0 to 1, and what a step of the network's input is worth there, of each channel."""
    if normalization is None:
        low, high = float(image.min()), float(image.max())
        return (image - low) / max(high - low, 1e-12), np.ones(1, np.float32)
    mean, std = (np.asarray(each, np.float32).reshape(-1, 1, 1) for each in (normalization.mean, normalization.std))
    return image * std + mean, std
