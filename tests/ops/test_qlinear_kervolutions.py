"""Function bodies and schemas of the 8-bit kervolutions on x·w."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import InferenceError, infer_shapes
from qlinear_kervolution_models import KERNELS, SHAPES, Array, make_case, make_model

from edgeconv.export.forms import apply_form
from edgeconv.inspection.layers import LayerTable
from edgeconv.ops.schema import register_schemas


def run(model: onnx.ModelProto, feeds: dict[str, Array]) -> Array:
    """Without any optimisation, which would quantise the bodies' products otherwise."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    (y,) = ort.InferenceSession(model.SerializeToString(), options).run(None, feeds)
    return np.asarray(y)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_body(kernel: str, dtype: str) -> None:
    """The body in ONNX Runtime is the definition but for rounding, in either layout."""
    for shape, layout in zip(SHAPES, ("NCHW", "NHWC", "NCHW", "NHWC", "NCHW"), strict=True):
        case = make_case(kernel, shape, dtype=dtype, per_channel=shape != "plain")
        model, feeds = make_model(case, (layout, layout))
        for form in ("functions", "inlined"):
            shaped: Any = onnx.ModelProto()
            shaped.CopyFrom(model)
            y = run(apply_form(shaped, form), feeds)  # type: ignore[arg-type]
            case.check(y if layout == "NCHW" else y.transpose(0, 3, 1, 2), f"{shape}, {form}")


@pytest.mark.parametrize("kernel", KERNELS)
def test_reference_evaluator(kernel: str) -> None:
    """ONNX's own interpreter, which quantises from opset 19 on."""
    case = make_case(kernel, "plain", degree=2)
    model, feeds = make_model(case, ("NCHW", "NCHW"), opset=19)
    (y,) = ReferenceEvaluator(apply_form(model, "functions")).run(None, feeds)
    case.check(np.asarray(y), kernel)


def broken(kernel: str, **attributes: Any) -> str:
    model, _ = make_model(make_case(kernel, "plain"))
    for name, value in attributes.items():
        if name in {tensor.name for tensor in model.graph.initializer}:
            (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, name))
        else:
            kept = [each for each in model.graph.node[0].attribute if each.name != name]
            del model.graph.node[0].attribute[:]
            model.graph.node[0].attribute.extend([*kept, onnx.helper.make_attribute(name, value)])
    register_schemas()
    with pytest.raises(InferenceError) as caught:
        infer_shapes(model, check_type=True, strict_mode=True)
    return str(caught.value)


def test_schema() -> None:
    """Shapes and types are inferred, products counted, and what breaks the contract is named."""
    for kernel in KERNELS:
        model, _ = make_model(make_case(kernel, "dilations"), ("NHWC", "NHWC"))
        register_schemas()
        inferred = infer_shapes(model, strict_mode=True)
        (layer,) = LayerTable(inferred).layers
        assert layer.macs == 64 * 8 * 6 * 13 * 17
        assert layer.parameters
    assert "balance has shape [20]; it must be a scalar or [21]" in broken(
        "polynomial", balance=np.ones(20, np.float32)
    )
    assert "balance is DOUBLE; it must be FLOAT" in broken("polynomial", balance=np.ones(21))
    assert "B is INT32; it must be FLOAT" in broken("euclidean", B=np.ones(21, np.int32))
    assert "degree is 0; it must be at least 1" in broken("polynomial", degree=0)
    assert "W is UINT8; it must be INT8" in broken("gaussian", W=np.ones((21, 13, 3, 3), np.uint8))
