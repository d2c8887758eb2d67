"""`DeconvWhitening` in PyTorch: a torch operator that autograd and `torch.compile` see through.

The equations are in `edgeconv.ops.deconv_whitening`. An `ExportedProgram` keeps the operator as one node.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeconv.ops.deconv_whitening import EPS, N_ITER, NAME, SAMPLING_STRIDE, WhiteningShape, sampling_steps

_SCHEMA = (
    f"{NAME}(Tensor x, int block, int[2] kernel_shape, int[2] strides, int[4] pads, int[2] dilations, int group, "
    "float eps, int n_iter, int sampling_stride, bool centered=True) -> (Tensor, Tensor)"
)


def deconv_whitening(
    x: Tensor,
    *,
    block: int,
    kernel_shape: Sequence[int],
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
    eps: float = EPS,
    n_iter: int = N_ITER,
    sampling_stride: int = SAMPLING_STRIDE,
    centered: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return mean and inverse square root of the covariance of an input's patches.

    Args:
        x: (N, C, H, W).
        block: Channels of a block; divides C, and with groups is C/group.
        kernel_shape: (kH, kW).
        strides: (vertical, horizontal), of the convolution that follows.
        pads: Padding (top, left, bottom, right).
        dilations: (vertical, horizontal).
        group: As in a convolution.
        eps: Added to the covariance's diagonal.
        n_iter: Newton–Schulz steps.
        sampling_stride: Patches are taken at every so many-th output position, both ways.
        centered: Whether the mean is subtracted before the covariance; `ChannelDeconv` does not.

    Returns:
        mean (G, F) and deconv (G, F, F), with F = block·kH·kW and G the number of groups; float64 for a float64 input,
        else float32, whatever autocast says.

    Raises:
        ValueError: The block does not fit the channels.
    """
    mean, deconv = getattr(torch.ops.edgeconv, NAME)(
        x, block, list(kernel_shape), list(strides), list(pads), list(dilations), group, eps, n_iter, sampling_stride,
        centered,
    )  # fmt: skip
    return mean, deconv


def inverse_square_root(matrix: Tensor, n_iter: int) -> Tensor:
    """Return matrix^(-1/2) of symmetric positive definite matrices (..., F, F) by coupled Newton–Schulz steps.

    Each eigenvalue λ of the matrix over its Frobenius norm becomes λ·((3 - λ)/2)² in a step, towards 1. Small ones grow
    by 9/4 a step at most, so n_iter steps leave those below about (4/9)^n_iter short of 1: the result is then smaller
    than the exact root there, never larger. Source: Higham, "Functions of Matrices", SIAM 2008, chapter 6.
    """
    norm = torch.linalg.matrix_norm(matrix, keepdim=True)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    y, z = matrix / norm, identity.expand_as(matrix)
    for _ in range(n_iter):
        t = 1.5 * identity - 0.5 * (z @ y)
        y, z = y @ t, t @ z
    root: Tensor = z / norm.sqrt()
    return root


def _samples(
    x: Tensor,
    shape: WhiteningShape,
    kernel_shape: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    steps: tuple[int, int],
) -> Tensor:
    """Return the samples (G, P, F)."""
    if shape.taps == 1:
        rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])[:: steps[0] * steps[1]]
    else:
        top, left, bottom, right = pads
        padded = F.pad(x, (left, right, top, bottom))
        columns = F.unfold(padded, tuple(kernel_shape), tuple(dilations), 0, steps)
        rows = columns.transpose(1, 2).reshape(-1, columns.shape[1])
    if shape.group > 1:
        return rows.reshape(-1, shape.group, shape.features).transpose(0, 1)
    return rows.reshape(-1, shape.features, shape.blocks).transpose(1, 2).reshape(1, -1, shape.features)


def _deconv_whitening(
    x: Tensor,
    block: int,
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    eps: float,
    n_iter: int,
    sampling_stride: int,
    centered: bool = True,
) -> tuple[Tensor, Tensor]:
    shape = WhiteningShape(x.shape[1], block, kernel_shape[0] * kernel_shape[1], group)
    with torch.autocast(x.device.type, enabled=False):
        x = x if x.dtype == torch.float64 else x.float()
        samples = _samples(x, shape, kernel_shape, pads, dilations, sampling_steps(sampling_stride, strides))
        mean = (samples / samples.shape[1]).sum(1)  # a sum of large values would overflow
        rows = samples - mean[:, None] if centered else samples
        # Squares of values beyond 1e19 would overflow. It is the centred values that are scaled, so that eps stays
        # where all are equal, however large. A constant for autograd: the results do not depend on it.
        scale = rows.detach().abs().amax().clamp(min=1.0)
        rows = rows / scale
        covariance = rows.transpose(1, 2) @ rows / rows.shape[1]
        identity = torch.eye(shape.features, dtype=x.dtype, device=x.device)
        return mean, inverse_square_root(covariance + (eps / scale / scale) * identity, n_iter) / scale


_library = torch.library.Library("edgeconv", "FRAGMENT")
_library.define(_SCHEMA)
_library.impl(NAME, _deconv_whitening, "CompositeImplicitAutograd")
