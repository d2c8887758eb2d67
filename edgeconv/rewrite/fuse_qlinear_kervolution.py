"""Quantised kervolutions on x·w become 8-bit operators.

    Q(PolynomialKervolution(DQ(X), DQ(W), balance, B))  →  QLinearPolynomialKervolution

and so for the gaussian, sigmoid and euclidean kernels. X and the result lie on grids of 8 bits, W is int8 with
zero-points of 0. By the operators' definition (`edgeconv.ops.qlinear_mobile`) these are identities.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeconv.inspection.nodes import standard_opset
from edgeconv.ops.kervolution import DOMAIN, OPERATOR_OF_KERNEL, PLUGIN_ATTRIBUTES
from edgeconv.ops.qlinear_mobile import KEEP, KERVOLUTIONS, QLinearMobileOperator
from edgeconv.rewrite.fuse_qlinear_mobile import (
    MIN_OPSET,
    FusedBlock,
    LeftConvolution,
    MobileFusionReport,
    add_opset,
    lay_channels_last,
    mobile_functions,
)
from edgeconv.rewrite.graph import (
    Graph,
    NotRewritten,
    add_function,
    attribute,
    is_standard,
    name_of,
    remove_function_if_unused,
)
from edgeconv.rewrite.qdq import read_quantization
from edgeconv.rewrite.qdq_convolution import (
    WINDOW,
    byte_grid,
    check_sums,
    int8_weights,
    only_reader,
    quantized_input,
)

_OPERATOR_OF = {OPERATOR_OF_KERNEL[each.kernel].name: each for each in KERVOLUTIONS.values()}
_DISTANCES = ("gaussian", "euclidean")


def fuse_qlinear_kervolution(
    model: onnx.ModelProto,
    *,
    quantize_weights: bool = False,
    with_function: bool = True,
    only: Collection[str] | None = None,
) -> tuple[onnx.ModelProto, MobileFusionReport]:
    """Rewrite the quantised kervolutions on x·w of a QDQ model into 8-bit operators.

    Args:
        model: Is not changed. External data must be loaded.
        quantize_weights: Round weights that are float32 to int8, each filter with the step that its largest weight
            asks for. Otherwise such nodes are left.
        with_function: Write the operators' function bodies into the file, which every runtime without the op library
            needs. It takes a file of opset 18 or later.
        only: Names of the nodes that may be rewritten; by default all.

    Returns:
        The new model, and the report. Nodes inside subgraphs and functions are left.

    Raises:
        MissingDependencyError: Function bodies are to be written, and onnxscript is not installed.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = Graph(result)
    rewritten: list[FusedBlock] = []
    left: list[LeftConvolution] = []
    for node in graph.nodes:
        operator = _OPERATOR_OF.get(node.op_type) if node.domain == DOMAIN else None
        if operator is None or (only is not None and node.name not in only):
            continue
        try:
            if with_function and standard_opset(result) < MIN_OPSET:
                raise NotRewritten(f"the file has opset {standard_opset(result)}; function bodies need {MIN_OPSET}")
            rewritten.append(_rewrite(graph, node, operator, quantize_weights))
        except NotRewritten as reason:
            left.append(LeftConvolution(name_of(node), str(reason)))
    if rewritten:
        lay_channels_last(graph)
        add_opset(result)
        made = dict.fromkeys(each.operator for each in rewritten)
        if with_function:
            functions = mobile_functions()
            for name in made:
                add_function(result, functions[name])
        for name in made:
            remove_function_if_unused(result, DOMAIN, OPERATOR_OF_KERNEL[KERVOLUTIONS[name].kernel].name)
    return result, MobileFusionReport(tuple(rewritten), tuple(left))


def _rewrite(graph: Graph, node: onnx.NodeProto, operator: QLinearMobileOperator, quantize_weights: bool) -> FusedBlock:
    source, x = quantized_input(graph, node.input[0], "input")
    floats = graph.constant(node.input[1]) if quantize_weights else None
    weights, w_scale = int8_weights(graph, node) if floats is None else _round_weights(floats)
    window = {name: attribute(node, name, default) for name, default in WINDOW.items()}
    if window["group"] != 1:
        raise NotRewritten(f"it has {window['group']} groups; the operator takes one")
    quantize = only_reader(graph, node)
    if not is_standard(quantize, "QuantizeLinear"):
        raise NotRewritten(f"its result goes to {quantize.op_type}, not to QuantizeLinear")
    y = byte_grid(graph, quantize, "output")
    if x.zero_point.dtype != y.zero_point.dtype:
        raise NotRewritten(f"its input is {x.zero_point.dtype}, its output {y.zero_point.dtype}; they must be the same")
    filters = len(weights)
    check_sums(weights, np.zeros(filters, np.int32))
    if operator.kernel in _DISTANCES and 255**2 * weights[0].size > 2**31 - 1:
        raise NotRewritten("its sums of squares may not fit into 32 bits")
    count = len(operator.parameters)
    parameters = list(node.input[2 : 2 + count])
    bias = _bias(graph, node.input[2 + count] if len(node.input) > 2 + count else "", filters)

    base = name_of(node)
    values = dict(zip(operator.inputs[1:5], (x.scale, x.zero_point, weights, w_scale), strict=True))
    values |= {"B": bias, "y_scale": y.scale, "y_zero_point": y.zero_point}
    names = graph.add_constants({f"{base}_{name}": np.asarray(value) for name, value in values.items()})
    attributes: dict[str, Any] = {**window, "kernel_shape": list(weights.shape[2:])}
    if operator.has_degree:
        attributes["degree"] = attribute(node, "degree", 3)
    made = onnx.helper.make_node(
        operator.name, [source, *names, *parameters], [quantize.output[0]], name=base, domain=DOMAIN,
        x_perm=list(KEEP), y_perm=list(KEEP), **attributes, **PLUGIN_ATTRIBUTES,
    )  # fmt: skip
    made.metadata_props.extend(node.metadata_props)
    graph.replace([node, quantize], made)
    return FusedBlock(name_of(made), operator.name, (base,), 0.0)


def _round_weights(values: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    if values.dtype != np.float32 or values.ndim != 4 or not np.isfinite(values).all():
        raise NotRewritten(f"its weights are {values.dtype}, or not finite; they must be finite float32")
    largest = np.abs(values).reshape(len(values), -1).max(1, initial=0)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.clip(np.rint(values / scale[:, None, None, None]), -127, 127).astype(np.int8), scale


def _bias(graph: Graph, name: str, filters: int) -> NDArray[np.float32]:
    """Return B's real values, zeros where there is none."""
    if not name:
        return np.zeros(filters, np.float32)
    dequantize = graph.producer(name)
    if dequantize is not None and is_standard(dequantize, "DequantizeLinear"):
        steps = graph.constant(dequantize.input[0])
        values = None if steps is None else read_quantization(graph, dequantize).dequantize(steps)
    else:
        values = graph.constant(name)
    if values is None or values.dtype != np.float32 or values.size != filters:
        raise NotRewritten("its bias is not constant")
    return np.asarray(values.reshape(filters), np.float32)
