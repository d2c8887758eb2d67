"""ONNX schemas of the kervolution operators: what they take, and the type and shape of what they give.

The formulas are in `edgeconv.ops.kervolution`; attributes, sizes and their checks in `edgeconv.ops.window_schema`.
"""

from __future__ import annotations

from onnx import TensorProto
from onnx.defs import OpSchema

from edgeconv.ops.kervolution import OPERATORS, PRECISIONS, KervolutionOperator
from edgeconv.ops.window_schema import Dimension, WindowNode, build_schema, schema_attribute

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
    doc = (
        f"Kervolution with the {operator.kernel} kernel: for each patch x of the zero-padded input and each filter w, "
        f"y = {operator.formula} + B. Products and distances are accumulated in float32 and rounded once to T. "
        "A padded position takes part as the value 0. Source: Wang et al., CVPR 2019, arXiv 1904.03955."
    )
    inputs = [
        ("T", "Input, (N, C, H, W)."),
        ("T", "Filters, (M, C/group, kH, kW)."),
        *(("P", _PARAMETERS[name]) for name in operator.parameters),
        ("T", "Bias, (M); added last."),
    ]
    types = [("T", ["tensor(float)", "tensor(float16)"], "Input, filters, bias and output, all of one type.")]
    if operator.parameters:  # their type is fixed; without any the constraint would name nothing
        types.append(("P", ["tensor(float)"], "Parameters of the kernel function."))
    attributes = []
    if operator.has_degree:
        attributes.append(schema_attribute("degree", 3, "Exponent, at least 1."))
    if operator.has_precision:
        attributes.append(schema_attribute("precision", PRECISIONS[0], _PRECISION))
    return build_schema(operator, doc, inputs, types, _KervolutionNode, attributes)


class _KervolutionNode(WindowNode):
    """One node during inference: one type for all tensors but the kernel's parameters, which are float32."""

    RESULT = "T"

    def result_type(self) -> int:
        return next((int(self.types[name].elem_type) for name in ("X", "W", "B") if name in self.types), 0)

    def check_types(self) -> None:
        common = self.result_type()
        for name, given in self.types.items():
            found = self.type_name(name)
            if name in self.operator.parameters:
                if given.elem_type != TensorProto.FLOAT:
                    self.fail(f"{name} is {found}; the kernel's parameters are always FLOAT")
            elif given.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
                self.fail(f"{name} is {found}; it must be FLOAT or FLOAT16")
            elif given.elem_type != common:
                self.fail(f"{name} is {found}, X is {TensorProto.DataType.Name(common)}; they must be the same")

    def check_attributes(self) -> None:
        if self.operator.has_degree:
            self.integer("degree", 3)
        if self.operator.has_precision:
            attribute = self.context.get_attribute("precision")
            value = PRECISIONS[0] if attribute is None else attribute.s.decode(errors="replace")
            if value not in PRECISIONS:
                self.fail(f"precision is {value!r}; it must be {' or '.join(PRECISIONS)}")

    def per_channel(self, filters: Dimension) -> Dimension:
        for name in self.operator.parameters:
            filters = self.check_per_filter(name, filters, [], [1])
        return self.check_per_filter("B", filters)
