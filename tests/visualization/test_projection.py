"""The way down: by hand, against autograd with the deconvnet's rule, against guided backpropagation, and in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tolerances import assert_close
from torch import nn

from edgeconv.errors import InputError
from edgeconv.visualization import project, project_feature, trace

from .networks import CASES, build
from .oracle import backpropagate, convolve, filter_back, pool_and_scatter


def test_by_hand() -> None:
    """A 2x2 filter, ReLU and 2x2 pooling on a 3x5 image, then a 1x1 filter with a negative and a positive weight."""
    first, second = nn.Conv2d(1, 2, 2), nn.Conv2d(2, 1, 1)
    module = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU())
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[[[1.0, 0], [0, -1]]], [[[0.0, 2], [1, 0]]]]))
        first.bias.copy_(torch.tensor([0.0, -1.0]))
        second.weight.copy_(torch.tensor([[[[-1.0]], [[3.0]]]]))
        second.bias.copy_(torch.tensor([0.5]))
    image = torch.tensor([[[[1.0, 2, 0, 1, 0], [0, 1, 3, 0, 0], [2, 0, 1, 0, 1]]]])
    # Feature 0 of the first layer: a - d of each 2x2 patch; rectified
    #   0 0 0 1        feature 1: 2b + c - 1; rectified    3 0 4 0
    #   0 0 3 0                                            3 5 0 0
    # (feature 0: 1-1, 2-3 -> 0, 0-0, 1-0; 0-0, 1-1, 3-0, 0-1 -> 0; feature 1: 4+0-1, 0+1-1, 2+3-1, 0; 2+2-1, 6+0-1,
    # 0+1-1, 0)
    maps = trace(module, image).stack("1").forward(image)
    assert maps.tolist() == [[[[0, 0, 0, 1], [0, 0, 3, 0]], [[3, 0, 4, 0], [3, 5, 0, 0]]]]
    # Pooled: 0 3 and 5 4, so the output is 15.5 at (0, 0) and 0.5 - 3 + 12 = 9.5 at (0, 1). 15.5 goes down with -1 and
    # 3: -15.5 and 46.5; the switches are (0, 0), the first of equal ones, and (1, 1). Rectified, 46.5 is left, and with
    # the second filter 2 · 46.5 goes to (1, 2) and 46.5 to (2, 1).
    found = project(module, "3", image, 0)
    assert found.activation.tolist() == [15.5]
    assert found.position.tolist() == [[0, 0]]
    expected = torch.zeros(1, 1, 3, 5)
    expected[0, 0, 1, 2], expected[0, 0, 2, 1] = 93.0, 46.5
    assert torch.equal(found.reconstruction, expected)


def test_by_hand_where_windows_overlap() -> None:
    """Two windows of a 3x1 pooling with stride 2 choose the same pixel: its values are added."""
    pool, mix = nn.MaxPool2d((1, 3), (1, 2)), nn.Conv2d(1, 1, (1, 2), bias=False)
    with torch.no_grad():
        mix.weight.copy_(torch.tensor([[[[2.0, 5.0]]]]))
    image = torch.tensor([[[[0.0, 1, 7, 2, 3]]]])
    found = project(nn.Sequential(pool, mix), "1", image, 0)
    assert found.activation.tolist() == [49.0]
    assert found.reconstruction.tolist() == [[[[0, 0, 49 * 2 + 49 * 5, 0, 0]]]]


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_autograd_under_the_deconvnets_rule(name: str) -> None:
    module, images, layer = build(name, torch.float64)
    stack = trace(module, images).stack(layer)
    active = 0
    for feature in range(stack.features):
        found = project_feature(stack, images, feature)
        values, places, gradient = backpropagate(module, int(layer), images, feature)
        assert torch.equal(found.position[:, 0] * stack.output_shape[2] + found.position[:, 1], places)
        assert_close(found.activation, values, np.float64, f"{name}, feature {feature}")
        assert_close(found.reconstruction, gradient, np.float64, f"{name}, feature {feature}")
        active += int((found.reconstruction != 0).any())
    assert active >= stack.features // 2


def test_is_guided_backpropagation_where_every_unit_is_active() -> None:
    """Guided backpropagation also masks by the forward pass: where that is active everywhere, nothing is masked."""
    torch.manual_seed(0)
    module = nn.Sequential(
        *(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(nn.Conv2d(5, 4, (3, 2), stride=2), nn.ReLU(), nn.Conv2d(4, 3, 2, dilation=2), nn.ReLU()),
    ).double()
    images = torch.randn(2, 3, 21, 24, dtype=torch.float64)
    y = images
    with torch.no_grad():
        for bias, each in zip((1e1, None, None, 1e2, None, 1e3, None), module, strict=True):
            if bias is not None:
                each.bias.fill_(bias)
            y = each(y)
            assert (y > 0).all() or isinstance(each, nn.MaxPool2d)
    stack = trace(module, images).stack("5")
    rectified = False
    for feature in range(3):
        found = project_feature(stack, images, feature)
        values, _, guided = backpropagate(module, 5, images, feature, guided=True)
        assert_close(found.activation, values, np.float64)
        assert_close(found.reconstruction, guided, np.float64)
        # The rectifiers on the way down have something to do: without them it would be the plain gradient.
        x = images.clone().requires_grad_()
        flat = module(x)[:, feature].flatten(1)
        (flat.max(1).values ** 2 / 2).sum().backward()
        rectified |= not torch.allclose(x.grad, found.reconstruction)
    assert rectified


def test_is_guided_backpropagation_below_one_pooled_rectifier() -> None:
    """ReLU, then pooling whose windows all hold a positive value: every switch points to an active unit."""
    torch.manual_seed(1)
    module = (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(4, 3, 2), nn.ReLU()).double().eval()
    )
    images = torch.randn(4, 2, 22, 26, dtype=torch.float64)
    pooled = module[:3](images)
    assert bool((pooled > 0).all())
    assert bool((module[:2](images) == 0).any())
    stack = trace(module, images).stack("3")
    for feature in range(3):
        found = project_feature(stack, images, feature)
        _, _, guided = backpropagate(module, 3, images, feature, guided=True)
        assert_close(found.reconstruction, guided, np.float64)


def test_is_not_guided_backpropagation_elsewhere() -> None:
    """Where a unit was not active, what comes down passes here and not there."""
    module, images, layer = build("averaged", torch.float64)
    stack = trace(module, images).stack(layer)
    differ = 0
    for feature in range(stack.features):
        found = project_feature(stack, images, feature)
        _, _, guided = backpropagate(module, int(layer), images, feature, guided=True)
        differ += not torch.allclose(found.reconstruction, guided)
    assert differ


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_overlapping_pooling_against_numpy(stride: int) -> None:
    generator = np.random.default_rng(stride)
    first, second = generator.standard_normal((4, 2, 3, 3)), generator.standard_normal((3, 4, 2, 2))
    image = generator.standard_normal((2, 2, 12, 15))
    maps = np.maximum(convolve(image, first), 0)
    counts = [(size - 3) // stride + 1 for size in maps.shape[2:]]
    pooled, _ = pool_and_scatter(maps, np.zeros((2, 4, *counts)), 3, stride)
    top = np.maximum(convolve(pooled, second), 0)
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.MaxPool2d(3, stride), nn.Conv2d(4, 3, 2, bias=False), nn.ReLU()
    ).double()
    with torch.no_grad():
        module[0].weight.copy_(torch.from_numpy(first))
        module[3].weight.copy_(torch.from_numpy(second))
    stack = trace(module, torch.from_numpy(image)).stack("3")
    reached = 0
    for feature in range(3):
        alone = np.zeros_like(top)
        for n in range(2):
            row, column = np.unravel_index(top[n, feature].argmax(), top.shape[2:])
            alone[n, feature, row, column] = top[n, feature, row, column]
        down = filter_back(alone, second, pooled.shape)
        _, down = pool_and_scatter(maps, down, 3, stride)
        expected = filter_back(np.maximum(down, 0), first, image.shape)
        found = project_feature(stack, torch.from_numpy(image), feature)
        assert_close(found.reconstruction, expected, np.float64)
        reached += int(np.abs(expected).max() > 0)
    assert reached


def test_whole_maps_go_down() -> None:
    """The projection of any maps is linear where nothing is rectified: for the whole, the transpose of the layers."""
    torch.manual_seed(0)
    module = (
        nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, bias=False), nn.AvgPool2d(2), nn.Conv2d(4, 5, 2)).double().eval()
    )
    x, y = (torch.randn(2, *shape, dtype=torch.float64) for shape in ((3, 17, 20), (5, 3, 3)))
    stack = trace(module, x).stack("2")
    bias = stack.forward(torch.zeros_like(x))
    forward = (stack.forward(x) - bias) * y
    assert_close((stack.project(y, stack.record(x)) * x).sum().item(), forward.sum().item(), np.float64)


def test_a_feature_and_a_size_that_are_not_there() -> None:
    module, images, layer = build("overlapping")
    with pytest.raises(InputError, match=r"no feature 4.*\n.*0 to 3"):
        project(module, layer, images, 4)
    with pytest.raises(InputError, match="3x15x17; the layers were traced for 3x15x18"):
        project_feature(trace(module, images).stack(layer), images[:, :, :, :17], 0)
