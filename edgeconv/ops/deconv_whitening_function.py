"""`DeconvWhitening` as an ONNX function: the specification, an oracle for tests, and the fallback in every file.

Equations: see `edgeconv.ops.deconv_whitening`. The body takes every value of every attribute, any batch and any size,
and computes in float32. What shapes it:

- No branch. A window of one tap is a window that slides over one row of all pixels, so sizes, pads and steps are chosen
  by arithmetic on integers; TensorRT wants the results of both branches of an `If` in one shape.
- The patches come from one `Gather` with computed indices. In ONNX Runtime it takes 0.9 times what a `Gather` of rows
  and one of columns take, and 0.8 times a loop over taps, in which TensorRT would take no `Slice` (64 channels of
  56×56, 3×3). Unrolled slices would take 0.4, but a body does not know how many taps there are.
- Features stand in front of positions. Interleaved blocks are then a reshape: (F·blocks, rows) is (F, blocks·rows).
- Samples are centred, then divided by s = max(1, the largest of them), and eps by s². So no square overflows, and where
  all samples are equal, however large they are, eps does not become 0.
- The first Newton–Schulz step has Z = I and takes no product; then the loop's order is such that no product of the last
  step goes unused: 3·(n_iter - 1) products of (F, F) matrices. The loop holds Y/2, which spares it a multiplication.
- Memory: the samples, up to three times. With a sampling_stride of kH = kW they are about as large as X.

Needs onnxscript (the `export` extra).
"""

# onnxscript reads this function as source: its parameters without annotation are tensors, and `op` is ONNX.
# ruff: noqa: RUF013
# mypy: disable-error-code="no-untyped-def,assignment"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxscript import opset18, script, values

from edgeconv.ops.deconv_whitening import OPERATOR
from edgeconv.ops.function import build_function
from edgeconv.ops.kervolution import DOMAIN, VERSION
from edgeconv.ops.kervolution_function import OPSET

op: Any = opset18
edgeconv = values.Opset(DOMAIN, VERSION)
parts = values.Opset(f"{DOMAIN}.parts", VERSION)  # shared pieces; inlined into the operator before it is shipped


@script(parts)
def _samples(
    X, block: int, group: int, sampling_stride: int,
    kernel_shape: Sequence[int], strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int],
):  # fmt: skip
    """(G, F, P) in float32."""
    flat = op.Constant(value_ints=[-1])
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    two = op.Constant(value_ints=[2])
    three = op.Constant(value_ints=[3])
    window = op.Constant(value_ints=kernel_shape)
    dilation = op.Constant(value_ints=dilations)
    pad = op.Constant(value_ints=pads)
    taps = op.Mul(op.Slice(window, zero, one), op.Slice(window, one, two))
    point = op.Div(one, taps)  # 1 for a window of one tap, else 0
    spread = op.Sub(one, point)

    # Images, rows, columns; for one tap a single row of all pixels.
    x = op.Transpose(op.Cast(X, to=1), perm=[1, 0, 2, 3])
    whole = op.Shape(x, start=1, end=4)
    pixels = op.Mul(op.Mul(op.Slice(whole, zero, one), op.Slice(whole, one, two)), op.Slice(whole, two, three))
    images = op.Add(op.Mul(whole, spread), op.Mul(op.Concat(one, one, pixels, axis=0), point))
    each = op.Mul(op.Constant(value_ints=strides), op.Reshape(op.Constant(value_int=sampling_stride), flat))
    every = op.Concat(one, op.Mul(op.Slice(each, zero, one), op.Slice(each, one, two)), axis=0)
    step = op.Add(op.Mul(each, spread), op.Mul(every, point))
    before = op.Mul(op.Slice(pad, zero, two), spread)
    after = op.Mul(op.Slice(pad, two, op.Constant(value_ints=[4])), spread)

    channels = op.Shape(x, start=0, end=1)
    x = op.Reshape(x, op.Concat(channels, images, axis=0))
    x = op.Pad(x, op.Concat(zero, zero, before, zero, zero, after, axis=0))
    size = op.Add(op.Add(op.Slice(images, one, three), before), after)
    reach = op.Mul(op.Sub(window, one), dilation)
    out = op.Add(op.Div(op.Sub(op.Sub(size, reach), one), step), one)

    # Indices (kH, kW, N, H', W') into the pixels of all images.
    first = op.Constant(value_int=0)
    next = op.Constant(value_int=1)
    tall = op.Mul(op.Range(first, op.Squeeze(op.Slice(window, zero, one)), next), op.Slice(dilation, zero, one))
    wide = op.Mul(op.Range(first, op.Squeeze(op.Slice(window, one, two)), next), op.Slice(dilation, one, two))
    image = op.Range(first, op.Squeeze(op.Slice(images, zero, one)), next)
    row = op.Mul(op.Range(first, op.Squeeze(op.Slice(out, zero, one)), next), op.Slice(step, zero, one))
    column = op.Mul(op.Range(first, op.Squeeze(op.Slice(out, one, two)), next), op.Slice(step, one, two))
    width = op.Slice(size, one, two)
    area = op.Mul(op.Slice(size, zero, one), width)
    rows = op.Add(
        op.Reshape(tall, op.Constant(value_ints=[-1, 1, 1, 1, 1])), op.Reshape(row, op.Constant(value_ints=[-1, 1]))
    )
    columns = op.Add(op.Reshape(wide, op.Constant(value_ints=[-1, 1, 1, 1])), column)
    starts = op.Mul(op.Reshape(image, op.Constant(value_ints=[-1, 1, 1])), area)
    index = op.Add(op.Add(starts, op.Mul(rows, width)), columns)

    x = op.Gather(op.Reshape(x, op.Concat(channels, flat, axis=0)), index, axis=1)
    features = op.Mul(op.Reshape(op.Constant(value_int=block), flat), taps)
    return op.Reshape(x, op.Concat(op.Reshape(op.Constant(value_int=group), flat), features, flat, axis=0))


@script(edgeconv)
def DeconvWhitening(
    X,
    block: int = None, kernel_shape: Sequence[int] = None,
    strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0), dilations: Sequence[int] = (1, 1),
    group: int = 1, eps: float = 1e-5, n_iter: int = 5, sampling_stride: int = 3, centered: int = 1,
    plugin_version: str = "1", plugin_namespace: str = "edgeconv",
):  # fmt: skip
    """Mean and inverse square root of the covariance of X's patches."""
    flat = op.Constant(value_ints=[-1])
    unit = op.Constant(value_float=1.0)
    half = op.Constant(value_float=0.5)
    samples = _samples(
        X, block=block, group=group, sampling_stride=sampling_stride, kernel_shape=kernel_shape, strides=strides,
        pads=pads, dilations=dilations,
    )  # fmt: skip
    count = op.Shape(samples, start=2, end=3)
    share = op.Div(unit, op.Cast(count, to=1))
    # A product with 1/P does not overflow where a sum would.
    average = op.MatMul(samples, op.Expand(share, op.Concat(count, op.Constant(value_ints=[1]), axis=0)))
    samples = op.Sub(samples, op.Mul(average, op.Cast(op.Constant(value_int=centered), to=1)))
    largest = op.ReduceMax(op.Abs(samples), keepdims=0)
    scale = op.Max(largest, unit)
    samples = op.Div(samples, scale)

    groups = op.Reshape(op.Constant(value_int=group), flat)
    window = op.Constant(value_ints=kernel_shape)
    features = op.Mul(op.Reshape(op.Constant(value_int=block), flat), op.ReduceProd(window))
    order = op.Range(op.Constant(value_int=0), op.Squeeze(features), op.Constant(value_int=1))
    identity = op.Cast(op.Equal(op.Unsqueeze(order, op.Constant(value_ints=[1])), order), to=1)
    moment = op.Mul(op.MatMul(samples, op.Transpose(samples, perm=[0, 2, 1])), share)
    added = op.Div(op.Div(op.Constant(value_float=eps), scale), scale)
    covariance = op.Add(moment, op.Mul(identity, added))
    norm = op.Sqrt(op.ReduceSumSquare(covariance, op.Constant(value_ints=[1, 2]), keepdims=1))

    steps = op.Constant(value_int=n_iter)
    begun = op.Cast(op.Min(steps, op.Constant(value_int=1)), to=1)  # 0 where no step is asked for
    diagonal = op.Mul(identity, op.Constant(value_float=1.5))
    y = op.Div(op.Mul(covariance, half), norm)
    t = op.Add(identity, op.Mul(op.Sub(op.Mul(identity, half), y), begun))
    z = op.Identity(t)
    rest = op.Max(op.Sub(steps, op.Constant(value_int=1)), op.Constant(value_int=0))
    for _ in range(rest):
        y = op.MatMul(y, t)
        product = op.MatMul(z, y)  # named: what inlining a part renames may meet a generated name in a loop
        t = op.Sub(diagonal, product)
        z = op.MatMul(t, z)
    root = op.Div(op.Div(z, op.Sqrt(norm)), scale)
    mean = op.Reshape(average, op.Concat(groups, features, axis=0))
    deconv = op.Reshape(root, op.Concat(groups, features, features, axis=0))
    return mean, deconv


FUNCTION = build_function(OPERATOR.name, DeconvWhitening, (_samples,), OPSET, OPERATOR.formula)
"""The operator's ONNX function."""
