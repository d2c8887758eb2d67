"""How far the quantised network is from the float one: agreement of classes, and signal to quantisation noise."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeconv.quantize.images import ImageSource, no_image
from edgeconv.quantize.running import ModelRunner

Array = NDArray[Any]


@dataclass
class Noise:
    """Sums for a signal-to-noise ratio over batches."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, expected: Array, actual: Array) -> None:
        """Take in a batch."""
        want = np.asarray(expected, np.float64)
        self.signal += float(np.sum(want**2))
        self.noise += float(np.sum((np.asarray(actual, np.float64) - want) ** 2))

    @property
    def db(self) -> float:
        """10·log10(signal / noise); infinite where there is no noise."""
        return sqnr(self.signal, self.noise)


def sqnr(signal: float, noise: float) -> float:
    """Return the signal-to-quantisation-noise ratio in dB."""
    if noise == 0:
        return float("inf")
    return float("-inf") if signal == 0 else 10 * float(np.log10(signal / noise))


@dataclass(frozen=True)
class Agreement:
    """Of a network's outputs with those of the float network.

    Attributes:
        images: How many were compared.
        sqnr_db: Of the first output.
        same_class: Share of images with the same argmax; None where the output is not (N, classes).
        accuracy: Share of right classes of the float network and of this one, where labels are given.
    """

    images: int
    sqnr_db: float
    same_class: float | None
    accuracy: tuple[float, float] | None = None


def compare_outputs(
    reference: onnx.ModelProto,
    others: Sequence[onnx.ModelProto],
    source: ImageSource,
    *,
    batch: int,
    labels: dict[str, int] | None = None,
) -> list[Agreement]:
    """Run networks over images, in one pass.

    Args:
        reference: The float network.
        others: What is compared with it; 8-bit outputs must have been dequantised.
        source: The images.
        batch: Images at a time.
        labels: Class of each image, by its name.
    """
    first = ModelRunner(reference, batch)
    runners = [ModelRunner(other, batch) for other in others]
    noise = [Noise() for _ in others]
    same, right = np.zeros(len(others)), np.zeros(1 + len(others))
    count, classes = 0, True
    stream = source.images()
    while chunk := list(itertools.islice(stream, first.batch)):
        images = np.stack([image for _, image in chunk])
        want = next(iter(first.run(images).values()))
        got = [next(iter(runner.run(images).values())) for runner in runners]
        for each, output in zip(noise, got, strict=True):
            each.add(want, output)
        count += len(images)
        classes = classes and want.ndim == 2 and want.shape[1] > 1
        if classes:
            top = np.stack([output.argmax(1) for output in (want, *got)])
            same += np.sum(top[1:] == top[0], axis=1)
            if labels is not None:
                right += np.sum(top == np.array([labels[name] for name, _ in chunk]), axis=1)
    if not count:
        raise no_image(source)
    judged = classes and labels is not None
    return [
        Agreement(
            count,
            each.db,
            float(same[index] / count) if classes else None,
            (float(right[0] / count), float(right[index + 1] / count)) if judged else None,
        )
        for index, each in enumerate(noise)
    ]
