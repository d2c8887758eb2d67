"""ONNX schemas of the kervolution operators: what they take, and the type and shape of what they give.

The formulas are in `edgeconv.ops.kervolution`; the sizes are those of ONNX `Conv` with explicit pads:

    H' = floor((H + top + bottom - dilation_h·(kH - 1) - 1) / stride_h) + 1,  W' alike.

A node that breaks its contract is an `onnx.shape_inference.InferenceError` that names the node and the values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import onnx
from onnx import TensorProto, TypeProto
from onnx.defs import OpSchema
from onnx.shape_inference import InferenceError

from edgeconv.ops.kervolution import DOMAIN, OPERATORS, PLUGIN_ATTRIBUTES, PRECISIONS, VERSION, KervolutionOperator

# A dimension is its size, its symbol, or None where nothing is known.
Dimension = int | str | None

_WINDOW: dict[str, tuple[list[int], str]] = {
    "strides": ([1, 1], "Step of the window, [vertical, horizontal]; at least 1."),
    "pads": ([0, 0, 0, 0], "Zeros added before the window slides, [top, left, bottom, right]; may be asymmetric."),
    "dilations": ([1, 1], "Distance between neighbouring taps, [vertical, horizontal]; at least 1."),
}

_PARAMETERS = {
    "balance": "Constant added to x·w (float32, a scalar, [1] or [M]).",
    "gamma": "Inverse width of the Gaussian, > 0 (float32, a scalar, [1] or [M]).",
    "scale": "Factor on x·w (float32, a scalar, [1] or [M]).",
}

_PRECISION = (
    "How x·w is computed: float32, or bf16x3, two bfloat16 numbers a factor and three products of them, summed in "
    "float32 (for CPUs with AMX; elsewhere it is float32)."
)


def schemas() -> list[OpSchema]:
    """Return a new schema, with type and shape inference, of each kervolution operator."""
    return [_schema(operator) for operator in OPERATORS.values()]


def _schema(operator: KervolutionOperator) -> OpSchema:
    formal, option = OpSchema.FormalParameter, OpSchema.FormalParameterOption
    schema = OpSchema(
        operator.name,
        DOMAIN,
        VERSION,
        f"Kervolution with the {operator.kernel} kernel: for each patch x of the zero-padded input and each filter w, "
        f"y = {operator.formula} + B. Products and distances are accumulated in float32 and rounded once to T. "
        "A padded position takes part as the value 0. Source: Wang et al., CVPR 2019, arXiv 1904.03955.",
        inputs=[
            formal("X", "T", "Input, (N, C, H, W)."),
            formal("W", "T", "Filters, (M, C/group, kH, kW)."),
            *(formal(name, "P", _PARAMETERS[name]) for name in operator.parameters),
            formal("B", "T", "Bias, (M); added last.", param_option=option.Optional),
        ],
        outputs=[formal("Y", "T", "Output, (N, M, H', W').")],
        type_constraints=[
            ("T", ["tensor(float)", "tensor(float16)"], "Input, filters, bias and output, all of one type."),
            # A parameter's type is fixed; without parameters the constraint would name nothing.
            *([("P", ["tensor(float)"], "Parameters of the kernel function.")] if operator.parameters else []),
        ],
        attributes=_attributes(operator),
    )
    schema.set_type_and_shape_inference_function(_inference(operator))
    return schema


def _attributes(operator: KervolutionOperator) -> list[OpSchema.Attribute]:
    def attribute(name: str, default: Any, description: str) -> OpSchema.Attribute:
        return OpSchema.Attribute(name, onnx.helper.make_attribute(name, default), description)

    shape = OpSchema.Attribute(
        "kernel_shape", OpSchema.AttrType.INTS, "[kH, kW]; taken from W where it is absent.", required=False
    )
    degree = [attribute("degree", 3, "Exponent, at least 1.")] if operator.has_degree else []
    precision = [attribute("precision", PRECISIONS[0], _PRECISION)] if operator.has_precision else []
    return [
        shape,
        *(attribute(name, default, description) for name, (default, description) in _WINDOW.items()),
        attribute("group", 1, "Number of groups that the channels of X and the filters are split into."),
        *degree,
        *precision,
        *(attribute(name, value, "For TensorRT's parser.") for name, value in PLUGIN_ATTRIBUTES.items()),
    ]


def _inference(operator: KervolutionOperator) -> Callable[[Any], None]:
    # onnx does not give a node that fails more context than the text of the error, so the text names the node.
    def infer(context: Any) -> None:
        node = _Node(operator, context)
        node.check_types()
        dims = node.infer_dims()
        result = TypeProto()
        result.tensor_type.elem_type = node.elem_type
        for dim in dims:
            item = result.tensor_type.shape.dim.add()
            if isinstance(dim, int):
                item.dim_value = dim
            elif dim is not None:
                item.dim_param = dim
        context.set_output_type(0, result)

    return infer


class _Node:
    """One node during inference: its inputs' types and its attributes, checked as they are read."""

    def __init__(self, operator: KervolutionOperator, context: Any) -> None:
        self.operator = operator
        self.context = context
        self.types: dict[str, TypeProto.Tensor] = {}
        for index, name in enumerate(operator.inputs):
            if index < context.get_num_inputs() and context.has_input(index):
                given = context.get_input_type(index)
                if given is None:
                    continue  # the type is not known (yet)
                if given.WhichOneof("value") != "tensor_type":
                    self.fail(f"{name} is not a tensor")
                self.types[name] = given.tensor_type
        self.elem_type = next((self.types[name].elem_type for name in ("X", "W", "B") if name in self.types), 0)

    def fail(self, problem: str) -> NoReturn:
        raise InferenceError(f"{self.context.get_display_name()}: {problem}.")

    def check_types(self) -> None:
        for name, given in self.types.items():
            found = TensorProto.DataType.Name(given.elem_type)
            if name in self.operator.parameters:
                if given.elem_type != TensorProto.FLOAT:
                    self.fail(f"{name} is {found}; the kernel's parameters are always FLOAT")
            elif given.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
                self.fail(f"{name} is {found}; it must be FLOAT or FLOAT16")
            elif given.elem_type != self.elem_type:
                self.fail(f"{name} is {found}, X is {TensorProto.DataType.Name(self.elem_type)}; they must be the same")

    def ints(self, name: str, length: int, least: int) -> list[int] | None:
        attribute = self.context.get_attribute(name)
        if attribute is None:
            return list(_WINDOW[name][0]) if name in _WINDOW else None
        values = list(attribute.ints)
        if len(values) != length or min(values) < least:
            self.fail(f"{name} is {values}; it must be {length} integers of at least {least}")
        return values

    def integer(self, name: str, default: int) -> int:
        attribute = self.context.get_attribute(name)
        value = default if attribute is None else int(attribute.i)
        if value < 1:
            self.fail(f"{name} is {value}; it must be at least 1")
        return value

    def check_precision(self) -> None:
        attribute = self.context.get_attribute("precision")
        value = PRECISIONS[0] if attribute is None else attribute.s.decode(errors="replace")
        if value not in PRECISIONS:
            self.fail(f"precision is {value!r}; it must be {' or '.join(PRECISIONS)}")

    def dims(self, name: str) -> list[Dimension] | None:
        given = self.types.get(name)
        if given is None or not given.HasField("shape"):
            return None
        return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in given.shape.dim]

    def rank4(self, name: str) -> list[Dimension]:
        dims = self.dims(name)
        if dims is None:
            return [None] * 4
        if len(dims) != 4:
            self.fail(f"{name} has rank {len(dims)} {_text(dims)}; it must have 4 dimensions")
        return dims

    def infer_dims(self) -> list[Dimension]:
        batch, channels, height, width = self.rank4("X")
        filters, depth, *window = self.rank4("W")
        group = self.integer("group", 1)
        if self.operator.has_degree:
            self.integer("degree", 3)
        if self.operator.has_precision:
            self.check_precision()
        self.check_groups(channels, filters, depth, group)
        filters = self.per_channel(filters)
        kernel = self.window(window)
        strides, dilations = self.ints("strides", 2, 1), self.ints("dilations", 2, 1)
        pads = self.ints("pads", 4, 0)
        assert strides is not None
        assert dilations is not None
        assert pads is not None
        spatial = [
            self.output_size(axis, size, kernel[i], strides[i], dilations[i], pads[i], pads[i + 2])
            for i, (axis, size) in enumerate((("height", height), ("width", width)))
        ]
        return [batch, filters, *spatial]

    def check_groups(self, channels: Dimension, filters: Dimension, depth: Dimension, group: int) -> None:
        if isinstance(channels, int) and channels % group:
            self.fail(f"X has {channels} channels, which {group} groups do not divide")
        if isinstance(filters, int) and filters % group:
            self.fail(f"W has {filters} filters, which {group} groups do not divide")
        if isinstance(channels, int) and isinstance(depth, int) and channels != depth * group:
            self.fail(
                f"X has {channels} channels, and W has {depth} in each of {group} groups; "
                f"it must have {channels // group}"
            )

    def per_channel(self, filters: Dimension) -> Dimension:
        """Check the tensors that hold a value per filter; they also tell the number of filters where W does not."""
        for name in (*self.operator.parameters, "B"):
            dims = self.dims(name)
            if dims is None or (name != "B" and dims in ([], [1])):
                continue
            allowed = "[M]" if name == "B" else "a scalar, [1] or [M]"
            if len(dims) != 1 or (isinstance(dims[0], int) and isinstance(filters, int) and dims[0] != filters):
                known = f" with M = {filters}" if isinstance(filters, int) else ""
                self.fail(f"{name} has shape {_text(dims)}; it must be {allowed}{known}")
            if isinstance(dims[0], int) and not isinstance(filters, int):
                filters = dims[0]
        return filters

    def window(self, window: Sequence[Dimension]) -> list[Dimension]:
        given = self.ints("kernel_shape", 2, 1)
        if given is None:
            return list(window)
        if any(isinstance(size, int) and size != said for size, said in zip(window, given, strict=True)):
            self.fail(f"kernel_shape is {given}, but W has a window of {_text(window)}")
        return list(given)

    def output_size(
        self, axis: str, size: Dimension, kernel: Dimension, stride: int, dilation: int, before: int, after: int
    ) -> Dimension:
        if not isinstance(kernel, int):
            return None
        extent = dilation * (kernel - 1) + 1
        if not isinstance(size, int):
            # "Same" padding keeps whatever size comes in, so it keeps its symbol.
            return size if stride == 1 and before + after == extent - 1 else None
        if size + before + after < extent:
            self.fail(
                f"the {axis} is {size}, with its pads {size + before + after}, "
                f"but a window of {kernel} with dilation {dilation} covers {extent}"
            )
        return (size + before + after - extent) // stride + 1


def _text(dims: Sequence[Dimension]) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in dims) + "]"
