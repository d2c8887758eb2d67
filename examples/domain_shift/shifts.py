"""What happens to the images between training and use: changed contrast, brightness, blur, inverted polarity.

Every function takes and returns uint8 images (N, 28, 28): what a camera hands over, saturated and rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]


def contrast(images: Images, gain: float) -> Images:
    """Distances from mid-grey times `gain`: below 1 black becomes grey and white becomes darker."""
    return _pixels(127.5 + gain * (images - 127.5))


def brightness(images: Images, offset: float) -> Images:
    """Plus `offset`, as a fraction of white; what exceeds white saturates."""
    return _pixels(images + 255 * offset)


def blur(images: Images, sigma: float) -> Images:
    """A Gaussian of standard deviation `sigma` pixels, cut off at 3 sigma; black beyond the border."""
    reach = int(np.ceil(3 * sigma))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    weights /= weights.sum()
    blurred = images.astype(np.float64)
    for axis in (1, 2):
        widths = [(reach, reach) if i == axis else (0, 0) for i in range(3)]
        padded = np.pad(blurred, widths)
        size = blurred.shape[axis]
        blurred = sum(
            (weight * padded.take(range(i, i + size), axis) for i, weight in enumerate(weights)), np.zeros(images.shape)
        )
    return _pixels(blurred)


def inversion(images: Images, share: float) -> Images:
    """A mixture of the image and its negative: 0.5 is plain grey, 1 is the negative."""
    return _pixels((1 - share) * images + share * (255.0 - images))


@dataclass(frozen=True)
class Shift:
    """A kind of change, and the strengths it comes in.

    Attributes:
        name: Of the kind.
        symbol: Of the strength, for axes.
        change: The function.
        clean: The strength that changes nothing.
        strengths: From mild to harsh.
    """

    name: str
    symbol: str
    change: Callable[[Images, float], Images]
    clean: float
    strengths: tuple[float, ...]


SHIFTS = (
    Shift("contrast", "gain", contrast, 1.0, (0.6, 0.3, 0.1)),
    Shift("brightness", "offset", brightness, 0.0, (0.2, 0.4, 0.6)),
    Shift("blur", "sigma, pixels", blur, 0.0, (1.0, 1.5, 2.0)),
    Shift("inversion", "share of the negative", inversion, 0.0, (0.6, 0.8, 1.0)),
)


def _pixels(values: NDArray[np.float64]) -> Images:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
