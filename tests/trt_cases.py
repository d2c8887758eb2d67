"""Nodes for the TensorRT plugins' tests: their attributes, their tensors, and a plugin's whole life with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from native_kernels import Case, make_case
from qlinear_kernels import Case as QLinearCase
from trt_conformance import LINEAR, Call, Plugins, Tensor

from edgeconv.ops.kervolution import OPERATOR_OF_KERNEL, PLUGIN_ATTRIBUTES

Array = npt.NDArray[Any]
QLINEAR, WHITENING = "QLinearManhattanKervolution", "DeconvWhitening"


def node(case: Case, **more: Any) -> tuple[str, dict[str, Any]]:
    """Operator and attributes of a kervolution, as the exporter writes them."""
    operator = OPERATOR_OF_KERNEL[case.kernel]
    attributes = {name: getattr(case, name) for name in ("strides", "pads", "dilations", "group")}
    attributes["kernel_shape"] = case.w.shape[2:]
    if operator.has_degree:
        attributes["degree"] = case.degree
    return operator.name, {**attributes, **PLUGIN_ATTRIBUTES, **more}


def call_of(case: Case, form: int = LINEAR) -> Call:
    values = {"gamma": case.scale, "scale": case.scale, "balance": case.balance}
    parameters = [values[name] for name in OPERATOR_OF_KERNEL[case.kernel].parameters]
    return Call([case.x, case.w, *parameters, case.bias], form, [case.output_shape], [case.x.dtype])


def run(plugins: Plugins, op: str, attributes: dict[str, Any], call: Call) -> list[Array]:
    """All of a plugin's life with one shape: network, builder, engine, runtime, execution context, two calls."""
    with plugins.create(op, attributes) as network:
        tensors = call.input_tensors
        assert network.output_types([tensor.type for tensor in tensors]) == [t.type for t in call.output_tensors]
        shapes, operations = network.output_shapes([tensor.shape for tensor in tensors])
        assert shapes == [call.output_shapes]
        assert operations == 0  # all of it is known
        with network.clone() as builder:
            workspace = builder.configure(tensors, call.output_tensors)
            engine = builder.reload()
    with engine, engine.attach() as context:
        context.change_shape(call.input_tensors, call.output_tensors)
        first, second = call.run(context, workspace), call.run(context, workspace)
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)
    return first


def qlinear_case(form: int = LINEAR, *, bias: bool = True, group: int = 1, same_grid: bool = True) -> QLinearCase:
    generator = np.random.default_rng([form, bias, group, same_grid])
    filters, channels = 6, 4 * group
    x = generator.integers(-128, 128, (2, channels, 7, 9)).astype(np.int8)
    w = generator.integers(-128, 128, (filters, channels // group, 3, 2)).astype(np.int8)
    scales = np.full(filters, 0.03) if same_grid else generator.uniform(0.01, 0.05, filters)
    return QLinearCase(
        x, w, np.float32(0.03), np.int8(-5), scales.astype(np.float32),
        generator.integers(-9, 9, filters).astype(np.int8), np.float32(0.5), np.int8(100),
        generator.uniform(-3, 3, filters).astype(np.float32) if bias else None,
        strides=(1, 2), pads=(1, 0, 2, 1), group=group,
    )  # fmt: skip


def qlinear_node(case: QLinearCase, **more: Any) -> tuple[str, dict[str, Any]]:
    scales = {
        "x_scale": float(case.x_scale), "x_zero_point": int(case.x_zero_point),
        "w_scale": [float(value) for value in np.atleast_1d(case.w_scale)],
        "y_scale": float(case.y_scale), "y_zero_point": int(case.y_zero_point),
    }  # fmt: skip
    return QLINEAR, {**case.attributes, "kernel_shape": case.w.shape[2:], **scales, **PLUGIN_ATTRIBUTES, **more}


def qlinear_call(case: QLinearCase, form: int = LINEAR) -> Call:
    values = [case.x, case.x_scale, case.x_zero_point, case.w, case.w_scale, case.w_zero_point, case.y_scale,
              case.y_zero_point]  # fmt: skip
    return Call([*map(np.asarray, values), case.bias], form, [case.output_shape], [np.int8])


def whitening_call(case: Any, form: int = LINEAR) -> Call:
    features = case.block * case.kernel_shape[0] * case.kernel_shape[1]
    shapes = [(case.group, features), (case.group, features, features)]
    return Call([case.x], form, shapes, [np.float32, np.float32], keeps_format=False)


def small(kernel: str = "gaussian", batch: int = 2, height: int = 8, width: int = 11, dtype: str = "float32") -> Case:
    return make_case(
        kernel, dtype, (batch, 6, height, width), 10, (3, 2), strides=(2, 1), pads=(1, 0, 1, 2), dilations=(1, 2),
        group=2,
    )  # fmt: skip


def profile_of(calls: Sequence[Call]) -> tuple[list[Tensor], list[Tensor], list[list[Tensor]]]:
    """The network's tensors with unknown sizes, and their values in the least, best and largest call."""
    inputs = [
        Tensor(tensor.type, (-1, tensor.shape[1], -1, -1) if i == 0 and tensor.shape else tensor.shape, tensor.format)
        for i, tensor in enumerate(calls[0].input_tensors)
    ]
    outputs = [Tensor(t.type, (-1, t.shape[1], -1, -1), t.format) for t in calls[0].output_tensors if t.shape]
    return inputs, outputs, [[*call.input_tensors, *call.output_tensors] for call in calls]


def deep(kernel: str, batch: int, size: int) -> Case:
    """Sums that are long enough to be split where there are few of them: there the workspace is large."""
    return make_case(kernel, "float32", (batch, 128, size, size), 5, (3, 3), pads=(1, 1, 1, 1))
