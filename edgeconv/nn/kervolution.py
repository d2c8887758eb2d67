"""Kervolutional layers: drop-ins for `torch.nn.Conv1d` and `torch.nn.Conv2d`.

Source: Wang et al., "Kervolutional Neural Networks", CVPR 2019 (arXiv 1904.03955).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.nn.full_precision import FullPrecision
from edgeconv.ops.kervolution import KERNELS, OPERATOR_OF_KERNEL, PRECISIONS, Precision, check_precision
from edgeconv.ops.kervolution_torch import kervolution

Learnable = Literal[False, "layer", "channel"]
"""Whether a kernel's parameters are fixed, learned once a layer, or learned per output channel."""


class _Kervolution(FullPrecision, nn.modules.conv._ConvNd):
    """What Kerv1d and Kerv2d share: the kernel's parameters and the call of the functional form."""

    precision: str = PRECISIONS[0]  # of the class, for modules that were pickled without it

    def _set_kernel(
        self,
        kernel: str,
        degree: int,
        balance: float,
        gamma: float,
        scale: float,
        learnable: Learnable,
        precision: str,
    ) -> None:
        if kernel not in KERNELS:
            raise ValueError(f"kernel must be one of {', '.join(KERNELS)}; got {kernel!r}")
        if learnable not in (False, "layer", "channel"):
            raise ValueError(f'learnable must be False, "layer" or "channel"; got {learnable!r}')
        if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
            raise ValueError(f"degree must be an integer of at least 1; got {degree!r}")
        if not gamma > 0:
            raise ValueError(f"gamma must be positive; got {gamma!r}")
        check_precision(precision, kernel)
        self.kernel, self.degree, self.learnable, self.precision = kernel, degree, learnable, precision
        self.parameter_names = OPERATOR_OF_KERNEL[kernel].parameters if kernel != "linear" else ()
        values = {"balance": balance, "gamma": gamma, "scale": scale}
        shape = (self.out_channels,) if learnable == "channel" else ()
        dtype = torch.float64 if self.weight.dtype == torch.float64 else torch.float32
        for name in self.parameter_names:
            value = torch.full(shape, float(values[name]), dtype=dtype, device=self.weight.device)
            if learnable:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def _full_precision(self) -> tuple[str, ...]:
        # The operators take their parameters in float32 whatever the type of the data: a gamma of 2/(C·k²) would lose
        # half its digits in float16.
        return tuple(self.parameter_names)

    def _kervolve(self, x: Tensor) -> Tensor:
        """Apply the kernel to a 2-D or 1-D input, batched or not."""
        spatial = self.weight.dim() - 2
        if x.dim() == spatial + 1:
            return self._kervolve(x.unsqueeze(0)).squeeze(0)
        if x.dim() != spatial + 2 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__} expects (N, {self.in_channels}, {'L' if spatial == 1 else 'H, W'}) "
                f"input with {self.in_channels} channels; got shape {tuple(x.shape)}"
            )
        padding = self._reversed_padding_repeated_twice
        if self.padding_mode != "zeros":
            x = F.pad(x, padding, mode=self.padding_mode)
            padding = [0] * (2 * spatial)
        stride, dilation, weight = self.stride, self.dilation, self.weight
        if spatial == 1:
            x, weight = x.unsqueeze(2), weight.unsqueeze(2)
            stride, dilation, padding = (1, *stride), (1, *dilation), [*padding, 0, 0]
        left, right, top, bottom = padding
        y = kervolution(
            x,
            weight,
            self.bias,
            kernel=self.kernel,
            stride=stride,
            pads=(top, left, bottom, right),
            dilation=dilation,
            groups=self.groups,
            degree=self.degree,
            precision=self.precision,
            **{name: self._kernel_parameter(name) for name in self.parameter_names},
        )
        return y.squeeze(2) if spatial == 1 else y

    def _kernel_parameter(self, name: str) -> Tensor:
        value: Tensor = getattr(self, name)
        # A learned gamma may cross zero during training; its magnitude is what counts, so the kernel stays bounded.
        return value.abs() if name == "gamma" and self.learnable else value

    def extra_repr(self) -> str:
        """Conv's description, the kernel and its parameters."""
        parts = [super().extra_repr(), f"kernel={self.kernel}"]  # type: ignore[no-untyped-call]
        if self.kernel == "polynomial":
            parts.append(f"degree={self.degree}")
        for name in self.parameter_names:
            value = getattr(self, name)
            parts.append(f"{name}={'per channel' if value.dim() else f'{float(value.detach()):.4g}'}")
        if self.learnable:
            parts.append(f"learnable={self.learnable}")
        if self.precision != PRECISIONS[0]:
            parts.append(f"precision={self.precision}")
        return ", ".join(parts)


class Kerv2d(_Kervolution, nn.Conv2d):
    """2-D kervolution, a drop-in for `torch.nn.Conv2d`: (N, C, H, W) or (C, H, W) in, M channels out.

    Args:
        in_channels: C.
        out_channels: M.
        kernel_size: kH and kW.
        stride: As in Conv2d.
        padding: An integer, a pair, "same" or "valid". Zero padding takes part in the distances.
        dilation: As in Conv2d.
        groups: As in Conv2d.
        bias: Whether a bias is added, after the kernel.
        padding_mode: As in Conv2d.
        device: As in Conv2d.
        dtype: Of weight and bias. The kernel's parameters stay in float32 under half precision.
        kernel: "polynomial" (x·w + balance)^degree, "gaussian" exp(-gamma‖x-w‖²), "sigmoid" tanh(scale x·w + balance),
            "euclidean" -‖x-w‖², "manhattan" -‖x-w‖₁, "chebyshev" -max|x-w|, or "linear" x·w.
        degree: Exponent of the polynomial kernel, an integer of at least 1.
        balance: Polynomial and sigmoid kernels.
        gamma: Gaussian kernel, positive. 1/(C·kH·kW) keeps its exponent of order one on normalised inputs.
        scale: Sigmoid kernel.
        learnable: False: the parameters are buffers. "layer": scalars that are learned. "channel": learned, (M).
        precision: What exported files ask of runtimes, for the first four kernels: "float32", or "bf16x3", products of
            two bfloat16 numbers a factor on CPUs with AMX (`edgeconv.ops.kervolution.Precision`). The layer itself
            computes in float32. It is an argument like the kernel, and not in the state dict.

    Raises:
        ValueError: An argument is out of range, or (from the forward pass) the input has the wrong channels.

    Gradients are finite wherever the outputs are far from overflow, at distance 0 and at ties too; for where overflow
    begins see `edgeconv.ops.kervolution_torch.kervolution`.
    """

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
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        kernel: str = "polynomial",
        degree: int = 3,
        balance: float = 1.0,
        gamma: float = 1.0,
        scale: float = 1.0,
        learnable: Learnable = False,
        precision: Precision = "float32",
    ) -> None:
        nn.Conv2d.__init__(
            self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
            device, dtype,
        )  # fmt: skip
        self._set_kernel(kernel, degree, balance, gamma, scale, learnable, precision)

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, M, H', W') for (N, C, H, W); without a batch dimension, (M, H', W')."""
        return self._kervolve(input)


class Kerv1d(_Kervolution, nn.Conv1d):
    """1-D kervolution, a drop-in for `torch.nn.Conv1d`: (N, C, L) or (C, L) in. Arguments as `Kerv2d`'s."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] = 1,
        padding: str | int | tuple[int] = 0,
        dilation: int | tuple[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        kernel: str = "polynomial",
        degree: int = 3,
        balance: float = 1.0,
        gamma: float = 1.0,
        scale: float = 1.0,
        learnable: Learnable = False,
        precision: Precision = "float32",
    ) -> None:
        nn.Conv1d.__init__(
            self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
            device, dtype,
        )  # fmt: skip
        self._set_kernel(kernel, degree, balance, gamma, scale, learnable, precision)

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, M, L') for (N, C, L); without a batch dimension, (M, L')."""
        return self._kervolve(input)
