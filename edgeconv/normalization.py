"""How pixels become a network's input: (pixel / 255 - mean) / std, a value of each a channel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeconv.errors import InputError

_SLACK = 0.25
"""By how much of the range prepared values may leave it, as resampling lets them."""


@dataclass(frozen=True)
class Normalization:
    """Of pixels scaled to [0, 1].

    Attributes:
        mean: One value, or one a channel.
        std: Likewise.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Prepare pixels (..., C, H, W).

        Raises:
            InputError: There are neither 1 nor C values.
        """
        self._check_channels(pixels.shape[-3])
        mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (self.mean, self.std))
        return np.asarray((pixels.astype(np.float32) / 255 - mean) / std, np.float32)

    def check_range(self, name: str, values: NDArray[np.float32]) -> None:
        """Refuse values (C, H, W) that no pixel is prepared to: they were prepared otherwise, or not at all.

        Raises:
            InputError: They leave the range by more than a quarter of it, or there are neither 1 nor C means.
        """
        self._check_channels(values.shape[-3])
        mean, std = np.asarray(self.mean, np.float64), np.asarray(self.std, np.float64)
        low, high = float((-mean / std).min()), float(((1 - mean) / std).max())
        least, most = float(values.min()), float(values.max())
        slack = _SLACK * (high - low)
        if least < low - slack or most > high + slack:
            raise InputError(
                f"{name} has values from {least:.3g} to {most:.3g}; prepared as the model says, pixels lie between "
                f"{low:.3g} and {high:.3g}.",
                "Give uint8 pixels, which are prepared here, or prepare the values as the model was trained; --mean "
                "and --std override what the file says.",
            )

    def _check_channels(self, channels: int) -> None:
        for name, values in (("--mean", self.mean), ("--std", self.std)):
            if len(values) not in (1, channels):
                raise InputError(f"{name} has {len(values)} values, and the images have {channels} channels.")


def read_normalization(
    metadata: dict[str, str], mean: Sequence[float] | None, std: Sequence[float] | None
) -> Normalization | None:
    """Return what the user gives, or else what the exporter stored in the file, or None.

    Args:
        metadata: The file's properties.
        mean: In units of [0, 1], or of [0, 255] if any value of the two exceeds 1.
        std: Likewise.

    Raises:
        InputError: One of the two is missing, or a std is not positive.
    """
    if (mean is None) != (std is None):
        raise InputError("--mean and --std are needed both, or neither.")
    if mean is not None and std is not None:
        if not all(np.isfinite([*mean, *std])) or min(std) <= 0:
            raise InputError("--mean and --std must be finite, and --std positive.")
        unit = 255.0 if max([*map(abs, mean), *std]) > 1 else 1.0
        return Normalization(tuple(v / unit for v in mean), tuple(v / unit for v in std))
    stored: Any = json.loads(metadata.get("edgeconv.normalization", "null"))
    if not isinstance(stored, dict) or not {"mean", "std"} <= stored.keys():
        return None
    return Normalization(tuple(map(float, stored["mean"])), tuple(map(float, stored["std"])))
