"""Every edgeconv operator, of all families: what treats operators alike goes through here, and a family joins here.

Only `onnx_functions` and `register_torch_operators` need an extra (`export`), and import it when they are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeconv.ops import deconv_whitening, kervolution, qlinear_manhattan, qlinear_mobile
from edgeconv.ops.kervolution import DOMAIN

if TYPE_CHECKING:
    import onnx

    from edgeconv.ops.operator import Operator

LAYER_OPERATORS: dict[str, Operator] = {
    **kervolution.OPERATORS,
    qlinear_manhattan.OPERATOR.name: qlinear_manhattan.OPERATOR,
    deconv_whitening.OPERATOR.name: deconv_whitening.OPERATOR,
}
"""Operator name -> its description, of those that layers export to: each is a torch operator, too."""

OPERATORS: dict[str, Operator] = {**LAYER_OPERATORS, **qlinear_mobile.OPERATORS}
"""Operator name -> its description. What only kervolutions have is asked of a `KervolutionOperator`."""


def operator_of(node: onnx.NodeProto) -> Operator | None:
    """Return the description of the operator that a node is, or None if it is not one of edgeconv's."""
    return OPERATORS.get(node.op_type) if node.domain == DOMAIN else None


def onnx_functions() -> dict[str, onnx.FunctionProto]:
    """Return every operator's ONNX function by its name; not copies. Needs onnxscript."""
    from edgeconv.ops import (
        deconv_whitening_function,
        kervolution_function,
        qlinear_manhattan_function,
        qlinear_mobile_function,
    )

    return {
        **kervolution_function.FUNCTIONS,
        qlinear_manhattan.OPERATOR.name: qlinear_manhattan_function.FUNCTION,
        deconv_whitening.OPERATOR.name: deconv_whitening_function.FUNCTION,
        **qlinear_mobile_function.FUNCTIONS,
    }


def register_torch_operators() -> None:
    """Make sure that `torch.ops.edgeconv` has every one of `LAYER_OPERATORS`. Needs torch."""
    import edgeconv.ops.deconv_whitening_torch
    import edgeconv.ops.kervolution_torch
    import edgeconv.ops.qlinear_manhattan_torch  # noqa: F401
