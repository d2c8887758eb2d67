"""Every edgeconv operator, of all families: what treats operators alike goes through here, and a family joins here.

Only `onnx_functions` and `register_torch_operators` need an extra (`export`), and import it when they are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeconv.ops import kervolution, qlinear_manhattan
from edgeconv.ops.kervolution import DOMAIN, KervolutionOperator

if TYPE_CHECKING:
    import onnx

OPERATORS: dict[str, KervolutionOperator] = {
    **kervolution.OPERATORS,
    qlinear_manhattan.OPERATOR.name: qlinear_manhattan.OPERATOR,
}
"""Operator name -> its description."""


def operator_of(node: onnx.NodeProto) -> KervolutionOperator | None:
    """Return the description of the operator that a node is, or None if it is not one of edgeconv's."""
    return OPERATORS.get(node.op_type) if node.domain == DOMAIN else None


def onnx_functions() -> dict[str, onnx.FunctionProto]:
    """Return every operator's ONNX function by its name; not copies. Needs onnxscript."""
    from edgeconv.ops.kervolution_function import FUNCTIONS
    from edgeconv.ops.qlinear_manhattan_function import FUNCTION

    return {**FUNCTIONS, qlinear_manhattan.OPERATOR.name: FUNCTION}


def register_torch_operators() -> None:
    """Make sure that `torch.ops.edgeconv` has every operator. Needs torch."""
    import edgeconv.ops.kervolution_torch
    import edgeconv.ops.qlinear_manhattan_torch  # noqa: F401
