"""What the layers of network deconvolution share: the statistics, their averages, and which of them are used.

Source: Ye et al., "Network Deconvolution", ICLR 2020 (arXiv 1905.11926). The layers are in
`edgeconv.nn.deconvolution` and `edgeconv.nn.channel_deconvolution`.

In training a layer whitens with the statistics of its batch and keeps running averages of them. In evaluation it
whitens with the averages (`deconv_stats` "frozen"), with the statistics of its input ("batch"), or with a mixture of
both (a number between 0 and 1: the input's share). Frozen statistics are constant, so exported files hold plain
convolutions; the other two compute the statistics on the device, by the operator `DeconvWhitening`.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgeconv.nn.full_precision import FullPrecision
from edgeconv.ops.deconv_whitening_torch import deconv_whitening

DeconvStats = Literal["frozen", "batch"] | float
"""Which statistics a layer uses in evaluation: running averages, its input's, or the input's with that share."""


class Whitening(FullPrecision, nn.Module):
    """What the three layers share: the statistics, their averages, and which of them are used."""

    running_deconv: Tensor
    deconv_stats: DeconvStats = "frozen"
    sees_pixels = True  # one sample a position; else one an image

    def _set_whitening(self, eps: float, n_iter: int, momentum: float, sampling_stride: int = 1) -> None:
        if not eps > 0:
            raise ValueError(f"eps must be positive; got {eps!r}")
        if n_iter < 1 or sampling_stride < 1:
            raise ValueError(f"n_iter and sampling_stride must be at least 1; got {n_iter!r}, {sampling_stride!r}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be between 0 and 1; got {momentum!r}")
        self.eps, self.n_iter, self.momentum, self.sampling_stride = eps, n_iter, momentum, sampling_stride

    def set_deconv_stats(self, stats: DeconvStats) -> None:
        """Choose the statistics of evaluation.

        Args:
            stats: "frozen" (the running averages), "batch" (the input's), or the input's share, between 0 and 1.

        Raises:
            ValueError: Another value.
        """
        if stats not in ("frozen", "batch") and not (
            isinstance(stats, float | int) and not isinstance(stats, bool) and 0 <= stats <= 1
        ):
            raise ValueError(f'deconv_stats must be "frozen", "batch" or a number from 0 to 1; got {stats!r}')
        self.deconv_stats = stats

    def _statistics(self, x: Tensor, **geometry: Any) -> tuple[Tensor, Tensor]:
        """Return what to whiten with, (G, F) and (G, F, F): in training the batch's, and keep their averages."""
        running = self._running()
        if not self.training and self.deconv_stats == "frozen":
            return running
        found = deconv_whitening(x, eps=self.eps, n_iter=self.n_iter, **geometry)
        if not self.training:
            share = 1.0 if self.deconv_stats == "batch" else float(self.deconv_stats)
            if share == 1:
                return found
            mean, deconv = (torch.lerp(old.to(new.dtype), new, share) for old, new in zip(running, found, strict=True))
            return mean, deconv
        if not bool(torch.isfinite(found[1].detach()).all() & torch.isfinite(found[0].detach()).all()):
            warnings.warn(
                f"{type(self).__name__}: the covariance of this batch is not finite (its input holds NaN or infinity); "
                "the running statistics are used in its place, and left as they are.",
                RuntimeWarning,
                stacklevel=3,
            )
            return running
        self._track(*(value.detach() for value in found))
        return found

    def _running(self) -> tuple[Tensor, Tensor]:
        """Return views of the running averages, (G, F) and (G, F, F)."""
        raise NotImplementedError

    def _full_precision(self) -> tuple[str, ...]:
        return tuple(name for name, buffer in self.named_buffers(recurse=False) if buffer.is_floating_point())

    def _track(self, mean: Tensor, deconv: Tensor) -> None:
        """Move the running averages towards the batch's statistics."""
        for running, value in zip(self._running(), (mean, deconv), strict=True):
            running.lerp_(value.to(running.dtype), self._momentum_now())

    def _momentum_now(self) -> float:
        return self.momentum


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b of weights and a deconv, in the latter's type: half precision would lose the whitening's digits."""
    dtype = torch.promote_types(a.dtype, b.dtype)
    with torch.autocast(a.device.type, enabled=False):
        return a.to(dtype) @ b.to(dtype)


def set_deconv_stats(model: nn.Module, stats: DeconvStats) -> int:
    """Choose the statistics of evaluation for the layers of a model that see pixels: Deconv2d and ChannelDeconv.

    DeconvLinear keeps its running averages: it sees one vector an image, and a batch of one, less its own mean, is
    nothing. Its own `set_deconv_stats` changes that where batches are large.

    Args:
        model: Any module.
        stats: As in `Whitening.set_deconv_stats`.

    Returns:
        How many layers were set.

    Raises:
        ValueError: The model has no such layer, or another value of stats.
    """
    layers = [module for module in model.modules() if isinstance(module, Whitening) and module.sees_pixels]
    if not layers:
        raise ValueError("the model has no Deconv2d and no ChannelDeconv layer")
    for layer in layers:
        layer.set_deconv_stats(stats)
    return len(layers)


def statistics_type(dtype: torch.dtype | None) -> torch.dtype:
    """Return the type of the statistics of a layer whose weights have `dtype`."""
    return torch.float64 if (dtype or torch.get_default_dtype()) == torch.float64 else torch.float32
