"""The exact rewrites of `edgeconv.quantize.prepare`, one function each; each edits the graph it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from edgeconv.inspection.nodes import consumed, domain_of, standard_opset, subgraphs
from edgeconv.quantize.editing import EditableGraph
from edgeconv.rewrite.graph import Graph, attribute, is_standard

Array = NDArray[Any]

_LARGEST_CONSTANT = 1 << 28
_IMPURE = frozenset({"Constant", "RandomNormal", "RandomUniform", "Multinomial", "Bernoulli", "If", "Loop", "Scan"})


def lift_constants(graph: EditableGraph) -> None:
    """Constant nodes become initialisers, the one form in which the rest of the package looks for values."""
    for node in graph.nodes:
        value = graph.constant(node.output[0]) if is_standard(node, "Constant") else None
        if value is not None and node.output[0] not in graph.outputs:
            graph.rename(node.output[0], graph.add_constant(value, f"{node.output[0]}_value"))
            graph.drop_unused(node.output[0])


def fold_constants(graph: EditableGraph) -> None:
    """Compute every standard node whose inputs are all constant."""
    opset = standard_opset(graph.model)
    for node in graph.nodes:
        if domain_of(node) or node.op_type in _IMPURE or node.op_type.startswith("Random") or any(subgraphs(node)):
            continue
        names = consumed(node)
        values = {name: value for name in names if (value := graph.constant(name)) is not None}
        if not names or len(values) < len(set(names)) or graph.outputs.intersection(node.output):
            continue
        inputs = [onnx.helper.make_tensor_value_info(name, _elem(value), value.shape) for name, value in values.items()]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        body = onnx.helper.make_graph([node], "constant", inputs, outputs)
        single = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", opset)])
        try:
            results = ReferenceEvaluator(single).run(None, values)
        except Exception:  # an operator that the evaluator lacks stays as it is
            continue
        arrays = [np.asarray(result) for result in results]
        if all(array.nbytes <= _LARGEST_CONSTANT and array.dtype != object for array in arrays):
            for output, array in zip(outputs, arrays, strict=True):
                graph.rename(output.name, graph.add_constant(array, f"{output.name}_folded"))
            graph.discard(node)


def remove_identities(graph: EditableGraph) -> None:
    """Take out Identity and, as at inference, Dropout, except between an input and an output of the graph."""
    inputs = {value.name for value in graph.model.graph.input}
    for node in graph.nodes:
        kind = node.op_type
        if domain_of(node) or kind not in ("Identity", "Dropout") or any(node.output[1:]):
            continue
        source, result = node.input[0], node.output[0]
        if result not in graph.outputs:
            graph.rename(result, source)
        elif source in inputs or source in graph.outputs or graph.producer(source) is None:
            continue
        else:
            producer = graph.producer(source)
            assert producer is not None
            node.output[0] = ""
            graph.rename(source, result)
            for index, name in enumerate(producer.output):
                if name == source:
                    producer.output[index] = result
        graph.discard(node)


def fold_batch_norm(graph: EditableGraph) -> None:
    """BatchNormalization of constants after a Conv, ConvTranspose or Gemm of constants: into weights and bias.

    With k = gamma / sqrt(variance + epsilon):  W' = W·k along the output channels,  b' = (b - mean)·k + beta.
    """
    for node in graph.nodes:
        if not is_standard(node, "BatchNormalization") or any(node.output[1:]):
            continue
        before = graph.producer(node.input[0])
        gamma, beta, mean, variance = (graph.constant(name) for name in node.input[1:5])
        if gamma is None or beta is None or mean is None or variance is None or attribute(node, "training_mode", 0):
            continue
        if before is None or not graph.alone(before):
            continue
        factor = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + attribute(node, "epsilon", 1e-5))
        if _scale_outputs(graph, before, factor, beta - mean * factor):
            graph.take_over(before, node)


def fold_channel_affine(graph: EditableGraph) -> None:
    """A product with, or sum of, one constant a channel after a Conv: into weights and bias."""
    for node in graph.nodes:
        if domain_of(node) or node.op_type not in ("Mul", "Add", "Sub", "Div"):
            continue
        before, value = graph.producer(node.input[0]), graph.constant(node.input[1])
        if node.op_type in ("Mul", "Add") and value is None:
            before, value = graph.producer(node.input[1]), graph.constant(node.input[0])
        if value is None or before is None or not is_standard(before, "Conv") or not graph.alone(before):
            continue
        weights = graph.constant(before.input[1])
        if weights is None or not np.isfinite(value).all():
            continue
        channels, rank = len(weights), weights.ndim
        per_channel = value.ndim == rank and value.shape[1] in (1, channels) and value.size == value.shape[1]
        if value.size != 1 and not (per_channel or (value.ndim == rank - 1 and value.size == len(value) == channels)):
            continue
        vector = np.broadcast_to(value.astype(np.float64).ravel(), channels)
        if node.op_type == "Div" and (vector == 0).any():
            continue
        factor = {"Mul": vector, "Div": 1 / np.where(vector == 0, 1, vector)}.get(node.op_type, np.ones(channels))
        shift = {"Add": vector, "Sub": -vector}.get(node.op_type, np.zeros(channels))
        if _scale_outputs(graph, before, factor, shift):
            graph.take_over(before, node)


def merge_pads(graph: EditableGraph) -> None:
    """Pad with zeros before a Conv that pads with zeros: one padding of both."""
    for node in graph.nodes:
        if not is_standard(node, "Conv") or attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            continue
        pad = graph.producer(node.input[0])
        if pad is None or not is_standard(pad, "Pad") or attribute(pad, "mode", b"constant") != b"constant":
            continue
        pads = graph.constant(pad.input[1]) if len(pad.input) > 1 else None
        value = graph.constant(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(())
        if pads is None or value is None or value.any() or (len(pad.input) > 3 and pad.input[3]) or pads.min() < 0:
            continue
        rank = len(pads) // 2
        if pads[:2].any() or pads[rank : rank + 2].any():
            continue
        extra = [*pads[2:rank], *pads[rank + 2 :]]
        own = attribute(node, "pads", [0] * len(extra))
        for index in reversed(range(len(node.attribute))):
            if node.attribute[index].name in ("pads", "auto_pad"):
                del node.attribute[index]
        node.attribute.append(onnx.helper.make_attribute("pads", [int(a + b) for a, b in zip(own, extra, strict=True)]))
        node.input[0] = pad.input[0]
        graph.reindex()
        if not graph.consumers(pad.output[0]) and pad.output[0] not in graph.outputs:
            graph.discard(pad)


def normalize_clips(graph: EditableGraph) -> None:
    """Min and Max with a constant scalar become Clip, and a Clip of a Clip or Relu becomes one Clip."""
    for node in graph.nodes:
        if domain_of(node) or node.op_type not in ("Min", "Max") or len(node.input) != 2:
            continue
        values = [graph.constant(name) for name in node.input]
        index = 1 if values[1] is not None else 0
        bound = values[index]
        if bound is None or bound.size != 1 or bound.dtype != np.float32 or values[1 - index] is not None:
            continue
        name = graph.add_constant(bound.reshape(()), f"{node.output[0]}_bound")
        inputs = [node.input[1 - index], "", name] if node.op_type == "Min" else [node.input[1 - index], name]
        _become_clip(graph, node, inputs)
    for node in graph.nodes:
        before = graph.producer(node.input[0]) if node.input else None
        outer = clip_bounds(graph, node)
        if before is None or outer is None or not graph.alone(before):
            continue
        inner = clip_bounds(graph, before)
        if inner is None or not inner[0] <= inner[1] or not outer[0] <= outer[1]:
            continue
        low, high = (float(np.clip(value, *outer)) for value in inner)
        bounds = [
            "" if np.isinf(value) else graph.add_constant(np.float32(value).reshape(()), f"{node.output[0]}_{hint}")
            for value, hint in ((low, "min"), (high, "max"))
        ]
        _become_clip(graph, node, [before.input[0], *bounds])
        graph.discard(before)


def pool_means(graph: EditableGraph) -> None:
    """ReduceMean over the height and width of (N, C, H, W): GlobalAveragePool, and Flatten where axes are dropped."""
    from edgeconv.quantize.prepare import infer

    shapes: dict[str, tuple[int, ...]] | None = None
    for node in graph.nodes:
        if not is_standard(node, "ReduceMean"):
            continue
        axes = graph.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else attribute(node, "axes")
        if axes is None or sorted(int(axis) % 4 for axis in np.ravel(axes)) != [2, 3]:
            continue
        shapes = infer(graph.model).shapes if shapes is None else shapes
        if len(shapes.get(node.input[0], ())) != 4:
            continue
        source, result = node.input[0], node.output[0]
        keep = attribute(node, "keepdims", 1)
        pooled = result if keep else f"{result}_pooled"
        new = [onnx.helper.make_node("GlobalAveragePool", [source], [pooled], name=node.name)]
        if not keep:
            new.append(onnx.helper.make_node("Flatten", [pooled], [result], name=f"{node.name}_flatten", axis=1))
        graph.substitute(node, new)


STEPS: tuple[Callable[[EditableGraph], None], ...] = (
    lift_constants,
    remove_identities,
    fold_constants,
    fold_batch_norm,
    fold_channel_affine,
    merge_pads,
    normalize_clips,
    pool_means,
)
"""In the order in which they are done."""


def clip_bounds(graph: Graph, node: onnx.NodeProto) -> tuple[float, float] | None:
    """Return the bounds that a Clip or Relu of constants holds its input to, infinite where it has none; else None."""
    if is_standard(node, "Relu"):
        return 0.0, np.inf
    if not is_standard(node, "Clip"):
        return None
    bounds = [-np.inf, np.inf]
    for index, name in enumerate(node.input[1:3]):
        value = graph.constant(name) if name else None
        if name and (value is None or value.size != 1):
            return None
        if value is not None:
            bounds[index] = float(value.reshape(()))
    return bounds[0], bounds[1]


def _scale_outputs(graph: EditableGraph, node: onnx.NodeProto, factor: Array, shift: Array) -> bool:
    """Multiply what a node gives by a factor a channel, and add a shift; False if its weights are not constants."""
    kind = node.op_type
    if domain_of(node) or kind not in ("Conv", "ConvTranspose", "Gemm"):
        return False
    weights = graph.constant(node.input[1])
    has_bias = len(node.input) > 2 and bool(node.input[2])
    bias = graph.constant(node.input[2]) if has_bias else np.zeros(len(factor))
    if weights is None or bias is None or weights.dtype != np.float32:
        return False
    axis = 0
    if kind == "ConvTranspose":
        if attribute(node, "group", 1) != 1:
            return False
        axis = 1
    if kind == "Gemm":
        if attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1:
            return False
        axis = 0 if attribute(node, "transB", 0) else 1
    shape = [1] * weights.ndim
    shape[axis] = len(factor)
    if weights.shape[axis] != len(factor) or (bias.ndim > 1 and bias.size != len(factor)):
        return False
    graph.set_constant(node, 1, weights * factor.reshape(shape))
    graph.set_constant(node, 2, np.broadcast_to(bias.ravel(), len(factor)) * factor + shift)
    return True


def _become_clip(graph: EditableGraph, node: onnx.NodeProto, inputs: list[str]) -> None:
    new = onnx.helper.make_node("Clip", inputs, list(node.output), name=node.name)
    graph.substitute(node, [new])


def _elem(value: Array) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(value.dtype))
