"""Bias correction and rounding: oracles for each, and what they do together in a network."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeconv.quantize.bias_correction import correct_layers
from edgeconv.quantize.layerwise import means_of, run_layerwise
from edgeconv.quantize.quantized_graph import write_graph
from edgeconv.quantize.rounding import DAMPING, patch_covariance, round_weights
from edgeconv.quantize.running import with_outputs
from edgeconv.quantize.targets import TARGETS

from .models import image_batch, inverted_residuals, run, sqnr
from .test_quantized_graph import quantized

Array = NDArray[Any]

WINDOWS = [  # kernel, strides, pads, dilations, group, channels
    ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, 3),
    ((3, 2), (2, 1), (0, 1, 2, 0), (1, 2), 2, 4),
    ((5, 5), (2, 2), (1, 2, 2, 1), (1, 1), 5, 5),
    ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, 7),
]


def patches_by_loops(x: Array, window: tuple[Any, ...]) -> Array:
    (tall, wide), strides, (top, left, bottom, right), dilations, group, channels = window
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    rows = (x.shape[2] - dilations[0] * (tall - 1) - 1) // strides[0] + 1
    columns = (x.shape[3] - dilations[1] * (wide - 1) - 1) // strides[1] + 1
    depth = channels // group
    found = []
    for n, r, c in np.ndindex(len(x), rows, columns):
        patch = x[
            n,
            :,
            r * strides[0] : r * strides[0] + dilations[0] * (tall - 1) + 1 : dilations[0],
            c * strides[1] : c * strides[1] + dilations[1] * (wide - 1) + 1 : dilations[1],
        ]
        found.append(patch.reshape(group, depth * tall * wide))
    return np.stack(found, 1).astype(np.float64)


@pytest.mark.parametrize("window", WINDOWS)
def test_the_covariance_is_that_of_the_patches(window: tuple[Any, ...]) -> None:
    x = image_batch(3, shape=(window[5], 9, 12)) + 2
    patches = patches_by_loops(x, window)
    expected = np.stack([np.cov(each.T, bias=True).reshape(each.shape[1], -1) for each in patches])
    assert np.allclose(patch_covariance(x, *window[:5]), expected, atol=1e-4)
    few = patch_covariance(x, *window[:5], samples=60)
    assert few.shape == expected.shape
    assert np.abs(few - expected).max() < np.abs(expected).max()


def cost(values: Array, real: Array, moments: Array) -> Array:
    delta = values - real
    return np.asarray(np.einsum("mk,mkl,ml->m", delta, moments, delta))


@pytest.mark.parametrize("depthwise", [True, False])
def test_rounding_by_covariance_is_near_the_best_there_is(depthwise: bool) -> None:
    """Against every combination of rounding each weight up or down."""
    generator = np.random.default_rng(3)
    filters, size = 6, 8
    weights = generator.standard_normal((filters, size))
    scale = np.full(filters, 0.1)
    samples = generator.standard_normal((filters if depthwise else 1, 50, 2)) @ generator.standard_normal((2, size))
    samples = samples + 0.05 * generator.standard_normal(samples.shape)
    moments = np.matmul(samples.transpose(0, 2, 1), samples) / 50
    real = weights / scale[:, None]
    nearest = np.rint(real).astype(np.int8)
    values = round_weights(weights, scale, nearest, moments)
    assert np.abs(values - real).max() < 1 + 1e-9
    damped = moments + DAMPING * np.einsum("gkk->gk", moments).mean(1)[:, None, None] * np.eye(size)
    each = np.broadcast_to(damped, (filters, size, size))
    found = cost(values, real, each)
    assert np.all(found <= cost(nearest, real, each) + 1e-9)
    assert found.sum() < 0.5 * cost(nearest, real, each).sum()
    best = np.full(filters, np.inf)
    for ups in itertools.product((0, 1), repeat=size):
        best = np.minimum(best, cost(np.floor(real) + ups, real, each))
    assert found.sum() < 2 * best.sum()


def test_rounding_stays_within_8_bits() -> None:
    weights = np.float64([[12.7, -12.7, 0.04]])
    values = round_weights(weights, np.array([0.1]), np.int8([[127, -127, 0]]), np.ones((1, 3, 3)))
    assert np.abs(values.astype(int)).max() <= 127


@pytest.mark.parametrize("target", TARGETS)
def test_layer_by_layer_is_the_whole_network(target: str) -> None:
    graph = quantized(inverted_residuals(), target)[3]
    images = image_batch(5)
    result = run_layerwise(graph.model, images, lambda _node, feeds, compute: compute(feeds), batch=2)
    assert np.allclose(result["y"], run(graph.model, images, optimized=False), atol=1e-4)


@pytest.mark.parametrize("target", ["ort", "tensorrt"])
def test_means_are_corrected_and_the_output_is_closer(target: str) -> None:
    model = inverted_residuals(3)
    prepared, placement, parameters, graph = quantized(model, target)
    images, others = image_batch(24), image_batch(24, seed=77)
    expected = run(model, others)

    def write(numbers: Any) -> Any:
        return write_graph(prepared, placement, numbers, TARGETS[target])

    def largest_shift(current: Any) -> float:
        results = [layer.result for layer in placement.layers.values()]
        want = means_of(prepared, results, images, 8)
        shifts = []
        for name, layer in placement.layers.items():
            got = run(with_outputs(current.model, [current.results[name]], {}), images, optimized=False)
            spread = np.abs(want[layer.result]).max()
            shifts.append(
                np.abs(got.mean(tuple(a for a in range(got.ndim) if a != 1)) - want[layer.result]).max() / spread
            )
        return float(max(shifts))

    before = largest_shift(graph), sqnr(expected, run(graph.model, others))
    correct_layers(prepared, placement, parameters, write, images, batch=8)
    biases = write(parameters)
    after = largest_shift(biases), sqnr(expected, run(biases.model, others))
    assert after[0] < 0.25 * before[0]
    assert after[0] < 0.005
    correct_layers(prepared, placement, parameters, write, images, batch=8, rounding=True)
    both = sqnr(expected, run(write(parameters).model, others))
    assert both > before[1]


def test_a_fixed_batch() -> None:
    """Shapes in the graph may depend on it."""
    model = inverted_residuals()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    images = image_batch(7)
    biases = []
    for each, given in ((model, images), (inverted_residuals(), images[:4])):
        prepared, placement, parameters, _ = quantized(each, images=image_batch(4))
        correct_layers(
            prepared,
            placement,
            parameters,
            lambda numbers, p=prepared, q=placement: write_graph(p, q, numbers, TARGETS["ort"]),
            given,
            batch=16,
            rounding=True,
        )
        biases.append(np.concatenate([layer.bias for layer in parameters.layers.values() if layer.bias is not None]))
    assert np.allclose(biases[0], biases[1], atol=1e-5)
