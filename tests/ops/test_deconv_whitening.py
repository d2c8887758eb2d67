"""One body runs the whitening over every backend, against float64 loops."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator
from sessions import session
from tolerances import assert_close
from whitening_cases import CASES, DEFAULTS, Case
from whitening_oracle import covariances, whitening

from edgeconv.ops.deconv_whitening import NAME, WhiteningShape
from edgeconv.ops.deconv_whitening_function import FUNCTION, OPSET
from edgeconv.ops.deconv_whitening_torch import deconv_whitening
from edgeconv.ops.kervolution import DOMAIN, PLUGIN_ATTRIBUTES, VERSION

Array = NDArray[np.floating]
Results = tuple[Array, Array]


def model_of(
    case: Case, dtype: str = "float32", *, function: bool = True, attributes: dict[str, Any] | None = None
) -> onnx.ModelProto:
    """A file with one operator, sizes left open."""
    given = (case.attributes if attributes is None else attributes) | PLUGIN_ATTRIBUTES
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    shape = [case.attributes["group"], case.features, case.features]
    graph = helper.make_graph(
        [helper.make_node(NAME, ["X"], ["mean", "deconv"], name="whiten", domain=DOMAIN, **given)],
        "one_operator",
        [helper.make_tensor_value_info("X", element, ["n", case.channels, "h", "w"])],
        [
            helper.make_tensor_value_info("mean", onnx.TensorProto.FLOAT, shape[:2]),
            helper.make_tensor_value_info("deconv", onnx.TensorProto.FLOAT, shape),
        ],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=[FUNCTION] if function else [])


def run_torch(case: Case, x: Array) -> Results:
    """The torch operator, in the input's dtype."""
    given = case.attributes
    mean, deconv = deconv_whitening(torch.from_numpy(x), **given | {"centered": bool(given["centered"])})
    return mean.numpy(), deconv.numpy()


def run_reference(case: Case, x: Array) -> Results:
    """The function body in ONNX's reference evaluator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        mean, deconv = ReferenceEvaluator(model_of(case, x.dtype.name)).run(None, {"X": x})
    return mean, deconv


def run_onnxruntime(case: Case, x: Array) -> Results:
    """ONNX Runtime: the function body."""
    mean, deconv = session(model_of(case, x.dtype.name), native=False).run(None, {"X": x})
    return mean, deconv


def run_native(case: Case, x: Array) -> Results:
    """ONNX Runtime with the op library, and no function in the file that could run in the kernel's place."""
    model = model_of(case, x.dtype.name, function=False)
    mean, deconv = session(model).run(None, {"X": x})
    return mean, deconv


BACKENDS: dict[str, Callable[[Case, Array], Results]] = {
    "torch": run_torch,
    "reference": run_reference,
    "onnxruntime": run_onnxruntime,
    "onnxruntime+library": run_native,
}
each_backend = pytest.mark.parametrize("backend", BACKENDS)
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@cases
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_backend_agrees_with_the_float64_loop(case: Case, dtype: str) -> None:
    x = case.input(dtype)
    expected = whitening(x, case.attributes)
    for name, run in BACKENDS.items():
        for what, actual, wanted in zip(("mean", "deconv"), run(case, x), expected, strict=True):
            assert actual.dtype == np.float32, name
            assert_close(actual, wanted, np.float32, f"{name}, {what}")


@cases
def test_torch_in_float64(case: Case) -> None:
    x = case.input("float64")
    for actual, wanted in zip(run_torch(case, x), whitening(x, case.attributes), strict=True):
        assert actual.dtype == np.float64
        assert_close(actual, wanted, np.float64)


def test_the_oracle_is_the_inverse_square_root() -> None:
    """With enough steps; and the mean is that of the samples."""
    case = next(case for case in CASES if case.name == "many steps")
    x, attributes = case.input("float64"), case.attributes
    _, (covariance,) = covariances(x, attributes)
    mean, (deconv,) = whitening(x, attributes)
    assert_close(deconv @ covariance @ deconv, np.eye(case.features), np.float64)
    assert_close(mean[0], x.mean((0, 2, 3)), np.float64)


def test_the_cases_reach_every_kind_of_shape() -> None:
    shapes = [
        WhiteningShape(case.channels, case.block, case.features // case.block, case.attributes["group"])
        for case in CASES
    ]
    for condition in (
        any(shape.blocks > 1 and shape.taps > 1 for shape in shapes),
        any(shape.blocks > 1 and shape.taps == 1 for shape in shapes),
        any(shape.group > 1 and shape.taps > 1 for shape in shapes),
        any(shape.features % 2 for shape in shapes),
        {case.attributes["sampling_stride"] for case in CASES} >= {1, 2, 3},
        {case.attributes["centered"] for case in CASES} == {0, 1},
        {case.attributes["n_iter"] for case in CASES} >= {0, 1, 2},
    ):
        assert condition


@each_backend
@pytest.mark.parametrize("factor", [1e-12, 1e12, 1e30], ids=str)
def test_tiny_and_huge_inputs(backend: str, factor: float) -> None:
    case = Case("huge", 2, 6, (12, 13), 3, (3, 3), {"sampling_stride": 2})
    x = (case.input("float64") * factor).astype(np.float32)
    mean, deconv = whitening(x, case.attributes)
    actual = BACKENDS[backend](case, x)
    assert_close(actual[0] / factor, mean / factor, np.float32)
    scale = np.sqrt((deconv**2).mean())
    assert_close(actual[1] / scale, deconv / scale, np.float32)


@each_backend
@pytest.mark.parametrize("value", [0.0, 1.0, -3.7, 1e10, 3e38], ids=str)
def test_constant_inputs_are_bounded_by_eps(backend: str, value: float) -> None:
    case = Case("constant", 2, 4, (9, 8), 2, (3, 2), {"n_iter": 12})
    x = np.full((2, 4, 9, 8), value, np.float32)
    mean, deconv = BACKENDS[backend](case, x)
    assert_close(mean, np.full(mean.shape, np.float64(np.float32(value))), np.float32)
    assert np.isfinite(deconv).all()
    assert np.abs(deconv).max() <= 1.001 * 1e-5**-0.5
    if abs(value) < 10:  # beyond, the rounding of the mean is a spread larger than eps
        assert_close(deconv, whitening(x, case.attributes)[1], np.float32)


@each_backend
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("window", [(3, 3), (1, 1)], ids=str)
def test_what_is_not_finite_stays_so(backend: str, value: float, window: tuple[int, int]) -> None:
    case = Case("not finite", 2, 4, (9, 8), 2, window, {"sampling_stride": 1})
    x = case.input()
    x[1, 2, 4, 3] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        mean, deconv = BACKENDS[backend](case, x)
    assert not np.isfinite(mean).all()
    assert not np.isfinite(deconv).any()


@each_backend
def test_only_sampled_positions_count(backend: str) -> None:
    case = Case("sampled", 2, 4, (10, 10), 2, (2, 2))
    x = case.input()
    other = x.copy()
    other[:, :, 2::3] += 5  # positions 0, 3, 6 of a window of 2 never meet row 2, 5, 8
    for one, two in zip(BACKENDS[backend](case, x), BACKENDS[backend](case, other), strict=True):
        assert_close(one, two, np.float32)
    other[:, :, 3::3] += 5
    assert np.abs(BACKENDS[backend](case, other)[0] - BACKENDS[backend](case, x)[0]).max() > 1


@cases
def test_the_function_is_valid_onnx_and_so_is_the_node(case: Case) -> None:
    onnx.checker.check_model(model_of(case), full_check=True)
    onnx.checker.check_model(model_of(case, function=False), full_check=True)


def test_absent_attributes_have_their_defaults() -> None:
    case = Case("defaults", 2, 6, (17, 12), 3, (3, 2))
    required = {name: case.attributes[name] for name in ("block", "kernel_shape")}
    x = case.input()
    assert case.attributes == required | DEFAULTS
    actual = session(model_of(case, attributes=required), native=False).run(None, {"X": x})
    for one, two in zip(actual, run_onnxruntime(case, x), strict=True):
        assert np.array_equal(one, two)


@cases
def test_inlined_the_file_computes_the_same(case: Case) -> None:
    model = inline_local_functions(model_of(case))
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    x = case.input()
    for one, two in zip(session(model, native=False).run(None, {"X": x}), run_onnxruntime(case, x), strict=True):
        assert_close(one, two, np.float32)
