"""Deconvolution layers against the authors' published ones, against formulas in float64, and against autograd."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.nn import ChannelDeconv, Deconv2d, DeconvLinear, set_deconv_stats

DATA = Path(__file__).parents[1] / "data"
RELATIVE = 1e-4  # of the authors' float32 outputs, relative to their largest


def reference(file: str) -> list[tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]]:
    with np.load(DATA / file) as content:
        metas = json.loads(str(content["meta"]))
        return [
            (meta, {key[len(meta["key"]) + 1 :]: content[key] for key in content if key.startswith(meta["key"] + "_")})
            for meta in metas
        ]


def layer_of(meta: dict[str, Any], arrays: dict[str, np.ndarray[Any, Any]]) -> nn.Module:
    if "kind" not in meta:
        shape = meta["k"], meta["stride"], meta["padding"], meta["dilation"], meta["groups"]
        names = ("block", "sampling_stride", "eps", "n_iter", "momentum")
        return Deconv2d(meta["C"], meta["O"], *shape, **{name: meta[name] for name in names})
    if meta["kind"] == "ChannelDeconv":
        return ChannelDeconv(meta["block"])
    outputs, inputs = arrays["sd_weight"].shape
    return DeconvLinear(inputs, outputs, block=meta["block"])


REFERENCES = [*reference("deconv_reference.npz"), *reference("deconv_extra_reference.npz")]


def close(actual: Tensor, expected: np.ndarray[Any, Any], relative: float = RELATIVE) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=0, atol=relative * np.abs(expected).max())


@pytest.mark.parametrize(("meta", "arrays"), REFERENCES, ids=[meta["key"] for meta, _ in REFERENCES])
def test_authors_layer(meta: dict[str, Any], arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    """Their state loads as it is; the outputs of evaluation and of a training step are theirs."""
    layer = layer_of(meta, arrays)
    state = {key[3:]: torch.from_numpy(np.array(value)) for key, value in arrays.items() if key.startswith("sd_")}
    layer.load_state_dict(state, strict=True)
    close(layer.eval()(torch.from_numpy(arrays["xeval"])), arrays["yeval"])
    close(layer.train()(torch.from_numpy(arrays["xtrain"])), arrays["ytrain"])


def float64_twin(layer: Deconv2d, x: Tensor, *, exact: bool) -> Tensor:
    """The training step by loops over patches and, if exact, an eigendecomposition; no code of the layer's."""
    filters, _, height, width = layer.weight.shape
    taps, features, blocks = height * width, layer.num_features, layer.in_channels // layer.block
    w, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    top, left = (int(p) for p in layer.padding)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (top, top), (left, left)))

    def patches(step: tuple[int, int]) -> tuple[np.ndarray[Any, Any], tuple[int, int]]:
        reach = [(size - 1) * d for size, d in zip((height, width), layer.dilation, strict=True)]
        rows = range(0, padded.shape[2] - reach[0], step[0])
        columns = range(0, padded.shape[3] - reach[1], step[1])
        found = [
            padded[n, :, r : r + reach[0] + 1 : layer.dilation[0], c : c + reach[1] + 1 : layer.dilation[1]].reshape(-1)
            for n in range(len(padded))
            for r in rows
            for c in columns
        ]
        return np.array(found), (len(rows), len(columns))

    step = tuple(layer.sampling_stride * s for s in layer.stride)
    if taps == 1:
        sampled = np.moveaxis(x.numpy(), 1, 3).reshape(-1, layer.in_channels)[:: step[0] * step[1]]
    else:
        sampled = patches((step[0], step[1]))[0]
    every, (rows, columns) = patches((layer.stride[0], layer.stride[1]))
    out = np.zeros((len(every), filters))

    def whiten(s: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        mean = s.mean(0)
        covariance = (s - mean).T @ (s - mean) / len(s) + layer.eps * np.eye(features)
        if exact:
            values, vectors = np.linalg.eigh(covariance)
            return mean, vectors / np.sqrt(values) @ vectors.T
        norm = np.sqrt((covariance**2).sum())
        y, z = covariance / norm, np.eye(features)
        for _ in range(layer.n_iter):
            t = 0.5 * (3 * np.eye(features) - z @ y)
            y, z = y @ t, t @ z
        return mean, z / np.sqrt(norm)

    if layer.groups == 1:
        mean, deconv = whiten(np.concatenate([sampled[:, q::blocks] for q in range(blocks)]))
        flat = w.reshape(filters, -1)
        for q in range(blocks):
            out += (every[:, q::blocks] - mean) @ deconv @ flat[:, q::blocks].T
    else:
        each = filters // layer.groups
        for g in range(layer.groups):
            part = slice(g * features, (g + 1) * features)
            mean, deconv = whiten(sampled[:, part])
            flat = w[g * each : (g + 1) * each].reshape(each, -1)
            out[:, g * each : (g + 1) * each] = (every[:, part] - mean) @ deconv @ flat.T
    y = (out + b).reshape(len(x), rows, columns, filters)
    return torch.from_numpy(np.moveaxis(y, 3, 1).copy())


SHAPES = [
    ((2, 4, 9, 7), (4, 5, 3), {"padding": 1}),
    ((2, 6, 9, 8), (6, 4, (3, 2)), {"stride": (2, 1), "padding": (1, 0), "block": 3}),
    ((3, 6, 8, 7), (6, 6, 3), {"groups": 3, "dilation": (1, 2), "padding": 2, "sampling_stride": 1}),
    ((3, 9, 7, 5), (9, 4, 1), {"block": 3, "stride": 2, "sampling_stride": 2}),
]


def make(arguments: tuple[Any, ...], options: dict[str, Any], **more: Any) -> Deconv2d:
    torch.manual_seed(0)
    return Deconv2d(*arguments, **{"sampling_stride": 2, **options, **more}, dtype=torch.float64)


@pytest.mark.parametrize(("x_shape", "arguments", "options"), SHAPES)
@pytest.mark.parametrize("exact", [False, True])
def test_formula(x_shape: tuple[int, ...], arguments: Any, options: dict[str, Any], exact: bool) -> None:
    """Five steps of Newton–Schulz in float64; as many as converge: the eigendecomposition."""
    layer = make(arguments, options, n_iter=40 if exact else 5, eps=1e-3)
    x = torch.randn(x_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    close(layer(x), float64_twin(layer, x, exact=exact).numpy(), 1e-10)


FEW_POSITIONS = [
    ((2, 4, 9, 7), (4, 150, 3), {"padding": 1}),
    ((2, 6, 9, 8), (6, 90, (3, 2)), {"stride": (2, 1), "padding": (1, 0), "block": 3}),
    ((1, 6, 8, 11), (6, 111, (1, 3)), {"dilation": (3, 2), "padding": "same", "block": 2, "bias": False}),
    ((3, 9, 7, 5), (9, 44, 1), {"block": 3, "stride": 2, "sampling_stride": 2}),
]


@pytest.mark.parametrize("stats", ["batch", 0.3])
@pytest.mark.parametrize(("x_shape", "arguments", "options"), FEW_POSITIONS)
def test_few_positions_are_whitened_in_place_of_the_weights(
    x_shape: tuple[int, ...], arguments: Any, options: dict[str, Any], stats: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make(arguments, options).eval()
    layer.set_deconv_stats(stats)
    x = torch.randn(x_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 2
    rows, columns = layer(x).shape[2:]
    assert layer.whitens_patches(rows * columns)
    ways = []
    for use in (True, False):
        monkeypatch.setattr(layer, "whitens_patches", lambda positions, use=use: use)
        ways.append(layer(x))
    close(ways[0], ways[1].detach().numpy(), 1e-12)
    half = layer.float().half()(x.half())
    assert half.dtype == torch.float16


def test_which_statistics_whiten_patches() -> None:
    """Measured ones, where the output has no more positions than filters; a trace with open sizes keeps to weights."""
    layer = Deconv2d(4, 12, 3, padding=1, block=2)
    assert layer.whitens_patches(12)
    assert not layer.whitens_patches(13)
    assert not Deconv2d(4, 12, 3, groups=2).whitens_patches(1)
    layer.set_deconv_stats("batch")
    x = torch.randn(2, 4, 3, 4)
    size = torch.export.Dim.AUTO
    for dynamic, expected in ((None, False), ({0: size, 2: size, 3: size}, True)):
        program = torch.export.export(layer.eval(), (x,), dynamic_shapes=(dynamic,))
        assert ("conv2d" in program.graph_module.code) == expected


@pytest.mark.parametrize(("x_shape", "arguments", "options"), SHAPES)
def test_gradcheck(x_shape: tuple[int, ...], arguments: Any, options: dict[str, Any]) -> None:
    layer = make(arguments, options, n_iter=3, eps=1e-2)
    x = torch.randn(x_shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,), fast_mode=True)


def test_gradcheck_of_the_others() -> None:
    linear = DeconvLinear(6, 3, block=3, n_iter=3, dtype=torch.float64)
    assert torch.autograd.gradcheck(linear, (torch.randn(5, 6, dtype=torch.float64, requires_grad=True),))
    channels = ChannelDeconv(3, n_iter=3, dtype=torch.float64)
    x = torch.randn(2, 7, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(channels, (x,), fast_mode=True)


def test_whitened_patches_are_white() -> None:
    """With filters of the identity and statistics of every position, the outputs' covariance is the identity."""
    torch.manual_seed(2)
    mixing = torch.randn(3, 3)
    x = torch.einsum("dc,nchw->ndhw", mixing, torch.randn(8, 3, 20, 20)) + 5
    layer = Deconv2d(3, 27, 3, sampling_stride=1, n_iter=30, eps=1e-6, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(27).view(27, 3, 3, 3))
    rows = layer(x).detach().permute(1, 0, 2, 3).reshape(27, -1).double()
    assert rows.mean(1).abs().max() < 1e-4
    covariance = rows @ rows.T / rows.shape[1]
    np.testing.assert_allclose(covariance.numpy(), np.eye(27), atol=2e-3)


def test_sizes_and_blocks() -> None:
    assert Deconv2d(24, 8, 3, block=64).block == 24
    assert Deconv2d(24, 8, 3, block=16).block == 8
    assert Deconv2d(24, 8, 3, groups=4, block=2).block == 6
    layer = Deconv2d(24, 8, 3, groups=4)
    assert layer.running_mean.shape == (216,)
    assert layer.running_deconv.shape == (4, 54, 54)
    assert DeconvLinear(48, 3, block=32).block == 16


def test_is_a_convolution_before_training() -> None:
    """Statistics begin with the identity."""
    conv = nn.Conv2d(6, 4, 3, padding="same", dilation=2)
    layer = Deconv2d(6, 4, 3, padding="same", dilation=2, block=3).eval()
    layer.load_state_dict(conv.state_dict(), strict=False)
    x = torch.randn(2, 6, 9, 8)
    torch.testing.assert_close(layer(x), conv(x))
    torch.testing.assert_close(layer(x[0]), conv(x[0]))


def test_no_bias() -> None:
    torch.manual_seed(0)
    layer = Deconv2d(4, 3, 3, bias=False)
    x = torch.randn(2, 4, 9, 8) + 1
    y = layer(x)
    twin = Deconv2d(4, 3, 3)
    with torch.no_grad():
        twin.weight.copy_(layer.weight)
        twin.bias.zero_()
    torch.testing.assert_close(twin(x), y)
    assert "bias" not in layer.state_dict()


def test_running_statistics() -> None:
    torch.manual_seed(0)
    layer = Deconv2d(3, 2, 3, momentum=0.25)
    x = torch.randn(4, 3, 12, 12) * 2 + 3
    before = layer.running_deconv.clone()
    layer(x)
    assert layer.running_mean.min() > 0.5  # a quarter of 3, less at the border
    mean, deconv = layer.running_mean.clone(), layer.running_deconv.clone()
    layer.eval()(x)
    torch.testing.assert_close((layer.running_mean, layer.running_deconv), (mean, deconv), rtol=0, atol=0)
    layer.train()(x)
    torch.testing.assert_close(layer.running_deconv - deconv, 0.75 * (deconv - before), rtol=1e-3, atol=1e-5)


def test_freeze() -> None:
    layer = Deconv2d(3, 2, 3, freeze=True, freeze_iter=2)
    x = torch.randn(2, 3, 8, 8)
    states = []
    for _ in range(6):
        layer(x)
        states.append(layer.running_deconv.clone())
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(states)]
    assert moved == [True, True, False, False, False]


def statistics_of(layer: nn.Module, x: Tensor) -> Tensor:
    """Output of a training step, whose statistics are the input's."""
    result: Tensor = copy.deepcopy(layer).train()(x)
    return result


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Deconv2d(6, 4, 3, block=3), (3, 6, 11, 10)),
        (Deconv2d(6, 4, 3, groups=2), (3, 6, 11, 10)),
        (DeconvLinear(8, 3, block=4), (9, 8)),
        (ChannelDeconv(3), (4, 7, 6, 5)),
    ],
)
def test_statistics_of_evaluation(layer: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    layer(torch.randn(shape) * 0.5 - 1)
    x = torch.randn(shape) * 3 + 2
    layer.eval()
    frozen = layer(x)
    layer.set_deconv_stats("batch")
    torch.testing.assert_close(layer(x), statistics_of(layer, x))
    layer.set_deconv_stats(0.0)
    torch.testing.assert_close(layer(x), frozen)
    layer.set_deconv_stats(1.0)
    torch.testing.assert_close(layer(x), statistics_of(layer, x))
    layer.set_deconv_stats(0.5)
    half = layer(x)
    assert (half - frozen).abs().max() > 0.01 * frozen.abs().max()
    # Half-way statistics are those of training with that momentum.
    twin = copy.deepcopy(layer).train()
    twin.momentum = 0.5
    twin(x)
    twin.eval().set_deconv_stats("frozen")
    torch.testing.assert_close(half, twin(x))


def test_set_deconv_stats_of_a_model() -> None:
    model = nn.Sequential(ChannelDeconv(3), Deconv2d(3, 2, 3), nn.Flatten(), DeconvLinear(8, 2))
    assert set_deconv_stats(model, 0.25) == 2
    assert [layer.deconv_stats for layer in model if hasattr(layer, "deconv_stats")] == [0.25, 0.25, "frozen"]
    with pytest.raises(ValueError, match="no Deconv2d"):
        set_deconv_stats(DeconvLinear(2, 2), "batch")
    for wrong in ("running", 1.5, True, -0.1):
        with pytest.raises(ValueError, match="deconv_stats must be"):
            set_deconv_stats(model, wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "x"),
    [
        ("constant", torch.full((2, 4, 9, 8), 3.0)),
        ("zero", torch.zeros(2, 4, 9, 8)),
        ("rank one", torch.randn(2, 1, 9, 8).expand(2, 4, 9, 8).contiguous()),
        ("one image, one position", torch.randn(1, 4, 3, 3)),
        ("huge", torch.randn(2, 4, 9, 8) * 1e25),
        ("tiny", torch.randn(2, 4, 9, 8) * 1e-25),
        ("uneven", torch.randn(2, 4, 9, 8) * torch.tensor([1e-6, 1.0, 1e4, 1e8])[:, None, None]),
    ],
)
def test_ill_conditioned_statistics_stay_finite(name: str, x: Tensor) -> None:
    layer = Deconv2d(4, 3, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = layer(x)
    y.sum().backward()
    assert torch.isfinite(y).all(), name
    assert torch.isfinite(layer.weight.grad).all(), name  # type: ignore[arg-type]
    assert torch.isfinite(layer.running_deconv).all(), name
    assert layer.running_deconv.abs().max() <= layer.eps**-0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_is_warned_of(value: float) -> None:
    layer = Deconv2d(3, 2, 3)
    layer(torch.randn(2, 3, 8, 8))
    mean, deconv = layer.running_mean.clone(), layer.running_deconv.clone()
    x = torch.randn(2, 3, 8, 8)
    x[1, 2, 3, 3] = value
    with pytest.warns(RuntimeWarning, match="not finite"):
        layer(x)
    torch.testing.assert_close((layer.running_mean, layer.running_deconv), (mean, deconv), rtol=0, atol=0)


def test_mixed_precision_measures_in_float32() -> None:
    torch.manual_seed(0)
    layer = Deconv2d(8, 4, 3)
    x = torch.randn(2, 8, 12, 12) * 100 + 300  # squares are beyond float16, and differences below bfloat16
    expected = copy.deepcopy(layer)
    expected(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    torch.testing.assert_close(layer.running_deconv, expected.running_deconv)
    assert torch.isfinite(y).all()
    half = copy.deepcopy(expected).eval().half()
    assert half.running_deconv.dtype == torch.float32
    assert half.weight.dtype == torch.float16
    torch.testing.assert_close(half((x / 100).half()).float(), expected.eval()(x / 100), rtol=0.02, atol=0.02)


def test_copies_and_pickles() -> None:
    layer = Deconv2d(3, 2, 3, block=3)
    layer.set_deconv_stats("batch")
    x = torch.randn(2, 3, 8, 8)
    expected = layer.eval()(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(twin(x), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": 0}, "eps must be positive"),
        ({"n_iter": 0}, "n_iter"),
        ({"momentum": 2}, "momentum"),
        ({"block": 0}, "block"),
        ({"sampling_stride": 0}, "sampling_stride"),
        ({"freeze_iter": 0}, "freeze_iter"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Deconv2d(4, 2, 3, **arguments)


def test_wrong_inputs() -> None:
    with pytest.raises(ValueError, match="4 channels"):
        Deconv2d(4, 2, 3)(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="6 features"):
        DeconvLinear(6, 2)(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="at least 8 channels"):
        ChannelDeconv(8)(torch.zeros(2, 4, 3, 3))


def test_compiles_and_traces() -> None:
    layer = Deconv2d(6, 4, 3, block=3).eval()
    layer.set_deconv_stats("batch")
    x = torch.randn(2, 6, 9, 8)
    batch = torch.export.Dim("batch")
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},), strict=False)
    assert sum("DeconvWhitening" in str(node.target) for node in program.graph.nodes) == 1
    torch.testing.assert_close(program.module()(x.repeat(2, 1, 1, 1)), layer(x.repeat(2, 1, 1, 1)))
    assert F.mse_loss(program.module()(x), layer(x)) < 1e-10
