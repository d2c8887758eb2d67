"""Building blocks that several architectures share.

Names of submodules are those of torchvision's blocks of the same architectures, so state dicts keep their keys:
"0" and "1" in `ConvNormActivation`, `conv` in `InvertedResidual`, `block` in `MBConv`, `fc1` and `fc2` in
`SqueezeExcite`, `branch1` to `branch4` in `Inception`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PADDINGS = ("symmetric", "same")
"""symmetric: (kernel - 1) / 2 all round, as PyTorch's architectures have it. same: TensorFlow's, of which an odd rest
goes to the bottom and the right, so that weights trained there see what they saw."""


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Return the multiple of `divisor` nearest to `channels`, at least 0.9 times as many and at least `divisor`.

    Source: the reference code of MobileNetV2 (Sandler et al., CVPR 2018), which EfficientNet's shares.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return what TensorFlow's "SAME" adds before and behind an axis, so that ceil(size / stride) outputs come out."""
    total = torch.sym_max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class ConvNormActivation(nn.Sequential):
    """A convolution without bias, batch normalisation, and an activation.

    Args:
        in_channels: C.
        out_channels: M.
        kernel_size: Odd; both ways.
        stride: Both ways.
        groups: As in Conv2d.
        activation: Class of the activation; None for none.
        padding: One of `PADDINGS`.
        eps: Of the batch normalisation.
        momentum: Of the batch normalisation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: type[nn.Module] | None = nn.ReLU6,
        padding: str = "symmetric",
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        if padding not in PADDINGS:
            raise ValueError(f"padding must be one of {', '.join(PADDINGS)}; got {padding!r}")
        # TensorFlow's differs where strides leave out positions; at a stride of 1 it is symmetric.
        self.pads_by_size = padding == "same" and stride > 1
        pad = 0 if self.pads_by_size else kernel_size // 2
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, pad, groups=groups, bias=False),
            nn.BatchNorm2d(out_channels, eps, momentum),
        ]
        if activation is not None:
            layers.append(activation(inplace=True))
        super().__init__(*layers)
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, M, ceil(H/stride), ceil(W/stride)) for (N, C, H, W)."""
        if self.pads_by_size:
            rows, columns = (same_padding(size, self.kernel_size, self.stride) for size in x.shape[2:])
            x = F.pad(x, (*columns, *rows))
        y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return y


class SeparableConv2d(nn.Sequential):
    """A depthwise and a 1x1 convolution, each with batch normalisation and an activation.

    Source: Howard et al., "MobileNets", 2017 (arXiv 1704.04861), section 3.1 and figure 3.

    Args:
        in_channels: C.
        out_channels: M.
        kernel_size: Of the depthwise convolution; odd.
        stride: Of the depthwise convolution.
        activation: Class of the activations.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(
            ConvNormActivation(in_channels, in_channels, kernel_size, stride, in_channels, activation),
            ConvNormActivation(in_channels, out_channels, activation=activation),
        )


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1x1 expansion, depthwise 3x3, linear 1x1 projection; the input is added where it fits.

    Source: Sandler et al., CVPR 2018 (arXiv 1801.04381), section 3.3 and table 1.

    Args:
        in_channels: C.
        out_channels: M.
        stride: Of the depthwise convolution.
        expansion: t; 1 leaves the expansion out.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(ConvNormActivation(in_channels, hidden))
        layers += [
            ConvNormActivation(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.adds_input = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, M, ceil(H/stride), ceil(W/stride)) for (N, C, H, W)."""
        y: Tensor = self.conv(x)
        return x + y if self.adds_input else y


class SqueezeExcite(nn.Module):
    """Channels scaled by what a small network makes of their means.

    Source: Hu et al., "Squeeze-and-excitation networks", CVPR 2018 (arXiv 1709.01507), section 3.

    Args:
        channels: C.
        squeezed: Channels between the two layers.
        activation: Between the two layers.
        gate: Behind them.
    """

    def __init__(
        self,
        channels: int,
        squeezed: int,
        activation: type[nn.Module] = nn.ReLU,
        gate: type[nn.Module] = nn.Sigmoid,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.activation = activation()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W) for the same."""
        mean = x.mean((2, 3), keepdim=True)
        y: Tensor = x * self.gate(self.fc2(self.activation(self.fc1(mean))))
        return y


class StochasticDepth(nn.Module):
    """In training, drops all of an image's values with a probability, and scales the others up.

    Source: Huang et al., "Deep networks with stochastic depth", ECCV 2016 (arXiv 1603.09382).

    Args:
        probability: Of dropping, from 0 to below 1.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"probability must be from 0 to below 1; got {probability!r}")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, …) for the same."""
        if not self.training or self.probability == 0:
            return x
        kept = 1 - self.probability
        return x * (torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device, dtype=x.dtype) < kept) / kept


class MBConv(nn.Module):
    """EfficientNet's block: `InvertedResidual` with a window of its own, squeeze-and-excitation and stochastic depth.

    Source: Tan, Le, ICML 2019 (arXiv 1905.11946), table 1.

    Args:
        in_channels: C.
        out_channels: M.
        kernel_size: Of the depthwise convolution.
        stride: Of the depthwise convolution.
        expansion: 1 leaves the expansion out.
        squeeze: Share of the input channels that squeeze-and-excitation keeps; 0 leaves it out (the Lite networks).
        drop: Probability of `StochasticDepth`.
        activation: SiLU, or ReLU6 (the Lite networks).
        padding: One of `PADDINGS`.
        eps: Of the batch normalisations.
        momentum: Of the batch normalisations.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        expansion: int,
        *,
        squeeze: float,
        drop: float,
        activation: type[nn.Module],
        padding: str,
        eps: float,
        momentum: float,
    ) -> None:
        super().__init__()
        hidden = make_divisible(in_channels * expansion)
        norm = {"padding": padding, "eps": eps, "momentum": momentum}
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(ConvNormActivation(in_channels, hidden, activation=activation, **norm))  # type: ignore[arg-type]
        layers.append(
            ConvNormActivation(hidden, hidden, kernel_size, stride, hidden, activation, **norm)  # type: ignore[arg-type]
        )
        if squeeze:
            layers.append(SqueezeExcite(hidden, max(1, int(in_channels * squeeze)), activation))
        layers.append(ConvNormActivation(hidden, out_channels, activation=None, **norm))  # type: ignore[arg-type]
        self.block = nn.Sequential(*layers)
        self.stochastic_depth = StochasticDepth(drop)
        self.expands, self.squeezes = expansion != 1, squeeze > 0
        self.adds_input = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, M, ceil(H/stride), ceil(W/stride)) for (N, C, H, W)."""
        y: Tensor = self.block(x)
        return self.stochastic_depth(y) + x if self.adds_input else y


class LocalResponseNorm(nn.Module):
    """x / (k + alpha Σ x²)^beta, summed over `size` neighbouring channels.

    Source: Krizhevsky et al., NIPS 2012, section 3.3, whose alpha is that of the sum; PyTorch's and Caffe's are of the
    mean. Written as a pooling over (channels, pixels), which every runtime has for float32.

    Args:
        size: n, odd.
        alpha: Of the sum.
        beta: Exponent.
        k: Added to the sum.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> None:
        super().__init__()
        if size % 2 == 0:
            raise ValueError(f"size must be odd; got {size}")
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W) for the same; squares are float32 where x is float16, which they would leave."""
        squares = x.float().square() if x.dtype == torch.float16 else x.square()
        rows = squares.flatten(2).unsqueeze(1)
        mean = F.avg_pool2d(rows, (self.size, 1), 1, (self.size // 2, 0)).squeeze(1).unflatten(2, x.shape[2:])
        y: Tensor = x / (self.k + self.alpha * self.size * mean).pow(self.beta)
        return y.to(x.dtype)


class MlpConv(nn.Sequential):
    """A convolution and 1x1 convolutions behind it, each with ReLU: a small network that slides over the image.

    Source: Lin et al., "Network in network", ICLR 2014 (arXiv 1312.4400), section 3.1.

    Args:
        in_channels: C.
        widths: Output channels of the convolutions.
        kernel_size: Of the first; odd, padded to keep the size.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], kernel_size: int) -> None:
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Conv2d(in_channels, width, kernel_size, padding=kernel_size // 2), nn.ReLU(inplace=True)]
            in_channels, kernel_size = width, 1
        super().__init__(*layers)


class BasicConv2d(nn.Module):
    """A convolution with ReLU: with a bias, as in GoogLeNet's paper, or with batch normalisation, as in torchvision's.

    Args:
        in_channels: C.
        out_channels: M.
        kernel_size: Odd; padded to keep the size at a stride of 1.
        stride: Both ways.
        batch_norm: Instead of the bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, *, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=not batch_norm)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3) if batch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, M, ceil(H/stride), ceil(W/stride)) for (N, C, H, W)."""
        return F.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Convolutions of several sizes side by side, behind 1x1 reductions.

    Source: Szegedy et al., "Going deeper with convolutions", CVPR 2015 (arXiv 1409.4842), figure 2b and table 1.

    Args:
        in_channels: C.
        widths: Table 1's columns: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
        window: Of the branch that is 5x5 in the paper and 3x3 in torchvision.
        batch_norm: See `BasicConv2d`.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], *, window: int = 5, batch_norm: bool = False) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pool = widths

        def conv(inputs: int, outputs: int, size: int = 1) -> BasicConv2d:
            return BasicConv2d(inputs, outputs, size, batch_norm=batch_norm)

        self.branch1 = conv(in_channels, one)
        self.branch2 = nn.Sequential(conv(in_channels, reduce3), conv(reduce3, three, 3))
        self.branch3 = nn.Sequential(conv(in_channels, reduce5), conv(reduce5, five, window))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(in_channels, pool))
        self.out_channels = one + three + five + pool

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, H, W) for (N, C, H, W)."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)
