"""Grids against the ONNX reference evaluator; and the proof that saturation does an activation's work."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from edgeconv.quantize.grids import make_grid, quantize, quantize_weights, saturates_at, weight_grid
from edgeconv.rewrite.qdq import Quantization


def reference(values: np.ndarray, grid: Quantization, kind: str = "QuantizeLinear") -> np.ndarray:
    axis = [] if grid.per_tensor else [onnx.helper.make_attribute("axis", grid.axis)]
    node = onnx.helper.make_node(kind, ["x", "s", "z"], ["y"])
    node.attribute.extend(axis)
    info = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype), None)
        for name, value in (("x", values), ("s", grid.scale), ("z", grid.zero_point))
    ]
    graph = onnx.helper.make_graph([node], "g", info, [onnx.ValueInfoProto(name="y")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    return np.asarray(ReferenceEvaluator(model).run(None, {"x": values, "s": grid.scale, "z": grid.zero_point})[0])


KINDS = [("uint8", False), ("int8", False), ("int8", True)]


@pytest.mark.parametrize(("dtype", "symmetric"), KINDS)
def test_quantising_is_what_the_standard_says(dtype: str, symmetric: bool) -> None:
    grid = make_grid(-1.3, 2.7, np.dtype(dtype), symmetric=symmetric)
    halves = (np.arange(-600, 600) / 2).astype(np.float32) * grid.scale
    values = np.concatenate([halves, np.float32([0, 1e6, -1e6]), np.linspace(-3, 4, 999, dtype=np.float32)])
    assert np.array_equal(quantize(values, grid), reference(values, grid))


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 6.0), (-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0), (-1e-30, 1e-30), (-7.3, 0.01)]
)
@pytest.mark.parametrize(("dtype", "symmetric"), KINDS)
def test_grids_hold_zero_exactly_and_the_range_to_half_a_step(
    low: float, high: float, dtype: str, symmetric: bool
) -> None:
    grid = make_grid(low, high, np.dtype(dtype), symmetric=symmetric)
    assert grid.scale > 0
    assert grid.scale.dtype == np.float32
    assert grid.zero_point.dtype == dtype
    if symmetric:
        assert grid.zero_point == 0
    ends = np.float32([min(low, 0), 0, max(high, 0)])
    error = np.abs(grid.dequantize(quantize(ends, grid)) - ends)
    assert error[1] == 0
    assert error.max() <= 0.5001 * grid.scale


def around(grid: Quantization, bounds: tuple[float, float]) -> np.ndarray:
    """Every accumulator from well below the least step to well above the greatest, in fractions of a step, and the
    nearest float32 neighbours of each, and of the bounds."""
    steps = np.arange(-800, 801).astype(np.float32) / 2
    points = np.concatenate([steps * grid.scale, np.float32([b for b in bounds if np.isfinite(b)])])
    neighbours = [points]
    for direction in (-np.inf, np.inf):
        near = points
        for _ in range(3):
            near = np.nextafter(near, np.float32(direction))
            neighbours.append(near)
    return np.concatenate(neighbours)


RELU6, RELU = (0.0, 6.0), (0.0, np.inf)


@pytest.mark.parametrize("bounds", [RELU6, RELU, (-1.0, 1.0), (-np.inf, 6.0), (0.0, 1.0)])
@pytest.mark.parametrize(
    ("low", "high", "dtype", "symmetric"),
    [
        (0, 6, "uint8", False),
        (0, 6, "int8", False),
        (0, 6, "int8", True),
        (0, 4.7, "uint8", False),
        (0, 4.7, "int8", False),
        (-1, 1, "uint8", False),
        (-1, 1, "int8", True),
        (0, 1, "uint8", False),
        (-0.4, 6, "uint8", False),
        (0, 6.7, "uint8", False),
    ],
)
def test_a_clip_is_absorbed_exactly_where_saturation_does_its_work(
    bounds: tuple[float, float], low: float, high: float, dtype: str, symmetric: bool
) -> None:
    """Exhaustive: whatever `saturates_at` says is true of every accumulator, and what it denies fails for one."""
    grid = make_grid(low, high, np.dtype(dtype), symmetric=symmetric)
    values = around(grid, bounds)
    same = np.array_equal(quantize(np.clip(values, *bounds).astype(np.float32), grid), quantize(values, grid))
    assert saturates_at(grid, *bounds) == same


def test_relu6_is_absorbed_by_unsigned_and_by_signed_128_and_not_by_symmetric() -> None:
    for dtype, symmetric, zero_point, absorbed in (
        ("uint8", False, 0, True),
        ("int8", False, -128, True),
        ("int8", True, 0, False),
    ):
        grid = make_grid(0, 6, np.dtype(dtype), symmetric=symmetric)
        assert grid.zero_point == zero_point
        assert grid.scale == np.float32(6 / (127 if symmetric else 255))
        assert saturates_at(grid, *RELU6) == absorbed


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_have_a_step_a_channel(axis: int) -> None:
    weights = np.random.default_rng(0).standard_normal((5, 4, 3)).astype(np.float32)
    weights[tuple(2 if i == axis else slice(None) for i in range(3))] = 0
    grid = weight_grid(weights, axis)
    values = quantize_weights(weights, grid)
    assert np.array_equal(values, np.maximum(reference(weights, grid), -127))
    channels = np.moveaxis(np.abs(values.astype(int)), axis, 0).reshape(weights.shape[axis], -1).max(1)
    assert channels.tolist() == [127 if c != 2 else 0 for c in range(weights.shape[axis])]
    assert np.abs(grid.dequantize(values) - weights).max() <= 0.5001 * grid.scale.max()


def test_a_nearly_dead_filter_with_a_bias_gets_steps_in_which_the_bias_fits_32_bits() -> None:
    weights = np.float32([[1e-9, -1e-9], [1, 0.5]])
    bias = np.array([4.0, 1.0])
    grid = weight_grid(weights, 0, bias, x_scale=0.02)
    steps = bias / (grid.scale.astype(np.float64) * 0.02)
    assert np.abs(steps).max() <= 2**30 * 1.001
    assert grid.scale[1] == np.float32(1 / 127)
