"""What an architecture scales, told from its configuration keys.

Width: `width`, the multiplier of the channels. Depth: `depth`, a multiplier of the blocks, or `blocks`, the blocks of
every stage, which are multiplied and rounded up. Resolution: rows and columns of the input, of every architecture that
takes more than one size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeconv.errors import InputError
from edgeconv.models.registry import ModelInfo

DEPTH, WIDTH, RESOLUTION = "depth", "width", "resolution"
AXES = (DEPTH, WIDTH, RESOLUTION)

STEP = 8
"""Rows and columns are rounded to multiples of it, so that five halvings waste little."""

_ONE_SIZE = frozenset({"lenet5"})
_BLOCKS = "blocks"


@dataclass(frozen=True)
class Axes:
    """What can be scaled of one architecture.

    Attributes:
        info: The architecture.
        base: Its configuration before scaling.
        names: Those of `AXES` that it has.
    """

    info: ModelInfo
    base: Mapping[str, Any]
    names: tuple[str, ...]

    def config(self, depth: float, width: float) -> dict[str, Any]:
        """Return the configuration at multipliers of depth and width."""
        config = dict(self.base)
        if WIDTH in self.names and width != 1:
            config[WIDTH] = round(self.base[WIDTH] * width, 4)
        if DEPTH in self.names and depth != 1:
            if DEPTH in self.base:
                config[DEPTH] = round(self.base[DEPTH] * depth, 4)
            else:
                # A little less, so that 1.1 * 10 is 11 and not 12.
                config[_BLOCKS] = [math.ceil(blocks * depth - 1e-9) for blocks in self.base[_BLOCKS]]
        return config

    def input_shape(self, resolution: float) -> tuple[int, int, int]:
        """Return (C, H, W) at a multiplier of the resolution; at 1 exactly the architecture's own."""
        channels, rows, columns = self.info.input_shape
        if "in_channels" in self.base:
            channels = int(self.base["in_channels"])
        if RESOLUTION not in self.names or resolution == 1:
            return channels, rows, columns
        height, width = (max(STEP, STEP * round(size * resolution / STEP)) for size in (rows, columns))
        return channels, height, width


def find_axes(info: ModelInfo, config: Mapping[str, Any]) -> Axes:
    """Tell what an architecture scales.

    Args:
        info: The architecture.
        config: Its whole configuration (`edgeconv.models.registry.resolve_config`).

    Raises:
        InputError: It scales nothing.
    """
    names = []
    if DEPTH in config or _BLOCKS in config:
        names.append(DEPTH)
    if WIDTH in config:
        names.append(WIDTH)
    if info.name not in _ONE_SIZE:
        names.append(RESOLUTION)
    if not names:
        raise InputError(
            f"{info.name} has one size: neither depth, nor width, nor resolution can change.",
            "`edgeconv models` lists the architectures; those with the keys width or depth scale.",
        )
    return Axes(info, dict(config), tuple(names))
