"""ONNX schemas of the 8-bit operators of mobile networks: what they take, and the type and shape of what they give.

The arithmetic is in `edgeconv.ops.qlinear_mobile`; the window's attributes and their checks in
`edgeconv.ops.window_schema`.
"""

from __future__ import annotations

from onnx import TensorProto
from onnx.defs import OpSchema

from edgeconv.ops.qlinear_mobile import (
    BOTTLENECK,
    CONVOLUTIONS,
    GLOBAL_AVERAGE_POOL,
    KEEP,
    KERVOLUTIONS,
    NCHW_TO_NHWC,
    NHWC_TO_NCHW,
    NO_LIMIT,
    QLinearMobileOperator,
    Stage,
)
from edgeconv.ops.window_schema import Dimension, OperatorNode, dims_text, make_schema, schema_attribute

_BYTES = (TensorProto.UINT8, TensorProto.INT8)
_TYPES = [
    ("T", ["tensor(uint8)", "tensor(int8)"], "Input and output."),
    ("TW", ["tensor(int8)"], "Weights."),
    ("TB", ["tensor(int32)"], "Biases."),
    ("F", ["tensor(float)"], "Scales."),
]
_SHAPES = {"expand": "(E, C, kH, kW)", "depthwise": "(E, 1, kH, kW)", "project": "(M, E, 1, 1)"}
_X_PERM = schema_attribute("x_perm", list(KEEP), "From X to NCHW: [0, 1, 2, 3], or [0, 3, 1, 2] for channels last.")
_Y_PERM = schema_attribute("y_perm", list(KEEP), "From NCHW to Y: [0, 1, 2, 3], or [0, 2, 3, 1] for channels last.")


def schemas() -> list[OpSchema]:
    """Return new schemas of all of the operators, with type and shape inference."""
    return [*(_schema(operator) for operator in (*CONVOLUTIONS.values(), *KERVOLUTIONS.values())), _pool_schema()]


def _grid(of: str) -> list[tuple[str, str]]:
    return [("F", f"Scale of {of}, a scalar, > 0."), ("T", f"Zero-point of {of}, a scalar.")]


def _stage_inputs(stage: Stage, last: bool, kernel: str) -> list[tuple[str, str]]:
    of = "Y" if last else f"the {stage.kind} stage's results"
    return [
        ("TW", f"Filters, {_SHAPES.get(stage.kind, '(M, C/group, kH, kW)')}; their zero-point is 0."),
        ("F", "Scale of the filters, > 0; a scalar or one for each filter."),
        ("F", "Bias of each filter, in real values; added last.")
        if kernel
        else ("TB", "Bias of each filter, in steps of the input's scale times the filter's."),
        *_grid(of),
    ]


def _schema(operator: QLinearMobileOperator) -> OpSchema:
    doc = (
        f"{operator.formula} in 8 bits: every stage is a convolution of dequantised tensors, cut to its limits and "
        "quantised. Sums are exact, in 32-bit integers. A padded position is the real value 0. Source of the blocks: "
        "Sandler et al., CVPR 2018, arXiv 1801.04381."
    )
    if operator.kernel:
        doc = (
            f"Kervolution with the {operator.kernel} kernel in 8 bits: {operator.formula} + B of the dequantised patch "
            "x and filter w, quantised. Sums of products are exact, in 32-bit integers. A padded position is the real "
            "value 0. Source: Wang et al., CVPR 2019, arXiv 1904.03955."
        )
    inputs = [("T", "Input, (N, C, H, W), or as x_perm says."), *_grid("X")]
    for stage in operator.stages:
        inputs += _stage_inputs(stage, stage is operator.stages[-1] and not operator.residual, operator.kernel)
    inputs += _grid("Y") if operator.residual else []
    inputs += [("F", f"The kernel's {name}; a scalar or one for each filter.") for name in operator.parameters]
    attributes = [
        OpSchema.Attribute(
            "kernel_shape", OpSchema.AttrType.INTS, "[kH, kW]; taken from the weights if absent.", required=False
        ),
        _X_PERM,
        _Y_PERM,
    ]
    for stage in operator.stages:
        for name, limit, what in zip(stage.limits or (), (-NO_LIMIT, NO_LIMIT), ("Least", "Largest"), strict=False):
            attributes.append(schema_attribute(name, limit, f"{what} real result of the {stage.kind} stage."))
    if operator.has_degree:
        attributes.append(schema_attribute("degree", 3, "Exponent, at least 1."))
    if operator is BOTTLENECK:
        attributes += [
            schema_attribute("expand_strides", [1, 1], "Strides of the expansion."),
            schema_attribute("expand_pads", [0, 0, 0, 0], "Padding of the expansion: top, left, bottom, right."),
        ]
    types = [kind for kind in _TYPES if any(name == kind[0] for name, _ in inputs)]
    return make_schema(operator, doc, inputs, [("T", "Output, as y_perm says.")], types, _MobileNode, attributes)


def _pool_schema() -> OpSchema:
    doc = "Mean of each channel in 8 bits: of the dequantised tensor, quantised. The sum is exact, in 32-bit integers."
    inputs = [("T", "Input, (N, C, H, W), or as x_perm says."), *_grid("X"), *_grid("Y")]
    types = [_TYPES[0], _TYPES[3]]
    return make_schema(
        GLOBAL_AVERAGE_POOL, doc, inputs, [("T", "Output, (N, C, 1, 1).")], types, _PoolNode, [_X_PERM], window=False
    )


class _QuantizedNode(OperatorNode):
    """One node during inference: everything quantised is of one type, and X may have another order of axes."""

    def check_types(self) -> None:
        for name, given in self.types.items():
            if name == "X" or name.endswith("zero_point"):
                if given.elem_type not in _BYTES:
                    self.fail(f"{name} is {self.type_name(name)}; it must be UINT8 or INT8")
                if "X" in self.types and given.elem_type != self.types["X"].elem_type:
                    self.fail(f"{name} is {self.type_name(name)}, X is {self.type_name('X')}; they must be the same")
        parameters = getattr(self.operator, "parameters", ())
        bias = TensorProto.FLOAT if getattr(self.operator, "kernel", "") else TensorProto.INT32
        expected = {"W": TensorProto.INT8, "B": bias, "scale": TensorProto.FLOAT, "parameter": TensorProto.FLOAT}
        for name, given in self.types.items():
            kind = "parameter" if name in parameters else name.rsplit("_", 1)[-1]
            if kind in expected and given.elem_type != expected[kind]:
                wanted = TensorProto.DataType.Name(expected[kind])
                self.fail(f"{name} is {self.type_name(name)}; it must be {wanted}")

    def result_type(self) -> int:
        """Return the type of everything quantised, 0 where it is not known."""
        given = self.types.get("X")
        return int(given.elem_type) if given is not None else TensorProto.UNDEFINED

    def order(self, name: str, last: tuple[int, ...]) -> tuple[int, ...]:
        """Return the permutation that an attribute says."""
        attribute = self.context.get_attribute(name)
        order = KEEP if attribute is None else tuple(attribute.ints)
        if order not in (KEEP, last):
            self.fail(f"{name} is {list(order)}; it must be {list(KEEP)} or {list(last)}")
        return order

    def image(self) -> list[Dimension]:
        """Return X's dimensions as N, C, H, W."""
        dims, order = self.rank4("X"), self.order("x_perm", NHWC_TO_NCHW)
        return [dims[axis] for axis in order]

    def check_scalars(self, names: tuple[str, ...]) -> None:
        """Check that scales and zero-points of activations have no dimension."""
        for name in names:
            dims = self.dims(name)
            if dims:
                self.fail(f"{name} has shape {dims_text(dims)}; it must be a scalar")


class _PoolNode(_QuantizedNode):
    def infer_outputs(self) -> list[tuple[int, list[Dimension]]]:
        self.check_scalars(("x_scale", "x_zero_point", "y_scale", "y_zero_point"))
        return [(self.result_type(), [*self.image()[:2], 1, 1])]


class _MobileNode(_QuantizedNode):
    operator: QLinearMobileOperator

    def infer_outputs(self) -> list[tuple[int, list[Dimension]]]:
        batch, *image = self.image()
        given = list(image)
        self.check_scalars(("x_scale", "x_zero_point"))
        for stage in self.operator.stages:
            image = self._stage(stage, image)
        if self.operator.residual:
            self.check_scalars(("y_scale", "y_zero_point"))
            for ours, theirs in zip(image, given, strict=True):
                if isinstance(ours, int) and isinstance(theirs, int) and ours != theirs:
                    self.fail(f"X has (C, H, W) {dims_text(given)}, what it is added to {dims_text(image)}")
        if self.operator.has_degree:
            self.integer("degree", 3)  # checks it
        dims = [batch, *image]
        return [(self.result_type(), [dims[axis] for axis in self.order("y_perm", NCHW_TO_NHWC)])]

    def _stage(self, stage: Stage, image: list[Dimension]) -> list[Dimension]:
        """Check a stage's tensors; return the (M, H', W') of its results."""
        weights, scale, bias, *grid = stage.inputs
        self.check_scalars((grid[0], grid[1]))
        filters, depth, *kernel = self.rank4(weights)
        for name, scalar in ((scale, True), (bias, False), *((each, True) for each in self.operator.parameters)):
            dims = self.dims(name)
            if dims is None or (scalar and not dims):
                continue
            if len(dims) != 1 or (isinstance(dims[0], int) and isinstance(filters, int) and dims[0] != filters):
                self.fail(f"{name} has shape {dims_text(dims)}; it must be {'a scalar or ' * scalar}[{filters}]")
        strides, pads, dilations, group = [1, 1], [0, 0, 0, 0], [1, 1], 1
        if stage is self.operator.window:
            (strides, pads, dilations), group = self.window(), self.integer("group", 1)
        elif stage.kind == "expand":
            strides = self.integers("expand_strides", 2, 1) or strides
            pads = self.integers("expand_pads", 4, 0) or pads
        channels = image[0]
        if isinstance(channels, int) and isinstance(depth, int) and channels != depth * group:
            self.fail(f"{weights} has {depth} channels in each of {group} groups; {channels} come in")
        if stage.kind == "project" and any(isinstance(size, int) and size != 1 for size in kernel):
            self.fail(f"{weights} has a window of {dims_text(kernel)}; it must be [1, 1]")
        spatial = [
            self.output_size(axis, image[1 + i], kernel[i], strides[i], dilations[i], pads[i], pads[i + 2])
            for i, axis in enumerate(("height", "width"))
        ]
        return [filters, *spatial]
