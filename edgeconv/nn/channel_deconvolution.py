"""Channel deconvolution: whitening without a filter.

Source: Ye et al., "Network Deconvolution", ICLR 2020 (arXiv 1905.11926), and the authors' published layer, whose names,
state dicts and outputs it has.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeconv.nn.whitening import Whitening, statistics_type
from edgeconv.ops.deconv_whitening import N_ITER, SAMPLING_STRIDE


class ChannelDeconv(Whitening):
    """Whitens channels across all pixels, without a filter; for the input of a network.

    The first C' = block·⌊C/block⌋ channels are cut into `block` rows of consecutive channels, which are whitened
    together: channels r·C'/block + j for r < block are one sample. What is left of the channels is normalised by one
    mean and one variance. As in the authors' layer the second moment takes the covariance's place: the mean is
    subtracted from what is whitened, but not from what is measured.

    Args:
        block: Rows; at most C.
        eps: Added to the diagonal, and to the variance.
        n_iter: Newton–Schulz steps.
        momentum: Share of the batch in the running averages; the first batch begins them.
        sampling_stride: Every sampling_stride²-th pixel is measured, where the image is at least as wide and high.
        device: Of the buffers.
        dtype: float64, or anything else for float32.

    Buffers: running_mean1 (block, 1), running_deconv (block, block), running_mean2 and running_var (1, 1), and
    num_batches_tracked.
    """

    running_mean1: Tensor
    running_mean2: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        block: int,
        eps: float = 1e-2,
        n_iter: int = N_ITER,
        momentum: float = 0.1,
        sampling_stride: int = SAMPLING_STRIDE,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if block < 1:
            raise ValueError(f"block must be at least 1; got {block!r}")
        self._set_whitening(eps, n_iter, momentum, sampling_stride)
        self.block = block
        options = {"device": device, "dtype": statistics_type(dtype)}
        self.register_buffer("running_mean1", torch.zeros(block, 1, **options))
        self.register_buffer("running_deconv", torch.eye(block, **options))
        self.register_buffer("running_mean2", torch.zeros(1, 1, **options))
        self.register_buffer("running_var", torch.ones(1, 1, **options))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long, device=device))

    def forward(self, input: Tensor) -> Tensor:
        """Return a tensor of the input's shape, (N, C, H, W) or (N, C)."""
        if input.dim() == 2:
            return self.forward(input[:, :, None, None])[:, :, 0, 0]
        if input.dim() != 4 or input.shape[1] < self.block:
            raise ValueError(
                f"ChannelDeconv expects (N, C, H, W) or (N, C) input with at least {self.block} channels; "
                f"got shape {tuple(input.shape)}"
            )
        count, channels, height, width = input.shape
        ratio = channels // self.block
        covered = ratio * self.block
        stride = self.sampling_stride if min(height, width) >= self.sampling_stride else 1
        x = input[:, :covered]
        pixels = x.reshape(count, self.block, ratio, height, width).permute(2, 0, 1, 3, 4)
        mean, deconv = self._statistics(
            pixels.reshape(-1, self.block, height, width),
            block=self.block,
            kernel_shape=(1, 1),
            sampling_stride=stride,
            centered=False,
        )
        shift = (deconv[0] @ mean[0]).to(input.dtype)
        rows = x.reshape(count, self.block, ratio * height, width)
        y = F.conv2d(rows, deconv[0, :, :, None, None].to(input.dtype), -shift).reshape(count, covered, height, width)
        if covered < channels:
            rest = input[:, covered:]
            mean2, variance = self._rest_statistics(rest.reshape(count, -1)[:, :: stride**2])
            scale = (variance + self.eps).rsqrt()
            y = torch.cat([y, ((rest - mean2) * scale).to(y.dtype)], dim=1)
        if self.training:
            self.num_batches_tracked.add_(1)
        return y

    def _rest_statistics(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the channels that fill no row."""
        running = self.running_mean2, self.running_var
        if not self.training and self.deconv_stats == "frozen":
            return running
        samples = samples.to(self.running_var.dtype)
        found = samples.mean(), samples.var()
        if self.training:
            for old, new in zip(running, found, strict=True):
                if bool(torch.isfinite(new.detach())):
                    old.lerp_(new.detach().expand_as(old), self._momentum_now())
            return found
        share = 1.0 if self.deconv_stats == "batch" else float(self.deconv_stats)
        mean, variance = (torch.lerp(old, new.expand_as(old), share) for old, new in zip(running, found, strict=True))
        return mean, variance

    def _running(self) -> tuple[Tensor, Tensor]:
        return self.running_mean1.view(1, -1), self.running_deconv[None]

    def _momentum_now(self) -> float:
        return 1.0 if int(self.num_batches_tracked) == 0 else self.momentum

    def extra_repr(self) -> str:
        """The block and the statistics' settings."""
        return f"block={self.block}, sampling_stride={self.sampling_stride}, eps={self.eps:g}, n_iter={self.n_iter}"
