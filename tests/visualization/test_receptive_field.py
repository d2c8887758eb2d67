"""The receptive field against brute force: perturb each pixel, and see whether the activation changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeconv.visualization import trace

from .networks import CASES, build


def _spread(module: nn.Module) -> None:
    """Make every path count: positive weights, and pooling that sees all its pixels."""
    with torch.no_grad():
        for each in module.modules():
            if isinstance(each, nn.Conv2d):
                each.weight.abs_().add_(0.1)


def _linear(module: nn.Sequential) -> nn.Sequential:
    """Replace what depends on values: averages have the windows of maxima, and nothing is rectified."""

    def turned(layer: nn.Module) -> nn.Module:
        if isinstance(layer, nn.MaxPool2d) and layer.dilation == 1:
            return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
        return nn.Identity() if isinstance(layer, nn.ReLU | nn.ReLU6) else layer

    return nn.Sequential(*(turned(layer) for layer in module))


@pytest.mark.parametrize("name", [name for name in CASES if name != "dilated"])
def test_against_perturbed_pixels(name: str) -> None:
    """A dilated window sees a grid of pixels: its box is checked below."""
    module, images, layer = build(name, torch.float64)
    module = _linear(module)
    _spread(module)
    stack = trace(module, images).stack(layer)
    _, height, width = stack.input_shape
    rows, columns = stack.output_shape[1:]
    image = images[:1]
    base = stack.forward(image)
    seen = torch.zeros(rows, columns, height, width, dtype=torch.bool)
    for y in range(height):
        perturbed = image.repeat(width, 1, 1, 1)
        perturbed[torch.arange(width), :, y, torch.arange(width)] += 1.0
        changed = (stack.forward(perturbed) - base).abs().amax(1) > 1e-12
        seen[:, :, y, :] = changed.permute(1, 2, 0)
    for row in range(rows):
        for column in range(columns):
            box = stack.receptive_field(row, column)
            ys, xs = seen[row, column].nonzero(as_tuple=True)
            assert (box.top, box.left, box.bottom, box.right) == (ys.min(), xs.min(), ys.max(), xs.max()), (row, column)


def test_a_dilated_window_is_the_box_of_its_grid() -> None:
    module, images, layer = build("dilated", torch.float64)
    stack = trace(module, images).stack(layer)
    rows, columns = stack.output_shape[1:]
    for row, column in ((0, 0), (1, 1), (rows - 1, columns - 1)):
        box = stack.receptive_field(row, column)
        x = images[:1].clone().requires_grad_()
        # Positive weights and a sum over pooled pixels: every pixel that is seen has a gradient.
        y = torch.nn.functional.conv2d(x.abs() + 1, torch.ones(1, 2, 3, 3).double(), dilation=(2, 1), padding=(2, 1))
        y = sum(y[:, :, i : y.shape[2] - 1 + i, j : y.shape[3] - 3 + j] for i in (0, 1) for j in (0, 3))
        y = torch.nn.functional.conv2d(y, torch.ones(1, 1, 3, 3).double(), stride=3, dilation=2)
        y[0, 0, row, column].backward()
        ys, xs = x.grad[0].abs().sum(0).nonzero(as_tuple=True)
        assert (box.top, box.left, box.bottom, box.right) == (ys.min(), xs.min(), ys.max(), xs.max())


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_reconstructed_outside(name: str) -> None:
    module, images, layer = build(name)
    stack = trace(module, images).stack(layer)
    recording = stack.record(images[:1])
    _, rows, columns = stack.output_shape
    for row, column in ((0, 0), (rows // 2, columns // 2), (rows - 1, columns - 1)):
        alone = torch.zeros_like(recording.maps)
        alone[:, :, row, column] = 1.0
        reached = stack.project(alone, recording)
        box = stack.receptive_field(row, column)
        inside = reached[:, :, box.top : box.bottom + 1, box.left : box.right + 1]
        assert torch.count_nonzero(inside) == torch.count_nonzero(reached)


def test_known_networks() -> None:
    """AlexNet's and VGG-16's receptive fields, as they are known; LeNet's C3 by hand: 5 + 1 + 4 · 2 = 14."""
    from edgeconv.models.registry import create

    for name, layer, size, expected in (
        ("lenet5", "c3", 28, 14),
        ("alexnet", "features.0", 96, 11),
        ("alexnet", "features.4", 96, 51),
        ("alexnet", "features.12", 96, 163),
        ("vgg16", "features.28", 64, 196),
    ):
        config = {} if name == "lenet5" else {"width": 0.125}
        shape = (1, 1 if name == "lenet5" else 3, size, size)
        stack = trace(create(name, **config), torch.zeros(shape)).stack(layer)
        field = stack.unclipped_field(0, 0)
        assert (field.height, field.width) == (expected, expected), (name, layer)
