"""What the schemas of all operators share that slide a window over an image: attributes, checks, sizes.

The sizes are those of ONNX `Conv` with explicit pads:

    H' = floor((H + top + bottom - dilation_h·(kH - 1) - 1) / stride_h) + 1,  W' alike.

A node that breaks its contract is an `onnx.shape_inference.InferenceError` that names the node and the values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import onnx
from onnx import TensorProto, TypeProto
from onnx.defs import OpSchema
from onnx.shape_inference import InferenceError

from edgeconv.ops.kervolution import DOMAIN, PLUGIN_ATTRIBUTES, VERSION, KervolutionOperator
from edgeconv.ops.operator import Operator

# A dimension is its size, its symbol, or None where nothing is known.
Dimension = int | str | None

_WINDOW: dict[str, tuple[list[int], str]] = {
    "strides": ([1, 1], "Step of the window, [vertical, horizontal]; at least 1."),
    "pads": ([0, 0, 0, 0], "Zeros added before the window slides, [top, left, bottom, right]; may be asymmetric."),
    "dilations": ([1, 1], "Distance between neighbouring taps, [vertical, horizontal]; at least 1."),
}


def build_schema(
    operator: KervolutionOperator,
    doc: str,
    inputs: Sequence[tuple[str, str]],
    types: Sequence[tuple[str, list[str], str]],
    node: type[WindowNode],
    attributes: Sequence[OpSchema.Attribute] = (),
) -> OpSchema:
    """Build a kervolution's schema, with type and shape inference.

    Args:
        operator: Its name, and the names of its inputs, of which the last is optional.
        doc: What it computes.
        inputs: For each input its type variable and what it is.
        types: Type variables: name, allowed types, of what.
        node: Infers type and shape, and names Y's type variable.
        attributes: Those that it takes besides the window's.
    """
    window = OpSchema.Attribute(
        "kernel_shape", OpSchema.AttrType.INTS, "[kH, kW]; taken from W where it is absent.", required=False
    )
    outputs = [(node.RESULT, "Output, (N, M, H', W').")]
    return make_schema(operator, doc, inputs, outputs, types, node, [window, *attributes], optional=("B",))


def make_schema(
    operator: Operator,
    doc: str,
    inputs: Sequence[tuple[str, str]],
    outputs: Sequence[tuple[str, str]],
    types: Sequence[tuple[str, list[str], str]],
    node: type[OperatorNode],
    attributes: Sequence[OpSchema.Attribute],
    optional: Sequence[str] = (),
    window: bool = True,
) -> OpSchema:
    """Build the schema of any operator, with type and shape inference.

    Args:
        operator: Its name, and the names of its inputs and outputs.
        doc: What it computes.
        inputs: For each input its type variable and what it is.
        outputs: The same for each output.
        types: Type variables: name, allowed types, of what.
        node: Infers types and shapes.
        attributes: Those that it takes besides the window's and those for TensorRT's parser.
        optional: Names of the inputs that may be absent.
        window: Whether it takes strides, pads, dilations and group.
    """
    formal, option = OpSchema.FormalParameter, OpSchema.FormalParameterOption
    schema = OpSchema(
        operator.name,
        DOMAIN,
        VERSION,
        doc,
        inputs=[
            formal(name, kind, text, param_option=option.Optional if name in optional else option.Single)
            for name, (kind, text) in zip(operator.inputs, inputs, strict=True)
        ],
        outputs=[formal(name, kind, text) for name, (kind, text) in zip(operator.outputs, outputs, strict=True)],
        type_constraints=list(types),
        attributes=[*attributes, *(_window_attributes() if window else []), *_plugin_attributes()],
    )
    schema.set_type_and_shape_inference_function(_inference(operator, node))
    return schema


def schema_attribute(name: str, default: Any, description: str) -> OpSchema.Attribute:
    """Describe an attribute with a default."""
    return OpSchema.Attribute(name, onnx.helper.make_attribute(name, default), description)


def _window_attributes() -> list[OpSchema.Attribute]:
    return [
        *(schema_attribute(name, default, description) for name, (default, description) in _WINDOW.items()),
        schema_attribute("group", 1, "Number of groups that the channels of X and the filters are split into."),
    ]


def _plugin_attributes() -> list[OpSchema.Attribute]:
    return [schema_attribute(name, value, "For TensorRT's parser.") for name, value in PLUGIN_ATTRIBUTES.items()]


def _inference(operator: Operator, kind: type[OperatorNode]) -> Callable[[Any], None]:
    def infer(context: Any) -> None:
        node = kind(operator, context)
        node.check_types()
        for index, (element, dims) in enumerate(node.infer_outputs()):
            result = TypeProto()
            result.tensor_type.elem_type = element
            result.tensor_type.shape.SetInParent()
            for dim in dims:
                item = result.tensor_type.shape.dim.add()
                if isinstance(dim, int):
                    item.dim_value = dim
                elif dim is not None:
                    item.dim_param = dim
            context.set_output_type(index, result)

    return infer


class OperatorNode(ABC):
    """One node during inference: its inputs' types and its attributes, checked as they are read."""

    def __init__(self, operator: Operator, context: Any) -> None:
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

    @abstractmethod
    def check_types(self) -> None:
        """Check the element types of the inputs."""

    @abstractmethod
    def infer_outputs(self) -> list[tuple[int, list[Dimension]]]:
        """Return each output's element type (0 where it is not known) and dimensions, after all checks."""

    def fail(self, problem: str) -> NoReturn:
        """Report a broken contract. onnx adds no context to the text, so it names the node."""
        raise InferenceError(f"{self.context.get_display_name()}: {problem}.")

    def type_name(self, name: str) -> str:
        """Return the element type of an input that has one, as ONNX writes it."""
        return str(TensorProto.DataType.Name(self.types[name].elem_type))

    def integer(self, name: str, default: int, least: int = 1) -> int:
        """Return an integer attribute that is at least `least`."""
        attribute = self.context.get_attribute(name)
        value = default if attribute is None else int(attribute.i)
        if value < least:
            self.fail(f"{name} is {value}; it must be at least {least}")
        return value

    def integers(self, name: str, length: int, least: int) -> list[int] | None:
        """Return an attribute of that many integers; None where it is absent and has no default."""
        attribute = self.context.get_attribute(name)
        if attribute is None:
            return list(_WINDOW[name][0]) if name in _WINDOW else None
        values = list(attribute.ints)
        if len(values) != length or min(values) < least:
            self.fail(f"{name} is {values}; it must be {length} integers of at least {least}")
        return values

    def window(self) -> tuple[list[int], list[int], list[int]]:
        """Return strides, pads and dilations."""
        strides, pads, dilations = (
            self.integers(name, length, least)
            for name, length, least in (("strides", 2, 1), ("pads", 4, 0), ("dilations", 2, 1))
        )
        assert strides is not None
        assert pads is not None
        assert dilations is not None
        return strides, pads, dilations

    def dims(self, name: str) -> list[Dimension] | None:
        """Return an input's dimensions, None where its shape is not known."""
        given = self.types.get(name)
        if given is None or not given.HasField("shape"):
            return None
        return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in given.shape.dim]

    def rank4(self, name: str) -> list[Dimension]:
        """Return the four dimensions of an input, each None where its shape is not known."""
        dims = self.dims(name)
        if dims is None:
            return [None] * 4
        if len(dims) != 4:
            self.fail(f"{name} has rank {len(dims)} {dims_text(dims)}; it must have 4 dimensions")
        return dims

    def output_size(
        self, axis: str, size: Dimension, kernel: Dimension, stride: int, dilation: int, before: int, after: int
    ) -> Dimension:
        """Return in how many positions a window fits along an axis; it must fit in one."""
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


class WindowNode(OperatorNode):
    """One node of a kervolution during inference.

    Attributes:
        RESULT: The type variable of Y.
    """

    RESULT: str

    operator: KervolutionOperator

    @abstractmethod
    def result_type(self) -> int:
        """Return Y's element type, 0 where it is not known."""

    @abstractmethod
    def per_channel(self, filters: Dimension) -> Dimension:
        """Check the tensors beside X and W; those of a value per filter tell the number of filters where W does not."""

    def check_attributes(self) -> None:
        """Check the attributes besides the window's; none here."""

    def check_scalar(self, name: str) -> None:
        """Check that an input has no dimension."""
        dims = self.dims(name)
        if dims:
            self.fail(f"{name} has shape {dims_text(dims)}; it must be a scalar")

    def check_per_filter(self, name: str, filters: Dimension, *others: list[int]) -> Dimension:
        """Check that an input has shape [M] or one of the others; return M as far as it is known now."""
        dims = self.dims(name)
        if dims is None or dims in others:
            return filters
        if len(dims) != 1 or (isinstance(dims[0], int) and isinstance(filters, int) and dims[0] != filters):
            known = f" with M = {filters}" if isinstance(filters, int) else ""
            choices = [dims_text(shape) if shape else "a scalar" for shape in others]
            allowed = " or ".join(part for part in (", ".join(choices), "[M]") if part)
            self.fail(f"{name} has shape {dims_text(dims)}; it must be {allowed}{known}")
        return dims[0] if isinstance(dims[0], int) and not isinstance(filters, int) else filters

    def infer_outputs(self) -> list[tuple[int, list[Dimension]]]:
        """Return Y's element type and dimensions, after all checks."""
        batch, channels, height, width = self.rank4("X")
        filters, depth, *window = self.rank4("W")
        group = self.integer("group", 1)
        self.check_attributes()
        self._check_groups(channels, filters, depth, group)
        filters = self.per_channel(filters)
        kernel = self._kernel(window)
        strides, pads, dilations = self.window()
        spatial = [
            self.output_size(axis, size, kernel[i], strides[i], dilations[i], pads[i], pads[i + 2])
            for i, (axis, size) in enumerate((("height", height), ("width", width)))
        ]
        return [(self.result_type(), [batch, filters, *spatial])]

    def _check_groups(self, channels: Dimension, filters: Dimension, depth: Dimension, group: int) -> None:
        if isinstance(channels, int) and channels % group:
            self.fail(f"X has {channels} channels, which {group} groups do not divide")
        if isinstance(filters, int) and filters % group:
            self.fail(f"W has {filters} filters, which {group} groups do not divide")
        if isinstance(channels, int) and isinstance(depth, int) and channels != depth * group:
            self.fail(
                f"X has {channels} channels, and W has {depth} in each of {group} groups; "
                f"it must have {channels // group}"
            )

    def _kernel(self, window: Sequence[Dimension]) -> list[Dimension]:
        given = self.integers("kernel_shape", 2, 1)
        if given is None:
            return list(window)
        if any(isinstance(size, int) and size != said for size, said in zip(window, given, strict=True)):
            self.fail(f"kernel_shape is {given}, but W has a window of {dims_text(window)}")
        return list(given)


def dims_text(dims: Sequence[Dimension]) -> str:
    """Write a shape as messages show it."""
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in dims) + "]"
