"""Small networks to export: with kervolution, without, with several inputs and outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeconv.nn import Kerv1d, Kerv2d


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
