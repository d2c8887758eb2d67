"""Whole networks: ResNets whose convolutions are deconvolutions, exported by edgeconv, against those with BatchNorm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from competitors import AGREEMENT, Output, onnxruntime_form
from deconvolution_rows import BATCH, FOLDED, NETWORK, PLAIN, Case, Part
from interleave import Contender
from whitening_layers import sampled_rows, useful_macs
from whole_networks import count_macs, normalize

if TYPE_CHECKING:
    from torch import Tensor, nn

TOLERANCE = 10 * AGREEMENT
"""Rounding errors grow from layer to layer."""

FOLDED_EFFORT = 5
"""How many times as long the folded network is measured: its goal is a hundredth."""


@dataclass(frozen=True)
class Network:
    """An architecture of edgeconv's registry and its input.

    Attributes:
        name: What it is called in options and results.
        architecture: Its name in the registry.
        input_shape: (1, C, H, W).
    """

    name: str
    architecture: str
    input_shape: tuple[int, int, int, int]

    def input(self) -> Tensor:
        """The image that it runs on, seeded."""
        import torch

        return torch.randn(self.input_shape, generator=torch.Generator().manual_seed(1))


NETWORKS = {
    network.name: network
    for network in (
        Network("ResNet-18", "resnet18", (1, 3, 224, 224)),
        Network("ResNet-20", "resnet20", (1, 3, 32, 32)),
    )
}
"""ResNet-18 for 224x224 images and ResNet-20 for CIFAR's."""


@dataclass(frozen=True)
class Exported:
    """A network's file, and what it has to give.

    Attributes:
        model: The file's content, without bodies of edgeconv's operators.
        y: The output in float64.
        macs: Multiply-adds by what they are for.
    """

    model: bytes
    y: Output
    macs: dict[str, int]


def folded_case(network: Network, block: int, directory: Path) -> Case:
    """The network with frozen statistics, all folded into plain weights.

    Args:
        network: The network.
        block: Of its layers; nothing is left of it in the file.
        directory: For exported files.
    """
    plain, folded = exported(network, None, "frozen", directory), exported(network, block, "frozen", directory)
    contenders = (_contender(network, PLAIN, plain), _contender(network, NETWORK, folded))
    part = Part(block, folded.macs, {PLAIN: PLAIN, NETWORK: NETWORK})
    return Case(FOLDED, network.name, contenders, (part,), FOLDED_EFFORT)


def batch_case(network: Network, blocks: list[int], directory: Path) -> Case:
    """The network with the statistics of the image that it is given.

    Args:
        network: The network.
        blocks: Each makes a network of its own; all take turns with the one plain network.
        directory: For exported files.
    """
    contenders = [_contender(network, PLAIN, exported(network, None, "frozen", directory))]
    parts = []
    for block in blocks:
        found = exported(network, block, "batch", directory)
        contenders.append(_contender(network, f"block {block}", found))
        parts.append(Part(block, found.macs, {PLAIN: PLAIN, f"block {block}": NETWORK}))
    return Case(BATCH, network.name, tuple(contenders), tuple(parts))


def _contender(network: Network, name: str, file: Exported) -> Contender:
    x = network.input().numpy()
    native = "whitening" in file.macs
    form = "op library" if native else "standard operators"
    return Contender(name, lambda: [onnxruntime_form(form, file.model, {"x": x}, native=native)], file.y, TOLERANCE)


def build(network: Network, block: int | None, stats: str) -> nn.Module:
    """A network in evaluation mode, seeded, whose layers work at an ordinary scale.

    Running statistics, of batch normalisations and of deconvolutions, are those of the image that it is then timed
    with. The classifier's are seeded and frozen always: it sees one sample of an image, which has no covariance.

    Args:
        network: The network.
        block: Of its deconvolutions; None for batch normalisations in their place.
        stats: Of the convolutions: "frozen" or "batch".
    """
    import torch

    from edgeconv.models import create
    from edgeconv.nn import Deconv2d, DeconvLinear

    torch.manual_seed(0)
    x = network.input()
    model = create(network.architecture, **({} if block is None else {"deconv_block": block}))
    if block is None:
        return normalize(model, x)
    for module in model.modules():
        if isinstance(module, Deconv2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
        for module in model.modules():
            if isinstance(module, DeconvLinear):
                module.running_mean.normal_(std=0.1)
                noise = torch.randn_like(module.running_deconv) / module.block**0.5
                module.running_deconv.copy_(torch.eye(module.block) + 0.1 * (noise + noise.t()))
    for module in model.modules():
        if isinstance(module, Deconv2d):
            module.set_deconv_stats("batch" if stats == "batch" else "frozen")
    return model.eval()


@cache
def exported(network: Network, block: int | None, stats: str, directory: Path) -> Exported:
    """Export a network; arguments as in `build`, and a directory for the file.

    The form is "nodes": whitening is a node without a body, which nothing but the op library runs.
    """
    import torch

    from edgeconv import to_onnx

    model, x = build(network, block, stats), network.input()
    path = directory / f"{network.architecture}-{block}-{stats}.onnx"
    to_onnx(model, x, path, dynamic=False, verify=False, form="nodes")
    macs = {"convolution": count_macs(model, x)}
    if stats == "batch":
        macs |= whitening_macs(model, x)
    with torch.no_grad():
        y: Output = model.double()(x.double()).numpy()
    return Exported(path.read_bytes(), y, macs)


def whitening_macs(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Multiply-adds that batch statistics add: useful ones of the whitening, and those that fold it into the weights.

    W·deconv takes as many as W has numbers, times F; where the layer whitens patches, these have so many numbers. For
    layers without groups and with square windows.
    """
    import torch

    from edgeconv.nn import Deconv2d

    total = {"whitening": 0, "folding": 0}

    def count(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        (seen,) = inputs
        (window, _), (stride, _), output_size = module.kernel_size, module.stride, tuple(output.shape[2:])
        rows = sampled_rows(window, tuple(seen.shape[2:]), output_size, stride, module.sampling_stride)
        samples = seen.shape[0] * rows * (module.in_channels // module.block)
        total["whitening"] += useful_macs(module.num_features, samples, module.n_iter)
        positions = output_size[0] * output_size[1]
        whitened = positions * module.weight[0].numel() if module.whitens_patches(positions) else module.weight.numel()
        total["folding"] += whitened * module.num_features

    layers = [module for module in model.modules() if isinstance(module, Deconv2d)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return total
