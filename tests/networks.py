"""Small networks to export: with kervolution, without, with several inputs and outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeconv.nn import Kerv1d, Kerv2d
from edgeconv.ops.registry import register_torch_operators

register_torch_operators()


class Small(nn.Module):
    """Two convolutions of the given kernel, odd channels, any H and W."""

    def __init__(self, kernel: str = "gaussian", classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            Kerv2d(3, 7, 3, padding=1, kernel=kernel, gamma=0.05, degree=2, learnable="channel"),
            nn.BatchNorm2d(7),
            nn.LeakyReLU(0.3, inplace=True),  # not ReLU: a distance kernel would leave it dead, and tests blind
            Kerv2d(7, 6, (3, 2), stride=2, padding=(1, 0), kernel=kernel, gamma=0.05, degree=2, bias=False),
            nn.LeakyReLU(0.1),
        )
        self.head = nn.Linear(6, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits."""
        return self.head(self.features(image).mean((2, 3)))


class TwoInputs(nn.Module):
    """Two inputs, one of them by keyword, and two outputs of different rank."""

    def __init__(self) -> None:
        super().__init__()
        self.left = Kerv2d(1, 4, 3, padding="same", kernel="manhattan")
        self.right = Kerv1d(2, 4, 3, padding=1, kernel="chebyshev")

    def forward(self, picture: Tensor, *, signal: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a score and the two feature maps' means."""
        a, b = self.left(picture), self.right(signal)
        return a.mean((1, 2, 3)) + b.mean((1, 2)), {"map": a, "trace": b}


class Lookup(nn.Module):
    """An input of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 6)
        self.layer = Kerv1d(6, 3, 1, kernel="sigmoid")

    def forward(self, indices: Tensor) -> Tensor:
        """Return (N, 3, L) for (N, L) indices."""
        return self.layer(self.table(indices).transpose(1, 2))


class Plain(nn.Module):
    """No edgeconv layer at all, and a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return feature maps."""
        return torch.relu(self.conv(x))


class Quantized(nn.Module):
    """An 8-bit Manhattan kervolution of 4 channels, lopsided, in 2 groups, that calls the torch operator itself.

    Args:
        dtype: Of X and Y, torch.uint8 or torch.int8.
        bias: With one the outputs lie around 0, without one below it.
        dequantize: Return real values and not the integers.
        ties: The steps of X and Y are such that half of the sums fall next to the middle between two of Y's.
    """

    x_scale: Tensor
    x_zero_point: Tensor
    weight: Tensor
    w_scale: Tensor
    w_zero_point: Tensor
    y_scale: Tensor
    y_zero_point: Tensor
    bias: Tensor | None

    def __init__(
        self, dtype: torch.dtype = torch.uint8, *, bias: bool = True, dequantize: bool = True, ties: bool = False
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        limits, scale = torch.iinfo(dtype), 0.017
        middle = (limits.min + limits.max + 1) // 2
        self.register_buffer("x_scale", torch.tensor(scale))
        self.register_buffer("x_zero_point", torch.tensor(middle - 5, dtype=dtype))
        self.register_buffer("weight", torch.randint(-128, 128, (6, 2, 3, 2), generator=generator).to(torch.int8))
        self.register_buffer("w_scale", torch.full((6,), scale))
        self.register_buffer("w_zero_point", torch.tensor([0, 3, -128, 127, 0, -1], dtype=torch.int8))
        self.register_buffer("y_scale", torch.tensor(12 * scale if ties else 0.1483))
        self.register_buffer("y_zero_point", torch.tensor(middle + 9 if bias else limits.max, dtype=dtype))
        self.register_buffer("bias", torch.rand(6, generator=generator) * 20 + 8 if bias else None)
        self.limits, self.dequantize = (limits.min, limits.max), dequantize

    def forward(self, image: Tensor) -> Tensor:
        """Return feature maps of a real image (N, 4, H, W)."""
        steps = torch.round(image / self.x_scale) + self.x_zero_point
        y: Tensor = torch.ops.edgeconv.QLinearManhattanKervolution(
            steps.clamp(*self.limits).to(self.x_zero_point.dtype), self.x_scale, self.x_zero_point,
            self.weight, self.w_scale, self.w_zero_point, self.y_scale, self.y_zero_point, self.bias,
            [1, 2], [1, 0, 0, 1], [1, 1], 2,
        )  # fmt: skip
        return (y.float() - self.y_zero_point) * self.y_scale if self.dequantize else y
