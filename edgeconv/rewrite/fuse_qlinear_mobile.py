"""Quantised convolutions become 8-bit operators, and the blocks of mobile networks one operator each.

    Q(Conv(DQ(X), DQ(W), B))                                             →  QLinearConvolution
    depthwise → 1x1                                                      →  QLinearSeparableConvolution
    conv → depthwise → 1x1                                               →  QLinearBottleneck
    Q(DQ(1x1 → depthwise → 1x1) + DQ(X))                                 →  QLinearInvertedResidual
    Q(GlobalAveragePool(DQ(X)))                                          →  QLinearGlobalAveragePool

where every convolution is one of the first line, with a Clip or Relu before its quantiser or without. By the operators'
definition (`edgeconv.ops.qlinear_mobile`) these are identities, but for the bias, which is rounded to steps of
x_scale · w_scale where it is not in such steps already. A Clip that the output's grid does not cut by itself becomes
the operator's limits. The mean may be a ReduceMean over the image, and what only arranges its result may stand between
it and the quantiser, and is moved behind it.

Then what lies between two of these operators, and nobody else reads, is laid out with channels last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeconv.errors import MissingDependencyError
from edgeconv.inspection.nodes import standard_opset
from edgeconv.ops.kervolution import DOMAIN, PLUGIN_ATTRIBUTES
from edgeconv.ops.qlinear_mobile import (
    BOTTLENECK,
    CONVOLUTION,
    GLOBAL_AVERAGE_POOL,
    INVERTED_RESIDUAL,
    KEEP,
    NCHW_TO_NHWC,
    NHWC_TO_NCHW,
    NO_LIMIT,
    OPERATORS,
    SEPARABLE,
    QLinearMobileOperator,
)
from edgeconv.rewrite.graph import Graph, NotRewritten, add_function, attribute, is_standard, name_of
from edgeconv.rewrite.qdq import Quantization, read_quantization
from edgeconv.rewrite.qdq_convolution import QuantizedConvolution, match_convolution, readers_of

MIN_OPSET = 18
"""The least version of the standard operators in which the function bodies can be written."""


@dataclass(frozen=True)
class FusedBlock:
    """A node that the pass has made.

    Attributes:
        node: Its name.
        operator: Its operator.
        convolutions: Names of the convolutions in it.
        bias_moved: The largest distance that a bias was moved, in steps of x_scale · w_scale; at most 1/2.
    """

    node: str
    operator: str
    convolutions: tuple[str, ...]
    bias_moved: float


@dataclass(frozen=True)
class LeftConvolution:
    """A convolution that stays as it is, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class MobileFusionReport:
    """What the pass did, in the order of the graph."""

    rewritten: tuple[FusedBlock, ...]
    left: tuple[LeftConvolution, ...]


@dataclass(frozen=True)
class _Block:
    """Convolutions that become one node.

    Attributes:
        operator: What they become.
        stages: In order.
        residual: The Add and its QuantizeLinear.
        result: Name of the quantised output.
        y: Its grid, of the residual.
    """

    operator: QLinearMobileOperator
    stages: tuple[QuantizedConvolution, ...]
    residual: tuple[onnx.NodeProto, ...]
    result: str
    y: Quantization


def fuse_qlinear_mobile(
    model: onnx.ModelProto, *, with_function: bool = True
) -> tuple[onnx.ModelProto, MobileFusionReport]:
    """Rewrite the quantised convolutions of a QDQ model into 8-bit operators, whole blocks where they are.

    Args:
        model: Is not changed. External data must be loaded.
        with_function: Write the operators' function bodies into the file, which every runtime without the op library
            needs. It takes a file of opset 18 or later.

    Returns:
        The new model, and the report. Nodes inside subgraphs and functions are left.

    Raises:
        MissingDependencyError: Function bodies are to be written, and onnxscript is not installed.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = Graph(result)
    left: list[LeftConvolution] = []
    matches: dict[str, QuantizedConvolution] = {}
    for node in graph.nodes:
        if not is_standard(node, "Conv"):
            continue
        try:
            if with_function and standard_opset(result) < MIN_OPSET:
                raise NotRewritten(f"the file has opset {standard_opset(result)}; function bodies need {MIN_OPSET}")
            match = match_convolution(graph, node)
            matches[match.result] = match
        except NotRewritten as reason:
            left.append(LeftConvolution(name_of(node), str(reason)))
    blocks = _find_blocks(graph, matches)
    rewritten = [_rewrite(graph, block) for block in blocks]
    if rewritten:  # a mean alone is not worth an operator
        rewritten += _rewrite_means(graph)
        lay_channels_last(graph)
        add_opset(result)
        if with_function:
            functions = mobile_functions()
            for name in dict.fromkeys(each.operator for each in rewritten):
                add_function(result, functions[name])
    return result, MobileFusionReport(tuple(rewritten), tuple(left))


def mobile_functions() -> dict[str, onnx.FunctionProto]:
    """Return the operators' function bodies by name, or say what is missing for them."""
    try:
        from edgeconv.ops.qlinear_mobile_function import FUNCTIONS
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the function bodies of the 8-bit operators need {error.name}, which is not installed.",
            "pip install 'edgeconv[export]', or leave the bodies out (with_function=False): the file then needs the op "
            "library.",
        ) from error
    return FUNCTIONS


def add_opset(model: onnx.ModelProto) -> None:
    """State the version of edgeconv's operators in a file that does not."""
    if not any(entry.domain == DOMAIN for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))


def _find_blocks(graph: Graph, matches: dict[str, QuantizedConvolution]) -> list[_Block]:
    """Return every convolution once, alone or in a block, in the order of the graph."""
    blocks: list[_Block] = []
    taken: set[str] = set()
    for match in matches.values():
        block = _block_of(graph, matches, match)
        if block is not None:
            blocks.append(block)
            taken.update(stage.result for stage in block.stages)
    blocks += [
        _Block(CONVOLUTION, (match,), (), match.result, match.y) for name, match in matches.items() if name not in taken
    ]
    order = {name: index for index, name in enumerate(matches)}
    return sorted(blocks, key=lambda block: order[block.stages[-1].result])


def _block_of(graph: Graph, matches: dict[str, QuantizedConvolution], project: QuantizedConvolution) -> _Block | None:
    """Return the block that ends with this convolution, if there is one."""
    depthwise = _before(graph, matches, project)
    if depthwise is None or not depthwise.is_depthwise or not project.is_pointwise or project.limits is not None:
        return None
    expand = _before(graph, matches, depthwise)
    if expand is None or expand.window["group"] != 1 or list(expand.window["dilations"]) != [1, 1]:
        return _Block(SEPARABLE, (depthwise, project), (), project.result, project.y)
    residual = _residual(graph, expand, project) if expand.is_pointwise else None
    if residual is not None:
        nodes, y = residual
        return _Block(INVERTED_RESIDUAL, (expand, depthwise, project), nodes, nodes[-1].output[0], y)
    return _Block(BOTTLENECK, (expand, depthwise, project), (), project.result, project.y)


def _before(
    graph: Graph, matches: dict[str, QuantizedConvolution], match: QuantizedConvolution
) -> QuantizedConvolution | None:
    """Return the convolution whose result this one, and it alone, reads on the same grid."""
    found = matches.get(match.source)
    if found is None or readers_of(graph, match.source) != [match.node]:
        return None
    return found if _same_grid(found.y, match.x) else None


def _same_grid(a: Quantization, b: Quantization) -> bool:
    return bool(a.scale == b.scale and a.zero_point == b.zero_point and a.zero_point.dtype == b.zero_point.dtype)


def _residual(
    graph: Graph, expand: QuantizedConvolution, project: QuantizedConvolution
) -> tuple[tuple[onnx.NodeProto, ...], Quantization] | None:
    """Return the Add of a block's input and the QuantizeLinear behind it, and their grid."""
    readers = readers_of(graph, project.result)
    if readers is None or len(readers) != 1 or not is_standard(readers[0], "Add"):
        return None
    add = readers[0]
    sources = [graph.producer(name) for name in add.input]
    if any(not is_standard(node, "DequantizeLinear") for node in sources):
        return None
    names = [node.input[0] for node in sources if node is not None]
    if sorted(names) != sorted((project.result, expand.source)) or project.weights.shape[0] != expand.weights.shape[1]:
        return None
    consumers = graph.consumers(add.output[0])
    if len(consumers) != 1 or not is_standard(consumers[0], "QuantizeLinear") or add.output[0] in graph.outputs:
        return None
    try:
        grids = {node.input[0]: read_quantization(graph, node) for node in sources if node is not None}
        y = read_quantization(graph, consumers[0])
    except NotRewritten:
        return None
    same = _same_grid(grids[project.result], project.y) and _same_grid(grids[expand.source], expand.x)
    if not same or not y.per_tensor or y.zero_point.dtype != expand.x.zero_point.dtype:
        return None
    return (add, consumers[0]), y


def _rewrite(graph: Graph, block: _Block) -> FusedBlock:
    stages, operator = block.stages, block.operator
    base = name_of(stages[-1].node)

    constants: dict[str, NDArray[Any]] = {"x_scale": stages[0].x.scale, "x_zero_point": stages[0].x.zero_point}
    attributes: dict[str, Any] = {}
    for stage, given in zip(stages, operator.stages, strict=True):
        values = (stage.weights, stage.w_scale, stage.bias, stage.y.scale, stage.y.zero_point)
        constants |= dict(zip(given.inputs, map(np.asarray, values), strict=True))
        if given is operator.window:
            attributes |= {**stage.window, "kernel_shape": list(stage.weights.shape[2:])}
        if given.kind == "expand" and operator is BOTTLENECK:
            attributes |= {f"expand_{name}": stage.window[name] for name in ("strides", "pads")}
        if given.limits is not None:  # written even where they are the defaults, which the reference evaluator wants
            limits = (float(np.clip(limit, -NO_LIMIT, NO_LIMIT)) for limit in stage.limits or (-NO_LIMIT, NO_LIMIT))
            attributes |= dict(zip(given.limits, limits, strict=True))
    if operator.residual:
        constants |= {"y_scale": block.y.scale, "y_zero_point": block.y.zero_point}
    assert tuple(constants) == operator.inputs[1:]
    names = graph.add_constants({f"{base}_{name}": value for name, value in constants.items()})
    inputs = [stages[0].source, *names]
    node = onnx.helper.make_node(
        operator.name, inputs, [block.result], name=base, domain=DOMAIN,
        x_perm=list(KEEP), y_perm=list(KEEP), **attributes, **PLUGIN_ATTRIBUTES,
    )  # fmt: skip
    node.metadata_props.extend(stages[-1].node.metadata_props)
    graph.replace([each for stage in stages for each in stage.nodes] + list(block.residual), node)
    moved = max(stage.bias_moved for stage in stages)
    return FusedBlock(name_of(node), operator.name, tuple(name_of(stage.node) for stage in stages), moved)


_ARRANGING = ("Reshape", "Flatten", "Squeeze", "Identity")
"""Operators that keep a tensor's values in their order."""


def _rewrite_means(graph: Graph) -> list[FusedBlock]:
    """Rewrite the means over whole images of results that operators of ours give."""
    made = []
    for node in graph.nodes:
        source = graph.producer(node.input[0]) if node.input else None
        if source is None or not is_standard(source, "DequantizeLinear") or not _is_image_mean(graph, node):
            continue
        if not _is_ours(graph.producer(source.input[0])):
            continue
        chain = [node]
        while True:
            result = chain[-1].output[0]
            readers = graph.consumers(result)
            if len(readers) != 1 or readers[0].input[0] != result or result in graph.outputs:
                break
            chain.append(readers[0])
            if readers[0].op_type not in _ARRANGING or not is_standard(readers[0], readers[0].op_type):
                break
        if not is_standard(chain[-1], "QuantizeLinear"):
            continue
        try:
            x, y = (read_quantization(graph, each) for each in (source, chain[-1]))
        except NotRewritten:
            continue
        if x.per_tensor and y.per_tensor and x.zero_point.dtype == y.zero_point.dtype:
            made.append(_rewrite_mean(graph, source.input[0], chain, x, y))
    return made


def _is_image_mean(graph: Graph, node: onnx.NodeProto) -> bool:
    if is_standard(node, "GlobalAveragePool"):
        return True
    if not is_standard(node, "ReduceMean") or not attribute(node, "keepdims", 1):
        return False
    axes = attribute(node, "axes") if len(node.input) < 2 else graph.constant(node.input[1])
    return axes is not None and sorted(int(axis) % 4 for axis in axes) == [2, 3]


def _rewrite_mean(
    graph: Graph, source: str, chain: list[onnx.NodeProto], x: Quantization, y: Quantization
) -> FusedBlock:
    base, quantize = name_of(chain[0]), chain[-1]
    values = (x.scale, x.zero_point, y.scale, y.zero_point)
    names = GLOBAL_AVERAGE_POOL.inputs[1:]
    inputs = graph.add_constants({f"{base}_{name}": value for name, value in zip(names, values, strict=True)})
    arranging = chain[1:-1]
    result = chain[0].output[0] if arranging else quantize.output[0]
    node = onnx.helper.make_node(
        GLOBAL_AVERAGE_POOL.name, [source, *inputs], [result], name=base, domain=DOMAIN, x_perm=list(KEEP),
        **PLUGIN_ATTRIBUTES,
    )  # fmt: skip
    node.metadata_props.extend(chain[0].metadata_props)
    if arranging:
        last = onnx.NodeProto()
        last.CopyFrom(arranging[-1])
        last.output[0] = quantize.output[0]
        for each in chain[:-1]:  # from here on they are of the quantised type
            graph.forget_shape(each.output[0])
        graph.replace([chain[0]], node)
        graph.replace([arranging[-1], quantize], last)
    else:
        graph.replace([chain[0], quantize], node)
    return FusedBlock(base, GLOBAL_AVERAGE_POOL.name, (), 0.0)


def _is_ours(node: onnx.NodeProto | None) -> bool:
    return node is not None and node.domain == DOMAIN and node.op_type in OPERATORS


def lay_channels_last(graph: Graph) -> None:
    """Lay what lies between two operators of ours, and nobody else reads, out with channels last."""
    for node in graph.nodes:
        name = node.output[0]
        readers = graph.consumers(name)
        gives_images = _is_ours(node) and node.op_type != GLOBAL_AVERAGE_POOL.name
        if not gives_images or name in graph.outputs or not readers:
            continue
        if all(_is_ours(reader) and list(reader.input).count(name) == 1 for reader in readers):
            _set_order(node, "y_perm", NCHW_TO_NHWC)
            for reader in readers:
                _set_order(reader, "x_perm", NHWC_TO_NCHW)
            graph.forget_shape(name)


def _set_order(node: onnx.NodeProto, name: str, order: tuple[int, ...]) -> None:
    (found,) = (each for each in node.attribute if each.name == name)
    found.ints[:] = order
