"""Kervolution as ONNX functions: the specification, the test oracle and the fallback that travels in every file.

Each function is general over strides, asymmetric pads, dilations, groups, an absent bias and scalar or per-channel
parameters, and over any batch and size. Formulas and source: see `edgeconv.ops.kervolution`. The bodies compute in
float32: those of the operators that take `precision` declare it, so that a node may carry it, and ignore it, as they do
the two attributes for TensorRT's parser. Four choices shape them:

- The dot-product kernels are one `Conv` with the parameters folded into its weights and bias, which every runtime
  then folds into constants, and ‖x - w‖² = ‖x‖² + ‖w‖² - 2x·w, with ‖x‖² a box sum of the channel-summed squares.
- The distance kernels loop over channel blocks and taps, so memory stays at the input, the output and one block of
  about `BLOCK_ELEMENTS`. They gather with the loop's index instead of slicing: TensorRT builds the former and not the
  latter. OpenVINO 2026.4 negates a subtrahend before what gathers it, all of it at every turn of a loop: so x is the
  subtrahend, and the inner loop sees one block of it and one column of taps.
  The form 2 Σmax(x, w) - Σx - Σw takes one operator less and is 14-20 % faster in ONNX Runtime, but it cancels for
  inputs with a large offset and turns an infinity into NaN, so the plain |w - x| is used.
- TensorRT's parser loses strides and dilations that a function hands on to a `Conv` (seen in TensorRT-RTX 1.7; pads and
  group arrive). So a result is always given the shape it must have: there such a file fails to load, instead of
  computing something else. Expanded in place, as `--inline` does, it is right.
- An absent input may be passed on only where it is optional, so the bias goes through a `Conv` over zeros, which gives
  (1, M, 1, 1) with the bias or with zeros.

Needs onnxscript (the `export` extra).
"""

# onnxscript reads these functions as source: their parameters without annotation are tensors, and `op` is ONNX.
# ruff: noqa: RUF013
# mypy: disable-error-code="no-untyped-def,assignment"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxscript import opset18, script, values

from edgeconv.ops.function import build_function
from edgeconv.ops.kervolution import DOMAIN, OPERATORS, VERSION

OPSET = 18
"""Standard opset of the bodies. Later versions of what they use only add types, so they fit any file from 18 on."""

BLOCK_ELEMENTS = 1_572_864
"""Elements that a distance kernel's temporaries have, roughly (6 MiB), and at most twice as many if a block has several
channels: larger blocks fall out of the cache, smaller ones spend their time in the loop (measured on ResNet's layer
shapes, 0.2 to 3.2 million)."""

op: Any = opset18
edgeconv = values.Opset(DOMAIN, VERSION)


parts = values.Opset(f"{DOMAIN}.parts", VERSION)  # shared pieces; inlined into the operators before they are shipped


@script(parts)
def _bias(W, B):
    """B as (1, M, 1, 1) in float32, zeros if it is absent."""
    filters = op.Shape(W, start=0, end=1)
    point = op.Constant(value_ints=[1, 1, 1, 1])
    x = op.CastLike(op.ConstantOfShape(point), W)
    w = op.CastLike(op.ConstantOfShape(op.Concat(filters, op.Constant(value_ints=[1, 1, 1]), axis=0)), W)
    return op.Cast(op.Conv(x, w, B), to=1)


@script(parts)
def _output_size(x, w, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]):
    """(H', W')."""
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    two = op.Constant(value_ints=[2])
    before = op.Slice(op.Constant(value_ints=pads), zero, two)
    after = op.Slice(op.Constant(value_ints=pads), two, op.Constant(value_ints=[4]))
    padded = op.Add(op.Add(op.Shape(x, start=2, end=4), before), after)
    reach = op.Mul(op.Sub(op.Shape(w, start=2, end=4), one), op.Constant(value_ints=dilations))
    return op.Add(op.Div(op.Sub(op.Sub(padded, reach), one), op.Constant(value_ints=strides)), one)


@script(parts)
def _dot(x, w, scale, offset, group: int, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]):
    """scale·(x·w) + offset; scale and offset are scalars or per channel."""
    filters = op.Shape(w, start=0, end=1)
    each = op.Constant(value_ints=[-1])
    scaled = op.Mul(w, op.Reshape(scale, op.Constant(value_ints=[-1, 1, 1, 1])))
    constant = op.Expand(op.Reshape(offset, each), filters)
    y = op.Conv(x, scaled, constant, group=group, strides=strides, pads=pads, dilations=dilations)
    # This changes nothing but where a parser loses an attribute on its way through the function, and it must be seen.
    out = _output_size(x, w, strides=strides, pads=pads, dilations=dilations)
    return op.Reshape(y, op.Concat(op.Shape(x, start=0, end=1), filters, out, axis=0))


@script(parts)
def _distance_term(x, w, scale, group: int, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]):
    """max(0, ‖x - w‖²)·scale for a negative scale, as min(0, 2·-scale·x·w + scale·‖w‖² + scale·‖x‖²)."""
    flat = op.Constant(value_ints=[-1])
    groups = op.Reshape(op.Constant(value_int=group), flat)
    batch = op.Shape(x, start=0, end=1)
    channels = op.Shape(w, start=1, end=2)
    size = op.Shape(x, start=2, end=4)
    energy = op.ReduceSumSquare(
        op.Reshape(x, op.Concat(batch, groups, channels, size, axis=0)), op.Constant(value_ints=[2]), keepdims=0
    )
    ones = op.Expand(
        op.Constant(value_float=1.0),
        op.Concat(groups, op.Constant(value_ints=[1]), op.Shape(w, start=2, end=4), axis=0),
    )
    energy = op.Conv(energy, ones, group=group, strides=strides, pads=pads, dilations=dilations)
    # In two steps: ONNX Runtime squares and adds thousands of terms one by one, and x·w is far smaller than their sum.
    norm = op.ReduceSumSquare(w, op.Constant(value_ints=[2, 3]), keepdims=0)
    norm = op.Mul(op.ReduceSum(norm, op.Constant(value_ints=[1]), keepdims=0), op.Reshape(scale, flat))
    cross = _dot(
        x, w, op.Mul(scale, op.Constant(value_float=-2.0)), norm,
        group=group, strides=strides, pads=pads, dilations=dilations,
    )  # fmt: skip
    # (N, group, M/group, H', W'): a group's filters share its energy, and a scalar scale is applied before they do.
    one = op.Constant(value_ints=[1])
    grouped = op.Concat(batch, groups, flat, op.Shape(cross, start=2, end=4), axis=0)
    factor = op.Reshape(scale, op.Concat(op.Min(groups, op.Reshape(op.Size(scale), flat)), flat, one, one, axis=0))
    energy = op.Unsqueeze(energy, op.Constant(value_ints=[2]))
    scaled = op.Mul(energy, factor)
    total = op.Min(op.Add(op.Reshape(cross, grouped), scaled), op.Constant(value_float=0.0))
    # An infinite input is infinitely far, where the sum would subtract infinities.
    total = op.Where(op.IsInf(energy), scaled, total)
    return op.Reshape(total, op.Shape(cross))


@script(parts)
def _nan_in_patch(x, w, group: int, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]):
    """(N, group, 1, H'·W'): NaN where a group's patch holds one, else 0."""
    flat = op.Constant(value_ints=[-1])
    one = op.Constant(value_ints=[1])
    groups = op.Reshape(op.Constant(value_int=group), flat)
    batch = op.Shape(x, start=0, end=1)
    shape = op.Concat(batch, groups, op.Shape(w, start=1, end=2), op.Shape(x, start=2, end=4), axis=0)
    nan = op.Where(op.IsNaN(x), x, op.Constant(value_float=0.0))
    nan = op.ReduceSum(op.Reshape(nan, shape), op.Constant(value_ints=[2]), keepdims=0)
    ones = op.Expand(op.Constant(value_float=1.0), op.Concat(groups, one, op.Shape(w, start=2, end=4), axis=0))
    reach = op.Conv(nan, ones, group=group, strides=strides, pads=pads, dilations=dilations)
    return op.Reshape(reach, op.Concat(batch, groups, one, flat, axis=0))


@script(edgeconv)
def PolynomialKervolution(
    X, W, balance, B=None,
    kernel_shape: Sequence[int] = None, degree: int = 3, group: int = 1,
    strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0), dilations: Sequence[int] = (1, 1),
    precision: str = "float32", plugin_version: str = "1", plugin_namespace: str = "edgeconv",
):  # fmt: skip
    """(x·w + balance)^degree + B."""
    u = _dot(
        op.Cast(X, to=1), op.Cast(W, to=1), op.Constant(value_float=1.0), balance,
        group=group, strides=strides, pads=pads, dilations=dilations,
    )  # fmt: skip
    y = op.Pow(u, op.Cast(op.Constant(value_int=degree), to=1))
    return op.CastLike(op.Add(y, _bias(W, B)), X)


@script(edgeconv)
def GaussianKervolution(
    X, W, gamma, B=None,
    kernel_shape: Sequence[int] = None, group: int = 1,
    strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0), dilations: Sequence[int] = (1, 1),
    precision: str = "float32", plugin_version: str = "1", plugin_namespace: str = "edgeconv",
):  # fmt: skip
    """exp(-gamma·‖x - w‖²) + B."""
    exponent = _distance_term(
        op.Cast(X, to=1), op.Cast(W, to=1), op.Neg(gamma),
        group=group, strides=strides, pads=pads, dilations=dilations,
    )  # fmt: skip
    return op.CastLike(op.Add(op.Exp(exponent), _bias(W, B)), X)


@script(edgeconv)
def SigmoidKervolution(
    X, W, scale, balance, B=None,
    kernel_shape: Sequence[int] = None, group: int = 1,
    strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0), dilations: Sequence[int] = (1, 1),
    precision: str = "float32", plugin_version: str = "1", plugin_namespace: str = "edgeconv",
):  # fmt: skip
    """tanh(scale·x·w + balance) + B."""
    u = _dot(
        op.Cast(X, to=1), op.Cast(W, to=1), scale, balance,
        group=group, strides=strides, pads=pads, dilations=dilations,
    )  # fmt: skip
    return op.CastLike(op.Add(op.Tanh(u), _bias(W, B)), X)


@script(edgeconv)
def EuclideanKervolution(
    X, W, B=None,
    kernel_shape: Sequence[int] = None, group: int = 1,
    strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0), dilations: Sequence[int] = (1, 1),
    precision: str = "float32", plugin_version: str = "1", plugin_namespace: str = "edgeconv",
):  # fmt: skip
    """-‖x - w‖² + B."""
    y = _distance_term(
        op.Cast(X, to=1), op.Cast(W, to=1), op.Constant(value_float=-1.0),
        group=group, strides=strides, pads=pads, dilations=dilations,
    )  # fmt: skip
    return op.CastLike(op.Add(y, _bias(W, B)), X)


def _loop_over_taps(combine: values.Op, reduce: values.Op) -> Any:
    """Build the function -reduce|x - w| + B, which `combine` gathers over taps and channel blocks."""

    @script(edgeconv)
    def distance(
        X, W, B=None,
        kernel_shape: Sequence[int] = None, group: int = 1,
        strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0), dilations: Sequence[int] = (1, 1),
        plugin_version: str = "1", plugin_namespace: str = "edgeconv",
    ):  # fmt: skip
        zero = op.Constant(value_ints=[0])
        one = op.Constant(value_ints=[1])
        two = op.Constant(value_ints=[2])
        three = op.Constant(value_ints=[3])
        four = op.Constant(value_ints=[4])
        stride = op.Constant(value_ints=strides)
        dilation = op.Constant(value_ints=dilations)
        before = op.Slice(op.Constant(value_ints=pads), zero, two)
        after = op.Slice(op.Constant(value_ints=pads), two, four)
        window = op.Shape(W, start=2, end=4)
        batch = op.Shape(X, start=0, end=1)
        size = op.Shape(X, start=2, end=4)
        groups = op.Reshape(op.Constant(value_int=group), one)
        channels = op.Shape(W, start=1, end=2)
        filters = op.Div(op.Shape(W, start=0, end=1), groups)
        padded = op.Add(op.Add(size, before), after)
        out = _output_size(X, W, strides=strides, pads=pads, dilations=dilations)
        positions = op.ReduceProd(out, keepdims=1)
        tall = op.Slice(window, zero, one)
        wide = op.Slice(window, one, two)

        # Channels in `blocks` blocks of `depth`; the last is filled with zeros, which add |0 - 0| to every distance.
        # By a constant, and not by how many of a dynamic number fit: TensorRT-RTX 1.7's builder crashes on the latter.
        outputs = op.Max(op.Mul(op.Mul(batch, positions), op.Mul(groups, filters)), one)
        at_once = op.Max(op.Div(op.Constant(value_ints=[BLOCK_ELEMENTS]), channels), one)  # outputs, in one block
        blocks = op.Min(op.Div(op.Sub(op.Add(outputs, at_once), one), at_once), channels)
        depth = op.Div(op.Sub(op.Add(channels, blocks), one), blocks)
        fill = op.Sub(op.Mul(blocks, depth), channels)

        x = op.Cast(X, to=1)
        w = op.Cast(W, to=1)
        # Maxima lose NaN in some runtimes; sums do not.
        nan = _nan_in_patch(x, w, group=group, strides=strides, pads=pads, dilations=dilations)
        nan_filters = op.Where(op.IsNaN(w), w, op.Constant(value_float=0.0))
        nan_filters = op.ReduceSum(nan_filters, op.Constant(value_ints=[1, 2, 3]), keepdims=0)
        nan = op.Add(nan, op.Reshape(nan_filters, op.Concat(groups, filters, one, axis=0)))

        x = op.Reshape(x, op.Concat(batch, groups, channels, size, axis=0))
        x = op.Pad(x, op.Concat(zero, zero, zero, before, zero, zero, fill, after, axis=0))
        x = op.Reshape(x, op.Concat(batch, groups, blocks, depth, padded, axis=0))
        w = op.Reshape(w, op.Concat(groups, filters, channels, window, axis=0))
        w = op.Pad(w, op.Concat(zero, zero, zero, zero, zero, zero, zero, fill, zero, zero, axis=0))
        w = op.Reshape(w, op.Concat(groups, filters, blocks, depth, window, axis=0))
        w = op.Transpose(w, perm=[2, 5, 4, 0, 1, 3])
        w = op.Reshape(w, op.Concat(op.Mul(blocks, wide), tall, groups, filters, depth, one, axis=0))

        # Row (column) indices that each vertical (horizontal) tap reads: (kH, H') and (kW, W').
        first = op.Constant(value_int=0)
        step = op.Constant(value_int=1)
        kernel_rows = op.Squeeze(tall)
        kernel_columns = op.Squeeze(wide)
        rows = op.Add(
            op.Mul(op.Range(first, op.Squeeze(op.Slice(out, zero, one)), step), op.Slice(stride, zero, one)),
            op.Unsqueeze(op.Mul(op.Range(first, kernel_rows, step), op.Slice(dilation, zero, one)), one),
        )
        columns = op.Add(
            op.Mul(op.Range(first, op.Squeeze(op.Slice(out, one, two)), step), op.Slice(stride, one, two)),
            op.Unsqueeze(op.Mul(op.Range(first, kernel_columns, step), op.Slice(dilation, one, two)), one),
        )

        block_shape = op.Concat(batch, groups, one, depth, positions, axis=0)
        total = op.Expand(op.Constant(value_float=0.0), op.Concat(batch, groups, filters, positions, axis=0))
        turns = op.Mul(op.Squeeze(blocks), kernel_columns)
        for turn in range(turns):
            x_block = op.Gather(x, op.Div(turn, kernel_columns), axis=2)
            x_column = op.Gather(x_block, op.Gather(columns, op.Mod(turn, kernel_columns), axis=0), axis=4)
            w_column = op.Gather(w, turn, axis=0)
            for i in range(kernel_rows):
                x_tap = op.Reshape(op.Gather(x_column, op.Gather(rows, i, axis=0), axis=3), block_shape)
                difference = op.Abs(op.Sub(op.Gather(w_column, i, axis=0), x_tap))
                total = combine(total, reduce(difference, three, keepdims=0))
        y = op.Reshape(op.Sub(nan, total), op.Concat(batch, op.Mul(groups, filters), out, axis=0))
        return op.CastLike(op.Add(y, _bias(W, B)), X)

    return distance


_SCRIPTS = {
    "PolynomialKervolution": PolynomialKervolution,
    "GaussianKervolution": GaussianKervolution,
    "SigmoidKervolution": SigmoidKervolution,
    "EuclideanKervolution": EuclideanKervolution,
    "ManhattanKervolution": _loop_over_taps(values.Op(op, "Add"), values.Op(op, "ReduceSum")),
    "ChebyshevKervolution": _loop_over_taps(values.Op(op, "Max"), values.Op(op, "ReduceMax")),
}

_PARTS = (_bias, _output_size, _dot, _distance_term, _nan_in_patch)

FUNCTIONS = {
    name: build_function(operator.name, _SCRIPTS[name], _PARTS, OPSET, f"{operator.formula} + B")
    for name, operator in OPERATORS.items()
}
"""Operator name -> its ONNX function (`onnx.FunctionProto`)."""
