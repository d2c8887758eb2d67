"""8-bit convolutions and mobile blocks through ONNX Runtime, on every instruction set, against loops over integers."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from typing import Any

import numpy as np
import pytest
from native_kernels import ISAS, Library
from onnx import helper, numpy_helper
from qlinear_mobile_models import LAYOUTS, SHAPES, Array, Case, make_case, make_model, shaped
from sessions import session

from edgeconv.runtime.op_library import op_library

from .test_versions import OLD, ROOT, installed

SAME = (1, 1, 1, 1)


@pytest.fixture(scope="module")
def isas() -> tuple[str, ...]:
    """Those of this machine that the kernels have a file for."""
    best = Library(op_library()).isas
    return tuple(isa for isa in ("baseline", "avx2", "avx512_vnni", "amx") if isa in best and isa in ISAS)


def run(case: Case, layouts: tuple[str, str] = ("NHWC", "NHWC"), threads: int = 1, **options: Any) -> Array:
    """The result in NCHW."""
    model, feeds = make_model(case, layouts, **options)
    (y,) = session(model, threads).run(None, feeds)
    return y if layouts[1] == "NCHW" else y.transpose(0, 3, 1, 2)


def zero_at_the_end(case: Case) -> Case:
    """The case with the zero-points of everything between stages at the type's lowest value, as behind a ReLU."""
    for stage in case.stages[: len(case.stages) - (0 if case.operator.residual else 1)]:
        stage.zero_point = np.asarray(np.iinfo(case.x.dtype).min, case.x.dtype)
        stage.limits = None
    return case


def check(monkeypatch: pytest.MonkeyPatch, isas: tuple[str, ...], case: Case, layouts: tuple[str, str]) -> None:
    expected = case.oracle()
    for isa in isas:
        monkeypatch.setenv("EDGECONV_CPU_ISA", isa)
        actual = run(case, layouts)
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected, isa)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_loop(monkeypatch: pytest.MonkeyPatch, isas: tuple[str, ...], shape: str, dtype: str) -> None:
    """Bit for bit; with int8, scales are dyadic (many ties), per tensor, and the results cut."""
    signed = dtype == "int8"
    case = shaped(shape, dtype=dtype, per_channel=not signed, dyadic=signed, limits=signed)
    assert len(np.unique(case.oracle())) > min(20, case.oracle().size // 12)
    check(monkeypatch, isas, case, ("NHWC", "NHWC"))


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(SHAPES[shape][2]) > 1])
def test_behind_a_relu(monkeypatch: pytest.MonkeyPatch, isas: tuple[str, ...], shape: str, dtype: str) -> None:
    """Where saturation alone cuts the activations in between, sums are converted in another way, to the same bytes."""
    for dyadic in (False, True):
        check(monkeypatch, isas, zero_at_the_end(shaped(shape, dtype=dtype, dyadic=dyadic)), ("NHWC", "NHWC"))


@pytest.mark.parametrize("layouts", list(product(LAYOUTS, repeat=2)), ids="-".join)
@pytest.mark.parametrize(
    "shape", ["stem", "plain", "head", "pointwise, odd", "one pixel", "depthwise", "separable, odd", "bottleneck",
              "bottleneck, odd", "residual", "residual, odd", "residual, large", "stem and block"],
)  # fmt: skip
def test_layouts(monkeypatch: pytest.MonkeyPatch, isas: tuple[str, ...], shape: str, layouts: tuple[str, str]) -> None:
    for dtype in ("uint8", "int8"):
        check(monkeypatch, isas, shaped(shape, dtype=dtype), layouts)


def test_random_shapes(monkeypatch: pytest.MonkeyPatch, isas: tuple[str, ...]) -> None:
    generator = np.random.default_rng(5)
    names = ("QLinearConvolution", "QLinearSeparableConvolution", "QLinearBottleneck", "QLinearInvertedResidual")
    for index in range(60):
        name = names[index % 4]
        channels, hidden, filters = (int(value) for value in generator.integers(1, 80, 3))
        window = tuple(int(value) for value in generator.integers(1, 6, 2))
        pads = tuple(int(value) for value in generator.integers(0, 3, 4))
        options: dict[str, Any] = {"pads": pads, "strides": tuple(generator.integers(1, 4, 2).tolist()),
                                   "dilations": tuple(generator.integers(1, 3, 2).tolist())}  # fmt: skip
        stages: tuple[int, ...] = (hidden,)
        if name == "QLinearSeparableConvolution":
            stages = (channels, filters)
        elif name == "QLinearBottleneck":
            stages = (hidden, hidden, filters)
        elif name == "QLinearInvertedResidual":
            stages = (hidden, hidden, channels)
            window = (3, 3)
            options = {"pads": SAME}
        size = tuple(int(value) for value in generator.integers(10, 34, 2))
        case = make_case(
            name, (int(generator.integers(1, 3)), channels, *size), stages, window,
            dtype=("uint8", "int8")[index // 4 % 2], per_channel=bool(index % 3), dyadic=index % 5 == 0, **options,
        )  # fmt: skip
        if index % 2:
            case = zero_at_the_end(case)
        check(monkeypatch, isas, case, (LAYOUTS[index // 2 % 2], LAYOUTS[index // 3 % 2]))


@pytest.mark.parametrize("shape", ["stem", "head", "separable, odd", "bottleneck, large", "residual, small"])
def test_threads_give_the_same_bytes(shape: str) -> None:
    case = shaped(shape)
    for threads in (2, 3):
        for _ in range(5):
            np.testing.assert_array_equal(run(case, threads=threads), case.oracle())


def test_concurrent_runs_of_one_session() -> None:
    from concurrent.futures import ThreadPoolExecutor

    case = shaped("bottleneck, large")
    model, feeds = make_model(case)
    shared, expected = session(model, 2), case.oracle().transpose(0, 2, 3, 1)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: shared.run(None, feeds)[0], range(12)):
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("shape", ["plain", "separable", "bottleneck", "residual"])
def test_nothing_needs_to_be_constant(shape: str) -> None:
    case = shaped(shape)
    names = tuple(case.tensors())
    for inputs in (("X", names[1]), ("X", names[3]), names):
        np.testing.assert_array_equal(run(case, inputs=inputs), case.oracle())


def test_sizes_that_change_from_run_to_run() -> None:
    case = shaped("residual")
    model, feeds = make_model(case)
    for axis in range(3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "NHW"[axis]
    created = session(model)
    for crop in ((2, 14, 9), (1, 7, 9), (2, 1, 3), (2, 14, 9)):
        part = case.x[: crop[0], :, : crop[1], : crop[2]]
        whole, case.x = case.x, np.ascontiguousarray(part)
        expected = case.oracle().transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(created.run(None, {"X": case.x.transpose(0, 2, 3, 1).copy()})[0], expected)
        case.x = whole
    empty = np.zeros((0, *feeds["X"].shape[1:]), np.uint8)
    assert created.run(None, {"X": empty})[0].shape == empty.shape


def test_sums_at_their_ends(monkeypatch: pytest.MonkeyPatch, isas: tuple[str, ...]) -> None:
    """Activations and weights at the ends of their ranges, where 16 bits would overflow; and far quotients."""
    for dtype in ("uint8", "int8"):
        for scale in (1e-12, 1e-3, 40.0, 1e6):
            case = shaped("bottleneck, odd", dtype=dtype)
            ends = np.iinfo(dtype)
            case.x[:] = np.where(np.arange(case.x.size).reshape(case.x.shape) % 3 > 0, ends.max, ends.min)
            for stage in case.stages:
                stage.w[:] = np.where(np.arange(stage.w.size).reshape(stage.w.shape) % 5 > 1, 127, -128)
                stage.scale = np.float32(stage.scale * scale)
            check(monkeypatch, isas, case, ("NHWC", "NHWC"))


def test_ties_go_to_the_even_step(monkeypatch: pytest.MonkeyPatch, isas: tuple[str, ...]) -> None:
    """Quotients of halves, with an odd zero-point: rounded before it is added."""
    case = make_case("QLinearConvolution", (1, 4, 16, 16), (5,), (1, 1))
    case.x[:] = np.arange(case.x.size).reshape(case.x.shape) % 256
    case.x_scale, case.x_zero_point = np.float32(0.5), np.asarray(100, np.uint8)
    (stage,) = case.stages
    stage.w[:], stage.bias[:] = 0, 0
    stage.w[:, 0] = 1
    stage.w_scale, stage.scale, stage.zero_point = np.full(5, 0.25, np.float32), np.float32(0.25), np.uint8(101)
    steps = case.x[:, :1].astype(int) - 100
    expected = np.clip([round(step / 2) + 101 for step in steps.ravel().tolist()], 0, 255).reshape(steps.shape)
    np.testing.assert_array_equal(case.oracle()[:, :1], expected)
    assert np.mean(steps % 2) == 0.5
    check(monkeypatch, isas, case, ("NHWC", "NHWC"))


CREATION_ERRORS: list[tuple[str, dict[str, Any], str]] = [
    ("plain", {"x_perm": [0, 2, 1, 3]}, "x_perm is (0, 2, 1, 3): it must be (0, 1, 2, 3) or (0, 3, 1, 2)"),
    ("plain", {"y_perm": [0, 3, 1, 2]}, "y_perm is (0, 3, 1, 2): it must be (0, 1, 2, 3) or (0, 2, 3, 1)"),
    ("plain", {"strides": [0, 1]}, "strides are [0, 1]: both must be positive"),
    ("plain", {"x_perm": [0, 1]}, "x_perm has 2 values: expected 4"),
    ("bottleneck", {"group": 1}, "the depthwise stage has 1 channels, 96 filters and group 1: they must be the same"),
]


@pytest.mark.parametrize(("shape", "attributes", "message"), CREATION_ERRORS)
def test_bad_attributes_fail_when_the_session_is_created(shape: str, attributes: dict[str, Any], message: str) -> None:
    case = shaped(shape)
    model, _ = make_model(case)
    node = model.graph.node[0]
    for name, value in attributes.items():
        for index in reversed(range(len(node.attribute))):
            if node.attribute[index].name == name:
                del node.attribute[index]
        node.attribute.append(helper.make_attribute(name, value))
    with pytest.raises(Exception) as error:  # noqa: PT011 - the message is compared
        session(model)
    assert f"{case.operator.name} 'node': {message}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("w_scale", np.ones(3, np.float32), "the scale of W has shape (3): expected a scalar or (21)"),
        ("B", np.zeros(2, np.int32), "B has shape (2): expected (21)"),
        ("y_scale", np.ones(2, np.float32), "y_scale has shape (2): expected a scalar"),
        ("x_zero_point", np.zeros((1, 1), np.uint8), "x_zero_point has shape (1, 1): expected a scalar"),
        ("B", np.full(21, 2**31 - 1, np.int32), "bias 2147483647 included, which does not fit into 32 bits"),
    ],
)
def test_inputs_that_do_not_fit(name: str, value: Array, message: str) -> None:
    model, feeds = make_model(shaped("plain"))
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(value, name))
    with pytest.raises(Exception) as error:  # noqa: PT011 - the message is compared
        session(model).run(None, feeds)
    assert "QLinearConvolution 'node': " in str(error.value)
    assert message in str(error.value)


def test_images_that_do_not_fit() -> None:
    model, _ = make_model(shaped("residual"))
    for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim, "NHWC", strict=True):
        dim.dim_param = name
    created = session(model)
    with pytest.raises(Exception, match=r"X has shape \(1, 8, 8, 23\): expected 24 channels, the last axis"):
        created.run(None, {"X": np.zeros((1, 8, 8, 23), np.uint8)})


@pytest.mark.parametrize("version", [*OLD, "1.20.1", "1.23.2"])
def test_version(version: str) -> None:
    """All operators and both types in other versions, each in a process of its own."""
    code = f"""
import sys
sys.path[:0] = {[str(installed(version)), str(ROOT / "tests")]}
import numpy as np, onnxruntime as ort
assert ort.__version__ == "{version}"
from qlinear_mobile_models import make_model, shaped
for shape in ("stem", "separable", "bottleneck", "residual", "stem and block"):
    for dtype in ("uint8", "int8"):
        case = shaped(shape, dtype=dtype)
        for inputs in (("X",), tuple(case.tensors())):
            model, feeds = make_model(case, ("NHWC", "NCHW"), inputs)
            settings = ort.SessionOptions()
            settings.intra_op_num_threads = 2
            settings.register_custom_ops_library({op_library()!r})
            session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
            np.testing.assert_array_equal(session.run(None, feeds)[0], case.oracle())
print("right answers")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == "right answers\n"
    assert "Warning" not in result.stderr


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("shape", [(2, 37, 5, 7), (1, 64, 1, 1), (3, 130, 7, 7), (1, 3, 40, 33), (0, 5, 3, 3)], ids=str)
def test_global_average_pool(shape: tuple[int, int, int, int], dtype: str) -> None:
    generator = np.random.default_rng(4)
    ends = np.iinfo(dtype)
    x = generator.integers(ends.min, ends.max + 1, shape).astype(dtype)
    points = [np.asarray(ends.min + value, dtype) for value in (13, 101)]
    x_scale, y_scale = np.float32(0.13), np.float32(0.011)
    mantissa, exponent = np.frexp(np.float64(x_scale) / (shape[2] * shape[3] * np.float64(y_scale)))
    factor = np.float32(np.ldexp(np.rint(mantissa * 2**22), exponent - 22))
    sums = (x.astype(np.int64) - int(points[0])).sum((2, 3), keepdims=True)
    expected = np.clip(np.rint(sums.astype(np.float32) * factor) + int(points[1]), ends.min, ends.max).astype(dtype)
    for order in ([0, 1, 2, 3], [0, 3, 1, 2]):
        given = x if order[1] == 1 else x.transpose(0, 2, 3, 1)
        names = ("X", "x_scale", "x_zero_point", "y_scale", "y_zero_point")
        arrays = dict(zip(names, (given, x_scale, points[0], y_scale, points[1]), strict=True))
        node = helper.make_node("QLinearGlobalAveragePool", names, ["Y"], domain="edgeconv", x_perm=order)
        kind = helper.np_dtype_to_tensor_dtype(x.dtype)
        graph = helper.make_graph(
            [node], "graph", [helper.make_tensor_value_info("X", kind, given.shape)],
            [helper.make_tensor_value_info("Y", kind, None)],
            [numpy_helper.from_array(np.asarray(arrays[name]), name) for name in names[1:]],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("edgeconv", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        (y,) = session(model).run(None, {"X": np.ascontiguousarray(given)})
        np.testing.assert_array_equal(y, expected)
