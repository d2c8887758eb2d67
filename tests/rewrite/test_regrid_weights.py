"""Weights on another grid than the activations', or in float: how far they are moved, and what that does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from qdq_models import (
    FLOAT_WEIGHTS,
    FUSED,
    NO_SCALES,
    SCALE,
    Array,
    build,
    fuse,
    image,
    kinds,
    run,
    steps_apart,
    typed,
    values,
)

from edgeconv.ops.kervolution_torch import kervolution
from edgeconv.rewrite.activation_grid import regrid
from edgeconv.rewrite.qdq import Quantization


def test_float_weights_that_lie_on_the_grid_are_exact() -> None:
    steps = np.random.default_rng(1).integers(-121, 135, (6, 2, 3, 2)).astype(np.float32)
    model = build(FLOAT_WEIGHTS, values(W=steps * SCALE, **NO_SCALES))
    result, report = fuse(model, 1)
    assert not report.rewritten[0].regridded
    assert kinds(result) == [FUSED]
    assert np.array_equal(run(model, {"X": image()})[0], run(result, {"X": image()})[0])
    assert steps_apart(model, result, {"X": image()}) <= 1


def moved(real: Array, x_type: str, zero_point: int) -> tuple[Array, Array]:
    """Nearest representable activation of each weight by search, and the weights' distances from what it stands for."""
    limits = np.iinfo(x_type)
    grid = (np.arange(limits.min, limits.max + 1) - zero_point).astype(np.float32) * SCALE
    nearest = grid[np.abs(real[..., None].astype(np.float64) - grid).argmin(-1)].astype(np.float64)
    clamped = np.clip(real.astype(np.float64), grid[0].astype(np.float64), grid[-1].astype(np.float64))
    return nearest, np.abs(nearest - clamped)


@pytest.mark.parametrize("form", ["per tensor", "per channel", "axis 1", "float"])
@pytest.mark.parametrize("x_type", ["uint8", "int8"])
@pytest.mark.parametrize("wide", [False, True])
def test_weights_on_another_grid_are_moved_if_wanted(form: str, x_type: str, wide: bool) -> None:
    """Wide ones reach beyond the activations' range: the bias takes that over."""
    generator = np.random.default_rng(len(form) + wide)
    count = {"per tensor": (), "per channel": 6, "axis 1": 2, "float": ()}[form]
    scale = np.asarray(generator.uniform(0.005, 0.014, count) * (4 if wide else 1), np.float32)
    shape = {"per channel": (6, 1, 1, 1), "axis 1": (1, 2, 1, 1)}.get(form, ())
    constants = values(x_type, w_scale=scale, w_zero_point=np.zeros(count, np.int8))
    real = constants["W"].astype(np.float32) * scale.reshape(shape)
    text = typed(x_type, "uint8").replace("axis = 0", "axis = 1" if form == "axis 1" else "axis = 0")
    if form == "float":
        constants = {name: value for name, value in (constants | {"W": real}).items() if name[:2] != "w_"}
        text = typed(x_type, "uint8", FLOAT_WEIGHTS)
    model = build(text, constants)
    nearest, distances = moved(real, x_type, int(constants["x_zero_point"]))

    untouched, report = fuse(model, 0)
    assert untouched == model
    (left,) = report.left
    assert left.node == "layer"
    assert f"regrid_weights=True moves them by up to {distances.max():.3g}" in left.reason

    result, report = fuse(model, 1, regrid_weights=True)
    assert not report.left
    (fused,) = report.rewritten
    assert fused.regridded
    np.testing.assert_allclose(fused.largest_error, distances.max(), rtol=1e-6)
    np.testing.assert_allclose(fused.rms_error, np.sqrt((distances**2).mean()), rtol=1e-6)
    np.testing.assert_allclose(fused.output_steps, distances.sum((1, 2, 3)).max() / 0.09, rtol=1e-6)
    assert 0 < fused.largest_error <= fused.step * 0.5001
    assert (fused.outside > 0) == wide

    node = result.graph.node[-1]
    written = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    weights = (written[node.input[3]].astype(np.float32) - written[node.input[5]].astype(np.float32)) * SCALE
    assert np.array_equal(weights.astype(np.float64), nearest)
    assert node.input[4] == node.input[1]  # one scale
    assert steps_apart(model, result, {"X": image(x_type)}) <= fused.output_steps + 1


def test_zero_points_along_another_axis_than_the_filters() -> None:
    """The operator has none of these; the same reals are written with the activations' zero-point."""
    zero_point = np.int8([3, -5])
    weights = np.random.default_rng(2).integers(-100, 100, (6, 2, 3, 2)).astype(np.int8)
    model = build(
        typed("uint8", "uint8").replace("axis = 0", "axis = 1"),
        values(W=weights, w_scale=np.full(2, SCALE), w_zero_point=zero_point),
    )
    result, report = fuse(model, 1)
    assert not report.rewritten[0].regridded
    written = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    node = result.graph.node[-1]
    found = written[node.input[3]].astype(int) - written[node.input[5]]
    assert np.array_equal(found, weights.astype(int) - zero_point[:, None, None])
    assert steps_apart(model, result, {"X": image()}) <= 1


@pytest.mark.parametrize("bias", ["B", ""])
def test_weights_beyond_the_range_alone_cost_nothing(bias: str) -> None:
    """On the grid, but where no activation is: the integers are clamped, and the outputs stay."""
    steps = np.random.default_rng(6).integers(-900, 900, (6, 2, 3, 2)).astype(np.float32)
    zero_point = np.uint8(200) if bias else np.uint8(255)
    constants = values(W=steps * SCALE, y_scale=np.float32(0.4), y_zero_point=zero_point, **NO_SCALES)
    if not bias:
        del constants["B"]
    model = build(FLOAT_WEIGHTS.replace("W, B)", f"W, {bias})"), constants)
    result, report = fuse(model, 1, regrid_weights=True)
    (fused,) = report.rewritten
    assert fused.outside > 30
    assert fused.output_steps < 1e-4
    assert steps_apart(model, result, {"X": image()}) <= 1


@pytest.mark.parametrize(("spread", "least"), [(1 / 24, -2.5), (1 / 4, -2.0), (1.0, 1.0)])
def test_what_regridding_costs_against_a_scale_per_channel(spread: float, least: float) -> None:
    """The figures of docs/rewrites.md: decibels of signal to noise in the 8-bit outputs, against float weights."""
    generator = np.random.default_rng(0)
    step = np.float32(6 / 255)
    x = np.clip(1.5 * np.abs(generator.standard_normal((2, 64, 10, 9))), 0, 6)
    x *= generator.random(x.shape) < 0.5
    w = (generator.standard_normal((16, 64, 3, 3)) * spread).astype(np.float32)

    def layer(x: Array, w: Array) -> Array:
        return kervolution(torch.from_numpy(x), torch.from_numpy(w.astype(np.float64)), kernel="manhattan").numpy()

    exact = layer(x, w)
    y_scale = np.ptp(exact) / 255

    def decibels(y: Array) -> float:
        noise = np.rint(y / y_scale) * y_scale - exact
        return float(10 * np.log10(exact.var() / np.mean(noise**2)))

    rounded = np.rint(x / step) * step
    scales = np.abs(w).max((1, 2, 3), keepdims=True) / 127
    usual = decibels(layer(rounded, np.rint(w / scales) * scales))
    weights = regrid(w, Quantization(np.asarray(step), np.asarray(0, np.uint8), 1))
    regridded = decibels(layer(rounded, weights.values * np.float64(step)) - weights.excess[:, None, None])
    assert 35 < usual < 45
    assert least < regridded - usual < least + 1.5
