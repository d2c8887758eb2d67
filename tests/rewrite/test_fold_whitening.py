"""The fold of constant weights: an identity, to the last digit of its type, that leaves plain operators."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from edgeconv.export.graph import torch_to_onnx
from edgeconv.nn import ChannelDeconv, Deconv2d, DeconvLinear
from edgeconv.rewrite import fold_whitening


def graph(text: str, **constants: np.ndarray) -> onnx.ModelProto:  # type: ignore[type-arg]
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return model


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def random(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


WHITENED = """
<ir_version: 10, opset_import: ["": 18]>
network ({T}[N, 4, H, W] X) => ({T}[N, 3, h, w] Y) <int64[2] flat = {{3, 36}}, int64[4] whole = {{3, 4, 3, 3}}>
{{
    rows = Reshape (W, flat)
    white = MatMul (rows, deconv)
    w = Reshape (white, whole)
    shift = MatMul (white, mean)
    b = Sub (bias, shift)
    Y = Conv (X, w, b)
}}
"""


@pytest.mark.parametrize(("kind", "dtype"), [("float", "float32"), ("float16", "float16"), ("double", "float64")])
def test_folds_in_float64(kind: str, dtype: str) -> None:
    constants = {
        "W": random(3, 4, 3, 3, dtype=dtype),
        "deconv": random(36, 36, seed=1, dtype=dtype),
        "mean": random(36, seed=2, dtype=dtype),
        "bias": random(3, seed=3, dtype=dtype),
    }
    model = graph(WHITENED.format(T=kind), **constants)
    before = model.SerializeToString(deterministic=True)
    folded, report = fold_whitening(model)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(folded, full_check=True)
    assert operators(folded) == {"Conv": 1}
    assert [(each.operand, each.operators, each.shape) for each in report.folded] == [
        (1, 3, (3, 4, 3, 3)),
        (2, 4, (3,)),
    ]
    assert not report.left
    w, b = (
        numpy_helper.to_array(next(t for t in folded.graph.initializer if t.name == name))
        for name in folded.graph.node[0].input[1:]
    )
    exact = {name: value.astype(np.float64) for name, value in constants.items()}
    white = exact["W"].reshape(3, 36) @ exact["deconv"]
    assert w.dtype == b.dtype == np.dtype(dtype)
    for actual, expected in ((w, white.reshape(3, 4, 3, 3)), (b, exact["bias"] - white @ exact["mean"])):
        expected = expected.astype(dtype)  # the nearest of the type, or its neighbour: numpy's sums differ in order
        np.testing.assert_allclose(actual, expected, rtol=2 * np.finfo(dtype).eps)
    assert len(folded.graph.initializer) == 2


def test_what_depends_on_data_is_left() -> None:
    model = graph(
        """<ir_version: 10, opset_import: ["": 18]>
        network (float[N, 3] X) => (float[N, 4] Y, float[3, 4] V)
        { s = ReduceMean <keepdims = 0> (X) w = Mul (W, s) v = Neg (W) V = Abs (v) y = MatMul (X, w) Y = Add (y, v2)
          v2 = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> () }""",
        W=random(3, 4),
    )
    model.graph.node.insert(0, model.graph.node.pop())  # the constant first
    folded, report = fold_whitening(model)
    assert operators(folded) == operators(model)
    assert not report.folded


def test_shared_and_visible_values_stay() -> None:
    """A constant that others read, or that is an output, is not taken away with the chain."""
    model = graph(
        """<ir_version: 10, opset_import: ["": 18]>
        network (float[N, 3] X) => (float[N, 3] Y, float[N, 3] Z, float[3, 3] w)
        { w = MatMul (W, D) y = MatMul (X, w) Y = Gemm (y, w) z = Mul (X, W0) Z = Identity (z) }""",
        W=random(3, 3),
        D=random(3, 3, seed=1),
        W0=random(3),
    )
    folded, report = fold_whitening(model)
    onnx.checker.check_model(folded, full_check=True)
    assert operators(folded) == {"MatMul": 2, "Gemm": 1, "Mul": 1, "Identity": 1}
    assert [each.operand for each in report.folded] == [1, 1]
    x = random(5, 3, seed=4)
    for a, b in zip(*(ReferenceEvaluator(m).run(None, {"X": x}) for m in (model, folded)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_operators_that_it_does_not_know_are_left() -> None:
    model = graph(
        """<ir_version: 10, opset_import: ["": 18]>
        network (float[N, 3] X) => (float[N, 3] Y) { r = RandomNormalLike (W) w = MatMul (r, W) Y = MatMul (X, w) }""",
        W=random(3, 3),
    )
    folded, report = fold_whitening(model)
    assert operators(folded) == {"RandomNormalLike": 1, "MatMul": 2}
    assert not report.folded


def test_what_cannot_be_computed_is_told() -> None:
    model = graph(
        """<ir_version: 10, opset_import: ["": 18]>
        network (float[N, 3] X) => (float[N, 3] Y) <float[3, 3] w> { w = MatMul (W, D) Y = MatMul (X, w) }""",
        W=random(3, 2),
        D=random(3, 3),
    )
    folded, report = fold_whitening(model)
    assert operators(folded) == {"MatMul": 2}
    (left,) = report.left
    assert "cannot be computed" in left.reason


class Plain(nn.Module):
    """The network that `Whitened` is when its statistics are frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(6, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 4, (3, 1), stride=2, groups=2)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 6, H, W) to (N, 3)."""
        return self.fc(torch.relu(self.conv2(torch.relu(self.conv1(x)))).mean((2, 3)))  # type: ignore[no-any-return]


class Whitened(Plain):
    """The same with deconvolutions that have seen a batch, and whitened channels before them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Deconv2d(6, 8, 3, padding=1, block=3)
        self.conv2 = Deconv2d(8, 4, (3, 1), stride=2, groups=2)
        self.fc = DeconvLinear(4, 3, block=2)


def test_a_network_becomes_the_plain_one() -> None:
    torch.manual_seed(0)
    model = Whitened()
    for _ in range(3):
        model(torch.randn(4, 6, 9, 8) * 2 + 1)
    model.eval()
    x = torch.randn(2, 6, 9, 8)
    folded, _ = fold_whitening(torch_to_onnx(model, (x,)))
    plain = torch_to_onnx(Plain().eval(), (x,))
    assert [node.op_type for node in folded.graph.node] == [node.op_type for node in plain.graph.node]
    shapes = [sorted(tuple(t.dims) for t in m.graph.initializer) for m in (folded, plain)]
    assert shapes[0] == shapes[1]
    (y,) = ReferenceEvaluator(folded).run(None, {folded.graph.input[0].name: x.numpy()})
    np.testing.assert_allclose(y, model.double()(x.double()).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_channel_whitening_becomes_a_convolution() -> None:
    layer = ChannelDeconv(3)
    layer(torch.randn(4, 6, 9, 8) * 2 + 1)
    folded, _ = fold_whitening(torch_to_onnx(layer.eval(), (torch.randn(2, 6, 9, 8),)))
    assert operators(folded) == {"Reshape": 2, "Conv": 1}
