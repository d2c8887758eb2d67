"""Kervolution configurations that hurt: H ≠ W, odd channels, groups, strides, dilations, lopsided pads, no bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeconv.ops.kervolution import OPERATOR_OF_KERNEL

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Window:
    """One geometry of a layer."""

    name: str
    batch: int
    channels: int
    size: tuple[int, int]
    filters: int
    window: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1


WINDOWS = (
    Window("plain", 1, 3, (7, 9), 5, (3, 3), pads=(1, 1, 1, 1)),
    Window("batch", 3, 5, (6, 11), 7, (3, 3), pads=(1, 1, 1, 1)),
    Window("stride", 2, 3, (12, 9), 9, (3, 5), strides=(2, 3), pads=(1, 2, 1, 2)),
    Window("dilation", 1, 7, (13, 10), 3, (3, 2), pads=(2, 1, 2, 1), dilations=(2, 3)),
    Window("lopsided", 2, 3, (8, 5), 4, (4, 2), strides=(1, 2), pads=(3, 0, 1, 2)),
    Window("group", 2, 6, (7, 8), 9, (3, 3), pads=(1, 1, 1, 1), group=3),
    Window("depthwise", 1, 5, (9, 6), 5, (3, 3), pads=(1, 1, 1, 1), group=5),
    Window("multiplier", 1, 4, (6, 7), 12, (3, 3), strides=(2, 1), pads=(0, 1, 1, 0), group=4),
    Window("pointwise", 3, 13, (5, 7), 11, (1, 1)),
    Window("whole", 2, 3, (4, 5), 6, (4, 5)),
    Window("single", 1, 1, (3, 17), 1, (1, 3)),
    Window("deep", 1, 67, (5, 6), 19, (3, 3), pads=(1, 1, 1, 1)),
    Window("everything", 2, 10, (14, 9), 15, (2, 3), strides=(2, 1), pads=(1, 2, 0, 3), dilations=(3, 2), group=5),
)


@dataclass(frozen=True)
class Case:
    """A kernel on a geometry, with or without bias, with scalar or per-channel parameters, in one dtype."""

    kernel: str
    window: Window
    bias: bool
    per_channel: bool
    dtype: str
    degree: int = 3

    @property
    def id(self) -> str:
        """Readable name of the case."""
        parts = [self.kernel, self.window.name, self.dtype, "bias" if self.bias else "nobias"]
        if self.per_channel:
            parts.append("channel")
        return "-".join([*parts, f"d{self.degree}"] if self.kernel == "polynomial" else parts)

    @property
    def attributes(self) -> dict[str, Any]:
        """The ONNX attributes, without kernel_shape."""
        w = self.window
        return {"strides": w.strides, "pads": w.pads, "dilations": w.dilations, "group": w.group}

    def tensors(self) -> tuple[Array, Array, Array | None, dict[str, NDArray[np.float32]]]:
        """X, W, bias and parameters, seeded by the case's name, at a scale at which every kernel is alive."""
        w = self.window
        generator = np.random.default_rng(list(self.id.encode()))
        depth = w.channels // w.group * w.window[0] * w.window[1]
        x = generator.standard_normal((w.batch, w.channels, *w.size)).astype(self.dtype)
        shape = (w.filters, w.channels // w.group, *w.window)
        weights = (generator.standard_normal(shape) / np.sqrt(depth)).astype(self.dtype)
        bias = generator.standard_normal(w.filters).astype(self.dtype) if self.bias else None
        size = w.filters if self.per_channel else ()
        values = {
            "balance": generator.uniform(0.3, 1.2, size),
            "gamma": generator.uniform(0.3, 1.0, size) / depth,
            "scale": generator.uniform(0.2, 0.9, size),
        }
        names = OPERATOR_OF_KERNEL[self.kernel].parameters
        return x, weights, bias, {name: np.asarray(values[name], np.float32) for name in names}


def cases() -> list[Case]:
    """Every kernel × geometry × dtype; bias, per-channel parameters and degree alternate so that all pairs occur."""
    result = []
    for k, kernel in enumerate(OPERATOR_OF_KERNEL):
        for i, window in enumerate(WINDOWS):
            for j, dtype in enumerate(("float32", "float16")):
                for bias in (True, False):
                    per_channel = (i + j + k + bias) % 2 == 0
                    degree = 1 + (i + 2 * bias) % 5 if dtype == "float32" else 1 + (i + bias) % 3
                    result.append(Case(kernel, window, bias, per_channel, dtype, degree))
    return result
