"""Distances between patches and filters in PyTorch, with bounded memory: the ground of manhattan and chebyshev kernels.

A torch operator of its own, because its loop over blocks cannot be traced with symbolic sizes: exporters and compilers
see one opaque operator with known shapes and a known gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_cdist_backward: Callable[..., Tensor] = torch.ops.aten._cdist_backward.default

PATCH_BYTES = 16 * 2**20
"""Bound on the patches (im2col columns) that are held at a time, forward and backward; at least one output row of one
image is."""


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
        (N, M, H', W'); a NaN in a patch or a filter makes its distances NaN. The gradient is sign(x - w) for p = 1; for
        p = infinity it is sign(x - w) at every element that attains the maximum. So it is 0 where x = w.

    Raises:
        ValueError: The window is larger than the padded input.
    """
    shape = output_shape(x, w, strides, pads, dilations)
    if min(shape[2:]) < 1:
        raise ValueError(f"a {tuple(w.shape[2:])} window does not fit {tuple(x.shape)} input with pads {list(pads)}")
    result = x.new_empty(shape)
    padded = _pad(x, pads)
    weights = w.reshape(group, w.shape[0] // group, -1)
    passed_over = p == math.inf and bool(x.isnan().any() or w.isnan().any())  # by cdist's maximum
    for images, rows, window in _blocks(result, x, w, strides, dilations, PATCH_BYTES):
        patches = _patches(padded[images, :, window], w, strides, dilations, group)
        distances = torch.cdist(patches, weights, p=p)
        if passed_over:
            invalid = patches.isnan().any(2)[:, :, None] | weights.isnan().any(2)[:, None, :]
            distances.masked_fill_(invalid, math.nan)
        block = result[images, :, rows]
        block.copy_(_split(distances, 1, block.shape[0]).permute(1, 0, 3, 2).reshape(block.shape))
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
    # On the CPU cdist's gradient needs no more than its inputs; on a GPU it holds the patches once for every filter.
    copies = 1 if x.device.type == "cpu" else w.shape[0] // group
    weights = w.reshape(group, w.shape[0] // group, -1)
    for images, rows, window in _blocks(grad, x, w, strides, dilations, PATCH_BYTES // copies):
        x_block = padded[images, :, window]
        patches = _patches(x_block, w, strides, dilations, group)
        distances = torch.cdist(patches, weights, p=p)
        # cdist's own gradient: autograd does not record inside an operator's implementation.
        upstream = _split(grad[images, :, rows].flatten(2), 1, group).permute(1, 0, 3, 2).flatten(1, 2)
        grad_patches = _cdist_backward(upstream.contiguous(), patches, weights, p, distances)
        grad_weights = _cdist_backward(upstream.mT.contiguous(), weights, patches, p, distances.mT.contiguous())
        columns = _split(grad_patches, 1, x_block.shape[0]).permute(1, 0, 3, 2).flatten(1, 2)
        size, taps = tuple(x_block.shape[2:]), tuple(w.shape[2:])
        grad_padded[images, :, window] += F.fold(columns, size, taps, tuple(dilations), 0, tuple(strides))
        grad_w += grad_weights.reshape(w.shape)
    top, left = pads[0], pads[1]
    return grad_padded[:, :, top : top + x.shape[2], left : left + x.shape[3]].clone(), grad_w


def output_shape(
    x: Tensor, w: Tensor, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]
) -> tuple[int, int, int, int]:
    """Return (N, M, H', W') of a window that slides over x; a size below 1 where it does not fit."""
    height, width = (
        (x.shape[2 + i] + pads[i] + pads[2 + i] - dilations[i] * (w.shape[2 + i] - 1) - 1) // strides[i] + 1
        for i in (0, 1)
    )
    return x.shape[0], w.shape[0], height, width


def _pad(x: Tensor, pads: Sequence[int]) -> Tensor:
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom))


def _blocks(
    output: Tensor, x: Tensor, w: Tensor, strides: Sequence[int], dilations: Sequence[int], most: int
) -> Iterator[tuple[slice, slice, slice]]:
    """Yield (images, output rows, rows of the padded input they read): blocks with patches of at most `most` bytes."""
    if not output.numel():
        return
    batch, _, height, width = output.shape
    row_bytes = width * x.shape[1] * w.shape[2] * w.shape[3] * x.element_size()
    budget = max(1, most // max(1, row_bytes))
    images, step = max(1, budget // height), min(budget, height)
    reach = dilations[0] * (w.shape[2] - 1) + 1
    for start in range(0, batch, images):
        for first in range(0, height, step):
            last = min(first + step, height)
            window = slice(first * strides[0], (last - 1) * strides[0] + reach)
            yield slice(start, min(start + images, batch)), slice(first, last), window


def _patches(x: Tensor, w: Tensor, strides: Sequence[int], dilations: Sequence[int], group: int) -> Tensor:
    """(group, images and positions, taps). With a batch of its own each image would need a copy of the filters."""
    patches = F.unfold(x, tuple(w.shape[2:]), tuple(dilations), 0, tuple(strides))
    return _split(patches, 1, group).permute(1, 0, 3, 2).flatten(1, 2)


def _split(tensor: Tensor, dimension: int, parts: int) -> Tensor:
    """Replace a dimension by two, of which the first has `parts` elements."""
    shape = tensor.shape
    return tensor.reshape(*shape[:dimension], parts, -1, *shape[dimension + 1 :])


@patch_distance.register_fake
def _(x: Tensor, w: Tensor, p: float, strides: list[int], pads: list[int], dilations: list[int], group: int) -> Tensor:
    return x.new_empty(output_shape(x, w, strides, pads, dilations))


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
