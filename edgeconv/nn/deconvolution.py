"""Network deconvolution layers: convolution and linear layers that whiten what their filters see.

Source: Ye et al., "Network Deconvolution", ICLR 2020 (arXiv 1905.11926). Names of arguments, parameters and buffers are
those of the authors' published layers, whose state dicts load unchanged and give the same outputs.

In training a layer whitens with the statistics of its batch and keeps running averages of them. In evaluation it
whitens with the averages (`deconv_stats` "frozen"), with the statistics of its input ("batch"), or with a mixture of
both (a number between 0 and 1: the input's share). Frozen statistics are constant, so exported files hold plain
convolutions; the other two compute the statistics on the device, by the operator `DeconvWhitening`.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.nn.full_precision import FullPrecision
from edgeconv.ops.deconv_whitening import BLOCK, EPS, N_ITER, SAMPLING_STRIDE, choose_block
from edgeconv.ops.deconv_whitening_torch import deconv_whitening

DeconvStats = Literal["frozen", "batch"] | float
"""Which statistics a layer uses in evaluation: running averages, its input's, or the input's with that share."""


class Whitening(FullPrecision, nn.Module):
    """What the three layers share: the statistics, their averages, and which of them are used."""

    running_deconv: Tensor
    deconv_stats: DeconvStats = "frozen"

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


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b of weights and a deconv, in the latter's type: half precision would lose the whitening's digits."""
    dtype = torch.promote_types(a.dtype, b.dtype)
    with torch.autocast(a.device.type, enabled=False):
        return a.to(dtype) @ b.to(dtype)


class Deconv2d(Whitening, nn.Conv2d):
    """2-D convolution with whitened patches, a drop-in for `torch.nn.Conv2d` (the authors' FastDeconv).

    y = conv(x, W·deconv, b - W·deconv·mean), with mean and deconv as `edgeconv.ops.deconv_whitening` defines them. It
    takes the place of a convolution and the batch normalisation behind it.

    Args:
        in_channels: C.
        out_channels: M.
        kernel_size: kH and kW.
        stride: As in Conv2d.
        padding: An integer, a pair, "same" or "valid". Zero padding takes part in the statistics.
        dilation: As in Conv2d.
        groups: As in Conv2d; each group then is one block, with statistics of its own.
        bias: Whether a bias is added.
        eps: Added to the covariance's diagonal.
        n_iter: Newton–Schulz steps.
        momentum: Share of the batch in the running averages.
        block: Channels that are whitened together, fitted to in_channels as
            `edgeconv.ops.deconv_whitening.choose_block` says.
        sampling_stride: Statistics are of every so many-th output position, both ways.
        freeze: Use the running averages in training, too, after the first `freeze_iter` batches (the counter starts
            anew every 10·freeze_iter batches, as the authors' does).
        freeze_iter: See `freeze`.
        device: As in Conv2d.
        dtype: Of weight and bias; statistics are float32, or float64 with it.

    Buffers: running_mean (F), running_deconv (F, F) with F = block·kH·kW; with groups (C·kH·kW) and (groups, F, F).

    Raises:
        ValueError: An argument is out of range.

    Ill-conditioned covariances. eps bounds the result from above by eps^(-1/2), and n_iter by about 1.5^n_iter over the
    square root of the covariance's norm, so patches that are constant or of low rank are whitened as far as these
    allow. Large inputs do not overflow. A batch with NaN or infinity is warned of, and does not enter the averages.
    """

    running_mean: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        eps: float = EPS,
        n_iter: int = N_ITER,
        momentum: float = 0.1,
        block: int = BLOCK,
        sampling_stride: int = SAMPLING_STRIDE,
        freeze: bool = False,
        freeze_iter: int = 100,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Conv2d.__init__(
            self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, "zeros", device,
            dtype,
        )  # fmt: skip
        self._set_whitening(eps, n_iter, momentum, sampling_stride)
        if freeze_iter < 1:
            raise ValueError(f"freeze_iter must be at least 1; got {freeze_iter!r}")
        self.block = choose_block(in_channels, block, groups)
        self.freeze, self.freeze_iter, self.counter = freeze, freeze_iter, 0
        taps = self.kernel_size[0] * self.kernel_size[1]
        self.num_features = taps * self.block
        options = {"device": device, "dtype": _statistics_type(dtype)}
        identity = torch.eye(self.num_features, **options)
        covered = self.block if groups == 1 else in_channels
        self.register_buffer("running_mean", torch.zeros(covered * taps, **options))
        self.register_buffer("running_deconv", identity if groups == 1 else identity.repeat(groups, 1, 1))

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, M, H', W') for (N, C, H, W); without a batch dimension, (M, H', W')."""
        if input.dim() == 3:
            return self.forward(input.unsqueeze(0)).squeeze(0)
        if input.dim() != 4 or input.shape[1] != self.in_channels:
            raise ValueError(
                f"Deconv2d expects (N, {self.in_channels}, H, W) input with {self.in_channels} channels; "
                f"got shape {tuple(input.shape)}"
            )
        frozen = self.freeze and self.counter > self.freeze_iter
        if self.training:
            self.counter = (self.counter + 1) % (10 * self.freeze_iter)
        mean, deconv = self._running() if self.training and frozen else self._statistics(input, **self._geometry())
        weight, bias = self._whitened(mean, deconv)
        return F.conv2d(
            input, weight.to(input.dtype), bias.to(input.dtype), self.stride, self.padding, self.dilation, self.groups
        )

    def _geometry(self) -> dict[str, Any]:
        left, right, top, bottom = self._reversed_padding_repeated_twice
        return {
            "block": self.block,
            "kernel_shape": self.kernel_size,
            "strides": self.stride,
            "pads": (top, left, bottom, right),
            "dilations": self.dilation,
            "group": self.groups,
            "sampling_stride": self.sampling_stride,
        }

    def _running(self) -> tuple[Tensor, Tensor]:
        features = self.num_features
        return self.running_mean.view(-1, features), self.running_deconv.view(-1, features, features)

    def _whitened(self, mean: Tensor, deconv: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight (M, C/groups, kH, kW) and bias (M) of the convolution that whitens and convolves."""
        features, filters = self.num_features, self.out_channels
        if self.groups == 1:  # the blocks are interleaved: see edgeconv.ops.deconv_whitening
            blocks = self.in_channels // self.block
            # deconv is symmetric. From the left it meets an operand that is constant in files: runtimes pack it once,
            # and the result is put in order by moving runs of `blocks` values.
            columns = self.weight.reshape(filters, features, blocks).transpose(0, 1).reshape(features, -1)
            columns = _product(deconv[0], columns)
            shift = (mean @ columns).view(filters, blocks).sum(1)
            weight = columns.view(features, filters, blocks).transpose(0, 1).reshape(self.weight.shape)
        else:
            rows = _product(self.weight.reshape(self.groups, -1, features), deconv)
            shift = (rows @ mean[:, :, None]).view(filters)
            weight = rows.view(self.weight.shape)
        return weight, -shift if self.bias is None else self.bias.to(shift.dtype) - shift

    def extra_repr(self) -> str:
        """Conv2d's description and what whitening adds."""
        parts = [super().extra_repr(), f"block={self.block}", f"sampling_stride={self.sampling_stride}"]  # type: ignore[no-untyped-call]
        parts += [f"eps={self.eps:g}", f"n_iter={self.n_iter}"]
        if self.deconv_stats != "frozen":
            parts.append(f"deconv_stats={self.deconv_stats}")
        return ", ".join(parts)


class DeconvLinear(Whitening, nn.Linear):
    """Linear layer with whitened inputs, a drop-in for `torch.nn.Linear` (the authors' Delinear).

    The features are cut into consecutive blocks of `block`, which share one mean and one covariance.

    Args:
        in_features: D.
        out_features: M.
        bias: Whether a bias is added.
        eps: Added to the covariance's diagonal.
        n_iter: Newton–Schulz steps.
        momentum: Share of the batch in the running averages.
        block: Features that are whitened together; fitted to in_features as in `Deconv2d`.
        device: As in Linear.
        dtype: Of weight and bias; statistics are float32, or float64 with it.

    Buffers: running_mean (block), running_deconv (block, block).
    """

    running_mean: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        eps: float = EPS,
        n_iter: int = N_ITER,
        momentum: float = 0.1,
        block: int = 512,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias, device, dtype)
        self._set_whitening(eps, n_iter, momentum)
        self.block = choose_block(in_features, block)
        options = {"device": device, "dtype": _statistics_type(dtype)}
        self.register_buffer("running_mean", torch.zeros(self.block, **options))
        self.register_buffer("running_deconv", torch.eye(self.block, **options))

    def forward(self, input: Tensor) -> Tensor:
        """Return (..., M) for (..., D)."""
        if input.shape[-1] != self.in_features:
            raise ValueError(
                f"DeconvLinear expects (..., {self.in_features}) input with {self.in_features} features; "
                f"got shape {tuple(input.shape)}"
            )
        pixels = input.reshape(-1, self.block, 1, 1)
        mean, deconv = self._statistics(pixels, block=self.block, kernel_shape=(1, 1), sampling_stride=1)
        rows = _product(self.weight.reshape(1, -1, self.block), deconv)
        shift = (rows @ mean[:, :, None]).view(self.out_features, -1).sum(1)
        bias = -shift if self.bias is None else self.bias.to(shift.dtype) - shift
        return F.linear(input, rows.view(self.weight.shape).to(input.dtype), bias.to(input.dtype))

    def _running(self) -> tuple[Tensor, Tensor]:
        return self.running_mean[None], self.running_deconv[None]

    def extra_repr(self) -> str:
        """Linear's description and the block."""
        return f"{super().extra_repr()}, block={self.block}, eps={self.eps:g}, n_iter={self.n_iter}"


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
        options = {"device": device, "dtype": _statistics_type(dtype)}
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
    layers = [module for module in model.modules() if isinstance(module, Deconv2d | ChannelDeconv)]
    if not layers:
        raise ValueError("the model has no Deconv2d and no ChannelDeconv layer")
    for layer in layers:
        layer.set_deconv_stats(stats)
    return len(layers)


def _statistics_type(dtype: torch.dtype | None) -> torch.dtype:
    return torch.float64 if (dtype or torch.get_default_dtype()) == torch.float64 else torch.float32
