"""Whole networks: ResNet-18 with kervolutions in every 3x3 layer, exported by edgeconv, against plain ResNet-18."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cases import Case
from competitors import AGREEMENT, Output, onnxruntime_form
from interleave import Contender
from rows import LIBRARY, PLAIN

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "ResNet-18"
NETWORK_KERNELS = ("polynomial", "gaussian", "manhattan")
INPUT = (1, 3, 224, 224)
INIT_GAIN = 0.1
TOLERANCE = 10 * AGREEMENT
"""Rounding errors grow over 16 kervolutions."""


def network_case(kernel: str, precision: str, directory: Path) -> Case:
    """Export both networks and put the case together.

    Args:
        kernel: The kernel of every 3x3 layer.
        precision: "float32" or "bf16x3".
        directory: For the files.
    """
    plain, plain_y, _ = _exported("linear", None, directory)
    network, y, (macs, size) = _exported(kernel, None if precision == "float32" else precision, directory)
    x = _input().numpy()
    return Case(
        kernel, precision, NAME, macs, size, "",
        (
            Contender(PLAIN, lambda: [onnxruntime_form("Conv", plain, {"x": x})], plain_y, TOLERANCE),
            Contender(LIBRARY, lambda: [onnxruntime_form("op library", network, {"x": x}, native=True)], y, TOLERANCE),
        ),
    )  # fmt: skip


def build_network(kernel: str) -> nn.Module:
    """ResNet-18 for 224x224 images, seeded and in evaluation mode.

    Its normalisation layers have the statistics of the image that it is then timed with, so that all layers work at an
    ordinary scale: with the initial ones, a power grows without bound, and an exponential vanishes into subnormal
    numbers, which are slow. A polynomial's filters start small, as for training (`init_gain` of the model registry):
    far from its linear range each power would treble rounding errors.
    """
    import torch

    from edgeconv.models import create
    from edgeconv.nn import Kerv2d

    torch.manual_seed(0)
    gain = INIT_GAIN if kernel == "polynomial" else 1.0
    model = create("resnet18", kernel=kernel, where="all" if kernel == "linear" else "3x3", init_gain=gain)
    for module in model.modules():
        if isinstance(module, Kerv2d) and kernel == "gaussian":
            module.gamma.fill_(2 / module.weight[0].numel())  # type: ignore[operator]
    return normalize(model, _input())


def normalize(model: nn.Module, x: Tensor) -> nn.Module:
    """Give every normalisation layer of a model the statistics that it sees when the model runs on x."""
    import torch
    from torch import nn

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_hook(_take_statistics) for norm in norms]
    with torch.no_grad():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    return model


def _take_statistics(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
    """Give a normalisation layer the mean and variance of its input, and return its output with them."""
    (x,) = inputs
    layer.running_mean.copy_(x.mean((0, 2, 3)))  # type: ignore[operator, union-attr]
    layer.running_var.copy_(x.var((0, 2, 3), correction=0))  # type: ignore[operator, union-attr]
    y: Tensor = layer.forward(x)
    return y


def _input() -> Tensor:
    import torch

    return torch.randn(INPUT, generator=torch.Generator().manual_seed(1))


@cache
def _exported(kernel: str, precision: str | None, directory: Path) -> tuple[bytes, Output, tuple[int, int]]:
    """The file's content, the output in float64, multiply-adds, and bytes of parameters and input."""
    import torch

    from edgeconv import to_onnx

    model = build_network(kernel)
    path = directory / f"resnet18-{kernel}-{precision}.onnx"
    options: dict[str, Any] = {} if precision is None else {"precision": precision}
    to_onnx(model, _input(), path, dynamic=False, verify=False, **options)
    with torch.no_grad():
        macs = count_macs(model)
        y: Output = model.double()(_input().double()).numpy()
    size = 4 * (sum(p.numel() for p in model.parameters()) + _input().numel())
    return path.read_bytes(), y, (macs, size)


def count_macs(model: nn.Module, x: Tensor | None = None) -> int:
    """Multiply-adds of all convolutions, kervolutions and the classifier, on x or the image of the kervolutions."""
    from torch import nn

    total = 0

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        total += output.numel() * module.weight[0].numel()  # type: ignore[index, operator, union-attr]

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    model(_input() if x is None else x)
    for handle in handles:
        handle.remove()
    return total
