"""Distances between patches and filters in PyTorch, with bounded memory: what the manhattan and chebyshev kernels stand on.

A torch operator of its own, because its loop over blocks of rows cannot be traced with symbolic sizes: exporters and
compilers see one opaque operator with known shapes and a known gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH_BYTES = 16 * 2**20
"""Bound on the patches (im2col columns) that are held at a time, forward and backward."""


@torch.library.custom_op("edgeconv::patch_distance", mutates_args=())
def patch_distance(
    x: Tensor,
    w: Tensor,
    p: float,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
) -> Tensor:
    """‖patch - filter‖ₚ at every output position.

    Args:
        x: (N, C, H, W), float32 or float64.
        w: (M, C/group, kH, kW).
        p: The norm, 1 or infinity.
        strides: (vertical, horizontal).
        pads: Zero padding (top, left, bottom, right).
        dilations: (vertical, horizontal).
        group: Number of groups.

    Returns:
        (N, M, H', W'). Where the distance has no gradient (x = w) its subgradient 0 is used.
    """
    result = x.new_empty(_output_shape(x, w, strides, pads, dilations))
    padded = _pad(x, pads)
    for rows, window in _blocks(result, x, w, strides, dilations):
        result[:, :, rows] = _block_distance(padded[:, :, window], w, p, strides, dilations, group)
    return result


@torch.library.custom_op("edgeconv::patch_distance_backward", mutates_args=())
def patch_distance_backward(
    grad: Tensor,
    x: Tensor,
    w: Tensor,
    p: float,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of `patch_distance` with respect to x and w; each block's patches are computed again."""
    padded = _pad(x, pads)
    grad_padded, grad_w = torch.zeros_like(padded), torch.zeros_like(w)
    for rows, window in _blocks(grad, x, w, strides, dilations):
        with torch.enable_grad():
            x_block = padded[:, :, window].detach().requires_grad_()
            w_block = w.detach().requires_grad_()
            distance = _block_distance(x_block, w_block, p, strides, dilations, group)
            parts = torch.autograd.grad(distance, (x_block, w_block), grad[:, :, rows])
        grad_padded[:, :, window] += parts[0]
        grad_w += parts[1]
    top, left = pads[0], pads[1]
    return grad_padded[:, :, top : top + x.shape[2], left : left + x.shape[3]].clone(), grad_w


def _output_shape(
    x: Tensor, w: Tensor, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]
) -> tuple[int, int, int, int]:
    height, width = (
        (x.shape[2 + i] + pads[i] + pads[2 + i] - dilations[i] * (w.shape[2 + i] - 1) - 1) // strides[i] + 1
        for i in (0, 1)
    )
    return x.shape[0], w.shape[0], height, width


def _pad(x: Tensor, pads: Sequence[int]) -> Tensor:
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom))


def _blocks(
    output: Tensor, x: Tensor, w: Tensor, strides: Sequence[int], dilations: Sequence[int]
) -> Iterator[tuple[slice, slice]]:
    """Yield (output rows, rows of the padded input they read), so that a block's patches stay within PATCH_BYTES."""
    row_bytes = output.shape[0] * output.shape[3] * x.shape[1] * w.shape[2] * w.shape[3] * x.element_size()
    step = max(1, PATCH_BYTES // max(1, row_bytes))
    reach = dilations[0] * (w.shape[2] - 1) + 1
    for first in range(0, output.shape[2] if output.numel() else 0, step):
        last = min(first + step, output.shape[2])
        yield slice(first, last), slice(first * strides[0], (last - 1) * strides[0] + reach)


def _block_distance(
    x: Tensor, w: Tensor, p: float, strides: Sequence[int], dilations: Sequence[int], group: int
) -> Tensor:
    batch, filters = x.shape[0], w.shape[0]
    columns = (x.shape[3] - dilations[1] * (w.shape[3] - 1) - 1) // strides[1] + 1
    patches = F.unfold(x, tuple(w.shape[2:]), tuple(dilations), 0, tuple(strides))
    patches = patches.unflatten(1, (group, -1)).transpose(2, 3).contiguous()
    weights = w.reshape(1, group, filters // group, -1).expand(batch, -1, -1, -1).contiguous()
    return torch.cdist(patches, weights, p=p).transpose(2, 3).reshape(batch, filters, -1, columns)


@patch_distance.register_fake
def _(x: Tensor, w: Tensor, p: float, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int],
      group: int) -> Tensor:
    return x.new_empty(_output_shape(x, w, strides, pads, dilations))


@patch_distance_backward.register_fake
def _(grad: Tensor, x: Tensor, w: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(w)


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: Tensor) -> None:
    x, w, *ctx.window = inputs  # type: ignore[attr-defined]
    ctx.save_for_backward(x, w)  # type: ignore[arg-type]


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, w = ctx.saved_tensors  # type: ignore[attr-defined]
    grad_x, grad_w = patch_distance_backward(grad, x, w, *ctx.window)  # type: ignore[attr-defined]
    return grad_x, grad_w, None, None, None, None, None


_register_autograd: Callable[..., None] = patch_distance.register_autograd
_register_autograd(_backward, setup_context=_save)
