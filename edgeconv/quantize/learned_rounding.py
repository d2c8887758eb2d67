"""Learned rounding: weights go up or down, and biases move, so that blocks give what the float network's give.

    min over V, b of  ||f(x̂; s·(⌊W/s⌋ + h(V)), b) - y||²  +  λ·Σ (1 - |2·h(V) - 1|^β)

with h(V) in [0, 1], x̂ what the quantised network before the block gives, and y what the float network's block gives;
β falls, so that every h ends at 0 or 1. Nagel et al., "Up or down? Adaptive rounding for post-training quantization",
ICML 2020, sections 3.3 and 3.4, block by block as in Li et al., "BRECQ: pushing the limit of post-training quantization
by block reconstruction", ICLR 2021. Activations are rounded in between, with gradients passed through.

It starts from rounding by covariance (`edgeconv.quantize.rounding`), which is near the best that a layer by itself can
do, so that a few hundred steps are enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeconv.quantize.blocks import Block, UnsupportedNodeError, Weights, compute, find_blocks
from edgeconv.quantize.parameters import LayerParameters, Parameters
from edgeconv.quantize.placement import Placement
from edgeconv.quantize.prepare import PreparedModel
from edgeconv.quantize.quantized_graph import Write
from edgeconv.quantize.running import ModelRunner, with_outputs

Array = NDArray[Any]

STEPS = 200
RATE = 0.02
BIAS_RATE = 1e-3
"""Times the root mean square of what the layer's biases are."""
PENALTY = 1.0
"""λ, in units of the block's mean squared error at the start, for the mean over a layer's weights."""
BETA = (12.0, 2.0)
WARM_UP = 0.2
"""Share of the steps without the penalty."""
CONFIDENCE = 0.8
"""h of a weight that rounding by covariance put up; of the others 1 less this."""
ELEMENTS = 1_000_000
"""Values of its largest tensor that a block computes at a time."""
_STRETCH = (-0.1, 1.1)


@dataclass
class _Layer:
    """⌊W/s⌋, s, which weights are between two steps, V, and b."""

    floor: Tensor
    scale: Tensor
    free: Tensor
    logits: Tensor
    bias: Tensor | None

    def soft(self) -> Tensor:
        """h(V); 0 for a weight that is on the grid."""
        low, high = _STRETCH
        return (torch.sigmoid(self.logits) * (high - low) + low).clamp(0, 1) * self.free

    def steps(self, part: Tensor) -> Tensor:
        return (self.floor + part).clamp(-127, 127)

    def hard(self) -> Tensor:
        return self.steps((self.soft() > 0.5).float()).detach()


def learn_rounding(
    prepared: PreparedModel,
    placement: Placement,
    parameters: Parameters,
    write: Write,
    images: Array,
    *,
    batch: int,
    biases: bool = True,
    progress: Callable[[str, float], None],
    steps: int = STEPS,
    seed: int = 0,
) -> list[str]:
    """Improve the weights and biases of every block, in place, one after the other.

    Args:
        prepared: The float network.
        placement: Its layers.
        parameters: What is changed; rounded well already.
        write: Makes the QDQ graph of parameters.
        images: To learn from, (N, C, H, W).
        batch: Images at a time where networks only run.
        biases: Move biases, too.
        progress: Called with what is done and how much of it.
        steps: Of Adam, for each block.
        seed: Of the order of the images.

    Returns:
        Layers of blocks that are not computed here; they stay as they were.
    """
    blocks = find_blocks(prepared, placement)
    known = {name for block in blocks for name in block.layers}
    left = [name for name in placement.layers if name not in known]
    generator = torch.Generator().manual_seed(seed)
    for index, block in enumerate(blocks):
        progress(f"learned rounding, block {index + 1} of {len(blocks)}", index / len(blocks))
        graph = write(parameters)
        source = graph.dequantized.get(block.source, block.source)
        x = _tensor(_values(graph.model, source, images, batch, {}))
        y = _tensor(_values(prepared.model, block.result, images, batch, prepared.types))
        try:
            _learn(block, placement, parameters, x, y, biases, steps, generator)
        except UnsupportedNodeError:
            left += block.layers
    return left


def _values(model: Any, name: str, images: Array, batch: int, types: dict[str, int]) -> Array:
    if name in {value.name for value in model.graph.input}:
        return images
    runner = ModelRunner(with_outputs(model, [name], types), batch)
    parts = [runner.run(images[start : start + runner.batch])[name] for start in range(0, len(images), runner.batch)]
    return np.concatenate(parts)


def _tensor(values: Array) -> Tensor:
    """Images with their channels last: depthwise layers are twice as fast so."""
    found = torch.from_numpy(values)
    return found.contiguous(memory_format=torch.channels_last) if found.dim() == 4 else found


def _learn(
    block: Block,
    placement: Placement,
    parameters: Parameters,
    x: Tensor,
    y: Tensor,
    biases: bool,
    steps: int,
    generator: torch.Generator,
) -> None:
    layers = {}
    for name in block.layers:
        real = block.graph.constant(placement.layers[name].weights)
        assert real is not None
        layers[name] = _layer(real, parameters.layers[name])
    sizes = [block.shapes.get(name, ()) for node in block.nodes for name in (*node.input[:1], *node.output)]
    largest = max(int(np.prod(shape[1:])) for shape in sizes if shape)
    count = min(max(ELEMENTS // max(largest, 1), 1), len(x))

    def run(part: Tensor, weights: Weights) -> Tensor:
        return compute(block, part, weights, parameters.activations)

    def hard() -> Weights:
        return {name: (each.hard() * each.scale, each.bias) for name, each in layers.items()}

    def error(weights: Weights) -> float:
        with torch.no_grad():
            parts = [torch.sum((run(a, weights) - b) ** 2) for a, b in zip(x.split(count), y.split(count), strict=True)]
        return float(torch.stack(parts).sum()) / y.numel()

    best = error(hard())
    if best == 0:
        return
    moved = [each.bias for each in layers.values() if each.bias is not None] if biases else []
    groups: list[dict[str, Any]] = [{"params": [each.logits for each in layers.values()], "lr": RATE}]
    groups += [{"params": [b], "lr": BIAS_RATE * max(float(b.detach().square().mean().sqrt()), 1e-6)} for b in moved]
    optimizer = torch.optim.Adam(groups)
    for step in range(steps):
        chosen = torch.randint(len(x), (count,), generator=generator)
        soft = {name: each.soft() for name, each in layers.items()}
        found = run(
            x[chosen], {name: (each.steps(soft[name]) * each.scale, each.bias) for name, each in layers.items()}
        )
        loss = torch.mean((found - y[chosen]) ** 2) / best
        done = (step / steps - WARM_UP) / (1 - WARM_UP)
        if done > 0:
            beta = BETA[0] + (BETA[1] - BETA[0]) * done
            parts = [each.free * (1 - (2 * soft[name] - 1).abs() ** beta) for name, each in layers.items()]
            loss = loss + PENALTY * torch.stack([part.mean() for part in parts]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if error(hard()) < best:
        for name, each in layers.items():
            numbers = parameters.layers[name]
            numbers.values = each.hard().numpy().astype(np.int8)
            if each.bias is not None and biases:
                numbers.bias = each.bias.detach().numpy().astype(np.float64)


def _layer(real: Array, numbers: LayerParameters) -> _Layer:
    shape = [1] * real.ndim
    shape[numbers.grid.axis] = -1
    scale = torch.from_numpy(numbers.grid.scale.reshape(shape).copy())
    steps = torch.from_numpy(np.array(real, np.float32)) / scale
    floor = torch.floor(steps)
    up = torch.from_numpy(numbers.values.astype(np.float32)) > floor
    start = torch.where(up, CONFIDENCE, 1 - CONFIDENCE)
    low, high = _STRETCH
    logits = torch.logit((start - low) / (high - low)).requires_grad_()
    bias = None if numbers.bias is None else torch.from_numpy(numbers.bias.astype(np.float32)).requires_grad_()
    return _Layer(floor, scale, (steps != floor).float(), logits, bias)
