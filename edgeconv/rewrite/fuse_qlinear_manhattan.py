"""DequantizeLinear → ManhattanKervolution → QuantizeLinear becomes one `QLinearManhattanKervolution`.

    QuantizeLinear(ManhattanKervolution(DequantizeLinear(X), DequantizeLinear(W), B))
      →  QLinearManhattanKervolution(X, x_scale, x_zero_point, W, w_scale, w_zero_point, y_scale, y_zero_point, B)

By the operator's definition this is an identity. The operator is fast where every w_scale equals x_scale: there it sums
in integers (`edgeconv.ops.qlinear_manhattan`). So nodes whose weights are on the activations' grid are rewritten, and
weights on another grid, or in float, are put on this one if the caller agrees (`edgeconv.rewrite.activation_grid`):

    W' = round(clamp(w) / x_scale) + x_zero_point,   w_scale = x_scale,   B' = B - Σ|w - clamp(w)|

where clamp is to the range of X. Its only cost is the rounding to the activations' step, which is usually coarser than
the weights': the report tells it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeconv.errors import MissingDependencyError
from edgeconv.inspection.nodes import standard_opset
from edgeconv.ops.kervolution import DOMAIN, OPERATOR_OF_KERNEL, PLUGIN_ATTRIBUTES
from edgeconv.ops.qlinear_manhattan import OPERATOR
from edgeconv.rewrite.activation_grid import GridWeights, regrid, unmoved
from edgeconv.rewrite.graph import (
    Graph,
    NotRewritten,
    add_function,
    attribute,
    is_standard,
    name_of,
    nested_nodes,
    remove_function_if_unused,
)
from edgeconv.rewrite.qdq import Quantization, read_quantization

MIN_OPSET = 18
"""The least version of the standard operators in which the function body can be written."""

_FLOAT_OPERATOR = OPERATOR_OF_KERNEL[OPERATOR.kernel].name
_WINDOW = {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1}


@dataclass(frozen=True)
class FusedNode:
    """A node that was rewritten, and what that did to its weights.

    Attributes:
        node: Its new name.
        regridded: Whether weights were moved. If not, the rewrite is exact.
        step: The step of the activations' grid, x_scale.
        largest_error: The largest distance that a weight was moved, in real values; at most step / 2.
        rms_error: The root mean square of the distances.
        outside: Weights beyond the range of the activations, whose excess the bias took over.
        output_steps: Bound on what the moved weights change in an output, in steps of y_scale.
    """

    node: str
    regridded: bool
    step: float
    largest_error: float
    rms_error: float
    outside: int
    output_steps: float


@dataclass(frozen=True)
class LeftNode:
    """A Manhattan kervolution that stays in float, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class FusionReport:
    """What the pass did, in the order of the graph."""

    rewritten: tuple[FusedNode, ...]
    left: tuple[LeftNode, ...]


def fuse_qlinear_manhattan(
    model: onnx.ModelProto,
    *,
    regrid_weights: bool = False,
    only: Collection[str] | None = None,
    with_function: bool = True,
) -> tuple[onnx.ModelProto, FusionReport]:
    """Rewrite the quantised Manhattan kervolutions of a QDQ model into the 8-bit operator.

    Args:
        model: Is not changed. External data must be loaded.
        regrid_weights: Put weights that are on another grid than the activations', or on none, on it. That moves a
            weight by up to half a step of the activations. Otherwise such nodes are left.
        only: Names of the nodes that may be rewritten; by default all.
        with_function: Write the operator's function body into the file, which every runtime without the op library
            needs. It takes a file of opset 18 or later.

    Returns:
        The new model, and the report. Nodes inside subgraphs and functions are left.

    Raises:
        MissingDependencyError: A function body is to be written, and onnxscript is not installed.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph, opset = Graph(result), standard_opset(result)
    rewritten: list[FusedNode] = []
    left: list[LeftNode] = []
    for node in graph.nodes:
        if _is_float_operator(node) and (only is None or node.name in only):
            try:
                if with_function and opset < MIN_OPSET:
                    raise NotRewritten(f"the file has opset {opset}; the function body needs {MIN_OPSET}")
                match = _match(graph, node)
                weights = _check(graph, match, regrid_weights)
            except NotRewritten as reason:
                left.append(LeftNode(name_of(node), str(reason)))
            else:
                rewritten.append(_rewrite(graph, match, weights))
    left += [
        LeftNode(name_of(node), f"it is inside {place}")
        for place, node in nested_nodes(result)
        if _is_float_operator(node)
    ]
    if rewritten:
        if with_function:
            add_function(result, _function())
        remove_function_if_unused(result, DOMAIN, _FLOAT_OPERATOR)
    return result, FusionReport(tuple(rewritten), tuple(left))


def _is_float_operator(node: onnx.NodeProto) -> bool:
    return bool(node.domain == DOMAIN and node.op_type == _FLOAT_OPERATOR)


def _function() -> onnx.FunctionProto:
    try:
        from edgeconv.ops.qlinear_manhattan_function import FUNCTION
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the function body of {OPERATOR.name} needs {error.name}, which is not installed.",
            "pip install 'edgeconv[export]', or leave the body out (with_function=False): the file then needs the op "
            "library.",
        ) from error
    return FUNCTION


@dataclass(frozen=True)
class _Match:
    """The nodes of the pattern, and the grids of X and Y.

    Attributes:
        manhattan: The float operator.
        quantize: The only reader of its output.
        dequantize_x: Where its X comes from.
        dequantize_w: Where its W comes from; None if not from such a node.
        x: The grid of `dequantize_x`.
        y: The grid of `quantize`.
    """

    manhattan: onnx.NodeProto
    quantize: onnx.NodeProto
    dequantize_x: onnx.NodeProto
    dequantize_w: onnx.NodeProto | None
    x: Quantization
    y: Quantization

    @property
    def bias(self) -> str:
        return self.manhattan.input[2] if len(self.manhattan.input) > 2 else ""


def _match(graph: Graph, node: onnx.NodeProto) -> _Match:
    result = node.output[0]
    if result in graph.outputs:
        raise NotRewritten("its float result is an output of the graph")
    readers = graph.consumers(result)
    if len(readers) != 1 or not is_standard(readers[0], "QuantizeLinear") or readers[0].input[0] != result:
        kinds = ", ".join(sorted(reader.op_type for reader in readers)) or "nothing"
        raise NotRewritten(f"its result goes to {kinds}, not to one QuantizeLinear")
    source, weights = (graph.producer(name) for name in node.input[:2])
    if source is None or not is_standard(source, "DequantizeLinear"):
        raise NotRewritten("its input does not come from DequantizeLinear")
    x, y = (read_quantization(graph, each) for each in (source, readers[0]))
    return _Match(node, readers[0], source, weights if is_standard(weights, "DequantizeLinear") else None, x, y)


def _check(graph: Graph, match: _Match, regrid_weights: bool) -> GridWeights:
    for name, grid in (("input", match.x), ("output", match.y)):
        if not grid.per_tensor:
            raise NotRewritten(f"its {name} has a scale for each channel")
        if grid.zero_point.dtype not in (np.uint8, np.int8):
            raise NotRewritten(f"its {name} is {grid.zero_point.dtype}; the operator takes uint8 and int8")
    weights = _grid_weights(graph, match)
    if not weights.exact and not regrid_weights:
        raise NotRewritten(
            f"its weights are not on the activations' grid of step {float(match.x.scale):.3g}; regrid_weights=True "
            f"moves them by up to {weights.largest_error:.3g} (root mean square {weights.rms_error:.3g})"
        )
    if weights.outside and match.bias and _constant_bias(graph, match) is None:
        raise NotRewritten("its bias is not constant, so it cannot take over weights beyond the activations' range")
    return weights


def _grid_weights(graph: Graph, match: _Match) -> GridWeights:
    node = match.dequantize_w
    values = graph.constant(match.manhattan.input[1] if node is None else node.input[0])
    if values is None or values.ndim != 4:
        raise NotRewritten("its weights are not a constant of 4 dimensions")
    if node is not None:
        grid = read_quantization(graph, node)
        along_filters = grid.per_tensor or grid.axis % values.ndim == 0
        if values.dtype in (np.uint8, np.int8) and along_filters and (grid.scale == match.x.scale).all():
            return unmoved(values, grid.zero_point)
        values = grid.dequantize(values)
    if values.dtype != np.float32 or not np.isfinite(values).all():
        raise NotRewritten(f"its weights are {values.dtype}, or not finite; they must be finite float32")
    return regrid(values, match.x)


def _constant_bias(graph: Graph, match: _Match) -> NDArray[Any] | None:
    """Return B's real values; None if they are not constant."""
    node = graph.producer(match.bias)
    if node is None or not is_standard(node, "DequantizeLinear"):
        return graph.constant(match.bias)
    values = graph.constant(node.input[0])
    return None if values is None else read_quantization(graph, node).dequantize(values)


def _rewrite(graph: Graph, match: _Match, weights: GridWeights) -> FusedNode:
    base = name_of(match.manhattan)
    x_scale = _scalar(graph, match.dequantize_x, 1, match.x.scale, f"{base}_x_scale")
    inputs = [
        match.dequantize_x.input[0],
        x_scale,
        _scalar(graph, match.dequantize_x, 2, match.x.zero_point, f"{base}_x_zero_point"),
        *_weight_inputs(graph, match, weights, x_scale),
        _scalar(graph, match.quantize, 1, match.y.scale, f"{base}_y_scale"),
        _scalar(graph, match.quantize, 2, match.y.zero_point, f"{base}_y_zero_point"),
        _bias_input(graph, match, weights),
    ]
    node = onnx.helper.make_node(
        OPERATOR.name,
        inputs,
        list(match.quantize.output),
        name=match.manhattan.name.replace(_FLOAT_OPERATOR, OPERATOR.name),
        domain=DOMAIN,
        kernel_shape=list(weights.values.shape[2:]),
        **{name: attribute(match.manhattan, name, default) for name, default in _WINDOW.items()},
        **PLUGIN_ATTRIBUTES,
    )
    node.metadata_props.extend(match.manhattan.metadata_props)
    graph.replace([match.manhattan, match.quantize], node)
    return FusedNode(
        name_of(node),
        not weights.exact,
        float(match.x.scale),
        weights.largest_error,
        weights.rms_error,
        weights.outside,
        float(weights.sum_error / match.y.scale),
    )


def _scalar(graph: Graph, node: onnx.NodeProto, index: int, value: NDArray[Any], hint: str) -> str:
    """Name an input of `node` as it is if it holds this scalar, or add the scalar."""
    name = node.input[index] if len(node.input) > index else ""
    given = graph.constant(name) if name else None
    return name if given is not None and given.shape == () else graph.add_constant(value, hint)


def _weight_inputs(graph: Graph, match: _Match, weights: GridWeights, x_scale: str) -> tuple[str, str, str]:
    """Name W, w_scale and w_zero_point: W in int8, and one scale and zero-point where that is enough."""
    base, node = name_of(match.manhattan), match.dequantize_w
    values, zero_point = weights.as_int8()
    given = graph.constant(node.input[0]) if node is not None else None
    same = given is not None and given.dtype == np.int8 and np.array_equal(given, values)
    scale = x_scale
    if zero_point.size and (zero_point == zero_point.flat[0]).all():
        zero_point = zero_point.reshape(-1)[0]
    else:
        scale = graph.add_constant(np.full(zero_point.shape, match.x.scale, np.float32), f"{base}_w_scale")
    return (
        node.input[0] if node is not None and same else graph.add_constant(values, f"{base}_W"),
        scale,
        graph.add_constant(zero_point, f"{base}_w_zero_point"),
    )


def _bias_input(graph: Graph, match: _Match, weights: GridWeights) -> str:
    """Name B in float32, with what weights beyond the activations' range add to it.

    It is written even where the node has none: the reference evaluator wants as many inputs as a function has.
    """
    bias = _constant_bias(graph, match) if match.bias else np.zeros(len(weights.values), np.float32)
    if bias is None or (not weights.outside and graph.constant(match.bias) is not None):
        return match.bias
    return graph.add_constant(np.asarray(bias - weights.excess, np.float32), f"{name_of(match.manhattan)}_B")
