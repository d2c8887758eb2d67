"""The grid of compound scaling, and what of an architecture it scales."""

from __future__ import annotations

import math

import pytest

from edgeconv.errors import InputError
from edgeconv.models.registry import create, model_info, resolve_config
from edgeconv.scaling.axes import DEPTH, RESOLUTION, WIDTH, Axes, find_axes
from edgeconv.scaling.grid import Coefficients, coefficients, parse_grid, parse_latency, parse_macs, steps
from edgeconv.scaling.search import count_macs

EVERY = (DEPTH, WIDTH, RESOLUTION)


def axes_of(name: str) -> Axes:
    return find_axes(model_info(name), resolve_config(name))


def test_default_grid_keeps_to_the_rule_and_holds_the_papers_point() -> None:
    points = coefficients(EVERY)
    assert Coefficients(1.2, 1.1, 1.15) in points  # section 4.2 of the paper
    for point in points:
        assert 1.8 <= point.depth * point.width**2 * point.resolution**2 <= 2.2
    assert {point.depth for point in points if point.width == point.resolution == 1} == {2.0}


def test_axes_that_are_missing_stay_at_one() -> None:
    points = coefficients((WIDTH, RESOLUTION))
    assert {point.depth for point in points} == {1.0}
    assert Coefficients(1, 1.2, 1.2) in points
    (only,) = coefficients((RESOLUTION,))
    assert only.resolution == pytest.approx(math.sqrt(2), abs=1e-4)


def test_a_grid_of_ones_own() -> None:
    assert coefficients(EVERY, {DEPTH: (2,), WIDTH: (1,), RESOLUTION: (1,)}) == [Coefficients(2, 1, 1)]
    with pytest.raises(InputError, match=r"the nearest has 1\.50"):
        coefficients(EVERY, {DEPTH: (1.5,), WIDTH: (1,), RESOLUTION: (1,)})
    with pytest.raises(InputError, match="does not scale its depth"):
        coefficients((WIDTH,), {DEPTH: (1.5,)})


def test_steps_end_at_the_budget() -> None:
    assert steps(100, 400, 2, 2) == pytest.approx([0, 1, 2])
    assert steps(400, 100, 2, 4) == pytest.approx([-3.5, -3, -2.5, -2])
    assert 1.92 ** steps(390, 1000, 1.92, 3)[-1] * 390 == pytest.approx(1000)


@pytest.mark.parametrize(("text", "value"), [("300M", 3e8), ("1.5g", 1.5e9), ("2.5e9", 2.5e9), ("40 MMACs", 4e7)])
def test_macs(text: str, value: float) -> None:
    assert parse_macs(text) == pytest.approx(value)


@pytest.mark.parametrize(("text", "value"), [("20ms", 0.02), ("800us", 8e-4), ("0.5s", 0.5), ("3", 0.003)])
def test_latency(text: str, value: float) -> None:
    assert parse_latency(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "fast", "-3", "0", "1.2.3", "5 miles"])
def test_no_budget(text: str) -> None:
    with pytest.raises(InputError, match="cannot read --budget-macs"):
        parse_macs(text)
    with pytest.raises(InputError, match="cannot read --budget-latency"):
        parse_latency(text)


def test_grid_options() -> None:
    assert parse_grid(["depth=1.2,1", "resolution=1.15"]) == {"depth": (1.0, 1.2), "resolution": (1.15,)}
    for text in ("height=1", "depth", "depth=", "depth=0.9", "depth=1,x", "depth=nan"):
        with pytest.raises(InputError, match="cannot read --grid"):
            parse_grid([text])


def test_what_architectures_scale() -> None:
    assert axes_of("efficientnet_b0").names == EVERY
    assert axes_of("mobilenet_v2").names == (WIDTH, RESOLUTION)
    assert axes_of("densenet121").names == (DEPTH, RESOLUTION)
    with pytest.raises(InputError, match="lenet5 has one size"):
        axes_of("lenet5")


def test_configuration_at_multipliers() -> None:
    efficientnet = axes_of("efficientnet_b1")
    config = efficientnet.config(2, 1.5)
    assert (config["depth"], config["width"]) == (pytest.approx(2.2), 1.5)
    assert efficientnet.input_shape(1) == (3, 240, 240)
    assert efficientnet.input_shape(1.15) == (3, 272, 272)  # 276, to a multiple of 8
    assert axes_of("densenet121").config(1.1, 1)["blocks"] == [7, 14, 27, 18]
    assert axes_of("mobilenet_v2").config(1, 1) == resolve_config("mobilenet_v2")


def test_macs_against_the_papers() -> None:
    """Tan and Le, table 2: 0.39 G and 0.70 G; Sandler et al., table 4: 300 M. Multiplied, they grow as they should."""
    b0 = axes_of("efficientnet_b0")
    assert count_macs(b0, 1, 1, 1) / 1e9 == pytest.approx(0.39, abs=0.01)
    assert count_macs(axes_of("efficientnet_b1"), 1, 1, 1) / 1e9 == pytest.approx(0.70, abs=0.02)
    mobile = axes_of("mobilenet_v2")
    assert count_macs(mobile, 1, 1, 1) / 1e6 == pytest.approx(300, abs=2)
    assert count_macs(mobile, 1, 1, 2) / count_macs(mobile, 1, 1, 1) == pytest.approx(4, rel=0.02)


def test_counting_builds_no_weights_and_leaves_torch_as_it_was() -> None:
    count_macs(axes_of("resnet18"), 1, 2, 1)
    assert next(create("lenet5").parameters()).device.type == "cpu"
