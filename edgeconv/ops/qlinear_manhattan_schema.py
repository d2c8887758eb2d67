"""ONNX schema of `QLinearManhattanKervolution`: what it takes, and the type and shape of what it gives.

The arithmetic is in `edgeconv.ops.qlinear_manhattan`; attributes, sizes and their checks are those of the kervolution
operators. A node that breaks its contract is an `onnx.shape_inference.InferenceError` that names the node and values.
"""

from __future__ import annotations

from typing import Any

from onnx import TensorProto, TypeProto
from onnx.defs import OpSchema

from edgeconv.ops.kervolution import DOMAIN, VERSION
from edgeconv.ops.kervolution_schema import Dimension, _attributes, _Node, _text
from edgeconv.ops.qlinear_manhattan import OPERATOR

_BYTES = (TensorProto.UINT8, TensorProto.INT8)
_TYPES = ["tensor(uint8)", "tensor(int8)"]
_SCALARS = ("x_scale", "x_zero_point", "y_scale", "y_zero_point")
_PER_FILTER = ("w_scale", "w_zero_point")


def schemas() -> list[OpSchema]:
    """Return a new schema, with type and shape inference, in a list of one."""
    formal, option = OpSchema.FormalParameter, OpSchema.FormalParameterOption
    schema = OpSchema(
        OPERATOR.name,
        DOMAIN,
        VERSION,
        f"Kervolution with the {OPERATOR.kernel} kernel in 8 bits: {OPERATOR.formula} + B of the dequantised patch x "
        "and filter w, quantised. A padded position takes part as the real value 0, which is x_zero_point. Where every "
        "w_scale equals x_scale the sum is exact, in integers. Source: Wang et al., CVPR 2019, arXiv 1904.03955.",
        inputs=[
            formal("X", "TX", "Input, (N, C, H, W)."),
            formal("x_scale", "F", "Scale of X, a scalar, > 0."),
            formal("x_zero_point", "TX", "Zero-point of X, a scalar."),
            formal("W", "TW", "Filters, (M, C/group, kH, kW)."),
            formal("w_scale", "F", "Scale of W, > 0; a scalar or [M]."),
            formal("w_zero_point", "TW", "Zero-point of W, in the shape of w_scale."),
            formal("y_scale", "F", "Scale of Y, a scalar, > 0."),
            formal("y_zero_point", "TY", "Zero-point of Y, a scalar; its type is Y's."),
            formal("B", "F", "Bias, (M), in real values; added last.", param_option=option.Optional),
        ],
        outputs=[formal("Y", "TY", "Output, (N, M, H', W').")],
        type_constraints=[
            ("TX", _TYPES, "Input."),
            ("TW", _TYPES, "Filters."),
            ("TY", _TYPES, "Output."),
            ("F", ["tensor(float)"], "Scales and bias."),
        ],
        attributes=_attributes(OPERATOR),
    )
    schema.set_type_and_shape_inference_function(_infer)
    return [schema]


def _infer(context: Any) -> None:
    node = _QLinearNode(OPERATOR, context)
    node.check_types()
    result = TypeProto()
    given = node.types.get("y_zero_point")
    result.tensor_type.elem_type = given.elem_type if given is not None else TensorProto.UNDEFINED
    for dim in node.infer_dims():
        item = result.tensor_type.shape.dim.add()
        if isinstance(dim, int):
            item.dim_value = dim
        elif dim is not None:
            item.dim_param = dim
    context.set_output_type(0, result)


class _QLinearNode(_Node):
    """One node during inference, with the types and shapes of a quantised operator."""

    def check_types(self) -> None:
        for name, given in self.types.items():
            found = TensorProto.DataType.Name(given.elem_type)
            if name == "B" or name.endswith("scale"):
                if given.elem_type != TensorProto.FLOAT:
                    self.fail(f"{name} is {found}; scales and bias are always FLOAT")
            elif given.elem_type not in _BYTES:
                self.fail(f"{name} is {found}; it must be UINT8 or INT8")
        for name in ("X", "W"):
            point = f"{name.lower()}_zero_point"
            if name in self.types and point in self.types:
                tensor, zero = (TensorProto.DataType.Name(self.types[key].elem_type) for key in (name, point))
                if tensor != zero:
                    self.fail(f"{point} is {zero}, {name} is {tensor}; they must be the same")

    def per_channel(self, filters: Dimension) -> Dimension:
        for name in _SCALARS:
            dims = self.dims(name)
            if dims:
                self.fail(f"{name} has shape {_text(dims)}; it must be a scalar")
        for name in (*_PER_FILTER, "B"):
            dims = self.dims(name)
            if dims is None or (name != "B" and not dims):
                continue
            if len(dims) != 1 or (isinstance(dims[0], int) and isinstance(filters, int) and dims[0] != filters):
                known = f" with M = {filters}" if isinstance(filters, int) else ""
                allowed = "[M]" if name == "B" else "a scalar or [M]"
                self.fail(f"{name} has shape {_text(dims)}; it must be {allowed}{known}")
            if isinstance(dims[0], int) and not isinstance(filters, int):
                filters = dims[0]
        scale, point = (self.dims(name) for name in _PER_FILTER)
        if scale is not None and point is not None and len(scale) != len(point):
            self.fail(f"w_scale has shape {_text(scale)}, w_zero_point {_text(point)}; they must be the same")
        return filters
