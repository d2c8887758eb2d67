"""Blocks of a network between which a single tensor flows, computed in torch with rounded weights and activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeconv.inspection.nodes import consumed, domain_of
from edgeconv.quantize.canonical import clip_bounds
from edgeconv.quantize.placement import Placement
from edgeconv.quantize.prepare import PreparedModel
from edgeconv.rewrite.graph import Graph, attribute
from edgeconv.rewrite.qdq import Quantization

LAYERS = 3
"""Layers with weights that a block has at least, if the next cut comes before it has `_MOST`: an inverted residual."""
_MOST = 4

Weights = Mapping[str, tuple[Tensor, Tensor | None]]
"""Layer -> weights as torch's functions take them, and bias."""


@dataclass
class Block:
    """Consecutive nodes of a prepared model.

    Attributes:
        graph: The model.
        shapes: Of its values.
        nodes: They.
        source: The tensor that comes in.
        result: The tensor that goes out.
        layers: Those with 8-bit weights.
    """

    graph: Graph
    shapes: Mapping[str, tuple[int, ...]]
    nodes: list[onnx.NodeProto]
    source: str
    result: str
    layers: list[str] = field(default_factory=list)


def find_blocks(prepared: PreparedModel, placement: Placement) -> list[Block]:
    """Cut a network wherever one tensor alone is alive, and join the pieces to blocks of a few layers."""
    graph = Graph(prepared.model)
    nodes = list(graph.nodes)
    constants = {tensor.name for tensor in prepared.model.graph.initializer}
    last = {name: index for index, node in enumerate(nodes) for name in consumed(node)}
    last.update({name: len(nodes) for name in graph.outputs})
    alive = {value.name for value in prepared.model.graph.input if value.name not in constants}
    if len(alive) != 1:
        return []
    blocks: list[Block] = []
    pending, source = [], next(iter(alive))
    for index, node in enumerate(nodes):
        pending.append(node)
        alive |= {name for name in node.output if name in last}
        alive = {name for name in alive if last[name] > index}
        inside = len(alive) == 1 and _ends(node, nodes[index + 1 :], placement)
        if inside or index == len(nodes) - 1:
            result = next(iter(alive)) if len(alive) == 1 else node.output[0]
            layers = [each.name for each in pending if each.name in placement.layers]
            before = blocks[-1] if blocks else None
            if before is not None and len(before.layers) < LAYERS and len(before.layers) + len(layers) <= _MOST:
                before.nodes += pending
                before.layers += layers
                before.result = result
            else:
                blocks.append(Block(graph, prepared.shapes, pending, source, result, layers))
            pending, source = [], result
    return [block for block in blocks if block.layers]


def _ends(node: onnx.NodeProto, after: list[onnx.NodeProto], placement: Placement) -> bool:
    """A layer and its activation stay together."""
    return not (after and after[0].name in placement.activations and node.output[0] in after[0].input)


class UnsupportedNodeError(Exception):
    """A node of a block that is not computed here."""


def compute(block: Block, x: Tensor, weights: Weights, grids: Mapping[str, Quantization]) -> Tensor:
    """Compute a block, its activations rounded as Q/DQ pairs do, but for the last; gradients pass through rounding.

    Args:
        block: What to compute.
        x: What comes in, already rounded.
        weights: Of its layers; those of the float model where they are missing.
        grids: Of its tensors.

    Raises:
        UnsupportedNodeError: It holds an operator that has no form here.
    """
    values: dict[str, Tensor] = {block.source: x}
    for node in block.nodes:
        operator = _OPERATORS.get(node.op_type)
        if domain_of(node) or operator is None or any(node.output[1:]):
            raise UnsupportedNodeError(node.op_type)
        result = operator(_Reader(block, values, weights), node)
        name = node.output[0]
        if name in grids and name != block.result:
            result = fake_quantize(result, grids[name])
        values[name] = result
    return values[block.result]


def fake_quantize(x: Tensor, grid: Quantization) -> Tensor:
    """Round to a grid and back; the gradient is 1 inside its range and 0 outside."""
    limits = np.iinfo(grid.zero_point.dtype)
    scale, zero_point = float(grid.scale), int(grid.zero_point)
    inside = x.clamp((limits.min - zero_point) * scale, (limits.max - zero_point) * scale)
    return inside + (torch.round(inside.detach() / scale) * scale - inside.detach())


@dataclass(frozen=True)
class _Reader:
    block: Block
    values: Mapping[str, Tensor]
    weights: Weights

    def __call__(self, name: str) -> Tensor:
        if name in self.values:
            return self.values[name]
        constant = self.block.graph.constant(name)
        if constant is None:
            raise UnsupportedNodeError(name)
        return torch.from_numpy(np.array(constant))

    def parameters(self, node: onnx.NodeProto) -> tuple[Tensor, Tensor | None]:
        if node.name in self.weights:
            return self.weights[node.name]
        return self(node.input[1]), self(node.input[2]) if len(node.input) > 2 and node.input[2] else None


def _padded(node: onnx.NodeProto, x: Tensor, value: float = 0.0) -> Tensor:
    if attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or x.dim() != 4:
        raise UnsupportedNodeError(f"{node.op_type} with auto_pad or not of images")
    top, left, bottom, right = attribute(node, "pads", [0] * 4)
    return F.pad(x, (left, right, top, bottom), value=value) if top or left or bottom or right else x


def _conv(read: _Reader, node: onnx.NodeProto) -> Tensor:
    x, (weights, bias) = read(node.input[0]), read.parameters(node)
    top, left, bottom, right = pads = attribute(node, "pads", [0] * 4) if x.dim() == 4 else [0, 0, 1, 1]
    even = (top, left) == (bottom, right) and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
    inside = x if even else _padded(node, x)
    return F.conv2d(
        inside, weights, bias, tuple(attribute(node, "strides", [1, 1])), tuple(pads[:2]) if even else 0,
        tuple(attribute(node, "dilations", [1, 1])), int(attribute(node, "group", 1)),
    )  # fmt: skip


def _gemm(read: _Reader, node: onnx.NodeProto) -> Tensor:
    if any(attribute(node, name, 1.0) != 1 for name in ("alpha", "beta")) or attribute(node, "transA", 0):
        raise UnsupportedNodeError("Gemm that scales or transposes")
    weights, bias = read.parameters(node)
    return F.linear(read(node.input[0]), weights if attribute(node, "transB", 0) else weights.T, bias)


def _clip(read: _Reader, node: onnx.NodeProto) -> Tensor:
    bounds = clip_bounds(read.block.graph, node)
    if bounds is None:
        raise UnsupportedNodeError("Clip of values that are not constant")
    return read(node.input[0]).clamp(*bounds)


def _max_pool(read: _Reader, node: onnx.NodeProto) -> Tensor:
    if attribute(node, "ceil_mode", 0) or attribute(node, "dilations", [1, 1]) != [1, 1]:
        raise UnsupportedNodeError("MaxPool with dilations or ceil_mode")
    x = _padded(node, read(node.input[0]), -np.inf)
    return F.max_pool2d(x, tuple(attribute(node, "kernel_shape")), tuple(attribute(node, "strides", [1, 1])))


def _reshape(read: _Reader, node: onnx.NodeProto) -> Tensor:
    x, shape = read(node.input[0]), read.block.shapes.get(node.output[0], (0,))
    if not shape or not all(shape[1:]) or int(np.prod(shape[1:])) * len(x) != x.numel():
        raise UnsupportedNodeError(f"{node.op_type} to a shape that is not known, or across images")
    return x.reshape(len(x), *shape[1:])


_OPERATORS: dict[str, Callable[[_Reader, onnx.NodeProto], Any]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": lambda read, node: read(node.input[0]) @ read.parameters(node)[0],
    "Clip": _clip,
    "Relu": _clip,
    "LeakyRelu": lambda read, node: F.leaky_relu(read(node.input[0]), attribute(node, "alpha", 0.01)),
    "Sigmoid": lambda read, node: torch.sigmoid(read(node.input[0])),
    "HardSigmoid": lambda read, node: (
        read(node.input[0]) * attribute(node, "alpha", 0.2) + attribute(node, "beta", 0.5)
    ).clamp(0, 1),
    "Add": lambda read, node: read(node.input[0]) + read(node.input[1]),
    "Mul": lambda read, node: read(node.input[0]) * read(node.input[1]),
    "Concat": lambda read, node: torch.cat([read(name) for name in node.input], attribute(node, "axis")),
    "GlobalAveragePool": lambda read, node: read(node.input[0]).mean((2, 3), keepdim=True),
    "MaxPool": _max_pool,
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze"), _reshape),
}
