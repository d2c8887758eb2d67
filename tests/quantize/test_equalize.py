"""Equalisation changes no output, and evens out the channels' ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgeconv.quantize.absorb import absorb_biases
from edgeconv.quantize.channels import find_families
from edgeconv.quantize.equalize import HEADROOM, equalize, tensors_to_observe
from edgeconv.quantize.observe import Observation
from edgeconv.quantize.prepare import PreparedModel, prepare_model
from edgeconv.quantize.running import with_outputs

from .models import build, image_batch, inverted_residuals, run, sqnr

Array = NDArray[Any]
GENERATOR = np.random.default_rng(21)


def uneven(*shape: int) -> Array:
    spread = np.exp(GENERATOR.normal(0, 1.5, (shape[0], *[1] * (len(shape) - 1))))
    return (GENERATOR.standard_normal(shape) * spread / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def grouped() -> onnx.ModelProto:
    """Relu, LeakyRelu, pooling, a grouped Conv, Flatten and a Gemm that holds its weights transposed."""
    return build(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 3, 20, 26] x) => (float[N, 5] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
            r = Relu (a)
            m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
            c = Conv <group = 3> (m, w1)
            l = LeakyRelu <alpha = 0.2> (c)
            p = GlobalAveragePool (l)
            f = Flatten (p)
            y = Gemm (f, w2, b2)
        }""",
        {
            "w0": uneven(6, 3, 3, 3), "b0": GENERATOR.standard_normal(6).astype(np.float32), "w1": uneven(9, 2, 3, 3),
            "w2": uneven(9, 5), "b2": uneven(5),
        },
    )  # fmt: skip


def observed(prepared: PreparedModel, names: list[str], images: Array) -> dict[str, Observation]:
    found = {}
    for name in names:
        found[name] = Observation()
        found[name].add(run(with_outputs(prepared.model, [name], prepared.types), images))
    return found


@pytest.mark.parametrize("alpha", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("model", [grouped(), inverted_residuals()], ids=["grouped", "inverted residuals"])
def test_the_network_stays_the_same(model: onnx.ModelProto, alpha: float) -> None:
    prepared = prepare_model(model)
    families = find_families(prepared)
    images = image_batch(16)
    seen = observed(prepared, tensors_to_observe(families), images)
    result, done = equalize(prepared, families, seen, alpha=alpha)
    assert len(done) >= 2
    assert min(each.smallest for each in done) < 0.5
    assert sqnr(run(model, images), run(result.model, images)) > 90


def test_families() -> None:
    families = find_families(prepare_model(inverted_residuals()))
    found = {tuple(sorted(family.tensors)): family for family in families}
    stage = found["p", "q", "s"]  # the Add joins them
    assert stage.makers == ["project1", "project2"]
    assert stage.readers == ["expand2", "head"]
    assert np.isinf(stage.limit)
    assert found["a", "ac"].limit == 6
    assert found["a", "ac"].readers == ["dw1"]
    head = next(family for tensors, family in found.items() if "hc" in tensors)
    assert head.readers == ["classifier"]
    assert "m" in head.tensors
    assert not any({"x", "y"}.intersection(family.tensors) for family in families)


def test_with_alpha_1_every_channel_fills_the_range() -> None:
    prepared = prepare_model(grouped())
    families = [family for family in find_families(prepared) if "c" in family.tensors]
    images = image_batch(16)
    result, _ = equalize(prepared, families, observed(prepared, ["c", "l"], images), alpha=1.0)
    channels = np.abs(run(with_outputs(result.model, ["c"], result.types), images)).max((0, 2, 3))
    before = np.abs(run(with_outputs(prepared.model, ["c"], prepared.types), images)).max((0, 2, 3))
    assert before.max() / before.min() > 3
    assert channels.max() / channels.min() < 1.01


def test_unseen_values_of_relu6_channels_are_cut_and_none_is_let_through() -> None:
    prepared = prepare_model(inverted_residuals())
    families = find_families(prepared)
    images = image_batch(16) * 0.2
    seen = observed(prepared, tensors_to_observe(families), images)
    result, _ = equalize(prepared, families, seen, alpha=1.0)
    loud = images * 15
    (family,) = (each for each in families if "ac" in each.tensors)
    for name in ("ac",):
        values = run(with_outputs(result.model, [name], result.types), loud)
        plain = run(with_outputs(prepared.model, [name], prepared.types), loud)
        factors = np.clip(HEADROOM * np.minimum(seen[name].high, family.limit) / 6, 0.5, 1)
        assert 0.5 <= factors.min() < 1
        restored = values * factors[:, None, None]
        assert np.all(restored <= plain + 1e-4)
        kept = plain <= HEADROOM * seen[name].high[:, None, None]
        assert np.allclose(restored[kept], plain[kept], atol=1e-4)


def biased() -> onnx.ModelProto:
    """A linear layer, a Relu that is always on in some channels, a padded reader; pooling and Flatten before a Gemm."""
    return build(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 3, 20, 26] x) => (float[N, 5] y) {
            [linear] a = Conv (x, w0, b0)
            [second] c = Conv (a, w1, b1)
            [relu] r = Relu (c)
            [third] d = Conv (r, w2)
            [fourth] e = Conv <pads = [1, 1, 1, 1]> (d, w3, b3)
            [pool] p = GlobalAveragePool (e)
            [flat] f = Flatten (p)
            [last] y = Gemm <transB = 1> (f, w4)
        }""",
        {
            "w0": uneven(6, 3, 3, 3), "b0": np.float32([40, -30, 0, 5, 9, 1]), "w1": uneven(7, 6, 1, 1),
            "b1": np.full(7, 60, np.float32), "w2": uneven(4, 7, 3, 3), "w3": uneven(5, 4, 3, 3),
            "b3": np.full(5, 8, np.float32), "w4": uneven(5, 5),
        },
    )  # fmt: skip


def test_high_biases_are_absorbed_and_the_network_stays_the_same() -> None:
    prepared, images = prepare_model(biased()), image_batch(12)
    families = find_families(prepared)
    shifts = {family.makers[0]: family.shift for family in families}
    assert shifts == {"linear": "any", "second": "positive", "third": "any", "fourth": "any"}
    seen = observed(prepared, tensors_to_observe(families), images)
    result = absorb_biases(prepared, families, seen)
    expected = run(prepared.model, images)
    assert sqnr(expected, run(result.model, images)) > 90
    for name in ("a", "r", "e"):
        now = run(with_outputs(result.model, [name], result.types), images)
        before = run(with_outputs(prepared.model, [name], prepared.types), images)
        assert np.abs(now).max() < 0.9 * np.abs(before).max(), name
        assert np.allclose(seen[name].high, now.max((0, 2, 3)), atol=1e-3 * np.abs(before).max())
    same = run(with_outputs(result.model, ["d"], result.types), images)
    assert np.allclose(same, run(with_outputs(prepared.model, ["d"], prepared.types), images), atol=1e-3)
