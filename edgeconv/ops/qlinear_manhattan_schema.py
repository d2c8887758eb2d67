"""ONNX schema of `QLinearManhattanKervolution`: what it takes, and the type and shape of what it gives.

The arithmetic is in `edgeconv.ops.qlinear_manhattan`; attributes, sizes and their checks in
`edgeconv.ops.window_schema`.
"""

from __future__ import annotations

from onnx import TensorProto
from onnx.defs import OpSchema

from edgeconv.ops.qlinear_manhattan import OPERATOR
from edgeconv.ops.window_schema import Dimension, WindowNode, build_schema, dims_text

_BYTES = (TensorProto.UINT8, TensorProto.INT8)
_TYPES = ["tensor(uint8)", "tensor(int8)"]
_SCALARS = ("x_scale", "x_zero_point", "y_scale", "y_zero_point")
_PER_FILTER = ("w_scale", "w_zero_point")


def schemas() -> list[OpSchema]:
    """Return a new schema, with type and shape inference, in a list of one."""
    doc = (
        f"Kervolution with the {OPERATOR.kernel} kernel in 8 bits: {OPERATOR.formula} + B of the dequantised patch x "
        "and filter w, quantised. A padded position takes part as the real value 0, which is x_zero_point. Where every "
        "w_scale equals x_scale the sum is exact, in integers. Source: Wang et al., CVPR 2019, arXiv 1904.03955."
    )
    inputs = [
        ("TX", "Input, (N, C, H, W)."),
        ("F", "Scale of X, a scalar, > 0."),
        ("TX", "Zero-point of X, a scalar."),
        ("TW", "Filters, (M, C/group, kH, kW)."),
        ("F", "Scale of W, > 0; a scalar or [M]."),
        ("TW", "Zero-point of W, in the shape of w_scale."),
        ("F", "Scale of Y, a scalar, > 0."),
        ("TY", "Zero-point of Y, a scalar; its type is Y's."),
        ("F", "Bias, (M), in real values; added last."),
    ]
    types = [
        ("TX", _TYPES, "Input."),
        ("TW", _TYPES, "Filters."),
        ("TY", _TYPES, "Output."),
        ("F", ["tensor(float)"], "Scales and bias."),
    ]
    return [build_schema(OPERATOR, doc, inputs, types, _QLinearNode)]


class _QLinearNode(WindowNode):
    """One node during inference, with the types and shapes of a quantised operator."""

    RESULT = "TY"

    def result_type(self) -> int:
        given = self.types.get("y_zero_point")
        return int(given.elem_type) if given is not None else TensorProto.UNDEFINED

    def check_types(self) -> None:
        for name, given in self.types.items():
            found = self.type_name(name)
            if name == "B" or name.endswith("scale"):
                if given.elem_type != TensorProto.FLOAT:
                    self.fail(f"{name} is {found}; scales and bias are always FLOAT")
            elif given.elem_type not in _BYTES:
                self.fail(f"{name} is {found}; it must be UINT8 or INT8")
        for name in ("X", "W"):
            point = f"{name.lower()}_zero_point"
            if name in self.types and point in self.types:
                tensor, zero = self.type_name(name), self.type_name(point)
                if tensor != zero:
                    self.fail(f"{point} is {zero}, {name} is {tensor}; they must be the same")

    def per_channel(self, filters: Dimension) -> Dimension:
        for name in _SCALARS:
            self.check_scalar(name)
        for name in _PER_FILTER:
            filters = self.check_per_filter(name, filters, [])
        filters = self.check_per_filter("B", filters)
        scale, point = (self.dims(name) for name in _PER_FILTER)
        if scale is not None and point is not None and len(scale) != len(point):
            self.fail(f"w_scale has shape {dims_text(scale)}, w_zero_point {dims_text(point)}; they must be the same")
        return filters
