"""Over a set of images, the strongest activations of every feature, each image once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeconv.errors import InputError
from edgeconv.visualization.image_set import ImageSet, Key
from edgeconv.visualization.project import strongest
from edgeconv.visualization.stack import Stack

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Found:
    """One of a feature's strongest activations.

    Attributes:
        activation: Its value.
        row: Of the layer's map.
        column: Of the layer's map.
        image: The image's name.
        key: Where the image is in its set.
    """

    activation: float
    row: int
    column: int
    image: str
    key: Key


@dataclass(frozen=True)
class Search:
    """What was found.

    Attributes:
        images: How many were seen.
        features: For each feature the strongest activations, strongest first; of equal ones the earlier image.
    """

    images: int
    features: Sequence[Sequence[Found]]

    def strongest_features(self, count: int) -> list[int]:
        """Return the features whose strongest activation is largest, leaving out those that are never active."""
        order = sorted(range(len(self.features)), key=lambda feature: -self.features[feature][0].activation)
        return [feature for feature in order if self.features[feature][0].activation > 0][:count] or order[:1]

    @property
    def silent(self) -> int:
        """How many features are active on no image."""
        return sum(found[0].activation <= 0 for found in self.features)


@torch.no_grad()
def search_images(stack: Stack, images: ImageSet, top: int, batch: int, progress: Progress) -> Search:
    """Find each feature's strongest activations.

    Memory holds one batch, and `top` numbers and names a feature.

    Args:
        stack: Of the layer.
        images: What to search.
        top: How many activations of a feature, each of another image.
        batch: Images at a time.
        progress: Called with what is being done and how much of it (0 to 1).

    Raises:
        InputError: The images cannot be read, or the layer computes NaN or infinite values.
    """
    best = torch.full((stack.features, 0), -torch.inf)
    where = torch.zeros((stack.features, 0, 2), dtype=torch.int64)  # number of the image, place in the map
    known: dict[int, tuple[Key, str]] = {}
    seen, total = 0, len(images)
    for keys, names, array in images.batches(batch):
        values, places = strongest(stack.forward(torch.from_numpy(array)))
        for name, each in zip(names, values, strict=True):
            if not each.isfinite().all():
                raise InputError(
                    f"layer {stack.layer!r} computes NaN or infinite values on {name}.",
                    "Check the checkpoint's weights: how they were trained, and how they were saved.",
                )
        numbers = torch.arange(seen, seen + len(keys))
        known.update(zip(numbers.tolist(), zip(keys, names, strict=True), strict=True))
        best = torch.cat([best, values.T], 1)
        where = torch.cat([where, torch.stack([numbers.expand_as(values.T), places.T], 2)], 1)
        order = best.sort(dim=1, descending=True, stable=True).indices[:, :top]
        best = best.gather(1, order)
        where = where.gather(1, order[:, :, None].expand(-1, -1, 2))
        kept = set(where[:, :, 0].flatten().tolist())
        known = {number: about for number, about in known.items() if number in kept}
        seen += len(keys)
        progress("Searching", min(seen / total, 1.0))
    width = stack.output_shape[2]
    return Search(seen, [_found(best[k], where[k], known, width) for k in range(stack.features)])


def _found(values: Tensor, where: Tensor, known: dict[int, tuple[Key, str]], width: int) -> list[Found]:
    return [
        Found(value, place // width, place % width, known[number][1], known[number][0])
        for value, (number, place) in zip(values.tolist(), where.tolist(), strict=True)
    ]
