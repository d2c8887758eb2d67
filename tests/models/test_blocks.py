"""The blocks that several architectures share, against their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgeconv.models.deeplabv3 import ASPP, ImagePooling
from edgeconv.models.densenet import DenseLayer, Transition
from edgeconv.models.dpn import DualPathBlock
from edgeconv.models.residual import BlockStyle, Bottleneck, stage
from edgeconv.nn.blocks import BasicConv2d, Inception, LocalResponseNorm, MlpConv, SeparableConv2d


def test_local_response_norm_by_hand() -> None:
    """Krizhevsky et al., section 3.3: the sum over the neighbours that exist."""
    torch.manual_seed(0)
    x = 20 * torch.randn(2, 7, 3, 4, dtype=torch.float64)
    y = LocalResponseNorm(5, alpha=1e-2, beta=0.75, k=2.0)(x)
    for channel in range(7):
        near = x[:, max(0, channel - 2) : channel + 3]
        expected = x[:, channel] / (2 + 1e-2 * near.square().sum(1)) ** 0.75
        torch.testing.assert_close(y[:, channel], expected)


@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_norm_is_torchs(channels: int, size: int) -> None:
    x = 10 * torch.randn(2, channels, 5, 3)
    expected = F.local_response_norm(x, size, alpha=size * 1e-4, beta=0.75, k=2.0)
    torch.testing.assert_close(LocalResponseNorm(size)(x), expected)
    with pytest.raises(ValueError, match="odd"):
        LocalResponseNorm(4)


def test_local_response_norm_in_half_precision() -> None:
    """The squares of 300 are beyond float16."""
    x = torch.full((1, 5, 1, 1), 300.0)
    y = LocalResponseNorm()(x.half())
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), LocalResponseNorm()(x), rtol=2e-3, atol=0.1)


def test_mlpconv_is_a_network_at_each_pixel() -> None:
    block = MlpConv(3, (4, 5, 2), 3)
    x = torch.randn(2, 3, 6, 5)
    with torch.no_grad():
        patch = F.pad(x, (1, 1, 1, 1))[:, :, 2:5, 3:6].flatten(1)
        hidden = torch.relu(patch @ block[0].weight.flatten(1).T + block[0].bias)
        for layer in (block[2], block[4]):
            hidden = torch.relu(hidden @ layer.weight.flatten(1).T + layer.bias)
        torch.testing.assert_close(block(x)[:, :, 2, 3], hidden)


def test_inception_joins_its_branches() -> None:
    block = Inception(6, (4, 3, 5, 2, 7, 8)).eval()
    x = torch.randn(2, 6, 9, 7)
    with torch.no_grad():
        y = block(x)
        assert y.shape == (2, 24, 9, 7)
        assert block.out_channels == 24
        torch.testing.assert_close(y[:, :4], torch.relu(block.branch1.conv(x)))
        reduced = torch.relu(block.branch3[0].conv(x))  # type: ignore[union-attr, operator]
        torch.testing.assert_close(y[:, 9:16], torch.relu(block.branch3[1].conv(reduced)))  # type: ignore[union-attr, operator]
        torch.testing.assert_close(y[:, 16:], torch.relu(block.branch4[1].conv(F.max_pool2d(x, 3, 1, 1))))  # type: ignore[union-attr, operator]
    assert block.branch3[1].conv.kernel_size == (5, 5)  # type: ignore[union-attr]
    assert Inception(6, (4, 3, 5, 2, 7, 8), window=3).branch3[1].conv.kernel_size == (3, 3)  # type: ignore[union-attr]


def test_basic_conv2d() -> None:
    assert BasicConv2d(3, 4).conv.bias is not None
    normed = BasicConv2d(3, 4, 3, 2, batch_norm=True)
    assert normed.conv.bias is None
    assert isinstance(normed.bn, nn.BatchNorm2d)
    assert normed(torch.randn(2, 3, 9, 8)).shape == (2, 4, 5, 4)


def test_separable_convolution() -> None:
    """Table 1's cost: 9 multiplications a channel, then one for each pair of channels."""
    block = SeparableConv2d(6, 10, 3, 2)
    weights = [module.weight.numel() for module in block.modules() if isinstance(module, nn.Conv2d)]
    assert weights == [6 * 9, 6 * 10]
    assert block(torch.randn(2, 6, 9, 8)).shape == (2, 10, 5, 4)
    assert sum(isinstance(module, nn.ReLU) for module in block.modules()) == 2


def test_dense_layer_keeps_its_input() -> None:
    layer = DenseLayer(5, 3).eval()
    x = torch.randn(2, 5, 4, 6)
    with torch.no_grad():
        y = layer(x)
    assert y.shape == (2, 8, 4, 6)
    assert torch.equal(y[:, :5], x)
    assert Transition(8)(x.repeat(1, 2, 1, 1)[:, :8]).shape == (2, 4, 2, 3)


def test_dual_path() -> None:
    """The residual path adds, the dense path grows."""
    block = DualPathBlock(12, 32, 8, 2, 32, 1, False).eval()
    x = torch.randn(2, 12, 5, 4)
    with torch.no_grad():
        y, new = block(x), block.c1x1_c(block.c3x3_b(block.c1x1_a(x)))
    assert y.shape == (2, 14, 5, 4)
    torch.testing.assert_close(y[:, :8], x[:, :8] + new[:, :8])
    assert torch.equal(y[:, 8:12], x[:, 8:])
    assert torch.equal(y[:, 12:], new[:, 8:])


def test_cardinality() -> None:
    """Xie et al., table 1: 32x4d has 128 channels in 32 groups where ResNet-50 has 64."""
    block = Bottleneck(64, 64, 1, None, BlockStyle(groups=32, base_width=4))
    assert (block.conv2.in_channels, block.conv2.groups) == (128, 32)
    block = Bottleneck(256, 128, 1, None, BlockStyle(groups=8, base_width=64))
    assert (block.conv2.in_channels, block.conv2.groups) == (1024, 8)


def test_dilation_in_place_of_stride() -> None:
    """A dilated stage computes at every position what the strided one computes at every second."""
    torch.manual_seed(0)
    strided = stage(Bottleneck, 8, 4, 2, 2, BlockStyle()).eval()
    dilated = stage(Bottleneck, 8, 4, 2, 1, BlockStyle(), dilation=2, first_dilation=1).eval()
    dilated.load_state_dict(strided.state_dict())
    x = torch.randn(1, 8, 14, 18)
    with torch.no_grad():
        torch.testing.assert_close(dilated(x)[:, :, ::2, ::2], strided(x))


def test_pyramid() -> None:
    torch.manual_seed(0)
    pyramid = ASPP(4, 3, (2, 5)).eval()
    x = torch.randn(2, 4, 6, 7)
    assert [conv[0].dilation[0] for conv in pyramid.convs[1:3]] == [2, 5]  # type: ignore[index, union-attr]
    with torch.no_grad():
        pooled = ImagePooling(4, 3).eval()(x)
        assert pyramid(x).shape == (2, 3, 6, 7)
    assert torch.equal(pooled, pooled[:, :, :1, :1].expand(-1, -1, 6, 7))
