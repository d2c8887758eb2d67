"""The architectures: sizes against the papers' and torchvision's figures, shapes, golden outputs, kernels in place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeconv.models import create
from edgeconv.nn import Deconv2d, DeconvLinear, Kerv2d

from .zoo import parameters, pattern, patterned


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        # LeCun et al. 1998: C1 156, C5 48,120, F6 10,164 as in the paper; C3 fully connected 2,416; output 850.
        ("lenet5", {}, 156 + 2416 + 48120 + 10164 + 850),
        # torchvision's documentation (num_params of its weights).
        ("resnet18", {}, 11_689_512),
        ("resnet34", {}, 21_797_672),
        ("resnet50", {}, 25_557_032),
    ],
)
def test_parameter_count(name: str, config: dict[str, object], expected: int) -> None:
    assert parameters(create(name, **config)) == expected


def test_resnet20_parameter_count() -> None:
    """He et al. 2016, table 6, gives 0.27 M; here every term of it, from section 4.2."""
    convolutions = 9 * (3 * 16 + 6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64)
    normalisation = 2 * (7 * 16 + 6 * 32 + 6 * 64)
    expected = convolutions + normalisation + 64 * 10 + 10
    assert round(expected / 1e6, 2) == 0.27
    assert parameters(create("resnet20")) == expected
    projections = 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert parameters(create("resnet20", shortcut="B")) == expected + projections
    assert parameters(create("resnet20", in_channels=1)) == expected - 9 * 2 * 16


def test_vgg11_parameter_count() -> None:
    """Every term from column A of Simonyan and Zisserman's table 1; biases, and two values a normalised channel."""
    widths = [64, 128, 256, 256, 512, 512, 512, 512]
    convolutions = sum(9 * i * o + o for i, o in zip([3, *widths[:-1]], widths, strict=True))
    expected = convolutions + 2 * sum(widths) + 512 * 10 + 10
    model = create("vgg11", form="cifar", num_classes=10)
    assert parameters(model) == expected
    # torchvision's names in the layers that both have.
    state = model.state_dict()
    assert state["features.0.weight"].shape == (64, 3, 3, 3)
    assert state["features.4.weight"].shape == (128, 64, 3, 3)
    assert state["features.26.running_var"].shape == (512,)
    assert len(model.features) == 29  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "depth"), [("resnet20", 20), ("resnet18", 18), ("resnet34", 34), ("resnet50", 50), ("vgg11", 11)]
)
def test_depth(name: str, depth: int) -> None:
    """The number in the name counts the weighted layers, shortcuts left out."""
    layers = [
        layer
        for layer, module in create(name).named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "downsample" not in layer
    ]
    assert len(layers) == depth


def test_torchvision_names() -> None:
    state = create("resnet50").state_dict()
    assert state["conv1.weight"].shape == (64, 3, 7, 7)
    assert state["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert state["layer1.0.downsample.1.running_var"].shape == (256,)
    assert state["layer2.0.conv2.weight"].shape == (128, 128, 3, 3)
    assert state["layer4.2.bn3.num_batches_tracked"].shape == ()
    assert state["fc.weight"].shape == (1000, 2048)
    assert {name.split(".")[0] for name in state} == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}
    # Lengths of torchvision's state dicts.
    assert len(state) == 320
    assert len(create("resnet18").state_dict()) == 122
    assert len(create("resnet34").state_dict()) == 218


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "resnet50"])
@pytest.mark.parametrize("size", [(1, 1, 32, 32), (2, 3, 33, 47), (3, 2, 65, 40), (1, 3, 7, 9)])
@pytest.mark.parametrize("kernel", ["linear", "polynomial", "manhattan"])
def test_odd_sizes(name: str, size: tuple[int, ...], kernel: str) -> None:
    if name != "resnet20" and kernel == "manhattan":
        size = (*size[:2], 9, 7)  # the distance kernels are slow on many channels
    model = create(name, num_classes=7, in_channels=size[1], kernel=kernel).eval()
    with torch.no_grad():
        assert model(torch.randn(size)).shape == (size[0], 7)


def test_stage_sizes_round_up() -> None:
    model = create("resnet20")
    with torch.no_grad():
        y = model.layer1(model.conv1(torch.randn(1, 3, 27, 18)))  # type: ignore[operator]
        assert y.shape == (1, 16, 27, 18)
        y = model.layer2(y)  # type: ignore[operator]
        assert y.shape == (1, 32, 14, 9)
        assert model.layer3(y).shape == (1, 64, 7, 5)  # type: ignore[operator]


def test_lenet_refuses_other_sizes() -> None:
    with pytest.raises(ValueError, match=r"28x28 inputs; got shape \(1, 1, 32, 32\)"):
        create("lenet5")(torch.zeros(1, 1, 32, 32))


@pytest.mark.parametrize("size", [(1, 1, 32, 32), (2, 3, 33, 70)])
@pytest.mark.parametrize("config", [{}, {"kernel": "sigmoid"}, {"deconv_block": 4}])
def test_vgg_sizes(size: tuple[int, ...], config: dict[str, object]) -> None:
    model = create("vgg11", form="cifar", num_classes=7, in_channels=size[1], **config).eval()
    with torch.no_grad():
        assert model(torch.randn(size)).shape == (size[0], 7)


def test_vgg_pads_digits() -> None:
    """With first_padding=3 a 28x28 image counts as the 32x32 one with zeros around it."""
    torch.manual_seed(0)
    wide = create("vgg11", form="cifar", in_channels=1).eval()
    padded = create("vgg11", form="cifar", in_channels=1, first_padding=3).eval()
    padded.load_state_dict(wide.state_dict())
    x = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(padded(x), wide(torch.nn.functional.pad(x, (2, 2, 2, 2))))
    with pytest.raises(ValueError, match=r"from 32x32 up; got shape \(2, 1, 28, 28\) \(28x28 needs first_padding=3\)"):
        wide(x)
    with pytest.raises(ValueError, match="from 28x28 up"):
        padded(torch.zeros(1, 1, 28, 27))


def test_zero_pad_shortcut() -> None:
    """Option A against its words: every second pixel, then zeros as new channels."""
    shortcut = create("resnet20").layer2[0].downsample  # type: ignore[index, union-attr]
    x = torch.randn(2, 16, 7, 5)
    y = shortcut(x)  # type: ignore[operator]
    assert y.shape == (2, 32, 4, 3)
    for row in range(4):
        for column in range(3):
            assert torch.equal(y[:, :16, row, column], x[:, :, 2 * row, 2 * column])
    assert not y[:, 16:].any()


@pytest.mark.parametrize(
    ("name", "where", "expected"),
    [
        ("lenet5", "all", ["c1", "c3", "c5"]),
        ("lenet5", "first", ["c1"]),
        ("resnet20", "first", ["conv1"]),
        ("resnet18", "first", ["conv1"]),
    ],
)
def test_where(name: str, where: str, expected: list[str]) -> None:
    model = create(name, kernel="polynomial", where=where)
    assert [layer for layer, module in model.named_modules() if isinstance(module, Kerv2d)] == expected


@pytest.mark.parametrize(
    ("name", "config", "where", "expected"),
    [
        ("resnet20", {}, "all", 19),
        ("resnet20", {}, "3x3", 19),
        ("resnet20", {"shortcut": "B"}, "all", 21),
        ("resnet20", {"shortcut": "B"}, "3x3", 19),
        ("resnet18", {}, "all", 20),
        ("resnet18", {}, "3x3", 16),
        ("resnet50", {}, "all", 53),
        ("resnet50", {}, "3x3", 16),
    ],
)
def test_where_count(name: str, config: dict[str, object], where: str, expected: int) -> None:
    model = create(name, kernel="sigmoid", where=where, scale=0.5, balance=0.25, **config)
    layers = [module for module in model.modules() if isinstance(module, Kerv2d)]
    assert len(layers) == expected
    assert all((layer.scale, layer.balance) == (0.5, 0.25) for layer in layers)


def test_same_initial_weights_with_every_kernel() -> None:
    torch.manual_seed(3)
    plain = create("resnet20").state_dict()
    torch.manual_seed(3)
    kerv = create("resnet20", kernel="polynomial", init_gain=0.25, where="all").state_dict()
    extra = set(kerv) - set(plain)
    assert extra == {name.replace("weight", "balance") for name, t in plain.items() if t.dim() == 4}
    for name, tensor in plain.items():
        assert torch.equal(kerv[name], tensor * 0.25 if tensor.dim() == 4 else tensor), name


@pytest.mark.parametrize(
    ("name", "config", "where", "deconvolutions", "linear", "normalizations"),
    [
        ("lenet5", {}, "all", 3, 2, 0),
        ("lenet5", {"batch_norm": True}, "all", 3, 2, 0),
        ("lenet5", {"batch_norm": True}, "first", 1, 0, 2),
        ("resnet20", {}, "all", 19, 1, 0),
        ("resnet20", {"shortcut": "B"}, "3x3", 19, 0, 2),
        ("resnet20", {"deconv_block_linear": 0}, "all", 19, 0, 0),
        ("resnet50", {}, "3x3", 16, 0, 37),
        ("vgg11", {"form": "cifar"}, "all", 8, 1, 0),
    ],
)
def test_deconvolution(
    name: str, config: dict[str, object], where: str, deconvolutions: int, linear: int, normalizations: int
) -> None:
    model = create(name, where=where, deconv_block=4, deconv_eps=1e-3, deconv_n_iter=3, **config)
    layers = [module for module in model.modules() if isinstance(module, Deconv2d)]
    assert len(layers) == deconvolutions
    assert sum(isinstance(module, DeconvLinear) for module in model.modules()) == linear
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == normalizations
    assert {(layer.eps, layer.n_iter, layer.sampling_stride) for layer in layers} == {(1e-3, 3, 3)}
    assert {layer.block for layer in layers} <= {1, 2, 3, 4}
    assert "kernel" not in dict(model.named_parameters())


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "vgg11"])
def test_same_initial_function_with_deconvolution(name: str) -> None:
    """With equal seeds a deconvolution starts as its twin does in evaluation, under the same names."""
    config: dict[str, object] = {
        "in_channels": 1,
        **({"form": "cifar", "first_padding": 3} if name == "vgg11" else {}),
    }
    torch.manual_seed(3)
    plain = create(name, **config, **({"batch_norm": True} if name == "lenet5" else {})).eval()
    torch.manual_seed(3)
    deconvolved = create(name, **config, deconv_block=8).eval()
    x = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(deconvolved(x), plain(x), rtol=1e-3, atol=1e-3)
        first = next(layer for layer, module in deconvolved.named_modules() if isinstance(module, Deconv2d))
        torch.testing.assert_close(
            deconvolved.get_submodule(first).weight, plain.get_submodule(first).weight, rtol=1e-4, atol=1e-6
        )


def test_batch_norm_of_lenet() -> None:
    model = create("lenet5", batch_norm=True)
    assert parameters(model) == 61_706 + 2 * (6 + 16 + 120)
    assert [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)] == [
        "bn1",
        "bn3",
        "bn5",
    ]
    assert not any(name.startswith("bn") for name in create("lenet5").state_dict())


def test_zero_init_residual() -> None:
    model = create("resnet50", zero_init_residual=True)
    for name, parameter in model.named_parameters():
        if "bn" in name and name.endswith("weight"):
            assert bool((parameter == 0).all()) == name.endswith("bn3.weight"), name


GOLDEN: list[tuple[str, dict[str, object], tuple[int, ...], list[float]]] = [
    ("lenet5", {}, (2, 1, 28, 28), [0.33329038, -0.011045757, 0.087428003, 0.52414209, -0.25729044, 0.21229423]),
    (
        "lenet5",
        {"activation": "tanh", "pool": "avg"},
        (2, 1, 28, 28),
        [1.1460953, 0.35891762, -0.17588646, 1.1151325, 0.17115875, -0.34817591],
    ),
    (
        "lenet5",
        {"kernel": "sigmoid", "activation": "none"},
        (2, 1, 28, 28),
        [1.2423188, 1.3338592, -0.48674347, 1.2292497, 1.3061196, -0.43679648],
    ),
    ("resnet20", {}, (2, 3, 13, 18), [0.3486566, -0.091199112, -0.1693425, 0.28169862, -0.10493837, -0.24491755]),
    (
        "resnet20",
        {"shortcut": "B", "kernel": "gaussian", "gamma": 0.02},
        (2, 3, 13, 18),
        [6.1322517, -0.49776464, -1.8704531, 6.1322478, -0.49776444, -1.8704517],
    ),
    (
        "resnet20",
        {"activation": "relu6", "kernel": "polynomial", "degree": 2, "balance": 0.5},
        (2, 3, 13, 18),
        [8.5800083, -2.2419475, -1.8108937, 8.6290403, -2.1195245, -1.9696955],
    ),
    ("resnet18", {}, (2, 3, 45, 38), [0.36399861, 0.12446796, 0.17199036, 0.38190671, -0.18498699, 0.22009401]),
    (
        "resnet34",
        {},
        (2, 3, 45, 38),
        [-0.61507898, -0.048846175, -0.097006858, -0.49600166, -0.054447591, -0.084272571],
    ),
    ("resnet50", {}, (2, 3, 45, 38), [-0.18537423, -0.66074573, 0.42039867, -0.32700648, -0.7312303, 0.36740907]),
]


@pytest.mark.parametrize(("name", "config", "size", "expected"), GOLDEN)
def test_golden_output(name: str, config: dict[str, object], size: tuple[int, ...], expected: list[float]) -> None:
    """Each architecture computes what it computed when it was written: outputs 0 to 2 of both images, in float64."""
    model = patterned(create(name, **config).double(), gain=1.0)
    x = pattern(size, 7)
    with torch.no_grad():
        actual = model(x)[:, :3].flatten()
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-9)
