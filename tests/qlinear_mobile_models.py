"""One-node models of the 8-bit operators of mobile networks, and what they must give: loops over integers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeconv.ops.kervolution import DOMAIN, PLUGIN_ATTRIBUTES, VERSION
from edgeconv.ops.qlinear_mobile import (
    BOTTLENECK,
    CONVOLUTIONS,
    KEEP,
    NCHW_TO_NHWC,
    NHWC_TO_NCHW,
    NO_LIMIT,
    QLinearMobileOperator,
)

Array = NDArray[Any]
LAYOUTS = ("NCHW", "NHWC")


def convolve(x: Array, w: Array, strides: Any, pads: Any, dilations: Any, group: int) -> Array:
    """Σ x·w in the operands' type, x padded with 0: a loop over the window, all positions at a time."""
    top, left, bottom, right = pads
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    sizes = [(x.shape[2 + a] - dilations[a] * (w.shape[2 + a] - 1) - 1) // strides[a] + 1 for a in range(2)]
    total = np.zeros((x.shape[0], w.shape[0], *sizes), w.dtype)
    share, depth = w.shape[0] // group, w.shape[1]
    for i, j in np.ndindex(*w.shape[2:]):
        rows, columns = (
            slice(at * dilations[a], at * dilations[a] + strides[a] * (sizes[a] - 1) + 1, strides[a])
            for a, at in ((0, i), (1, j))
        )
        patch = x[:, :, rows, columns]
        for g in range(group):
            part = patch[:, g * depth : (g + 1) * depth]
            taps = w[g * share : (g + 1) * share, :, i, j]
            total[:, g * share : (g + 1) * share] += np.einsum("nchw,mc->nmhw", part, taps)
    return total


@dataclass
class Stage:
    """One convolution: integers, and the grid and the limits of its results."""

    w: Array
    w_scale: Array
    bias: Array
    scale: np.float32
    zero_point: Array
    limits: tuple[float, float] | None = None

    def steps(self, value: Array) -> Array:
        """Real results over the scale (float32), rounded, shifted and cut."""
        low, high = (int(bound) for bound in (np.iinfo(self.zero_point.dtype).min, np.iinfo(self.zero_point.dtype).max))
        zero = int(self.zero_point)
        if self.limits is not None:
            least, most = (
                np.clip(np.rint(np.float64(np.float32(limit) / self.scale)) + zero, low, high) for limit in self.limits
            )
            low, high = int(least), int(most)
        return np.clip(np.rint(value.astype(np.float64)) + zero, low, high).astype(self.zero_point.dtype)


@dataclass
class Case:
    """One call of an operator; X is NCHW here, whatever layout the node has."""

    operator: QLinearMobileOperator
    x: Array
    x_scale: np.float32
    x_zero_point: Array
    stages: list[Stage]
    sum_scale: np.float32 = field(default_factory=lambda: np.float32(1))
    sum_zero_point: Array = field(default_factory=lambda: np.asarray(0, np.uint8))
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1
    expand_strides: tuple[int, int] = (1, 1)
    expand_pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def window(self) -> dict[str, Any]:
        """Attributes of the convolution with a window."""
        return {name: getattr(self, name) for name in ("strides", "pads", "dilations", "group")}

    def run(self, one: Any) -> Array:
        """The stages' results with one(stage, x, x_scale, x_zero_point, window) for each, and the residual."""
        x, scale, zero = self.x, self.x_scale, self.x_zero_point
        plain = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1}
        for stage, given in zip(self.stages, self.operator.stages, strict=True):
            window = self.window if given is self.operator.window else plain
            if given.kind == "expand":
                window = plain | {"strides": self.expand_strides, "pads": self.expand_pads}
            x, scale, zero = one(stage, x, scale, zero, window), stage.scale, stage.zero_point
        return x

    def oracle(self) -> Array:
        """NCHW; exact sums, then float32 as `edgeconv.ops.qlinear_mobile` has it."""

        def one(stage: Stage, x: Array, x_scale: np.float32, zero: Array, window: dict[str, Any]) -> Array:
            sums = convolve(x.astype(np.int64) - int(zero), stage.w.astype(np.int64), **window)
            sums += stage.bias.astype(np.int64)[:, None, None]
            assert np.abs(sums).max(initial=0) < 2**31
            mantissa, exponent = np.frexp(
                np.float64(x_scale) * stage.w_scale.astype(np.float64) / np.float64(stage.scale)
            )
            factor = np.ldexp(np.rint(mantissa * 2**22), exponent - 22).astype(np.float32)
            factor = np.broadcast_to(factor, stage.w.shape[:1])
            return stage.steps(sums.astype(np.float32) * factor[:, None, None])

        y = self.run(one)
        if not self.operator.residual:
            return y
        last = self.stages[-1]
        a, b = np.float32(last.scale / self.sum_scale), np.float32(self.x_scale / self.sum_scale)
        p, x = (v.astype(np.int64) - int(z) for v, z in ((y, last.zero_point), (self.x, self.x_zero_point)))
        return self.sum().steps(p.astype(np.float32) * a + x.astype(np.float32) * b)

    def sum(self) -> Stage:
        """The grid of the residual's result."""
        none = np.zeros(0, np.int8)
        return Stage(none, none, none, self.sum_scale, self.sum_zero_point)

    def real_oracle(self) -> Array:
        """NCHW: the last stage's real result over its scale, in float64 and not rounded, from exact earlier stages."""
        results: list[Array] = []

        def one(stage: Stage, x: Array, x_scale: np.float32, zero: Array, window: dict[str, Any]) -> Array:
            real = (x.astype(np.int64) - int(zero)) * np.float64(x_scale)
            scale = np.broadcast_to(stage.w_scale.astype(np.float64), stage.w.shape[:1])
            weights = stage.w * scale[:, None, None, None]
            value = convolve(real, weights, **window) + (stage.bias * np.float64(x_scale) * scale)[:, None, None]
            results.append(value / np.float64(stage.scale))
            return stage.steps(results[-1])

        y = self.run(one)
        if not self.operator.residual:
            return results[-1]
        last = self.stages[-1]
        p, x = (v.astype(np.float64) - int(z) for v, z in ((y, last.zero_point), (self.x, self.x_zero_point)))
        return (p * np.float64(last.scale) + x * np.float64(self.x_scale)) / np.float64(self.sum_scale)

    def tensors(self, layout: str = "NCHW") -> dict[str, Array]:
        """The node's inputs by name, in order."""
        x = self.x if layout == "NCHW" else self.x.transpose(NCHW_TO_NHWC)
        values = [np.ascontiguousarray(x), self.x_scale, self.x_zero_point]
        for stage in self.stages:
            values += [stage.w, stage.w_scale, stage.bias, stage.scale, stage.zero_point]
        values += [self.sum_scale, self.sum_zero_point] if self.operator.residual else []
        return {name: np.asarray(value) for name, value in zip(self.operator.inputs, values, strict=True)}

    def attributes(self, layouts: tuple[str, str]) -> dict[str, Any]:
        """The node's attributes."""
        found: dict[str, Any] = {**self.window, "kernel_shape": self._window_stage().w.shape[2:], **PLUGIN_ATTRIBUTES}
        found |= {"x_perm": KEEP if layouts[0] == "NCHW" else NHWC_TO_NCHW}
        found |= {"y_perm": KEEP if layouts[1] == "NCHW" else NCHW_TO_NHWC}
        if self.operator is BOTTLENECK:
            found |= {"expand_strides": self.expand_strides, "expand_pads": self.expand_pads}
        for stage, given in zip(self.stages, self.operator.stages, strict=True):
            if given.limits is not None:
                found |= dict(zip(given.limits, stage.limits or (-NO_LIMIT, NO_LIMIT), strict=True))
        return found

    def _window_stage(self) -> Stage:
        return self.stages[self.operator.stages.index(self.operator.window)]


def make_model(
    case: Case, layouts: tuple[str, str] = ("NHWC", "NHWC"), inputs: tuple[str, ...] = ("X",), opset: int = 18
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A model of one node 'node' without a function body, and its feeds; `inputs` are not initialisers."""
    arrays = case.tensors(layouts[0])
    node = helper.make_node(
        case.operator.name, list(arrays), ["Y"], name="node", domain=DOMAIN, **case.attributes(layouts)
    )
    element = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in arrays.items()}
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(name, element[name], arrays[name].shape) for name in inputs],
        [helper.make_tensor_value_info("Y", element["X"], [None] * 4)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items() if name not in inputs],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return model, {name: arrays[name] for name in inputs}


def make_case(
    name: str,
    x_shape: tuple[int, int, int, int],
    channels: tuple[int, ...],
    window: tuple[int, int],
    *,
    dtype: str = "uint8",
    per_channel: bool = True,
    dyadic: bool = False,
    limits: bool = False,
    expand_window: tuple[int, int] = (1, 1),
    **attributes: Any,
) -> Case:
    """A case with random values, of which some results of each stage saturate and most do not.

    Args:
        name: The operator's.
        x_shape: (N, C, H, W).
        channels: Filters of each stage.
        window: (kH, kW) of the stage with a window.
        dtype: Of X, Y and all zero-points.
        per_channel: Whether w_scale has a value a filter.
        dyadic: Scales are powers of two: quotients are exact, and many are ties.
        limits: Whether results are cut within the grid.
        expand_window: (kH, kW) of the expansion.
        **attributes: Of the window, where they are not at their default.
    """
    operator = CONVOLUTIONS[name]
    seed = f"{name}{x_shape}{channels}{window}{dtype}{per_channel}{dyadic}{sorted(attributes.items())}"
    generator = np.random.default_rng(list(seed.encode()))
    ends = np.iinfo(dtype)
    x = generator.integers(ends.min, ends.max + 1, x_shape).astype(dtype)
    scale = np.float32(2.0**-5 if dyadic else generator.uniform(0.02, 0.05))
    zero = np.asarray(generator.choice([ends.min, ends.max, (ends.min + ends.max) // 2, ends.min + 3]), dtype)
    case = Case(operator, x, scale, zero, [], **attributes)
    depth = x_shape[1]
    for given, filters in zip(operator.stages, channels, strict=True):
        has_window = given is operator.window
        depthwise = given.kind == "depthwise" or (given.kind == "conv" and case.group > 1)
        shape = (
            filters,
            1 if depthwise else depth,
            *(window if has_window else expand_window if given.kind == "expand" else (1, 1)),
        )
        if given.kind == "depthwise":
            case.group = filters
        w = generator.integers(-128, 128, shape).astype(np.int8)
        count = filters if per_channel else ()
        w_scale = 2.0 ** generator.integers(-8, -5, count) if dyadic else generator.uniform(0.002, 0.01, count)
        spread = 90 * 100 * np.sqrt(np.prod(shape[1:]))
        bias = np.round(generator.standard_normal(filters) * spread / 2).astype(np.int32)
        real = spread * float(scale) * float(np.mean(w_scale))
        y_scale = np.float32(2.0 ** np.round(np.log2(real / 90)) if dyadic else real / 70)
        y_zero = np.asarray(generator.choice([ends.min, ends.min + 40, (ends.min + ends.max) // 2]), dtype)
        cut = (-13.4 * float(y_scale), 90.3 * float(y_scale)) if limits and given.limits else None
        case.stages.append(Stage(w, np.asarray(w_scale, np.float32), bias, y_scale, y_zero, cut))
        scale, depth = y_scale, filters
    if operator.residual:
        case.sum_scale = np.float32(2.0 ** np.ceil(np.log2(scale)) if dyadic else 1.3 * max(scale, case.x_scale))
        case.sum_zero_point = np.asarray((ends.min + ends.max) // 2, dtype)
    return case


SAME, NONE = (1, 1, 1, 1), (0, 0, 0, 0)
SHAPES: dict[str, tuple[str, tuple[int, int, int, int], tuple[int, ...], tuple[int, int], dict[str, Any]]] = {
    "stem": ("QLinearConvolution", (1, 3, 31, 40), (17,), (3, 3), {"pads": SAME, "strides": (2, 2)}),
    "stem, same padding": (
        "QLinearConvolution",
        (2, 3, 30, 33),
        (32,),
        (3, 3),
        {"pads": (0, 0, 1, 1), "strides": (2, 2)},
    ),
    "plain": ("QLinearConvolution", (2, 13, 9, 7), (21,), (3, 3), {"pads": SAME}),
    "wide window": ("QLinearConvolution", (1, 5, 12, 17), (9,), (5, 4), {"pads": (2, 1, 2, 2), "dilations": (2, 3)}),
    "strides": ("QLinearConvolution", (1, 8, 13, 19), (64,), (2, 3), {"pads": (0, 2, 1, 0), "strides": (3, 2)}),
    "head": ("QLinearConvolution", (2, 40, 7, 7), (130,), (1, 1), {}),
    "head, large": ("QLinearConvolution", (1, 24, 20, 23), (48,), (1, 1), {}),
    "pointwise, odd": ("QLinearConvolution", (1, 7, 9, 4), (5,), (1, 1), {}),
    "pointwise, strides": ("QLinearConvolution", (1, 12, 9, 11), (20,), (1, 1), {"strides": (2, 2)}),
    "pointwise, pads": ("QLinearConvolution", (1, 12, 5, 6), (20,), (1, 1), {"pads": (1, 0, 2, 1)}),
    "one pixel": ("QLinearConvolution", (3, 96, 1, 1), (70,), (1, 1), {}),
    "many taps": ("QLinearConvolution", (1, 1300, 3, 4), (3,), (1, 1), {}),
    "padding only": ("QLinearConvolution", (1, 3, 2, 3), (4,), (3, 3), {"pads": (4, 4, 4, 4)}),
    "depthwise": ("QLinearConvolution", (2, 19, 9, 14), (19,), (3, 3), {"pads": SAME, "group": 19}),
    "depthwise, strides": (
        "QLinearConvolution",
        (1, 70, 11, 8),
        (70,),
        (5, 5),
        {"pads": (2, 2, 1, 1), "strides": (2, 2), "group": 70},
    ),
    "depthwise, dilations": (
        "QLinearConvolution",
        (1, 6, 14, 17),
        (6,),
        (3, 3),
        {"pads": (2, 0, 0, 3), "dilations": (2, 3), "group": 6},
    ),
    "depthwise, large": ("QLinearConvolution", (1, 200, 70, 50), (200,), (3, 3), {"pads": SAME, "group": 200}),
    "separable": ("QLinearSeparableConvolution", (2, 32, 10, 13), (32, 16), (3, 3), {"pads": SAME}),
    "separable, odd": (
        "QLinearSeparableConvolution",
        (1, 37, 33, 34),
        (37, 11),
        (3, 3),
        {"pads": SAME, "strides": (2, 1)},
    ),
    "separable, 7 x 3": ("QLinearSeparableConvolution", (1, 50, 15, 9), (50, 70), (7, 3), {"pads": (3, 1, 3, 1)}),
    "bottleneck": ("QLinearBottleneck", (2, 16, 15, 18), (96, 24), (3, 3), {"pads": SAME, "strides": (2, 2)}),
    "bottleneck, large": ("QLinearBottleneck", (2, 24, 57, 45), (144, 33), (3, 3), {"pads": SAME, "strides": (2, 2)}),
    "bottleneck, odd": ("QLinearBottleneck", (1, 9, 7, 12), (53, 19), (5, 5), {"pads": (2, 2, 2, 2)}),
    "bottleneck, same padding": (
        "QLinearBottleneck",
        (1, 8, 30, 36),
        (48, 24),
        (5, 5),
        {"pads": (1, 1, 2, 2), "strides": (2, 2)},
    ),
    "bottleneck, no padding": ("QLinearBottleneck", (1, 12, 9, 30), (20, 8), (3, 5), {}),
    "bottleneck, dilations": (
        "QLinearBottleneck",
        (1, 12, 29, 30),
        (72, 8),
        (3, 3),
        {"dilations": (4, 3), "pads": (4, 3, 4, 3)},
    ),
    "bottleneck, strides 3": ("QLinearBottleneck", (1, 12, 29, 30), (40, 8), (2, 2), {"strides": (3, 3)}),
    "stem and block": (
        "QLinearBottleneck",
        (2, 3, 39, 50),
        (32, 16),
        (3, 3),
        {"pads": SAME, "expand_window": (3, 3), "expand_strides": (2, 2), "expand_pads": (0, 1, 1, 1)},
    ),
    "stem and block, small": (
        "QLinearBottleneck",
        (1, 5, 17, 13),
        (24, 9),
        (3, 3),
        {
            "pads": SAME,
            "strides": (2, 2),
            "expand_window": (3, 5),
            "expand_strides": (1, 2),
            "expand_pads": (2, 0, 0, 1),
        },
    ),
    "stem and block, large": (
        "QLinearBottleneck",
        (1, 3, 120, 131),
        (32, 16),
        (5, 3),
        {"pads": (2, 1, 2, 1), "expand_window": (3, 3), "expand_strides": (2, 2), "expand_pads": SAME},
    ),
    "far apart": (
        "QLinearBottleneck",
        (1, 4, 50, 700),
        (70, 8),
        (3, 3),
        {"pads": (20, 30, 20, 30), "dilations": (20, 30)},
    ),
    "stem and block, wide": (
        "QLinearBottleneck",
        (1, 3, 7, 8197),
        (16, 8),
        (3, 3),
        {"pads": SAME, "expand_window": (3, 3), "expand_strides": (2, 2), "expand_pads": SAME},
    ),
    "residual, wide": ("QLinearInvertedResidual", (1, 9, 5, 4099), (35, 9), (3, 3), {"pads": SAME}),
    "residual": ("QLinearInvertedResidual", (2, 24, 14, 9), (144, 24), (3, 3), {"pads": SAME}),
    "residual, large": ("QLinearInvertedResidual", (2, 24, 40, 44), (144, 24), (3, 3), {"pads": SAME}),
    "residual, small": ("QLinearInvertedResidual", (3, 40, 7, 7), (240, 40), (3, 3), {"pads": SAME}),
    "residual, odd": ("QLinearInvertedResidual", (1, 11, 5, 8), (67, 11), (5, 5), {"pads": (2, 2, 2, 2)}),
    "residual, one pixel": ("QLinearInvertedResidual", (2, 8, 1, 1), (48, 8), (3, 3), {"pads": SAME}),
}


def residual_channels(channels: tuple[int, ...], operator: QLinearMobileOperator) -> tuple[int, ...]:
    """Filters of every stage: the depthwise one has as many as the one before it."""
    return channels if len(channels) == len(operator.stages) else (channels[0], channels[0], channels[1])


def shaped(key: str, **options: Any) -> Case:
    """A case of SHAPES."""
    name, x_shape, channels, window, attributes = SHAPES[key]
    return make_case(name, x_shape, residual_channels(channels, CONVOLUTIONS[name]), window, **options, **attributes)
