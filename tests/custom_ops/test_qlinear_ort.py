"""The glue of the 8-bit operator to ONNX Runtime: types, optional and constant inputs, errors, threads, versions."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from qlinear_kernels import Case, Library, make_case
from qlinear_models import make_model
from sessions import session

from edgeconv.runtime.op_library import op_library

from .test_versions import OLD, ROOT, installed

ALL_TYPES = list(product(("uint8", "int8"), repeat=3))
EVERY_INPUT = ("X", "x_scale", "x_zero_point", "W", "w_scale", "w_zero_point", "y_scale", "y_zero_point")


def run(case: Case, threads: int = 1, **options: Any) -> np.ndarray[Any, Any]:
    model, feeds = make_model(case, **options)
    (result,) = session(model, threads).run(None, feeds)
    assert result.dtype == case.y_zero_point.dtype
    return np.asarray(result)


def small_case(**options: Any) -> Case:
    defaults = {"strides": (2, 1), "pads": (1, 0, 1, 2), "group": 2}
    return make_case((2, 6, 9, 7), 8, (3, 2), **{**defaults, **options})


@pytest.mark.parametrize("bias", ["given", "absent", "empty name"])
@pytest.mark.parametrize("types", ALL_TYPES, ids="-".join)
def test_matches_loop(types: tuple[str, str, str], bias: str) -> None:
    for per_channel in (False, True):
        case = small_case(types=types, bias=bias == "given", per_channel=per_channel)
        np.testing.assert_array_equal(run(case, empty_bias=bias == "empty name"), case.loop())


@pytest.mark.parametrize(
    "inputs", [("X", "W"), ("X", "x_scale"), ("X", "w_zero_point"), EVERY_INPUT, (*EVERY_INPUT, "B")]
)
def test_nothing_needs_to_be_constant(inputs: tuple[str, ...]) -> None:
    case = small_case(types=("int8", "int8", "uint8"), bias="B" in inputs)
    np.testing.assert_array_equal(run(case, inputs=inputs), case.oracle())


def test_scalars_may_have_one_axis() -> None:
    case = small_case(per_channel=False)
    expected = case.oracle()
    for name in ("x_scale", "x_zero_point", "w_scale", "w_zero_point", "y_scale", "y_zero_point"):
        setattr(case, name, np.asarray(getattr(case, name)).reshape(1))
    np.testing.assert_array_equal(run(case), expected)


def test_scale_and_zero_point_of_w_may_differ_in_rank() -> None:
    case = small_case()
    case.w_scale = case.x_scale
    np.testing.assert_array_equal(run(case), case.oracle())


def test_one_session_takes_any_size_and_batch() -> None:
    case = small_case()
    model, _ = make_model(case, x_shape=["N", 6, None, None])
    dynamic = session(model)
    for shape in ((1, 6, 9, 7), (3, 6, 4, 20), (0, 6, 9, 7), (1, 6, 30, 41)):
        sized = Case(**{**vars(case), "x": np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)})
        np.testing.assert_array_equal(dynamic.run(None, {"X": sized.x})[0], sized.oracle())


def test_shapes_are_inferred() -> None:
    case = small_case()
    # Older versions crash in shape inference where an input has the empty name, so there it is not offered.
    offered = tuple(map(int, ort.__version__.split(".")[:2])) >= (1, 24)
    for y_type in ("uint8", "int8"):
        case.y_zero_point = np.asarray(0, y_type)
        (output,) = session(make_model(case)[0]).get_outputs()
        assert output.shape == (list(case.output_shape) if offered else [])
        assert output.type == f"tensor({y_type})"
    (output,) = session(make_model(case, x_shape=["N", 6, None, 7])[0]).get_outputs()
    assert output.shape[:2] + output.shape[3:] == (["N", 8, 8] if offered else [])


def test_attributes_have_the_defaults_of_conv() -> None:
    case = make_case((1, 3, 6, 8), 5, (3, 2))
    model, feeds = make_model(case)
    del model.graph.node[0].attribute[:]
    np.testing.assert_array_equal(session(model).run(None, feeds)[0], case.oracle())


def test_weights_are_packed_when_the_session_is_created() -> None:
    """Initialisers that the caller owns are overwritten afterwards: the session must not look at them again."""
    case = small_case()
    model, feeds = make_model(case)
    names = ("W", "x_scale", "w_scale", "w_zero_point")
    shared = {name: ort.OrtValue.ortvalue_from_numpy(case.tensors()[name].copy()) for name in names}
    created = session(model, shared=shared)
    for value in shared.values():
        value.update_inplace(np.zeros_like(value.numpy()))
    np.testing.assert_array_equal(created.run(None, feeds)[0], case.oracle())


@pytest.mark.parametrize("on_the_grid", [True, False])
def test_threads_do_not_change_the_bytes(on_the_grid: bool) -> None:
    case = make_case((2, 8, 40, 37), 300, (3, 3), pads=(1, 1, 1, 1), group=2)
    if not on_the_grid:
        case.w_scale = case.w_scale * np.float32(0.9)
    one = run(case)
    if on_the_grid:
        np.testing.assert_array_equal(one, case.oracle())
    for threads in (2, 3, 5):
        np.testing.assert_array_equal(run(case, threads), one)


def test_environment_chooses_the_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """All give the same bytes, so only the name tells; float sums differ between some of them."""
    case = make_case((1, 30, 12, 11), 40, (3, 3))
    case.w_scale = case.w_scale * np.float32(0.9)
    library = Library(op_library())
    for isa in library.isas:
        monkeypatch.setenv("EDGECONV_CPU_ISA", isa)
        np.testing.assert_array_equal(run(case), library.run(case, isa))
    monkeypatch.setenv("EDGECONV_CPU_ISA", "sse9")
    with pytest.raises(Exception, match="EDGECONV_CPU_ISA is 'sse9': expected baseline, avx2"):
        run(case)


CREATION_ERRORS: list[tuple[dict[str, object], str]] = [
    ({"strides": [1, 0]}, "strides are [1, 0]: both must be positive"),
    ({"pads": [1, 1]}, "pads has 2 values: expected 4"),
    ({"kernel_shape": [3, 3]}, "kernel_shape is [3, 3], W has shape (8, 3, 3, 2): they must agree"),
    ({"group": 3}, "W has 8 filters and group is 3: group must divide them"),
]


@pytest.mark.parametrize(("attributes", "message"), CREATION_ERRORS)
def test_bad_attributes_fail_when_the_session_is_created(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception) as error:  # noqa: PT011 - the message is compared
        session(make_model(small_case(), **attributes)[0])
    assert f"QLinearManhattanKervolution 'node': {message}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("x_scale", (2,), "x_scale has shape (2): expected a scalar"),
        ("x_zero_point", (1, 1), "x_zero_point has shape (1, 1): expected a scalar"),
        ("w_scale", (3,), "w_scale has shape (3): expected a scalar or (8)"),
        ("w_zero_point", (8, 1), "w_zero_point has shape (8, 1): expected a scalar or (8)"),
        ("y_scale", (8,), "y_scale has shape (8): expected a scalar"),
        ("y_zero_point", (0,), "y_zero_point has shape (0): expected a scalar"),
        ("bias", (1,), "B has shape (1): expected (8)"),
    ],
)
def test_inputs_of_the_wrong_shape(name: str, shape: tuple[int, ...], message: str) -> None:
    case = small_case()
    setattr(case, name, np.ones(shape, np.asarray(getattr(case, name)).dtype))
    with pytest.raises(Exception) as error:  # noqa: PT011 - the message is compared
        run(case)
    assert f"QLinearManhattanKervolution 'node': {message}" in str(error.value)


def test_input_that_does_not_fit_names_node_and_shapes() -> None:
    case = small_case()
    created = session(make_model(case, x_shape=["N", "C", "H", "W"])[0])
    expected = "QLinearManhattanKervolution 'node': W has 3 channels per group, X has 8 and group is 2: expected 4"
    with pytest.raises(Exception) as error:  # noqa: PT011 - the message is compared
        created.run(None, {"X": np.zeros((1, 8, 9, 9), np.uint8)})
    assert expected in str(error.value)
    np.testing.assert_array_equal(created.run(None, {"X": case.x})[0], case.oracle())  # it stays usable


@pytest.mark.parametrize("version", [*OLD, "1.20.1", "1.23.2"])
def test_version(version: str) -> None:
    """Every combination of types, with and without bias, in other versions, each in a process of its own."""
    code = f"""
import sys
sys.path[:0] = {[str(installed(version)), str(ROOT / "tests")]}
import itertools
import numpy as np, onnxruntime as ort
assert ort.__version__ == "{version}"
from qlinear_kernels import make_case
from qlinear_models import make_model
for types in itertools.product(("uint8", "int8"), repeat=3):
    for bias in ("given", "absent", "empty name"):
        case = make_case((2, 6, 9, 7), 8, (3, 2), types=types, strides=(2, 1), group=2, bias=bias == "given")
        for options in ({{}}, {{"inputs": tuple(case.tensors())}}, {{"x_shape": ["N", "C", None, None]}}):
            model, feeds = make_model(case, empty_bias=bias == "empty name", **options)
            settings = ort.SessionOptions()
            settings.intra_op_num_threads = 2
            settings.register_custom_ops_library({op_library()!r})
            session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
            result = session.run(None, feeds)[0]
            assert result.dtype == types[2]
            np.testing.assert_array_equal(result, case.oracle())
print("right answers")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == "right answers\n"
    assert "Warning" not in result.stderr
