"""How many multiply-accumulates (MACs) a node takes, from the shapes of what it reads and writes.

Counted are the operators whose cost is multiplications and additions in pairs:

    Conv, ConvInteger, QLinearConv, kervolutions   output elements · (C/group) · kernel elements
    ConvTranspose                                  input elements · (M/group) · kernel elements
    Gemm, MatMul, MatMulInteger, QLinearMatMul     output elements · K
    QLinearConvolution, QLinearBottleneck, …       the sum of their convolutions
    DeconvWhitening                                group · (P·F² + 3·(n_iter - 1)·F³) for P samples of F values

A bias, an activation, a pooling and a normalisation add none. A kervolution counts as the convolution of its shape.
A whitening counts the covariance and the products of the Newton–Schulz steps, of which the first needs none, as its
function body computes them; native kernels halve both, because the matrices are symmetric.
`ManhattanKervolution`, `QLinearManhattanKervolution` and `ChebyshevKervolution` do an absolute difference where a
convolution multiplies: theirs are counted as such, apart. `operand_type` says of what type the operands are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from edgeconv.inspection.nodes import STANDARD_DOMAINS, domain_of
from edgeconv.inspection.shapes import Value
from edgeconv.ops.deconv_whitening import N_ITER, SAMPLING_STRIDE, WhiteningOperator, WhiteningShape, sampling_steps
from edgeconv.ops.kervolution import KervolutionOperator
from edgeconv.ops.qlinear_mobile import KEEP, QLinearMobileOperator, QLinearPoolOperator
from edgeconv.ops.registry import operator_of

ABSOLUTE_DIFFERENCE_KERNELS = ("manhattan", "chebyshev")
"""Kernels that take absolute differences in place of products."""

# Positions of the two operands.
_CONVOLUTIONS = {"Conv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3)}
_PRODUCTS = {"MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3)}
_WEIGHTS = {name: weights for name, (_, weights) in (_CONVOLUTIONS | _PRODUCTS).items()}
_WEIGHTS |= {"ConvTranspose": 1, "Gemm": 1}
_UNCOUNTED = frozenset({"Attention", "DeformConv", "Einsum", "GRU", "LSTM", "RNN"})


@dataclass(frozen=True)
class Cost:
    """Operations of one inference.

    Attributes:
        macs: Multiply-accumulates.
        absolute_differences: Absolute differences.
        complete: False where some part is not known (a shape is missing, or the operator is not counted): the
            numbers are then lower bounds.
    """

    macs: int = 0
    absolute_differences: int = 0
    complete: bool = True

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.macs + other.macs,
            self.absolute_differences + other.absolute_differences,
            self.complete and other.complete,
        )


UNKNOWN = Cost(complete=False)


def node_cost(node: onnx.NodeProto, values: Mapping[str, Value]) -> Cost:
    """Return the cost of a node by its own operator; subgraphs and function bodies are the caller's business.

    Args:
        node: The node.
        values: Type and shape of every value in scope.
    """
    kind = node.op_type
    operator = operator_of(node)
    if isinstance(operator, KervolutionOperator):
        count = _convolution(node, values, operator.weights)
        if count is not None and operator.kernel in ABSOLUTE_DIFFERENCE_KERNELS:
            return Cost(absolute_differences=count)
    elif isinstance(operator, WhiteningOperator):
        count = _whitening(node, values)
    elif isinstance(operator, QLinearMobileOperator):
        count = _mobile(node, values, operator)
    elif isinstance(operator, QLinearPoolOperator):
        return Cost()
    elif domain_of(node) not in STANDARD_DOMAINS:
        return UNKNOWN
    elif kind in _CONVOLUTIONS:
        count = _convolution(node, values, _CONVOLUTIONS[kind][1])
    elif kind == "ConvTranspose":
        x, w = _sizes(node.input[0], values), _sizes(node.input[1], values)
        count = math.prod(x) * math.prod(w[1:]) if x and w else None
    elif kind == "Gemm":
        count = _gemm(node, values)
    elif kind in _PRODUCTS:
        count = _matmul(node, values, *_PRODUCTS[kind])
    else:
        return UNKNOWN if kind in _UNCOUNTED else Cost()
    return UNKNOWN if count is None else Cost(macs=count)


def operand_type(node: onnx.NodeProto, values: Mapping[str, Value]) -> str | None:
    """Return the element type of a counted operator's weights (its second operand), None for all other operators.

    A whitening has no weights; its operands are of its results' type, whatever its input is.
    """
    operator = operator_of(node)
    if isinstance(operator, WhiteningOperator):
        return values[node.output[0]].dtype if node.output[0] in values else None
    if isinstance(operator, KervolutionOperator):
        position: int | None = operator.weights
    elif isinstance(operator, QLinearMobileOperator):
        position = operator.inputs.index(operator.stages[0].inputs[0])
    else:
        position = _WEIGHTS.get(node.op_type) if domain_of(node) in STANDARD_DOMAINS else None
    return values[node.input[position]].dtype if position is not None and node.input[position] in values else None


def _sizes(name: str, values: Mapping[str, Value]) -> tuple[int, ...] | None:
    return values[name].sizes if name in values else None


def _convolution(node: onnx.NodeProto, values: Mapping[str, Value], weight: int) -> int | None:
    y, w = _sizes(node.output[0], values), _sizes(node.input[weight], values)
    return math.prod(y) * math.prod(w[1:]) if y and w else None


def _mobile(node: onnx.NodeProto, values: Mapping[str, Value], operator: QLinearMobileOperator) -> int | None:
    """All convolutions of a block: those from the window on have Y's positions, an expansion those that it gives."""
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    x, y = _sizes(node.input[0], values), _sizes(node.output[0], values)
    if not x or not y or len(x) != 4 or len(y) != 4:
        return None
    batch, _, *image = (x[axis] for axis in given.get("x_perm", KEEP))
    positions = math.prod(y) // max(1, y[list(given.get("y_perm", KEEP)).index(1)])
    total = 0
    for stage in operator.stages:
        w = _sizes(node.input[operator.inputs.index(stage.inputs[0])], values)
        if not w:
            return None
        count = positions
        if stage.kind == "expand":
            strides, pads = given.get("expand_strides", (1, 1)), given.get("expand_pads", (0, 0, 0, 0))
            count = batch * math.prod(
                (size + pads[i] + pads[i + 2] - w[2 + i]) // strides[i] + 1 for i, size in enumerate(image)
            )
        total += count * math.prod(w)
    return total


def _whitening(node: onnx.NodeProto, values: Mapping[str, Value]) -> int | None:
    x = _sizes(node.input[0], values)
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    read = ("block", "kernel_shape", "strides", "pads", "dilations", "group", "n_iter", "sampling_stride")
    try:
        return _whitening_macs(x, **{name: given[name] for name in read if name in given}) if x else None
    except (TypeError, ValueError, LookupError, ArithmeticError):  # a broken contract; shape inference says how
        return None


def _whitening_macs(
    x: Sequence[int],
    *,
    block: int,
    kernel_shape: Sequence[int],
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
    n_iter: int = N_ITER,
    sampling_stride: int = SAMPLING_STRIDE,
) -> int:
    batch, channels, *size = x
    shape = WhiteningShape(channels, block, math.prod(kernel_shape), group)
    steps = sampling_steps(sampling_stride, strides)
    if shape.taps == 1:
        rows = -(-batch * math.prod(size) // math.prod(steps))
    else:
        rows = batch * math.prod(
            max(0, size[i] + pads[i] + pads[i + 2] - dilations[i] * (kernel_shape[i] - 1) - 1 + steps[i]) // steps[i]
            for i in range(2)
        )
    products = rows * shape.blocks * shape.features**2 + 3 * max(0, n_iter - 1) * shape.features**3
    return group * products


def _gemm(node: onnx.NodeProto, values: Mapping[str, Value]) -> int | None:
    a, y = _sizes(node.input[0], values), _sizes(node.output[0], values)
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(y) * a[0 if transposed else 1] if a and y else None


def _matmul(node: onnx.NodeProto, values: Mapping[str, Value], left: int, right: int) -> int | None:
    a, b = _sizes(node.input[left], values), _sizes(node.input[right], values)
    if not a or not b:
        return None
    batch = 1
    for i in range(1, max(len(a), len(b)) - 1):  # broadcast what is in front of the matrices, from the back
        sizes = [shape[-2 - i] for shape in (a, b) if len(shape) >= 2 + i]
        batch *= 0 if 0 in sizes else max(sizes, default=1)
    rows = a[-2] if len(a) > 1 else 1
    columns = b[-1] if len(b) > 1 else 1
    return batch * rows * a[-1] * columns
