"""The network in float16, which INT8 is judged against as well."""

from __future__ import annotations

import onnx

from edgeconv.inspection.nodes import domain_of


def half_precision(model: onnx.ModelProto) -> tuple[onnx.ModelProto | None, str]:
    """Convert a float32 model to float16, its inputs and outputs apart; by ONNX Runtime's own tool.

    Args:
        model: Is not changed.

    Returns:
        The model, or None and why there is none.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    foreign = sorted({node.op_type for node in model.graph.node if domain_of(node)})
    if foreign:
        return None, f"float16 is not compared: {', '.join(foreign)} would have to be exported anew for it"
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        return convert_float_to_float16(copy, keep_io_types=True), ""
    except Exception as error:  # the tool checks little
        return None, f"float16 is not compared: the network cannot be converted ({error})"
