"""patch_distance against a definition without blocks, forward and backward, and how much it holds at a time."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from kervolution_cases import WINDOWS, Window
from torch import Tensor

from edgeconv.ops import patch_distance_torch
from edgeconv.ops.patch_distance_torch import patch_distance

NORMS = pytest.mark.parametrize("p", [1.0, math.inf])


def naive(x: Tensor, w: Tensor, p: float, window: Window) -> Tensor:
    """Every difference at once, by autograd-differentiable indexing of shifted slices."""
    top, left, bottom, right = window.pads
    x = F.pad(x, (left, right, top, bottom))
    (sy, sx), (dy, dx), (kh, kw) = window.strides, window.dilations, w.shape[2:]
    rows = (x.shape[2] - dy * (kh - 1) - 1) // sy + 1
    columns = (x.shape[3] - dx * (kw - 1) - 1) // sx + 1
    taps = [
        x[:, :, i * dy : i * dy + (rows - 1) * sy + 1 : sy, j * dx : j * dx + (columns - 1) * sx + 1 : sx]
        for i in range(kh)
        for j in range(kw)
    ]
    patches = torch.stack(taps, 2).unflatten(1, (window.group, -1)).flatten(2, 3)  # N, group, C/group·taps, H', W'
    weights = w.unflatten(0, (window.group, -1)).flatten(2)
    difference = (patches[:, :, None] - weights[None, ..., None, None]).abs()
    return (difference.sum(3) if p == 1 else difference.amax(3)).flatten(1, 2)


def tensors(window: Window, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(window.name) + window.filters)
    shape = (window.filters, window.channels // window.group, *window.window)
    x = torch.randn(window.batch, window.channels, *window.size, generator=generator, dtype=dtype)
    return x.requires_grad_(), torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()


def arguments(window: Window) -> tuple[list[int], list[int], list[int], int]:
    return list(window.strides), list(window.pads), list(window.dilations), window.group


@NORMS
@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: window.name)
def test_values_and_gradients_equal_the_definition(p: float, window: Window) -> None:
    x, w = tensors(window)
    actual, expected = patch_distance(x, w, p, *arguments(window)), naive(x, w, p, window)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(expected)
    for got, want in zip(
        torch.autograd.grad(actual, (x, w), upstream), torch.autograd.grad(expected, (x, w), upstream), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


@NORMS
@pytest.mark.parametrize("limit", [1, 1000, 5000, 10**9])
def test_patches_are_bounded_by_a_block_which_changes_nothing(
    p: float, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = next(window for window in WINDOWS if window.name == "everything")
    x, w = tensors(window)
    expected = naive(x, w, p, window)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, (x, w), upstream)
    sizes: list[int] = []
    unfold = F.unfold

    def spy(*args: object, **kwargs: object) -> Tensor:
        result: Tensor = unfold(*args, **kwargs)  # type: ignore[arg-type]
        sizes.append(result.numel() * result.element_size())
        return result

    monkeypatch.setattr(F, "unfold", spy)
    monkeypatch.setattr(patch_distance_torch, "PATCH_BYTES", limit)
    actual = patch_distance(x, w, p, *arguments(window))
    forward = len(sizes)
    got = torch.autograd.grad(actual, (x, w), upstream)
    backward = len(sizes) - forward

    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(got, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    one_row = expected.shape[3] * window.channels * math.prod(window.window) * 8
    assert max(sizes) <= max(limit, one_row)
    assert forward == backward
    blocks = {1: window.batch * expected.shape[2], 10**9: 1}
    assert forward == blocks.get(limit, forward)
    assert forward > 1 or limit >= one_row * window.batch * expected.shape[2]


@NORMS
def test_gradient_where_elements_tie_or_equal_the_filter(p: float) -> None:
    x = torch.full((1, 2, 3, 3), 0.5, dtype=torch.float64).requires_grad_()
    w = torch.full((3, 2, 2, 2), 0.5, dtype=torch.float64)
    w[1] += 1.0
    w[2, 0, 0, 0] -= 1.0
    w = w.requires_grad_()
    y = patch_distance(x, w, p, [1, 1], [0, 0, 0, 0], [1, 1], 1)
    grad_x, grad_w = torch.autograd.grad(y[:, 0].sum(), (x, w), retain_graph=True)
    assert not grad_x.any()
    assert not grad_w.any()
    grad_w = torch.autograd.grad(y[:, 1].sum(), w, retain_graph=True)[0]
    assert grad_w[1].eq(4).all(), "all elements tie: each has gradient 1 at each of four positions"
    grad_w = torch.autograd.grad(y[:, 2].sum(), w)[0]
    assert grad_w[2, 0, 0, 0] == -4
    assert grad_w[2].abs().sum() == 4


def test_nan_in_input_or_filter_reaches_its_distances_only() -> None:
    for p in (1.0, math.inf):
        x, w = torch.randn(2, 3, 6, 7), torch.randn(4, 3, 3, 3)
        clean = patch_distance(x, w, p, [1, 1], [1, 1, 1, 1], [1, 1], 1)
        x[1, 2, 3, 4] = math.nan
        touched = torch.zeros_like(clean, dtype=torch.bool)
        touched[1, :, 2:5, 3:6] = True
        y = patch_distance(x, w, p, [1, 1], [1, 1, 1, 1], [1, 1], 1)
        assert torch.equal(y.isnan(), touched)
        assert torch.equal(y[~touched], clean[~touched])
        w[2, 0, 1, 1] = math.nan
        y = patch_distance(x.nan_to_num(), w, p, [1, 1], [1, 1, 1, 1], [1, 1], 1)
        assert y[:, 2].isnan().all()
        assert not y[:, [0, 1, 3]].isnan().any()


def test_memory_does_not_grow_with_filters_times_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filters go to cdist once, not once for each image."""
    seen: list[int] = []
    cdist = torch.cdist

    def spy(patches: Tensor, weights: Tensor, **options: float) -> Tensor:
        seen.append(weights.numel())
        return cdist(patches, weights, **options)

    monkeypatch.setattr(torch, "cdist", spy)
    w = torch.randn(6, 3, 3, 3)
    patch_distance(torch.randn(8, 3, 6, 5), w, 1.0, [1, 1], [0, 0, 0, 0], [1, 1], 1)
    assert max(seen) == w.numel()


def test_empty_batch_and_window_that_does_not_fit() -> None:
    w = torch.randn(4, 3, 3, 3)
    assert patch_distance(torch.randn(0, 3, 6, 5), w, 1.0, [1, 1], [0, 0, 0, 0], [1, 1], 1).shape == (0, 4, 4, 3)
    with pytest.raises(ValueError, match=r"\(3, 3\) window does not fit \(1, 3, 2, 5\) input"):
        patch_distance(torch.randn(1, 3, 2, 5), w, 1.0, [1, 1], [0, 0, 0, 0], [1, 1], 1)


def test_operator_passes_torchs_own_checks() -> None:
    """Schema, fake implementation with symbolic sizes, registration of the gradient."""
    window = next(window for window in WINDOWS if window.name == "lopsided")
    x, w = tensors(window)
    torch.library.opcheck(
        patch_distance,
        (x, w, 1.0, *arguments(window)),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic"),
    )
