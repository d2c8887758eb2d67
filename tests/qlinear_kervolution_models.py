"""Cases of the 8-bit kervolutions on x·w, and what they must give: exact sums of products, then float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from qlinear_mobile_models import convolve

from edgeconv.ops.kervolution import DOMAIN, PLUGIN_ATTRIBUTES, VERSION
from edgeconv.ops.qlinear_mobile import KEEP, KERVOLUTIONS, NCHW_TO_NHWC, NHWC_TO_NCHW, QLinearMobileOperator

Array = NDArray[Any]
KERNELS = tuple(operator.kernel for operator in KERVOLUTIONS.values())
OPERATOR_OF = {operator.kernel: operator for operator in KERVOLUTIONS.values()}


@dataclass
class Case:
    """One call; X is NCHW here, whatever layout the node has."""

    operator: QLinearMobileOperator
    x: Array
    x_scale: np.float32
    x_zero_point: Array
    w: Array
    w_scale: Array
    bias: Array
    y_scale: np.float32
    y_zero_point: Array
    parameters: dict[str, Array]
    degree: int
    window: dict[str, Any]

    def quotients(self) -> Array:
        """(kernel + B) / y_scale, in float64; NCHW."""

        def each(values: Array) -> Array:
            return np.broadcast_to(values.astype(np.float64), self.w.shape[:1])[:, None, None]

        steps, w = self.x.astype(np.int64) - int(self.x_zero_point), self.w.astype(np.int64)
        window = {**self.window, "group": 1}
        step = np.float64(self.x_scale) * each(self.w_scale)
        dot = convolve(steps, w, **window) * step
        given = {name: each(value) for name, value in self.parameters.items()}
        kernel = self.operator.kernel
        if kernel == "polynomial":
            y = (dot + given["balance"]) ** self.degree
        elif kernel == "sigmoid":
            y = np.tanh(given["scale"] * dot + given["balance"])
        else:
            energy = convolve(steps**2, np.ones_like(w), **window) * np.float64(self.x_scale) ** 2
            norm = (w**2).sum((1, 2, 3))[:, None, None] * each(self.w_scale) ** 2
            distance = np.maximum(0, energy + norm - 2 * dot)
            y = np.exp(-given["gamma"] * distance) if kernel == "gaussian" else -distance
        return np.asarray((y + each(self.bias)) / np.float64(self.y_scale))

    def oracle(self) -> Array:
        """The quotients rounded; NCHW."""
        ends = np.iinfo(self.x.dtype)
        rounded = np.rint(self.quotients()) + int(self.y_zero_point)
        return np.asarray(np.clip(rounded, ends.min, ends.max).astype(self.x.dtype))

    def check(self, actual: Array, name: str) -> None:
        """Fail where a result is not the quotient rounded, but for those that lie next to a half."""
        exact, rounded = self.quotients(), self.oracle()
        assert actual.dtype == rounded.dtype
        assert actual.shape == rounded.shape
        wrong = actual != rounded
        assert np.abs(actual.astype(np.int64) - rounded.astype(np.int64)).max(initial=0) <= 1, name
        tied = np.abs(np.abs(exact - np.floor(exact)) - 0.5) < 2e-3 * np.maximum(1, np.abs(exact) / 100)
        assert not (wrong & ~tied).any(), name

    def arrays(self, layout: str) -> dict[str, Array]:
        """The node's inputs by name, in order."""
        x = np.ascontiguousarray(self.x if layout == "NCHW" else self.x.transpose(NCHW_TO_NHWC))
        values = (
            x, self.x_scale, self.x_zero_point, self.w, self.w_scale, self.bias, self.y_scale, self.y_zero_point,
            *self.parameters.values(),
        )  # fmt: skip
        return {name: np.asarray(value) for name, value in zip(self.operator.inputs, values, strict=True)}


def make_model(
    case: Case, layouts: tuple[str, str] = ("NHWC", "NHWC"), inputs: tuple[str, ...] = ("X",), opset: int = 18
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A model of one node without a function body, and its feeds; `inputs` are not initialisers."""
    arrays = case.arrays(layouts[0])
    attributes = {**case.window, "kernel_shape": case.w.shape[2:], **PLUGIN_ATTRIBUTES}
    attributes |= {"x_perm": KEEP if layouts[0] == "NCHW" else NHWC_TO_NCHW}
    attributes |= {"y_perm": KEEP if layouts[1] == "NCHW" else NCHW_TO_NHWC}
    if case.operator.has_degree:
        attributes["degree"] = case.degree
    node = helper.make_node(case.operator.name, list(arrays), ["Y"], name="node", domain=DOMAIN, group=1, **attributes)
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


SHAPES: dict[str, tuple[tuple[int, int, int, int], tuple[int, int, int], dict[str, Any]]] = {
    "plain": ((2, 13, 9, 7), (21, 3, 3), {"pads": (1, 1, 1, 1)}),
    "image": ((1, 3, 30, 23), (32, 3, 3), {"pads": (0, 0, 1, 1), "strides": (2, 2)}),
    "pointwise": ((3, 40, 5, 6), (70, 1, 1), {}),
    "dilations": ((1, 8, 14, 17), (64, 3, 2), {"pads": (2, 0, 1, 3), "dilations": (2, 3)}),
    "rows": ((1, 24, 40, 33), (17, 5, 4), {"pads": (2, 1, 2, 2), "strides": (1, 3)}),
}


def make_case(kernel: str, shape: str, *, dtype: str = "uint8", per_channel: bool = True, degree: int = 3) -> Case:
    """Random values at an ordinary scale: most results are within the grid, some saturate."""
    x_shape, (filters, *size), attributes = SHAPES[shape]
    generator = np.random.default_rng(list(f"{kernel}{shape}{dtype}{per_channel}{degree}".encode()))
    ends = np.iinfo(dtype)
    x = generator.integers(ends.min, ends.max + 1, x_shape).astype(dtype)
    w = generator.integers(-128, 128, (filters, x_shape[1], *size)).astype(np.int8)
    taps = w[0].size
    count = filters if per_channel else ()
    x_scale = np.float32(generator.uniform(0.008, 0.012))
    w_scale = np.asarray(generator.uniform(0.008, 0.012, count) / np.sqrt(taps), np.float32)
    zero = np.asarray((ends.min + ends.max) // 2 + 3, dtype)
    each = {
        "balance": generator.uniform(-0.5, 0.8, count), "gamma": generator.uniform(0.2, 0.6, count) / taps,
        "scale": generator.uniform(0.5, 1.5, count),
    }  # fmt: skip
    operator = OPERATOR_OF[kernel]
    plain = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
    case = Case(
        operator, x, x_scale, zero, w, w_scale, generator.uniform(-0.1, 0.1, filters).astype(np.float32),
        np.float32(1), np.asarray(0, dtype), {name: np.asarray(each[name], np.float32) for name in operator.parameters},
        degree, plain | attributes,
    )  # fmt: skip
    # Distances lie close together and far from 0; the bias brings 0 among them, where a grid has to have it.
    low, high = np.quantile(case.quotients(), (0.02, 0.98))
    case.bias = (case.bias * (high - low) - (0.4 * high + 0.6 * low)).astype(np.float32)
    low, high = np.quantile(case.quotients(), (0.02, 0.98))
    case.y_scale = np.float32((high - low) / 255)
    case.y_zero_point = np.asarray(np.clip(np.rint(ends.min - low / case.y_scale), ends.min, ends.max), dtype)
    return case
