"""Each exact rewrite keeps what the network computes; what cannot be quantised is refused with one message."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeconv.errors import InputError
from edgeconv.quantize.prepare import prepare_model

from .models import build, image_batch, inverted_residuals, kinds, run, sqnr

HEAD = '<ir_version: 8, opset_import: ["" : 18]>'
GENERATOR = np.random.default_rng(11)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.standard_normal(shape).astype(np.float32)


W, V = normal(5, 3, 3, 3), normal(4, 5, 1, 1)
NORM = {"g": normal(5), "h": normal(5), "m": normal(5), "v": np.abs(normal(5)) + 0.1}
CASES = {
    "batch norm": (
        """g (float[N, 3, 9, 8] x) => (float[N, 5, 7, 6] y) {
            a = Conv (x, W)
            y = BatchNormalization <epsilon = 0.01> (a, g, h, m, v)
        }""",
        {"W": W, **NORM},
        ["Conv"],
    ),
    "batch norm after a transposed convolution": (
        """g (float[N, 3, 9, 8] x) => (float[N, 5, 11, 10] y) {
            a = ConvTranspose (x, W)
            y = BatchNormalization (a, g, h, m, v)
        }""",
        {"W": normal(3, 5, 3, 3), **NORM},
        ["ConvTranspose"],
    ),
    "batch norm of a value with two readers": (
        """g (float[N, 3, 9, 8] x) => (float[N, 5, 7, 6] y) {
            a = Conv (x, W)
            b = BatchNormalization (a, g, h, m, v)
            y = Add (a, b)
        }""",
        {"W": W, **NORM},
        ["Conv", "BatchNormalization", "Add"],
    ),
    "scale and shift": (
        """g (float[N, 3, 9, 8] x) => (float[N, 5, 7, 6] y) {
            a = Conv (x, W)
            b = Mul (a, s)
            c = Sub (b, t)
            y = Div (c, two)
        }""",
        {"W": W, "s": normal(1, 5, 1, 1), "t": normal(5, 1, 1), "two": np.float32(2)},
        ["Conv"],
    ),
    "zero padding": (
        """g (float[N, 3, 9, 8] x) => (float[N, 5, 11, 8] y) {
            p = Pad (x, pads)
            y = Conv <kernel_shape = [3, 3], pads = [1, 0, 0, 1]> (p, W)
        }""",
        {"W": W, "pads": np.int64([0, 0, 2, 1, 0, 0, 1, 0])},
        ["Conv"],
    ),
    "padding with ones stays": (
        """g (float[N, 3, 9, 8] x) => (float[N, 5, 9, 8] y) {
            p = Pad (x, pads, one)
            y = Conv (p, W)
        }""",
        {"W": W, "pads": np.int64([0, 0, 1, 1, 0, 0, 1, 1]), "one": np.float32(1)},
        ["Pad", "Conv"],
    ),
    "min and max": (
        """g (float[N, 3, 9, 8] x) => (float[N, 5, 7, 6] y) {
            a = Conv (x, W)
            b = Max (a, zero)
            y = Min (six, b)
        }""",
        {"W": W, "zero": np.float32(0), "six": np.float32([6])},
        ["Conv", "Clip"],
    ),
    "relu and clip": (
        """g (float[N, 3, 9, 8] x) => (float[N, 5, 7, 6] y) {
            a = Conv (x, W)
            b = Relu (a)
            y = Clip (b, low, high)
        }""",
        {"W": W, "low": np.float32(-1), "high": np.float32(2)},
        ["Conv", "Clip"],
    ),
    "identities, dropout and constants": (
        """g (float[N, 3, 9, 8] x) => (float[N, 4, 7, 6] y) {
            w = Constant <value = float[1] {2.0}> ()
            k = Mul (W, w)
            i = Identity (k)
            a = Conv (x, i)
            b = Dropout (a)
            c = Conv (b, V)
            y = Identity (c)
        }""",
        {"W": W, "V": V},
        ["Conv", "Conv"],
    ),
    "mean over height and width": (
        """g (float[N, 3, 9, 8] x) => (float[N, 5] y) {
            a = Conv (x, W)
            y = ReduceMean <keepdims = 0> (a, axes)
        }""",
        {"W": W, "axes": np.int64([-1, -2])},
        ["Conv", "GlobalAveragePool", "Flatten"],
    ),
    "mean over channels stays": (
        """g (float[N, 3, 9, 8] x) => (float[N, 1, 7, 6] y) {
            a = Conv (x, W)
            y = ReduceMean (a, axes)
        }""",
        {"W": W, "axes": np.int64([1])},
        ["Conv", "ReduceMean"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_rewritten_graph_computes_the_same(name: str) -> None:
    text, constants, expected = CASES[name]
    model = build(HEAD + text, constants)
    before = model.SerializeToString(deterministic=True)
    prepared = prepare_model(model)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(prepared.model, full_check=True)
    assert kinds(prepared.model) == expected
    images = image_batch(2, shape=(3, 9, 8)) * 3
    assert sqnr(run(model, images), run(prepared.model, images)) > 100
    read = {each for node in prepared.model.graph.node for each in node.input}
    assert {tensor.name for tensor in prepared.model.graph.initializer} <= read


def test_nodes_get_names_of_their_own() -> None:
    model = inverted_residuals()
    for node in model.graph.node:
        node.name = "same" if node.op_type == "Conv" else ""
    names = [node.name for node in prepare_model(model).model.graph.node]
    assert len(set(names)) == len(names)
    assert all(names)


def test_old_opsets_are_converted() -> None:
    model = build(
        """<ir_version: 6, opset_import: ["" : 11]>
        g (float[N, 3, 9, 8] x) => (float[N, 5, 7, 6] y) {
            y = Conv (x, W)
        }""",
        {"W": W},
    )
    prepared = prepare_model(model)
    assert prepared.model.opset_import[0].version >= 13


def test_quantised_models_are_refused() -> None:
    model = build(
        HEAD
        + """g (float[N, 3, 9, 8] x) => (uint8[N, 3, 9, 8] y) {
            y = QuantizeLinear (x, s, z)
        }""",
        {"s": np.float32(0.1), "z": np.uint8(3)},
    )
    with pytest.raises(InputError, match="the model is quantised already"):
        prepare_model(model)


def test_half_precision_is_refused() -> None:
    model = build(
        HEAD
        + """g (float16[N, 3, 9, 8] x) => (float16[N, 5, 7, 6] y) {
            y = Conv (x, W)
        }""",
        {"W": W.astype(np.float16)},
    )
    with pytest.raises(InputError, match="16-bit floating point"):
        prepare_model(model)


def test_a_weight_that_an_input_may_override_is_no_constant() -> None:
    model = build(
        HEAD
        + """g (float[N, 3, 9, 8] x, float[5, 3, 3, 3] W) => (float[N, 5, 7, 6] y) {
            a = Conv (x, W)
            y = Relu (a)
        }""",
        {},
    )
    model.graph.initializer.append(numpy_helper.from_array(W, "W"))
    from edgeconv.quantize.placement import place
    from edgeconv.quantize.targets import TARGETS

    placement = place(prepare_model(model), TARGETS["ort"])
    assert placement.layers == {}
    assert list(placement.left.values()) == ["its weights are not constant"]
