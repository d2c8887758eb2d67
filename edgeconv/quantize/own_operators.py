"""edgeconv's operators inside a QDQ graph: 8-bit forms where there are any."""

from __future__ import annotations

import onnx

from edgeconv.errors import MissingDependencyError
from edgeconv.quantize.placement import Placement
from edgeconv.rewrite.fuse_qlinear_kervolution import fuse_qlinear_kervolution
from edgeconv.rewrite.fuse_qlinear_manhattan import fuse_qlinear_manhattan


def fuse_own_operators(
    model: onnx.ModelProto, placement: Placement
) -> tuple[onnx.ModelProto, dict[str, str], list[str]]:
    """Rewrite what has an 8-bit form.

    Args:
        model: The QDQ model.
        placement: Says what was to be quantised.

    Returns:
        The model, every node that stays in float with the reason, and notes for the user.
    """
    left = dict(placement.left)
    if not any(node.name in placement.operators and node.domain == "edgeconv" for node in model.graph.node):
        return model, left, []
    try:
        fused, kervolutions = fuse_qlinear_kervolution(model, quantize_weights=True, only=placement.operators)
        fused, report = fuse_qlinear_manhattan(fused, regrid_weights=True, only=placement.operators)
    except MissingDependencyError as error:
        return model, left, [f"kervolutions stay in float between Q and DQ: {error}"]
    for each in kervolutions.left:
        left.setdefault(each.node, each.reason)
    for other in report.left:
        left.setdefault(other.node, other.reason)
    moved = [node for node in report.rewritten if node.regridded]
    notes = []
    if moved:
        worst = max(moved, key=lambda node: node.output_steps)
        notes.append(
            f"the weights of {len(moved)} ManhattanKervolution layers were put on the grid of their inputs, which "
            f"moves an output by up to {worst.output_steps:.1f} steps ({worst.node})"
        )
    return fused, left, notes
