"""`DeconvWhitening` configurations that hurt."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

DEFAULTS: dict[str, Any] = {
    "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1, "eps": 1e-5, "n_iter": 5,
    "sampling_stride": 3, "centered": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One node: the size of its input, and its attributes where they are not the defaults."""

    name: str
    batch: int
    channels: int
    size: tuple[int, int]
    block: int
    kernel_shape: tuple[int, int]
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def attributes(self) -> dict[str, Any]:
        """Every attribute but those for TensorRT."""
        return {**DEFAULTS, **self.more, "block": self.block, "kernel_shape": list(self.kernel_shape)}

    @property
    def features(self) -> int:
        """F."""
        return self.block * self.kernel_shape[0] * self.kernel_shape[1]

    def input(self, dtype: str = "float32") -> Array:
        """Smooth images whose channels are mixtures of each other, with means far from 0."""
        generator = np.random.default_rng(zlib.crc32(self.name.encode()))
        x = generator.standard_normal((self.batch, self.channels, *self.size))
        x = x + np.roll(x, 1, axis=2) + 0.5 * np.roll(x, 1, axis=3)
        mix = np.eye(self.channels) + 0.3 * generator.standard_normal((self.channels, self.channels))
        x = np.einsum("dc,nchw->ndhw", mix, x) + 2 * generator.standard_normal((self.channels, 1, 1))
        return np.asarray(x, dtype)


CASES = (
    Case("plain", 1, 4, (13, 16), 4, (3, 3), {"pads": [1, 1, 1, 1]}),
    Case("blocks", 2, 15, (8, 11), 5, (3, 3), {"pads": [1, 1, 1, 1]}),
    Case("blocks, everything sampled", 2, 6, (9, 5), 2, (3, 2), {"sampling_stride": 1}),
    Case("lopsided", 2, 6, (8, 5), 3, (4, 2), {"strides": [1, 2], "pads": [3, 0, 1, 2], "sampling_stride": 1}),
    Case("dilation", 3, 5, (13, 10), 5, (3, 2), {"strides": [2, 1], "dilations": [2, 3], "pads": [2, 1, 2, 1]}),
    Case("group", 3, 6, (14, 11), 2, (3, 3), {"group": 3, "pads": [1, 1, 1, 1]}),
    Case("depthwise", 2, 5, (12, 9), 1, (3, 3), {"group": 5, "sampling_stride": 2}),
    Case("pointwise", 3, 13, (5, 7), 13, (1, 1), {"strides": [2, 1], "sampling_stride": 1}),
    Case("pointwise, blocks", 2, 12, (10, 11), 4, (1, 1), {"pads": [1, 2, 3, 4], "dilations": [2, 2]}),
    Case("pointwise, group", 2, 6, (7, 9), 3, (1, 1), {"group": 2, "sampling_stride": 2}),
    Case("row window", 2, 3, (5, 17), 3, (1, 3), {"strides": [2, 3], "sampling_stride": 1}),
    Case("column window", 1, 7, (16, 4), 7, (2, 1), {"pads": [0, 1, 1, 0], "sampling_stride": 2}),
    Case("fewer samples than features", 1, 8, (9, 7), 8, (3, 3)),
    Case("one sample", 1, 3, (4, 5), 3, (4, 5), {"n_iter": 3}),
    Case("one channel", 1, 1, (9, 11), 1, (2, 2)),
    Case("step beyond the image", 4, 6, (6, 5), 3, (3, 3), {"sampling_stride": 9, "pads": [1, 1, 1, 1]}),
    Case("not centered", 2, 6, (9, 8), 3, (3, 3), {"centered": 0, "eps": 1e-2}),
    Case("not centered, pointwise", 5, 3, (6, 7), 3, (1, 1), {"centered": 0, "sampling_stride": 2}),
    Case("no step", 2, 4, (9, 8), 4, (2, 3), {"n_iter": 0}),
    Case("one step", 2, 4, (9, 8), 4, (2, 3), {"n_iter": 1}),
    Case("two steps", 2, 4, (9, 8), 2, (2, 3), {"n_iter": 2}),
    Case("many steps", 4, 4, (19, 18), 4, (1, 1), {"n_iter": 15, "sampling_stride": 1, "eps": 0.1}),
    Case("large eps", 1, 5, (9, 8), 5, (3, 3), {"eps": 10.0}),
    Case("deep", 1, 67, (10, 13), 67, (1, 1)),
    Case(
        "everything", 3, 10, (24, 19), 2, (2, 3),
        {"group": 5, "strides": [2, 1], "pads": [1, 2, 0, 3], "dilations": [3, 2], "sampling_stride": 2, "n_iter": 4},
    ),
)  # fmt: skip
