"""Learned rounding: blocks compute what ONNX Runtime does, and networks get better on images they have not seen."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

import edgeconv
from edgeconv.quantize.blocks import compute, fake_quantize, find_blocks
from edgeconv.quantize.grids import make_grid, quantize
from edgeconv.quantize.learned_rounding import learn_rounding
from edgeconv.quantize.placement import place
from edgeconv.quantize.prepare import prepare_model
from edgeconv.quantize.quantized_graph import write_graph
from edgeconv.quantize.running import with_outputs
from edgeconv.quantize.targets import TARGETS

from .models import build, image_batch, inverted_residuals, run, sqnr
from .test_quantized_graph import quantized

Array = NDArray[Any]


def many_operators() -> onnx.ModelProto:
    """Every operator that blocks have, lopsided padding and dilation among them."""
    generator = np.random.default_rng(4)

    def weights(*shape: int) -> Array:
        return (generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    return build(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 3, 20, 26] x) => (float[N, 5] y) {
            [one] a = Conv <pads = [1, 0, 2, 1], strides = [1, 2]> (x, w0, b0)
            [leaky] l = LeakyRelu <alpha = 0.2> (a)
            [two] c = Conv <group = 2, dilations = [1, 2], pads = [1, 2, 1, 2]> (l, w1)
            [gate] s = Sigmoid (c)
            [times] t = Mul (c, s)
            [hard] h = HardSigmoid (t)
            [max] m = MaxPool <kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 0, 1]> (h)
            [three] d = Conv (m, w2, b2)
            [relu] r = Relu (d)
            [join] j = Concat <axis = 1> (m, r)
            [pool] p = GlobalAveragePool (j)
            [flat] f = Flatten (p)
            [last] y = Gemm (f, w3, b3)
        }""",
        {
            "w0": weights(6, 3, 3, 3), "b0": weights(6), "w1": weights(6, 3, 3, 3), "w2": weights(4, 6, 1, 1),
            "b2": weights(4), "w3": weights(10, 5), "b3": weights(5),
        },
    )  # fmt: skip


@pytest.mark.parametrize(
    "model", [many_operators(), inverted_residuals()], ids=["many operators", "inverted residuals"]
)
def test_blocks_compute_what_onnx_runtime_does(model: onnx.ModelProto) -> None:
    """One after the other, in float: together they are the network."""
    prepared, images = prepare_model(model), image_batch(3)
    placement = place(prepared, TARGETS["ort"])
    blocks = find_blocks(prepared, placement)
    assert [name for block in blocks for name in block.layers] == list(placement.layers)
    assert [block.source for block in blocks] == ["x", *(block.result for block in blocks[:-1])]
    x = torch.from_numpy(images)
    for block in blocks:
        x = compute(block, x, {}, {})
        expected = run(with_outputs(prepared.model, [block.result], prepared.types), images)
        assert np.allclose(x.numpy(), expected, atol=1e-5), block.result


def test_residual_blocks_are_kept_whole() -> None:
    prepared = prepare_model(inverted_residuals())
    blocks = find_blocks(prepared, place(prepared, TARGETS["ort"]))
    assert [block.layers for block in blocks] == [
        ["stem", "dw1", "project1"], ["expand2", "dw2", "project2"], ["head", "classifier"],
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_rounding_of_activations(dtype: Any) -> None:
    grid = make_grid(-1.3, 2.2, np.dtype(dtype), symmetric=dtype is np.int8)
    values = np.linspace(-4, 4, 4001, dtype=np.float32)
    x = torch.from_numpy(values).requires_grad_()
    result = fake_quantize(x, grid)
    assert np.allclose(result.detach().numpy(), grid.dequantize(quantize(values, grid)), atol=1e-5)
    result.sum().backward()
    ends = grid.dequantize(np.array([np.iinfo(dtype).min, np.iinfo(dtype).max], dtype))
    assert x.grad is not None
    assert np.array_equal(x.grad.numpy() == 1, (values >= ends[0]) & (values <= ends[1]))


@pytest.mark.parametrize("biases", [True, False])
def test_unseen_images_gain(biases: bool) -> None:
    prepared, placement, parameters, graph = quantized(inverted_residuals(3))
    images, others = image_batch(32), image_batch(32, seed=77)
    expected, before = run(prepared.model, others), copy.deepcopy(parameters)
    told: list[float] = []
    left = learn_rounding(
        prepared, placement, parameters, lambda numbers: write_graph(prepared, placement, numbers, TARGETS["ort"]),
        images, batch=8, biases=biases, steps=120, progress=lambda _, done: told.append(done),
    )  # fmt: skip
    assert left == []
    assert told == sorted(told)
    assert 0 <= told[0] <= told[-1] < 1
    moved = 0
    for name, numbers in parameters.layers.items():
        real = before.layers[name]
        assert np.array_equal(numbers.grid.scale, real.grid.scale)
        assert np.abs(numbers.values.astype(int) - real.values).max() <= 1
        moved += int(np.sum(numbers.values != real.values))
        if not biases:
            assert np.array_equal(numbers.bias, real.bias)  # type: ignore[arg-type]
    assert moved
    after = write_graph(prepared, placement, parameters, TARGETS["ort"])
    assert sqnr(expected, run(after.model, others)) > sqnr(expected, run(graph.model, others)) + (1 if biases else 0.5)


def test_a_block_with_a_foreign_operator_is_left_and_named(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    model = build(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 3, 20, 26] x) => (float[N, 4, H, W] y) {
            [one] a = Conv (x, w)
            [odd] b = Softsign (a)
            [two] c = Conv (b, v)
            [three] d = Conv (c, u)
            [four] y = Conv (d, u)
        }""",
        {
            "w": generator.standard_normal((4, 3, 3, 3)).astype(np.float32),
            "v": generator.standard_normal((4, 4, 1, 1)).astype(np.float32),
            "u": generator.standard_normal((4, 4, 1, 1)).astype(np.float32),
        },
    )
    onnx.save(model, tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", image_batch(16))
    report = edgeconv.quantize_model(tmp_path / "net.onnx", tmp_path / "x.npy", rounding="learned", latency=False)
    (warning,) = (each for each in report.warnings if "learned rounding" in each)
    assert warning.startswith("3 layers are rounded by covariance, one first")
    assert report.agreement.sqnr_db > 20
