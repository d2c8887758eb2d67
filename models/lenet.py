"""LeNet-5: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998, II.B.

Departures from the paper, all of them usual today: C3 sees every map of S2 (the paper's table I connects a subset);
pooling has no trainable coefficient and is max pooling unless `pool="avg"`; the activation is ReLU unless
`activation="tanh"`; the output layer is a linear layer for cross-entropy instead of Gaussian RBF units. The 28x28
digits are padded to the paper's 32x32 by the first layer's padding of 2.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from edgeconv.models.convolutions import CONVOLUTION_CONFIG, configure_convolutions
from edgeconv.models.registry import register

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "none": nn.Identity}
POOLS: dict[str, type[nn.Module]] = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


class LeNet5(nn.Module):
    """LeNet-5 for 28x28 inputs: convolutions C1, C3, C5 (5x5) and fully connected layers F6 and output.

    Args:
        num_classes: Width of the output.
        in_channels: Channels of the input.
        activation: "relu", "tanh" or "none" (a kervolution is nonlinear by itself).
        pool: "max" or "avg".
        batch_norm: Batch normalisation behind each convolution (Ioffe and Szegedy, ICML 2015).
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        activation: str = "relu",
        pool: str = "max",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {activation!r}")
        if pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}; got {pool!r}")
        self.c1 = nn.Conv2d(in_channels, 6, 5, padding=2)
        self.bn1 = nn.BatchNorm2d(6) if batch_norm else nn.Identity()
        self.s2 = POOLS[pool](2)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.bn3 = nn.BatchNorm2d(16) if batch_norm else nn.Identity()
        self.s4 = POOLS[pool](2)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.bn5 = nn.BatchNorm2d(120) if batch_norm else nn.Identity()
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, num_classes)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) for (N, in_channels, 28, 28)."""
        if tuple(x.shape[2:]) != (28, 28):
            raise ValueError(f"LeNet-5 takes 28x28 inputs; got shape {tuple(x.shape)}")
        x = self.s2(self.activation(self.bn1(self.c1(x))))
        x = self.s4(self.activation(self.bn3(self.c3(x))))
        x = self.activation(self.bn5(self.c5(x))).flatten(1)
        logits: Tensor = self.output(self.activation(self.f6(x)))
        return logits


@register(
    "lenet5",
    description="LeNet-5 for 28x28 digits, 61,706 parameters",
    paper='LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 86(11), 1998',
    input_shape=(1, 28, 28),
    config={
        "num_classes": 10,
        "in_channels": 1,
        "activation": "relu",
        "pool": "max",
        "batch_norm": False,
        **CONVOLUTION_CONFIG,
    },
)
def lenet5(
    *, num_classes: int, in_channels: int, activation: str, pool: str, batch_norm: bool, **layers: Any
) -> LeNet5:
    """Build LeNet-5; see `LeNet5` and `CONVOLUTION_CONFIG`."""
    return configure_convolutions(LeNet5(num_classes, in_channels, activation, pool, batch_norm), **layers)
