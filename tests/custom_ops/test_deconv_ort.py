"""The glue of DeconvWhitening to ONNX Runtime: types, attributes, shapes, errors, threads, versions."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from deconv_kernels import Array, Case, Library, assert_whitened, make_case, make_model
from sessions import session

from edgeconv.runtime.op_library import op_library

from .test_versions import OLD, ROOT, installed


def run(case: Case, threads: int = 1, **options: Any) -> tuple[Array, Array]:
    mean, deconv = session(make_model(case, **options), threads).run(None, {"X": case.x})
    return mean, deconv


def small_case(dtype: str = "float32", **options: Any) -> Case:
    defaults: dict[str, Any] = {"strides": (2, 1), "pads": (1, 0, 1, 2), "sampling_stride": 2}
    return make_case((2, 6, 19, 17), (3, 2), 3, dtype, **{**defaults, **options})


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("group", [1, 2])
def test_matches_float64(dtype: str, group: int) -> None:
    for options in ({}, {"dilations": (1, 3), "eps": 1e-2, "n_iter": 3, "centered": 0}):
        case = small_case(dtype, group=group, **options)
        assert_whitened(case, run(case))
    case = make_case((3, 12, 13, 9), (1, 1), 12 // group, dtype, group=group)
    assert_whitened(case, run(case))


def test_attributes_have_their_defaults() -> None:
    case = make_case((2, 4, 23, 26), (3, 3), 4)
    assert_whitened(case, run(case, without=tuple(set(case.attributes) - {"kernel_shape", "block"})))


def test_one_session_takes_any_size_and_batch() -> None:
    case = small_case()
    dynamic = session(make_model(case, x_shape=["N", 6, None, None]))
    for shape in ((1, 6, 9, 7), (3, 6, 4, 20), (5, 6, 40, 31)):
        sized = Case(**{**vars(case), "x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)})
        mean, deconv = dynamic.run(None, {"X": sized.x})
        assert_whitened(sized, (mean, deconv), str(shape))


def test_shapes_are_inferred() -> None:
    for x_shape in (None, ["N", "C", "H", "W"]):
        outputs = session(make_model(small_case("float16"), x_shape=x_shape)).get_outputs()
        assert [output.shape for output in outputs] == [[1, 18], [1, 18, 18]]
        assert [output.type for output in outputs] == ["tensor(float)"] * 2
    outputs = session(make_model(small_case(group=2))).get_outputs()
    assert [output.shape for output in outputs] == [[2, 18], [2, 18, 18]]


@pytest.mark.parametrize(
    "case",
    [
        make_case((2, 32, 40, 37), (3, 3), 32, pads=(1, 1, 1, 1)),
        make_case((2, 32, 40, 37), (3, 3), 8, sampling_stride=1, n_iter=7),
        make_case((2, 60, 24, 21), (3, 3), 6, group=10),
        make_case((4, 3, 150, 130), (3, 3), 3, sampling_stride=1),
    ],
    ids=["one block", "blocks", "groups", "slices"],
)
def test_threads_do_not_change_the_bits(case: Case) -> None:
    one = run(case)
    assert_whitened(case, one, factor=2)
    for threads in (2, 3, 5):
        for actual, expected in zip(run(case, threads), one, strict=True):
            np.testing.assert_array_equal(actual, expected)


def test_environment_chooses_the_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case((1, 30, 22, 21), (3, 3), 30)
    library = Library(op_library())
    found = []
    for isa in library.isas:
        monkeypatch.setenv("EDGECONV_CPU_ISA", isa)
        found.append(run(case)[1])
        np.testing.assert_array_equal(found[-1], library.run(case, isa)[1])
    assert len(found) == 1 or np.any(found[0] != found[-1])


CREATION_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"without": ("block",)}, "block is 0: it must be stated, and positive"),
    ({"without": ("kernel_shape",)}, "kernel_shape is [0, 0]: both must be stated, and positive"),
    ({"kernel_shape": [3]}, "kernel_shape has 1 values: expected 2"),
    ({"strides": [1, 0]}, "strides are [1, 0]: both must be positive"),
    ({"pads": [1, 1]}, "pads has 2 values: expected 4"),
    ({"n_iter": -1}, "n_iter is -1: expected 0 to 1000"),
    ({"sampling_stride": 0}, "sampling_stride is 0: it must be positive"),
    ({"centered": 3}, "centered is 3: expected 0 or 1"),
    ({"eps": -0.5}, "eps is -0.5: it must be finite and not negative"),
]


@pytest.mark.parametrize(("options", "message"), CREATION_ERRORS)
def test_bad_attributes_fail_when_the_session_is_created(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception) as error:  # noqa: PT011 - the message is compared
        session(make_model(small_case(), **options))
    assert f"DeconvWhitening 'node': {message}" in str(error.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 8, 9, 9), "X has 8 channels and block is 3: block must divide them"),
        ((0, 6, 9, 9), "X has 0 images: there is nothing to take a covariance of"),
        ((1, 6, 0, 9), "X has shape (1, 6, 0, 9), pads are [1, 0, 1, 2]: too small for a 3 x 2 kernel"),
        ((1, 6, 9), "X has shape (1, 6, 9): expected rank 4 (N, C, H, W)"),
    ],
)
def test_input_that_does_not_fit_names_node_and_shapes(shape: tuple[int, ...], message: str) -> None:
    case = small_case()
    model = make_model(case)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    created = session(model)
    with pytest.raises(Exception) as error:  # noqa: PT011 - the message is compared
        created.run(None, {"X": np.zeros(shape, np.float32)})
    assert f"DeconvWhitening 'node': {message}" in str(error.value)
    mean, deconv = created.run(None, {"X": case.x})
    assert_whitened(case, (mean, deconv))  # it stays usable


@pytest.mark.parametrize("version", [*OLD, "1.20.1", "1.23.2"])
def test_version(version: str) -> None:
    """Both types, with and without static shapes, in other versions, each in a process of its own.

    Up to 1.20 a session does not know the shapes of what an operator of several types gives, only the types.
    """
    code = f"""
import sys
sys.path[:0] = {[str(installed(version)), str(ROOT / "tests")]}
import numpy as np, onnxruntime as ort
assert ort.__version__ == "{version}"
from deconv_kernels import assert_whitened, make_case, make_model
for dtype in ("float32", "float16"):
    for shape, block, group in (((2, 6, 19, 17), 3, 1), ((2, 6, 19, 17), 3, 2), ((1, 32, 30, 31), 32, 1)):
        case = make_case(shape, (3, 3), block, dtype, group=group, pads=(1, 0, 1, 1), sampling_stride=2)
        for x_shape in (None, ["N", "C", None, None]):
            settings = ort.SessionOptions()
            settings.intra_op_num_threads = 2
            settings.register_custom_ops_library({op_library()!r})
            model = make_model(case, x_shape=x_shape).SerializeToString()
            session = ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
            features = 9 * block
            shapes = [[group, features], [group, features, features]]
            assert [o.shape for o in session.get_outputs()] == (shapes if "{version}" > "1.21" else [[], []])
            assert [o.type for o in session.get_outputs()] == ["tensor(float)"] * 2
            assert_whitened(case, session.run(None, {{"X": case.x}}), f"{{dtype}} {{shape}} {{group}}")
print("right answers")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == "right answers\n"
    assert "Warning" not in result.stderr
