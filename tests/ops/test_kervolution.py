"""One body runs every operator over every backend, against float64 loops."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from kervolution_cases import Case, cases
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from oracles import kervolution as oracle
from tolerances import assert_close

from edgeconv.ops.kervolution import DOMAIN, OPERATOR_OF_KERNEL, PLUGIN_ATTRIBUTES, VERSION
from edgeconv.ops.kervolution_function import FUNCTIONS, OPSET
from edgeconv.ops.kervolution_torch import kervolution
from edgeconv.runtime.op_library import op_library

Array = NDArray[np.floating]


def model_of(case: Case, *, weights_constant: bool = True) -> onnx.ModelProto:
    """A file with one operator, its function inside, and sizes left open."""
    operator = OPERATOR_OF_KERNEL[case.kernel]
    _, weights, bias, parameters = case.tensors()
    element = helper.np_dtype_to_tensor_dtype(np.dtype(case.dtype))
    constants = {"W": weights, **parameters, **({} if bias is None else {"B": bias})}
    attributes = {**case.attributes, **PLUGIN_ATTRIBUTES, "kernel_shape": case.window.window}
    if operator.has_degree:
        attributes["degree"] = case.degree
    inputs = ["X", "W", *parameters, "" if bias is None else "B"]
    graph = helper.make_graph(
        [helper.make_node(operator.name, inputs, ["Y"], domain=DOMAIN, **attributes)],
        "one_operator",
        [helper.make_tensor_value_info("X", element, ["n", case.window.channels, "h", "w"])],
        [helper.make_tensor_value_info("Y", element, ["n", case.window.filters, "oh", "ow"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=[FUNCTIONS[operator.name]])


def run_torch(case: Case, x: Array) -> Array:
    """The torch operator, in the case's dtype."""
    _, weights, bias, parameters = case.tensors()
    w = case.window
    result = kervolution(
        torch.from_numpy(x),
        torch.from_numpy(weights),
        None if bias is None else torch.from_numpy(bias),
        kernel=case.kernel,
        stride=w.strides,
        pads=w.pads,
        dilation=w.dilations,
        groups=w.group,
        degree=case.degree,
        **{name: torch.from_numpy(value) for name, value in parameters.items()},
    )
    return np.asarray(result.numpy())


def run_reference(case: Case, x: Array) -> Array:
    """The function body in ONNX's reference evaluator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(ReferenceEvaluator(model_of(case)).run(None, {"X": x})[0])


def run_onnxruntime(case: Case, x: Array, native: bool = False) -> Array:
    """ONNX Runtime: the function body inlined, or the op library's kernel."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if native:
        options.register_custom_ops_library(op_library())
    model = model_of(case).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"X": x})[0])


def run_native(case: Case, x: Array) -> Array:
    """ONNX Runtime with the op library."""
    return run_onnxruntime(case, x, native=True)


BACKENDS: dict[str, Callable[[Case, Array], Array]] = {
    "torch": run_torch,
    "reference": run_reference,
    "onnxruntime": run_onnxruntime,
    "onnxruntime+library": run_native,
}


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_every_backend_agrees_with_the_float64_loop(case: Case) -> None:
    x, weights, bias, parameters = case.tensors()
    expected = oracle(x, weights, bias, kernel=case.kernel, degree=case.degree, **case.attributes, **parameters)
    for name, run in BACKENDS.items():
        actual = run(case, x)
        assert actual.dtype == np.dtype(case.dtype), name
        assert_close(actual, expected, case.dtype, name)


def test_the_configurations_are_many_and_differ() -> None:
    everything = cases()
    assert len(everything) >= 200
    assert len({case.id for case in everything}) == len(everything)


@pytest.mark.parametrize("kernel", OPERATOR_OF_KERNEL)
def test_function_is_valid_onnx(kernel: str) -> None:
    case = next(case for case in cases() if case.kernel == kernel)
    onnx.checker.check_model(model_of(case), full_check=True)
