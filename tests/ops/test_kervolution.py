"""One body runs every operator over every backend, against float64 loops."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from kervolution_cases import Case, Window, cases
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import InferenceError, infer_shapes
from oracles import kervolution as oracle
from sessions import session
from tolerances import DISTANCE_SHARE, assert_close

from edgeconv.ops.kervolution import (
    DOMAIN,
    OPERATOR_OF_KERNEL,
    PLUGIN_ATTRIBUTES,
    PRECISIONS,
    VERSION,
    count_precisions,
    describe_precisions,
    precision_of,
)
from edgeconv.ops.kervolution_function import FUNCTIONS, OPSET
from edgeconv.ops.kervolution_torch import kervolution
from edgeconv.ops.schema import register_schemas

Array = NDArray[np.floating]


TAKES_PRECISION = ["polynomial", "gaussian", "sigmoid", "euclidean"]


def model_of(case: Case, **more: Any) -> onnx.ModelProto:
    """A file with one operator, its function inside, and sizes left open; `more` are attributes of the node."""
    operator = OPERATOR_OF_KERNEL[case.kernel]
    _, weights, bias, parameters = case.tensors()
    element = helper.np_dtype_to_tensor_dtype(np.dtype(case.dtype))
    constants = {"W": weights, **parameters, **({} if bias is None else {"B": bias})}
    attributes = {**case.attributes, **PLUGIN_ATTRIBUTES, "kernel_shape": case.window.window}
    if operator.has_degree:
        attributes["degree"] = case.degree
    attributes.update(more)
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


def run_torch(case: Case, x: Array, **more: Any) -> Array:
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
        **more,
    )
    return np.asarray(result.numpy())


def run_reference(case: Case, x: Array, **more: Any) -> Array:
    """The function body in ONNX's reference evaluator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(ReferenceEvaluator(model_of(case, **more)).run(None, {"X": x})[0])


def run_onnxruntime(case: Case, x: Array, native: bool = False, **more: Any) -> Array:
    """ONNX Runtime: the function body inlined, or the op library's kernel."""
    return np.asarray(session(model_of(case, **more), native=native).run(None, {"X": x})[0])


def run_native(case: Case, x: Array, **more: Any) -> Array:
    """ONNX Runtime with the op library."""
    return run_onnxruntime(case, x, native=True, **more)


BACKENDS: dict[str, Callable[..., Array]] = {
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


@dataclass(frozen=True)
class DistantFilters(Case):
    """Filters ten times as long as the patches: of a squared distance, all but a thousandth is ‖w‖²."""

    def tensors(self) -> tuple[Array, Array, Array | None, dict[str, NDArray[np.float32]]]:
        """As of a case, with other weights."""
        x, weights, bias, parameters = super().tensors()
        return x, weights * np.float32(10 * np.sqrt(weights[0].size)), bias, parameters


def test_distances_of_long_filters_keep_what_the_input_adds() -> None:
    """‖w‖² is a sum of thousands of squares, in which a runtime must not lose what x·w is."""
    case = DistantFilters("euclidean", Window("distant", 1, 512, (5, 6), 9, (3, 3)), False, False, "float32")
    x, weights, _, _ = case.tensors()
    expected = oracle(x, weights, None, kernel="euclidean", degree=0, **case.attributes)
    norms = np.square(weights, dtype=np.float64).sum((1, 2, 3))[:, None, None]
    for name, run in BACKENDS.items():
        lost = np.abs(run(case, x) - expected).max() / (expected + norms).std()
        assert lost < DISTANCE_SHARE, name


def test_the_configurations_are_many_and_differ() -> None:
    everything = cases()
    assert len(everything) >= 200
    assert len({case.id for case in everything}) == len(everything)


@pytest.mark.parametrize("kernel", OPERATOR_OF_KERNEL)
def test_function_is_valid_onnx(kernel: str) -> None:
    case = next(case for case in cases() if case.kernel == kernel)
    onnx.checker.check_model(model_of(case), full_check=True)


PRECISE_CASES = [case for case in cases() if case.kernel in TAKES_PRECISION][::5]


@pytest.mark.parametrize("case", PRECISE_CASES, ids=lambda case: case.id)
def test_precision_is_a_permission(case: Case) -> None:
    """Every backend takes the attribute. All but a native kernel compute what they do without it, bit for bit."""
    x = case.tensors()[0]
    for name, run in BACKENDS.items():
        default = run(case, x)
        assert np.array_equal(run(case, x, precision="float32"), default), name
        allowed = run(case, x, precision="bf16x3")
        if name != "onnxruntime+library":
            assert np.array_equal(allowed, default), name
        else:
            assert_close(allowed, default, case.dtype, name, precision="bf16x3")


def test_a_file_from_before_precision_runs() -> None:
    """Its function does not declare the attribute; it computes the same whether its node asks for it or not."""
    for kernel in TAKES_PRECISION:
        case = next(case for case in cases() if case.kernel == kernel)
        x = case.tensors()[0]
        results = []
        for more in ({}, {"precision": "bf16x3"}):
            model = model_of(case, **more)
            declared = model.functions[0].attribute_proto
            declared.remove(next(attribute for attribute in declared if attribute.name == "precision"))
            onnx.checker.check_model(model)
            session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            results += [session.run(None, {"X": x})[0], ReferenceEvaluator(model).run(None, {"X": x})[0]]
        assert np.array_equal(results[0], results[2])
        assert np.array_equal(results[1], results[3])


@pytest.mark.parametrize("kernel", OPERATOR_OF_KERNEL)
def test_the_checker_knows_precision_where_it_belongs(kernel: str) -> None:
    register_schemas()
    case = next(case for case in cases() if case.kernel == kernel)
    model = model_of(case, precision="bf16x3")
    assert OPERATOR_OF_KERNEL[kernel].has_precision == (kernel in TAKES_PRECISION)
    del model.functions[:]  # else the checker asks the function
    if kernel in TAKES_PRECISION:
        onnx.checker.check_model(model, full_check=True)
        model = model_of(case, precision="bf16")
        del model.functions[:]
        expected = f"{OPERATOR_OF_KERNEL[kernel].name}.*precision is 'bf16'; it must be float32 or bf16x3"
        with pytest.raises(InferenceError, match=expected):
            infer_shapes(model, strict_mode=True)
    else:
        with pytest.raises(onnx.checker.ValidationError, match="precision"):
            onnx.checker.check_model(model)


def test_nodes_say_their_precision() -> None:
    nodes = []
    for kernel, more in (("gaussian", {}), ("sigmoid", {"precision": "bf16x3"}), ("euclidean", {}), ("manhattan", {})):
        case = next(case for case in cases() if case.kernel == kernel)
        nodes += model_of(case, **more).graph.node
    nodes += [helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node("GaussianKervolution", [], [], domain="a")]
    assert [precision_of(node) for node in nodes] == ["float32", "bf16x3", "float32", None, None, None]
    counts = count_precisions(nodes)
    assert counts == {"bf16x3": 1, "float32": 2}
    told = describe_precisions(counts)
    assert all(text in told for text in ("1 in bf16x3", "AMX", "2 in float32"))
    assert "AMX" not in describe_precisions({"float32": 2})
    assert PRECISIONS == ("float32", "bf16x3")
