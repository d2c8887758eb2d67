"""One activation of a feature, taken down to pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from edgeconv.errors import InputError
from edgeconv.visualization.stack import Stack
from edgeconv.visualization.tracing import trace


@dataclass(frozen=True, eq=False)
class Projection:
    """Of a batch of images.

    Attributes:
        activation: (N), what is projected.
        position: (N, 2), its row and column in the layer's map.
        reconstruction: (N, C, H, W), in units of the network's input.
    """

    activation: Tensor
    position: Tensor
    reconstruction: Tensor


def strongest(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return each map's largest activation, and its row · w + column, both (N, M), for (N, M, h, w).

    Of equal ones it is the first.
    """
    values, places = maps.flatten(2).max(2)
    return values, places


def single_activation(maps: Tensor, feature: int, places: Tensor) -> Tensor:
    """Return maps (N, M, h, w) that are 0 but for one activation an image.

    Args:
        maps: The layer's activations.
        feature: Which map.
        places: (N), row · w + column of the activation.
    """
    alone = torch.zeros_like(maps)
    samples = torch.arange(len(maps))
    flat = alone.flatten(2)
    flat[samples, feature, places] = maps.flatten(2)[samples, feature, places]
    return flat.view_as(maps)


@torch.no_grad()
def project_feature(stack: Stack, images: Tensor, feature: int) -> Projection:
    """Take a feature's largest activation in each image down to pixels.

    Args:
        stack: Of the layer; see `edgeconv.visualization.trace`.
        images: (N, C, H, W), prepared as the network takes them.
        feature: Which of the layer's maps.

    Raises:
        InputError: The layer has no such feature, or the images are not of the stack's size.
    """
    check_feature(stack, feature)
    if tuple(images.shape[1:]) != stack.input_shape:
        expected = "x".join(map(str, stack.input_shape))
        raise InputError(
            f"the images are {'x'.join(map(str, images.shape[1:]))}; the layers were traced for {expected}."
        )
    recording = stack.record(images)
    _, places = strongest(recording.maps)
    chosen = places[:, feature]
    maps = single_activation(recording.maps, feature, chosen)
    values = recording.maps.flatten(2)[torch.arange(len(maps)), feature, chosen]
    width = stack.output_shape[2]
    position = torch.stack([chosen // width, chosen % width], 1)
    return Projection(values, position, stack.project(maps, recording))


def project(module: nn.Module | ExportedProgram, layer: str, images: Tensor, feature: int) -> Projection:
    """Take a feature's largest activation in each image down to pixels, for any module.

    Args:
        module: In evaluation mode, or a program; the layers from its input to `layer` are a chain.
        layer: Its name in the module, as `named_modules` gives it.
        images: (N, C, H, W), prepared as the network takes them.
        feature: Which of the layer's maps.

    Returns:
        Activation, position and reconstruction of each image.

    Raises:
        InputError: The layer or the feature does not exist, or what leads to the layer is not such a chain.
    """
    return project_feature(trace(module, images[:1]).stack(layer), images, feature)


def check_feature(stack: Stack, feature: int) -> None:
    """Refuse a feature that the layer does not have.

    Raises:
        InputError: With how many it has.
    """
    if not 0 <= feature < stack.features:
        raise InputError(
            f"layer {stack.layer!r} has no feature {feature}.", f"It has {stack.features}: 0 to {stack.features - 1}."
        )
