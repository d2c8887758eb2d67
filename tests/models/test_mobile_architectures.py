"""MobileNetV2 and EfficientNet: sizes against published figures, TensorFlow's padding, a port's weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.checkpoint import load_checkpoint
from edgeconv.errors import CheckpointError
from edgeconv.models import create
from edgeconv.nn import Deconv2d, Kerv2d
from edgeconv.nn.blocks import ConvNormActivation, MBConv, SqueezeExcite, StochasticDepth, make_divisible, same_padding


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # torchvision's documentation (num_params of its weights).
        ("mobilenet_v2", 3_504_872),
        ("efficientnet_b0", 5_288_548),
        ("efficientnet_b1", 7_794_184),
        ("efficientnet_b2", 9_109_994),
        ("efficientnet_b3", 12_233_232),
        ("efficientnet_b4", 19_341_616),
        ("efficientnet_b5", 30_389_784),
        ("efficientnet_b6", 43_040_704),
        ("efficientnet_b7", 66_347_960),
        ("efficientnet_lite0", 4_652_008),  # the authors' table: 4.7 M
    ],
)
def test_parameter_count(name: str, expected: int) -> None:
    with torch.device("meta"):
        assert parameters(create(name)) == expected


def test_width_multiplier() -> None:
    """Channels are multiples of 8, and the head keeps 1280: MobileNetV2's section 4 and reference code."""
    half = create("mobilenet_v2", width=0.5)
    assert half.features[0][0].out_channels == 16  # type: ignore[index]
    assert half.features[-1][0].out_channels == 1280  # type: ignore[index]
    assert parameters(half) == 1_968_680  # torchvision's mobilenet_v2(width_mult=0.5)
    assert create("mobilenet_v2", width=1.4).features[-1][0].out_channels == 1792  # type: ignore[index]
    assert [make_divisible(c) for c in (3, 8, 11.9, 12, 35.9, 36, 10 * 0.35)] == [8, 8, 16, 16, 40, 40, 8]


def test_torchvision_names() -> None:
    state = create("mobilenet_v2").state_dict()
    assert state["features.0.0.weight"].shape == (32, 3, 3, 3)
    assert state["features.1.conv.0.0.weight"].shape == (32, 1, 3, 3)
    assert state["features.1.conv.1.weight"].shape == (16, 32, 1, 1)
    assert state["features.2.conv.1.1.running_var"].shape == (96,)
    assert state["features.18.0.weight"].shape == (1280, 320, 1, 1)
    assert state["classifier.1.weight"].shape == (1000, 1280)
    assert len(state) == 314  # torchvision's
    state = create("efficientnet_b0").state_dict()
    assert state["features.1.0.block.1.fc1.weight"].shape == (8, 32, 1, 1)
    assert state["features.2.0.block.1.0.weight"].shape == (96, 1, 3, 3)
    assert state["features.8.0.weight"].shape == (1280, 320, 1, 1)
    assert len(state) == 360  # torchvision's


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "efficientnet_lite0"])
@pytest.mark.parametrize("config", [{}, {"kernel": "polynomial", "where": "first"}, {"deconv_block": 4}])
def test_shapes(name: str, config: dict[str, Any]) -> None:
    model = create(name, num_classes=7, in_channels=2, **config).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 2, 33, 46)).shape == (2, 7)
    kinds = [type(module) for module in model.modules()]
    assert (Kerv2d in kinds) == ("kernel" in config)
    assert (Deconv2d in kinds) == ("deconv_block" in config)


def test_strides_of_small_images() -> None:
    model = create("mobilenet_v2", in_channels=1, strides=[1, 1, 1, 2, 2, 1, 2, 1]).eval()
    with torch.no_grad():
        assert model.features(torch.randn(1, 1, 32, 28)).shape == (1, 1280, 4, 4)  # type: ignore[operator]


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (7, 12), (8, 9), (224, 5)])
def test_same_padding(kernel: int, stride: int, size: tuple[int, int]) -> None:
    """TensorFlow's words: ceil(size / stride) outputs, and of an odd number of zeros the last goes behind."""
    for length in size:
        before, after = same_padding(length, kernel, stride)
        outputs = (length + before + after - kernel) // stride + 1
        assert outputs == math.ceil(length / stride)
        assert after - before in (0, 1)
        assert before + after == max((outputs - 1) * stride + kernel - length, 0)
    block = ConvNormActivation(2, 3, kernel, stride, padding="same", activation=None).eval()
    x = torch.randn(2, 2, *size)
    (top, bottom), (left, right) = (same_padding(length, kernel, stride) for length in size)
    with torch.no_grad():
        block[1].running_var.fill_(1 - block[1].eps)
        expected = F.conv2d(F.pad(x, (left, right, top, bottom)), block[0].weight, None, stride)
        torch.testing.assert_close(block(x), expected)


def test_squeeze_excite_by_hand() -> None:
    layer = SqueezeExcite(2, 1)
    with torch.no_grad():
        layer.fc1.weight.copy_(torch.tensor([[[[1.0]], [[-1.0]]]]))
        layer.fc1.bias.fill_(0.5)  # type: ignore[union-attr]
        layer.fc2.weight.copy_(torch.tensor([[[[2.0]]], [[[0.0]]]]))
        layer.fc2.bias.copy_(torch.tensor([0.0, 1.0]))  # type: ignore[union-attr]
        x = torch.tensor([[[[3.0, 1.0]], [[0.0, 2.0]]]])  # means 2 and 1: 1.5 between the layers
        sigmoid = [1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-1))]
        expected = x * torch.tensor(sigmoid)[None, :, None, None]
        torch.testing.assert_close(layer(x), expected)


def test_stochastic_depth() -> None:
    torch.manual_seed(0)
    layer = StochasticDepth(0.25)
    x = torch.ones(4000, 1, 1, 2)
    y = layer(x)
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert torch.equal(y[..., 0], y[..., 1])
    assert float((y[:, 0, 0, 0] == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert layer.eval()(x) is x
    with pytest.raises(ValueError, match="probability"):
        StochasticDepth(1.0)


def test_depth_grows_with_the_drop() -> None:
    blocks = [module for module in create("efficientnet_b0").modules() if isinstance(module, MBConv)]
    drops = [block.stochastic_depth.probability for block in blocks]
    np.testing.assert_allclose(drops, 0.2 * np.arange(16) / 16)


def port_state(name: str) -> dict[str, Tensor]:
    """A state dict as the ports name it, made from the module's order."""
    state = dict(create(name).state_dict())
    model, renamed = create(name), {}
    blocks = [key for key, module in model.named_modules() if isinstance(module, MBConv)]
    last = len(model.features) - 1  # type: ignore[arg-type]
    for key, value in state.items():
        for index, block in enumerate(blocks):
            if key.startswith(f"{block}.block."):
                part, inner, rest = key.removeprefix(f"{block}.block.").split(".", 2)
                parts = [type(child).__name__ for child in model.get_submodule(f"{block}.block")]  # type: ignore[union-attr]
                has_expand, squeezes = parts.count("ConvNormActivation") == 3, "SqueezeExcite" in parts
                roles = ["expand"] * has_expand + ["depthwise"] + ["se"] * squeezes + ["project"]
                role = roles[int(part)]
                theirs = {
                    ("expand", "0"): "_expand_conv", ("expand", "1"): "_bn0", ("depthwise", "0"): "_depthwise_conv",
                    ("depthwise", "1"): "_bn1", ("se", "fc1"): "_se_reduce", ("se", "fc2"): "_se_expand",
                    ("project", "0"): "_project_conv", ("project", "1"): "_bn2",
                }[role, inner]  # fmt: skip
                renamed[f"_blocks.{index}.{theirs}.{rest}"] = value
                break
        else:
            ends = {"features.0.0": "_conv_stem", "features.0.1": "_bn0", f"features.{last}.0": "_conv_head"}
            ends |= {f"features.{last}.1": "_bn1", "classifier.1": "_fc"}
            prefix = next(prefix for prefix in ends if key.startswith(prefix + "."))
            renamed[ends[prefix] + key.removeprefix(prefix)] = value
    return renamed


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0"])
def test_weights_of_a_port_load(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = port_state(name)
    torch.save(state, tmp_path / "port.pth")
    loaded = load_checkpoint(tmp_path / "port.pth", architecture=name).module.state_dict()
    torch.manual_seed(1)
    for key, value in create(name).state_dict().items():
        assert torch.equal(loaded[key], value), key
    state["_blocks.99._bn2.weight"] = state.pop("_blocks.3._bn2.weight")
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(tmp_path / "other.pth", architecture=name)
