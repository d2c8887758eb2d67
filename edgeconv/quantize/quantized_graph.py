"""Writes the QDQ graph: 8-bit weights behind DequantizeLinear, Q/DQ pairs where the plan has them.

An activation is left out where the quantiser after it saturates at the same bounds (`grids.saturates_at`): the file
gives the same integers without it, and the runtime one operator less to fuse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeconv.quantize.canonical import clip_bounds
from edgeconv.quantize.grids import saturates_at
from edgeconv.quantize.parameters import Parameters
from edgeconv.quantize.placement import Placement
from edgeconv.quantize.prepare import PreparedModel
from edgeconv.quantize.targets import Target
from edgeconv.rewrite.graph import Graph
from edgeconv.rewrite.qdq import Quantization

_QUANTIZED_BY_ORT = ("Conv", "ConvTranspose", "Gemm")


@dataclass
class QuantizedGraph:
    """A written graph, and where things are in it.

    Attributes:
        model: The QDQ model.
        absorbed: Activation nodes that were left out.
        dequantized: Tensor of the float model -> the value that stands for it, after its Q/DQ pair.
        results: Layer -> what it gives in the QDQ model, before activation and rounding.
    """

    model: onnx.ModelProto
    absorbed: list[str] = field(default_factory=list)
    dequantized: dict[str, str] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)


def write_graph(
    prepared: PreparedModel,
    placement: Placement,
    parameters: Parameters,
    target: Target,
    *,
    integer_io: bool = False,
) -> QuantizedGraph:
    """Write the QDQ model.

    Args:
        prepared: The float model.
        placement: Where the pairs go.
        parameters: A grid for each of them, and the layers' weights.
        target: Its rules.
        integer_io: Inputs and outputs of the graph that have a Q/DQ pair become 8-bit.
    """
    return _Writer(prepared, placement, parameters, target, integer_io).write()


class _Writer:
    def __init__(
        self, prepared: PreparedModel, placement: Placement, parameters: Parameters, target: Target, integer_io: bool
    ) -> None:
        self.placement, self.parameters, self.target, self.integer_io = placement, parameters, target, integer_io
        self.source = prepared.model
        self.graph = Graph(prepared.model)
        self.taken = _names(prepared.model)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.readers: dict[str, str] = {}
        self.renamed: dict[str, str] = {}
        self.result = QuantizedGraph(onnx.ModelProto())

    def write(self) -> QuantizedGraph:
        model = self.result.model
        model.CopyFrom(self.source)
        del model.graph.value_info[:]
        skip = self._absorbed()
        for value in model.graph.input:
            if value.name in self.placement.bounds:
                self._pair(value.name, value.name, is_input=True)
        for node in self.source.graph.node:
            if node.name in skip:
                self.result.absorbed.append(node.name)
                continue
            self._node(node, skip)
        del model.graph.node[:]
        model.graph.node.extend(self.nodes)
        model.graph.initializer.extend(self.constants)
        _drop_unused(model)
        if self.integer_io:
            self._integer_io(model)
        return self.result

    def _absorbed(self) -> dict[str, str]:
        """Return the activations to leave out: name -> the value that the operator before it gives."""
        found = {}
        for node in self.source.graph.node:
            tensor = self.placement.activations.get(node.name)
            grid = self.parameters.activations[tensor] if tensor in self.placement.bounds else None
            if grid is None or not self.target.everywhere:
                continue
            bounds = clip_bounds(self.graph, node)
            if bounds is not None and saturates_at(grid, *bounds):
                found[node.name] = node.input[0]
        return found

    def _node(self, node: onnx.NodeProto, skip: dict[str, str]) -> None:
        new = onnx.NodeProto()
        new.CopyFrom(node)
        for index, name in enumerate(new.input):
            new.input[index] = self.readers.get(name, name)
        layer = self.placement.layers.get(node.name)
        if layer is not None:
            self._weights(new, layer.node)
        elif self.target.everywhere and node.op_type in _QUANTIZED_BY_ORT and new.input[0] != node.input[0]:
            self._shield(new)
        absorbed = {source: self.placement.activations[name] for name, source in skip.items()}
        made: list[tuple[str, str]] = []
        for index, name in enumerate(new.output):
            tensor = absorbed.get(name, name)
            if tensor in self.placement.bounds:
                value = self._unique(f"{tensor}_float") if tensor in self.graph.outputs else name
                new.output[index] = value
                made.append((tensor, value))
        self.nodes.append(new)
        if layer is not None:
            self.result.results[node.name] = new.output[0]
        for tensor, value in made:
            self._pair(tensor, value)

    def _shield(self, node: onnx.NodeProto) -> None:
        """Keep a layer that is to stay in float in float.

        ONNX Runtime (1.21 and later) quantises float weights, with one step a tensor, wherever a Conv or Gemm reads a
        dequantised value directly. A Sum of one operand between the two hides it.
        """
        value = self._unique(f"{node.name}_input")
        self.nodes.append(onnx.helper.make_node("Sum", [node.input[0]], [value], name=f"{node.name}_shield"))
        node.input[0] = value

    def _pair(self, tensor: str, value: str, *, is_input: bool = False) -> None:
        """Quantise and dequantise `value`; the readers of `tensor` read the result."""
        grid = self.parameters.activations[tensor]
        output = tensor in self.graph.outputs and not is_input
        whole = self._unique(f"{tensor}_quantized")
        real = tensor if output else self._unique(f"{tensor}_dequantized")
        scale, zero_point = self._grid(tensor, grid)
        for kind, source, result in (("QuantizeLinear", value, whole), ("DequantizeLinear", whole, real)):
            inputs = [source, scale, zero_point]
            self.nodes.append(onnx.helper.make_node(kind, inputs, [result], name=f"{tensor}_{kind}"))
        self.readers[tensor] = real
        self.result.dequantized[tensor] = real

    def _weights(self, node: onnx.NodeProto, name: str) -> None:
        layer, numbers = self.placement.layers[name], self.parameters.layers[name]
        node.input[1] = self._dequantized(layer.weights, numbers.values, numbers.grid)
        if numbers.bias is None:
            return
        base = layer.bias or f"{name}_bias"
        if node.op_type == "MatMul":
            raise AssertionError("a MatMul has no bias")
        while len(node.input) < 3:
            node.input.append("")
        if not self.target.bias:
            node.input[2] = self._constant(numbers.bias.astype(np.float32), f"{base}_float")
            return
        scale = self.parameters.activations[layer.x].scale * numbers.grid.scale
        limit = np.iinfo(np.int32)
        steps = np.clip(np.rint(numbers.bias / scale.astype(np.float64)), limit.min, limit.max).astype(np.int32)
        grid = Quantization(scale.astype(np.float32), np.zeros(scale.shape, np.int32), 0)
        node.input[2] = self._dequantized(base, steps, grid)

    def _dequantized(self, base: str, values: NDArray[np.integer], grid: Quantization) -> str:
        result = self._unique(f"{base}_dequantized")
        scale, zero_point = self._grid(base, grid)
        inputs = [self._constant(values, f"{base}_quantized"), scale, zero_point]
        node = onnx.helper.make_node("DequantizeLinear", inputs, [result], name=f"{result}_node")
        if not grid.per_tensor:
            node.attribute.append(onnx.helper.make_attribute("axis", grid.axis))
        self.nodes.append(node)
        return result

    def _grid(self, base: str, grid: Quantization) -> tuple[str, str]:
        return self._constant(grid.scale, f"{base}_scale"), self._constant(grid.zero_point, f"{base}_zero_point")

    def _constant(self, value: NDArray[np.generic], hint: str) -> str:
        name = self._unique(hint)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name))
        return name

    def _unique(self, hint: str) -> str:
        name, count = hint, 1
        while name in self.taken:
            count += 1
            name = f"{hint}_{count}"
        self.taken.add(name)
        return name

    def _integer_io(self, model: onnx.ModelProto) -> None:
        """Take the first QuantizeLinear and the last DequantizeLinear out, where there are any."""
        element = onnx.helper.np_dtype_to_tensor_dtype(self.target.dtype)
        for value in model.graph.input:
            readers = [node for node in model.graph.node if value.name in node.input]
            if len(readers) == 1 and readers[0].op_type == "QuantizeLinear":
                _replace_inputs(model, readers[0].output[0], value.name)
                self._note(model, value.name)
                model.graph.node.remove(readers[0])
                value.type.tensor_type.elem_type = element
        for value in model.graph.output:
            maker = next((node for node in model.graph.node if value.name in node.output), None)
            if maker is not None and maker.op_type == "DequantizeLinear":
                source = maker.input[0]
                others = [node for node in model.graph.node if source in node.input and node.name != maker.name]
                quantizer = next(node for node in model.graph.node if source in node.output)
                kept = self._unique(f"{value.name}_dequantized")
                self._note(model, value.name)
                if any(value.name in node.input for node in model.graph.node):
                    _replace_inputs(model, value.name, kept)
                    maker.output[0] = kept
                    maker.input[0] = value.name
                else:
                    model.graph.node.remove(maker)
                for node in others:
                    _replace(node, source, value.name)
                quantizer.output[0] = value.name
                value.type.tensor_type.elem_type = element
        _drop_unused(model)

    def _note(self, model: onnx.ModelProto, tensor: str) -> None:
        """Write the grid of an 8-bit input or output into the metadata: nothing else in the file would say it."""
        grid = self.parameters.activations[tensor]
        entry = model.metadata_props.add()
        entry.key = f"edgeconv.quantization.{tensor}"
        entry.value = f'{{"scale": {float(grid.scale)!r}, "zero_point": {int(grid.zero_point)}}}'


def _names(model: onnx.ModelProto) -> set[str]:
    graph = model.graph
    names = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        names.update(node.input, node.output)
    return names


def _drop_unused(model: onnx.ModelProto) -> None:
    """Remove initialisers that nothing reads: the float weights."""
    from edgeconv.inspection.nodes import consumed

    used = {name for node in model.graph.node for name in consumed(node)} | {value.name for value in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _replace_inputs(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        _replace(node, old, new)


def _replace(node: onnx.NodeProto, old: str, new: str) -> None:
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new


Write = Callable[[Parameters], QuantizedGraph]
