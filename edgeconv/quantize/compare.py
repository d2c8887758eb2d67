"""How far the quantised network is from the float one: agreement of classes, and signal to quantisation noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeconv.quantize.images import ImageSource
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
    """Of the outputs of two networks.

    Attributes:
        images: How many were compared.
        sqnr_db: Of the first output.
        same_class: Share of images with the same argmax; None where the output is not (N, classes).
        accuracy: Share of right classes of the float and the quantised network, where labels are given.
    """

    images: int
    sqnr_db: float
    same_class: float | None
    accuracy: tuple[float, float] | None = None


def compare_outputs(
    reference: onnx.ModelProto,
    quantized: onnx.ModelProto,
    source: ImageSource,
    *,
    batch: int,
    labels: dict[str, int] | None = None,
) -> Agreement:
    """Run both networks over images.

    Args:
        reference: The float network.
        quantized: The other; 8-bit outputs must have been dequantised.
        source: The images.
        batch: Images at a time.
        labels: Class of each image, by its name.
    """
    first, second = ModelRunner(reference, batch), ModelRunner(quantized, batch)
    noise, same, count, right = Noise(), 0, 0, np.zeros(2)
    classes = True
    stream = source.images()
    done = False
    while not done:
        names, arrays = [], []
        for name, array in stream:
            names.append(name)
            arrays.append(array)
            if len(arrays) == first.batch:
                break
        else:
            done = True
        if not arrays:
            break
        images = np.stack(arrays)
        want, got = (next(iter(runner.run(images).values())) for runner in (first, second))
        noise.add(want, got)
        count += len(images)
        classes = classes and want.ndim == 2 and want.shape[1] > 1
        if classes:
            top = want.argmax(1), got.argmax(1)
            same += int(np.sum(top[0] == top[1]))
            if labels is not None:
                truth = np.array([labels[name] for name in names])
                right += [np.sum(each == truth) for each in top]
    accuracy = None
    if labels is not None and classes and count:
        accuracy = (float(right[0] / count), float(right[1] / count))
    return Agreement(count, noise.db, same / count if classes and count else None, accuracy)
