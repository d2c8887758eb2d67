"""`DeconvWhitening` in PyTorch, in the forms that could be its fastest, eager and for torch.compile. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from whitening_layers import Whitening

from edgeconv.ops.deconv_whitening import EPS, N_ITER


class SamplesFirst(nn.Module):
    """As the authors' layer computes it: a row a sample, `addmm`, and three products a Newton-Schulz step."""

    def __init__(self, whitening: Whitening) -> None:
        super().__init__()
        self.whitening = whitening

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to mean (1, F) and deconv (1, F, F)."""
        own, layer = self.whitening, self.whitening.layer
        if layer.window == 1:
            rows = x.permute(0, 2, 3, 1).reshape(-1, layer.channels)[:: own.step**2]
        else:
            columns = F.unfold(x, layer.window, 1, layer.pad, own.step)
            rows = columns.transpose(1, 2).reshape(-1, columns.shape[1])
        if own.blocks > 1:
            rows = rows.reshape(-1, own.features, own.blocks).transpose(1, 2).reshape(-1, own.features)
        mean = rows.mean(0, keepdim=True)
        rows = rows - mean
        identity = torch.eye(own.features)
        covariance = torch.addmm(identity, rows.t(), rows, beta=EPS, alpha=1 / rows.shape[0])
        norm = covariance.norm()
        y, z = covariance / norm, identity
        for _ in range(N_ITER):
            t = 0.5 * (3 * identity - z @ y)
            y, z = y @ t, t @ z
        return mean, (z / norm.sqrt())[None]


class FeaturesFirst(nn.Module):
    """What spares copies and products: a column a sample, as unfolding gives it, and no product that is not used.

    For one image.
    """

    def __init__(self, whitening: Whitening) -> None:
        super().__init__()
        if whitening.layer.batch > 1:
            raise ValueError("features stand in front of samples in one image only")
        self.whitening = whitening
        self.identity: Tensor
        self.register_buffer("identity", torch.eye(whitening.features))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(1, C, H, W) to mean (1, F) and deconv (1, F, F)."""
        own, layer = self.whitening, self.whitening.layer
        if layer.window == 1:
            columns = x.reshape(layer.channels, -1)[:, :: own.step**2]
        else:
            columns = F.unfold(x, layer.window, 1, layer.pad, own.step)
        columns = columns.reshape(own.features, -1)
        mean = columns.mean(1, keepdim=True)
        columns = columns - mean
        covariance = torch.addmm(self.identity, columns, columns.t(), beta=EPS, alpha=1 / columns.shape[1])
        norm = covariance.norm()
        y = covariance / norm
        z = t = torch.sub(1.5 * self.identity, y, alpha=0.5)
        for _ in range(1, N_ITER):
            y = y @ t
            t = torch.addmm(self.identity, z, y, beta=1.5, alpha=-0.5)
            z = t @ z
        return mean.t(), (z / norm.sqrt())[None]


def whitening_modules(whitening: Whitening) -> Iterator[tuple[str, nn.Module]]:
    """Every form by its name."""
    yield "samples first", SamplesFirst(whitening)
    yield "features first, used products only", FeaturesFirst(whitening)
