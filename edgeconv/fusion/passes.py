"""All rewrites that turn quantised layers into 8-bit operators, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from edgeconv.rewrite.fuse_qlinear_kervolution import fuse_qlinear_kervolution
from edgeconv.rewrite.fuse_qlinear_manhattan import fuse_qlinear_manhattan
from edgeconv.rewrite.fuse_qlinear_mobile import fuse_qlinear_mobile


@dataclass(frozen=True)
class Operator:
    """An 8-bit operator in place of quantised layers.

    Attributes:
        node: Its name.
        operator: Its operator.
        layers: Names of the layers that became it.
        bias_moved: The largest distance that a bias was moved by rounding, in steps of x_scale · w_scale.
    """

    node: str
    operator: str
    layers: tuple[str, ...]
    bias_moved: float


def fuse_graph(
    model: onnx.ModelProto, *, with_function: bool = True
) -> tuple[onnx.ModelProto, tuple[Operator, ...], Mapping[str, str]]:
    """Rewrite whatever has an 8-bit operator that gives the same; nothing is rounded anew but biases.

    Args:
        model: Is not changed. External data must be loaded.
        with_function: Write the operators' function bodies into the file.

    Returns:
        The new model, its new operators in the order of the graph, and the layers that are left, each with the reason.

    Raises:
        MissingDependencyError: Function bodies are to be written, and onnxscript is not installed.
    """
    # Kervolutions first: the pass of convolutions lays out what lies between any two 8-bit operators.
    result, kervolutions = fuse_qlinear_kervolution(model, with_function=with_function)
    result, blocks = fuse_qlinear_mobile(result, with_function=with_function)
    result, manhattan = fuse_qlinear_manhattan(result, with_function=with_function)
    kinds = {node.name or node.output[0]: node.op_type for node in result.graph.node}
    made = [
        Operator(each.node, each.operator, each.convolutions, each.bias_moved)
        for each in (*kervolutions.rewritten, *blocks.rewritten)
    ]
    made += [Operator(each.node, kinds[each.node], (each.node,), 0.0) for each in manhattan.rewritten]
    order = {name: index for index, name in enumerate(kinds)}
    left = {each.node: each.reason for each in (*kervolutions.left, *blocks.left)}
    left |= {each.node: each.reason for each in manhattan.left}
    return result, tuple(sorted(made, key=lambda each: order[each.node])), left
