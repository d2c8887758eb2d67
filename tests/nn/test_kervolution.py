"""Kerv2d and Kerv1d as layers: drop-in for convolutions, agreement with the authors' layer, parameters, errors."""

from __future__ import annotations

import copy
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import kervolution as oracle
from tolerances import assert_close
from torch import Tensor, nn

from edgeconv.nn import Kerv1d, Kerv2d
from edgeconv.ops.kervolution import KERNELS, OPERATOR_OF_KERNEL

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "kervolution_reference.npz")
"""Outputs of the kervolution authors' published layer on random inputs."""

GEOMETRIES: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (2, 3), "padding": (2, 1), "dilation": (1, 2)},
    {"padding": "same"},
    {"padding": "same", "dilation": (3, 2)},
    {"padding": "same", "kernel_size": (4, 2)},
    {"padding": "same", "kernel_size": (2, 4), "dilation": (1, 3), "bias": False},
    {"padding": "valid", "groups": 3},
    {"padding": 2, "padding_mode": "reflect"},
    {"padding": (1, 3), "padding_mode": "replicate", "stride": 2},
    {"padding": (2, 1), "padding_mode": "circular", "groups": 2},
    {"padding": "same", "padding_mode": "reflect", "kernel_size": (4, 3), "dilation": 2},
    {"groups": 6, "bias": False, "dilation": 2},
]


def pair(conv: type[nn.Module], kerv: type[nn.Module], spatial: int, arguments: dict[str, Any]) -> tuple[Any, Any]:
    """A convolution and the linear kervolution with its state."""
    given = {
        name: value[0] if spatial == 1 and isinstance(value, tuple) else value
        for name, value in {"kernel_size": (3, 5), **arguments}.items()
    }
    size = given.pop("kernel_size")
    plain, layer = conv(6, 12, size, **given), kerv(6, 12, size, **given, kernel="linear")
    layer.load_state_dict(plain.state_dict())
    return plain, layer


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("arguments", GEOMETRIES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("batch", [(2,), ()], ids=["batched", "unbatched"])
@pytest.mark.parametrize("spatial", [1, 2])
def test_linear_kernel_is_a_convolution(
    arguments: dict[str, Any], dtype: torch.dtype, batch: tuple[int, ...], spatial: int
) -> None:
    torch.manual_seed(0)
    types = (nn.Conv2d, Kerv2d) if spatial == 2 else (nn.Conv1d, Kerv1d)
    conv, kerv = (module.to(dtype) for module in pair(*types, spatial, arguments))
    x = torch.randn(*batch, 6, *(13, 16)[:spatial], dtype=dtype)
    expected, actual = conv(x), kerv(x)
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("arguments", [a for a in GEOMETRIES if a.get("padding_mode", "zeros") == "zeros"], ids=str)
@pytest.mark.parametrize("kernel", OPERATOR_OF_KERNEL)
def test_kernels_take_a_convolutions_arguments(arguments: dict[str, Any], kernel: str) -> None:
    """Paddings, groups and dilations of the layer mean for every kernel what they mean for a convolution."""
    torch.manual_seed(0)
    given = {"kernel_size": (3, 5), **arguments}
    layer = Kerv2d(6, 12, **given, kernel=kernel, degree=2, balance=0.4, gamma=0.05, scale=0.7)
    x = torch.randn(2, 6, 13, 16)
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    expected = oracle(
        x.numpy(),
        layer.weight.detach().numpy(),
        None if layer.bias is None else layer.bias.detach().numpy(),
        kernel=kernel,
        strides=layer.stride,
        pads=(top, left, bottom, right),
        dilations=layer.dilation,
        group=layer.groups,
        degree=2,
        balance=0.4,
        gamma=0.05,
        scale=0.7,
    )
    assert_close(layer(x).detach().numpy(), expected, np.float32, kernel)


@pytest.mark.parametrize("meta", json.loads(str(REFERENCE["meta"])), ids=lambda meta: f"{meta['key']}-{meta['kernel']}")
def test_agrees_with_the_authors_layer(meta: dict[str, Any]) -> None:
    x, w, y = (REFERENCE[f"{meta['key']}_{name}"] for name in "xwy")
    layer = Kerv2d(
        w.shape[1],
        w.shape[0],
        w.shape[2:],
        meta["stride"],
        meta["padding"],
        bias=meta["bias"],
        kernel=meta["kernel"],
        degree=meta["power"],
        balance=meta["balance"],
        gamma=meta["gamma"],
    )
    layer.weight.data = torch.from_numpy(w)
    if layer.bias is not None:
        layer.bias.data = torch.from_numpy(REFERENCE[f"{meta['key']}_b"])
    actual = layer(torch.from_numpy(x)).detach().numpy()
    # Their distances are sums of float32 squares and differences, as ours: the noise is that of both.
    error = np.abs(actual - y).max() / np.abs(y).max()
    assert error < 2e-6, error


def test_the_reference_holds_five_kernels() -> None:
    kernels = [meta["kernel"] for meta in json.loads(str(REFERENCE["meta"]))]
    assert set(kernels) == set(KERNELS) - {"sigmoid", "chebyshev"}
    assert len(kernels) == 15


@pytest.mark.parametrize("kernel", ["sigmoid", "chebyshev", "gaussian"])
def test_one_dimensional_layer_agrees_with_a_loop(kernel: str) -> None:
    torch.manual_seed(0)
    layer = Kerv1d(4, 6, 3, 2, 2, 2, 2, kernel=kernel, balance=0.3, gamma=0.1, scale=0.6)
    x = torch.randn(3, 4, 17)
    assert layer.bias is not None
    expected = oracle(
        x[:, :, None].numpy(),
        layer.weight.detach()[:, :, None].numpy(),
        layer.bias.detach().numpy(),
        kernel=kernel,
        strides=(1, 2),
        pads=(0, 2, 0, 2),
        dilations=(1, 2),
        group=2,
        balance=0.3,
        gamma=0.1,
        scale=0.6,
    )
    assert_close(layer(x).detach().numpy(), expected[:, :, 0], np.float32, kernel)


@pytest.mark.parametrize("kernel", OPERATOR_OF_KERNEL)
@pytest.mark.parametrize("learnable", [False, "layer", "channel"])
def test_parameters_are_state_and_are_learned(kernel: str, learnable: Any) -> None:
    torch.manual_seed(0)
    names = OPERATOR_OF_KERNEL[kernel].parameters
    layer = Kerv2d(3, 5, 3, kernel=kernel, balance=0.5, gamma=0.04, scale=0.7, learnable=learnable)
    assert set(layer.state_dict()) == {"weight", "bias", *names}
    assert set(dict(layer.named_parameters())) == {"weight", "bias", *(names if learnable else ())}
    values = {"balance": 0.5, "gamma": 0.04, "scale": 0.7}
    for name in names:
        assert getattr(layer, name).shape == ((5,) if learnable == "channel" else ())
        assert getattr(layer, name).detach().numpy() == pytest.approx(values[name])
    x = torch.randn(2, 3, 7, 6)
    layer(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().min() > 0 or name == "weight", name
    if learnable == "channel":
        for name in names:  # each channel has its own
            before = layer(x).detach()
            with torch.no_grad():
                getattr(layer, name)[2] *= 1.5
            changed = (layer(x).detach() != before).any(dim=(0, 2, 3))
            assert changed.tolist() == [False, False, True, False, False]


def test_learned_gamma_may_pass_through_zero() -> None:
    torch.manual_seed(0)
    layer = Kerv2d(2, 3, 3, kernel="gaussian", gamma=0.1, learnable="channel")
    with torch.no_grad():
        layer.gamma.copy_(torch.tensor([-0.1, 0.0, 0.1]))
        layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
        layer.bias.zero_()  # type: ignore[union-attr]
    y = layer(torch.randn(2, 2, 6, 5))
    assert torch.equal(y[:, 0], y[:, 2])
    assert y[:, 1].eq(1).all()
    assert y.max() <= 1
    y.sum().backward()
    assert layer.gamma.grad is not None
    assert layer.gamma.grad.isfinite().all()
    assert layer.gamma.grad[0] == -layer.gamma.grad[2] != 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": "cubic"}, "kernel must be one of linear, polynomial.*got 'cubic'"),
        ({"learnable": True}, "learnable must be"),
        ({"learnable": "filter"}, "learnable must be .*got 'filter'"),
        ({"degree": 0}, "degree must be an integer of at least 1; got 0"),
        ({"degree": 2.0}, "degree must be an integer"),
        ({"degree": True}, "degree must be an integer"),
        ({"gamma": 0.0}, "gamma must be positive; got 0.0"),
        ({"gamma": -1.0}, "gamma must be positive"),
        ({"gamma": float("nan")}, "gamma must be positive; got nan"),
    ],
)
@pytest.mark.parametrize("layer", [Kerv1d, Kerv2d])
def test_arguments_out_of_range_are_refused(layer: type[nn.Module], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer(3, 4, 3, **arguments)


@pytest.mark.parametrize("kernel", KERNELS)
def test_input_of_the_wrong_shape_is_refused(kernel: str) -> None:
    with pytest.raises(
        ValueError, match=r"Kerv2d expects \(N, 3, H, W\) input with 3 channels; got shape \(2, 4, 7, 8\)"
    ):
        Kerv2d(3, 4, 3, kernel=kernel)(torch.randn(2, 4, 7, 8))
    with pytest.raises(ValueError, match=r"Kerv1d expects \(N, 3, L\) input with 3 channels; got shape \(2, 4, 7\)"):
        Kerv1d(3, 4, 3, kernel=kernel)(torch.randn(2, 4, 7))
    with pytest.raises(ValueError, match="Kerv2d expects"):
        Kerv2d(3, 4, 3, kernel=kernel)(torch.randn(3, 8))
    with pytest.raises((ValueError, RuntimeError), match=r"size|fit"):
        Kerv2d(3, 4, 3, kernel=kernel)(torch.randn(2, 3, 2, 8))


@pytest.mark.parametrize("learnable", [False, "channel"])
@pytest.mark.parametrize("before", [torch.float32, torch.float64])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_parameters_in_float32(learnable: Any, before: torch.dtype, half: torch.dtype) -> None:
    layer = Kerv2d(3, 4, 3, kernel="gaussian", gamma=1 / 27, learnable=learnable).to(before)
    parameter = layer.gamma
    layer.to(half)
    assert layer.weight.dtype == half
    assert layer.gamma.dtype == torch.float32
    assert layer.gamma.detach().numpy() == pytest.approx(1 / 27, rel=1e-7)
    if learnable:
        assert layer.gamma is parameter
    assert layer(torch.randn(1, 3, 5, 6, dtype=half)).dtype == half
    made_so = Kerv2d(3, 4, 3, kernel="gaussian", dtype=half)
    assert (made_so.weight.dtype, made_so.gamma.dtype) == (half, torch.float32)
    layer.double()
    assert layer.gamma.dtype == torch.float64


def test_device_and_dtype_arguments() -> None:
    layer = Kerv2d(3, 4, 3, device="meta", dtype=torch.float64, kernel="sigmoid")
    assert {t.device.type for t in layer.state_dict().values()} == {"meta"}
    assert {t.dtype for t in layer.state_dict().values()} == {torch.float64}


@pytest.mark.parametrize("kernel", KERNELS)
def test_copies_and_files_are_equal(kernel: str) -> None:
    torch.manual_seed(0)
    layer = Kerv2d(3, 4, 3, padding="same", kernel=kernel, gamma=0.1, learnable="layer")
    x = torch.randn(2, 3, 6, 5)
    again = Kerv2d(3, 4, 3, padding="same", kernel=kernel, learnable="layer")
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), again):
        assert torch.equal(other(x), layer(x))
        with torch.no_grad():
            other.weight += 1
        assert not torch.equal(other(x), layer(x))


def test_repr_says_what_the_layer_computes() -> None:
    text = repr(Kerv2d(3, 4, 3, stride=2, bias=False, kernel="polynomial", degree=5, balance=0.25))
    assert (
        text == "Kerv2d(3, 4, kernel_size=(3, 3), stride=(2, 2), bias=False, kernel=polynomial, degree=5, balance=0.25)"
    )
    text = repr(Kerv1d(3, 4, 3, kernel="sigmoid", scale=0.5, learnable="channel"))
    assert text.endswith("kernel=sigmoid, scale=per channel, balance=per channel, learnable=channel)")
    assert repr(Kerv2d(3, 4, 3, kernel="linear")).endswith("stride=(1, 1), kernel=linear)")


@pytest.mark.parametrize("layer_type", [Kerv1d, Kerv2d])
def test_precision_is_said_and_changes_nothing_here(layer_type: Any) -> None:
    torch.manual_seed(0)
    plain = layer_type(3, 4, 3, kernel="gaussian", gamma=0.1)
    layer = layer_type(3, 4, 3, kernel="gaussian", precision="bf16x3")
    assert (plain.precision, layer.precision) == ("float32", "bf16x3")
    assert list(layer.state_dict()) == list(plain.state_dict())
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 7, 6)[..., 0] if layer_type is Kerv1d else torch.randn(2, 3, 7, 6)
    assert torch.equal(layer(x), plain(x))
    assert repr(layer).endswith("gamma=0.1, precision=bf16x3)")
    assert "precision" not in repr(plain)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.precision == "bf16x3"


def test_a_precision_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="precision must be one of float32, bf16x3; got 'float16'"):
        Kerv2d(3, 4, 3, precision="float16")  # type: ignore[arg-type]
    for kernel in ("linear", "manhattan", "chebyshev"):
        assert Kerv2d(3, 4, 3, kernel=kernel, precision="float32").precision == "float32"
        with pytest.raises(ValueError, match=f"the {kernel} kernel takes float32 only"):
            Kerv1d(3, 4, 3, kernel=kernel, precision="bf16x3")


def test_a_module_that_was_pickled_without_a_precision_has_the_default() -> None:
    layer = Kerv2d(3, 4, 3)
    x = torch.randn(1, 3, 5, 6)
    expected = layer(x)
    state = layer.__dict__.copy()
    del state["precision"]
    old = Kerv2d.__new__(Kerv2d)
    old.__setstate__(state)
    assert old.precision == "float32"
    assert torch.equal(old(x), expected)


def test_training_fits_every_kernel() -> None:
    """A step of gradient descent on every kernel lowers its loss."""
    for kernel in KERNELS:
        torch.manual_seed(0)
        layer = Kerv2d(2, 3, 3, kernel=kernel, gamma=0.05, learnable="layer")
        x = torch.randn(4, 2, 6, 7)
        target: Tensor = layer(x).detach() + 0.1 * torch.randn(4, 3, 4, 5)
        optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
        losses = []
        for _ in range(5):
            loss = (layer(x) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses == sorted(losses, reverse=True), kernel
        assert losses[-1] < losses[0]
