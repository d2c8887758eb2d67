"""Network deconvolution layers: convolution and linear layers that whiten what their filters see.

Source: Ye et al., "Network Deconvolution", ICLR 2020 (arXiv 1905.11926). Names of arguments, parameters and buffers are
those of the authors' published layers, whose state dicts load unchanged and give the same outputs. Which statistics
they whiten with is said in `edgeconv.nn.whitening`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.nn.whitening import Whitening, product, statistics_type
from edgeconv.ops.deconv_whitening import BLOCK, EPS, N_ITER, SAMPLING_STRIDE, choose_block


class Deconv2d(Whitening, nn.Conv2d):
    """2-D convolution with whitened patches, a drop-in for `torch.nn.Conv2d` (the authors' FastDeconv).

    y = conv(x, W·deconv, b - W·deconv·mean), with mean and deconv as `edgeconv.ops.deconv_whitening` defines them. It
    takes the place of a convolution and the batch normalisation behind it. Where evaluation measures the statistics and
    the output has far fewer positions than filters, the same is computed as W·(deconv·(patches - mean)) + b.

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
        options = {"device": device, "dtype": statistics_type(dtype)}
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
        if not self.training and self.deconv_stats != "frozen":
            positions = self._positions(input)
            if positions is not None and self.whitens_patches(positions[0] * positions[1]):
                return self._convolve_patches(input, mean, deconv, positions)
        weight, bias = self._whitened(mean, deconv)
        return F.conv2d(
            input, weight.to(input.dtype), bias.to(input.dtype), self.stride, self.padding, self.dilation, self.groups
        )

    def whitens_patches(self, positions: int) -> bool:
        """Whether measured statistics whiten the patches of an output of so many positions, not the weights.

        It takes positions·F products for each of a block's F values in place of out_channels·F, and unfolded patches.
        The results differ by rounding alone.
        """
        return self.groups == 1 and positions <= self.out_channels

    def _positions(self, x: Tensor) -> tuple[int, int] | None:
        """Return the output's rows and columns, or None where a trace leaves them open."""
        left, right, top, bottom = self._reversed_padding_repeated_twice
        sizes = [
            (size + pad - dilation * (window - 1) - 1) // stride + 1
            for size, pad, window, dilation, stride in zip(
                x.shape[2:], (top + bottom, left + right), self.kernel_size, self.dilation, self.stride, strict=True
            )
        ]
        return (sizes[0], sizes[1]) if all(type(size) is int for size in sizes) else None

    def _convolve_patches(self, x: Tensor, mean: Tensor, deconv: Tensor, positions: tuple[int, int]) -> Tensor:
        """Return (N, M, H', W') of whitened patches. Without groups."""
        x = F.pad(x, self._reversed_padding_repeated_twice)
        rows, columns = (
            [slice(tap * dilation, tap * dilation + (count - 1) * stride + 1, stride) for tap in range(window)]
            for window, dilation, stride, count in zip(
                self.kernel_size, self.dilation, self.stride, positions, strict=True
            )
        )
        patches = torch.stack([x[:, :, row, column] for row in rows for column in columns], 2)
        # Blocks are interleaved, so each value of a block has its `blocks` channels next to each other.
        values = patches.reshape(x.shape[0], self.num_features, -1).to(deconv.dtype)
        whitened = product(deconv[0], values - mean[0][:, None])
        y = product(
            self.weight.reshape(self.out_channels, -1), whitened.reshape(x.shape[0], self.weight[0].numel(), -1)
        )
        y = y if self.bias is None else y + self.bias.to(y.dtype)[:, None]
        return y.reshape(x.shape[0], self.out_channels, *positions).to(x.dtype)

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
            columns = product(deconv[0], columns)
            shift = (mean @ columns).view(filters, blocks).sum(1)
            weight = columns.view(features, filters, blocks).transpose(0, 1).reshape(self.weight.shape)
        else:
            rows = product(self.weight.reshape(self.groups, -1, features), deconv)
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
    sees_pixels = False

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
        options = {"device": device, "dtype": statistics_type(dtype)}
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
        rows = product(self.weight.reshape(1, -1, self.block), deconv)
        shift = (rows @ mean[:, :, None]).view(self.out_features, -1).sum(1)
        bias = -shift if self.bias is None else self.bias.to(shift.dtype) - shift
        return F.linear(input, rows.view(self.weight.shape).to(input.dtype), bias.to(input.dtype))

    def _running(self) -> tuple[Tensor, Tensor]:
        return self.running_mean[None], self.running_deconv[None]

    def extra_repr(self) -> str:
        """Linear's description and the block."""
        return f"{super().extra_repr()}, block={self.block}, eps={self.eps:g}, n_iter={self.n_iter}"
