"""8-bit kervolutions on x·w through ONNX Runtime, on every instruction set, against exact sums and float64."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
from native_kernels import ISAS, Library
from onnx import numpy_helper
from qlinear_kervolution_models import KERNELS, SHAPES, Array, Case, make_case, make_model
from sessions import session

from edgeconv.runtime.op_library import op_library


@pytest.fixture(scope="module")
def isas() -> tuple[str, ...]:
    """Those of this machine that the kernels have a file for."""
    best = Library(op_library()).isas
    return tuple(isa for isa in ("baseline", "avx2", "avx512_vnni", "amx") if isa in best and isa in ISAS)


def run(case: Case, layouts: tuple[str, str] = ("NHWC", "NHWC"), threads: int = 1, **options: Any) -> Array:
    """The result in NCHW."""
    model, feeds = make_model(case, layouts, **options)
    (y,) = session(model, threads).run(None, feeds)
    return np.asarray(y if layouts[1] == "NCHW" else y.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_matches_loop(
    monkeypatch: pytest.MonkeyPatch, isas: tuple[str, ...], kernel: str, shape: str, dtype: str
) -> None:
    """In one layout a case; with int8, one scale and one parameter serve all filters."""
    case = make_case(kernel, shape, dtype=dtype, per_channel=dtype == "uint8")
    layouts = list(product(("NHWC", "NCHW"), repeat=2))[(list(SHAPES).index(shape) + KERNELS.index(kernel)) % 4]
    for isa in isas:
        monkeypatch.setenv("EDGECONV_CPU_ISA", isa)
        actual = run(case, layouts)
        assert len(np.unique(actual)) > 100
        case.check(actual, isa)


@pytest.mark.parametrize("layouts", list(product(("NCHW", "NHWC"), repeat=2)), ids="-".join)
def test_layouts(layouts: tuple[str, str]) -> None:
    for shape in ("plain", "image", "pointwise"):
        case = make_case("euclidean", shape)
        case.check(run(case, layouts), shape)


@pytest.mark.parametrize("degree", [1, 2, 5])
def test_degrees(degree: int) -> None:
    case = make_case("polynomial", "plain", degree=degree)
    case.check(run(case), str(degree))


@pytest.mark.parametrize("kernel", KERNELS)
def test_threads_and_computed_inputs(kernel: str) -> None:
    """With two threads the bytes are those of one; so are they where weights and parameters come at run time."""
    case = make_case(kernel, "rows")
    expected = run(case)
    np.testing.assert_array_equal(run(case, threads=2), expected)
    np.testing.assert_array_equal(run(case, inputs=tuple(case.arrays("NHWC"))), expected)


def test_overflow_saturates() -> None:
    """A power beyond float32 is infinite, and so is what it is divided by a step."""
    case = make_case("polynomial", "plain", degree=101)
    case.parameters["balance"] = np.asarray(40, np.float32)
    case.y_scale, case.y_zero_point = np.float32(0.1), np.asarray(7, np.uint8)
    assert (run(case) == 255).all()


def broken(kernel: str, change: dict[str, Any], **attributes: Any) -> str:
    """Message of a case whose tensors or attributes are replaced."""
    model, feeds = make_model(make_case(kernel, "plain"))
    for tensor in model.graph.initializer:
        if tensor.name in change:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(change[tensor.name]), tensor.name))
    for name, value in attributes.items():
        (found,) = [each for each in model.graph.node[0].attribute if each.name == name]
        found.CopyFrom(onnx.helper.make_attribute(name, value))
    with pytest.raises(Exception) as caught:  # noqa: PT011 - ONNX Runtime's own classes; the text is checked
        session(model).run(None, feeds)
    return str(caught.value)


def test_errors() -> None:
    message = broken("sigmoid", {"scale": np.ones(20, np.float32)})
    assert "node" in message
    assert "scale has shape (20): expected a scalar or (21)" in message
    assert "balance has shape (1, 21)" in broken("polynomial", {"balance": np.ones((1, 21), np.float32)})
    assert "B has shape (20): expected (21)" in broken("gaussian", {"B": np.zeros(20, np.float32)})
    assert "degree is 0: it must be 1 or more" in broken("polynomial", {}, degree=0)
    wide = np.ones((21, 33_030, 1, 1), np.int8)
    assert "the sum of their squares may not fit" in broken("euclidean", {"W": wide}, kernel_shape=[1, 1])
    grouped = np.ones((26, 1, 3, 3), np.int8)
    change = {"W": grouped, "B": np.zeros(26, np.float32), "w_scale": np.float32(1)}
    assert "group is 13: it must be 1" in broken("euclidean", change, group=13)
