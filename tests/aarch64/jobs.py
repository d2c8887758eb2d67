"""What runs on the emulated machine: models, their inputs, and what must come out.

An operator joins by one more entry in FAMILIES.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import kervolution_cases
import native_kernels
import numpy as np
import numpy.typing as npt
import onnx
import qlinear_kernels
import qlinear_kervolution_models
import qlinear_mobile_models
import qlinear_models
import whitening_cases
import whitening_oracle
from kervolution_cases import Window
from native_models import make_model
from tolerances import TOLERANCES, assert_close

from edgeconv.export.forms import apply_form
from edgeconv.ops.deconv_whitening import NAME, OPERATOR
from edgeconv.ops.kervolution import DOMAIN, VERSION

Array = npt.NDArray[Any]
OPSET = 18
MOST_ULPS = 2

Compare = Callable[[Array, Array, str], None]


def equal(actual: Array, expected: Array, what: str) -> None:
    """The same values, bit for bit; NaN stands where NaN does."""
    np.testing.assert_array_equal(actual, expected, what)


def close(actual: Array, expected: Array, what: str) -> None:
    """Integers are equal; floats are within their type's tolerance, and infinite or NaN where `expected` is."""
    if actual.dtype not in TOLERANCES:
        return equal(actual, expected, what)
    finite = np.isfinite(expected)
    equal(actual[~finite].astype(np.float64), expected[~finite], what)
    return assert_close(actual[finite], expected[finite], actual.dtype, what)


def accurate(actual: Array, expected: Array, what: str) -> None:
    """Within MOST_ULPS units in the last place of float32."""
    spacing = np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)
    ulps = np.max(np.abs(actual.astype(np.float64) - expected) / spacing)
    assert ulps <= MOST_ULPS, f"{what}: {ulps:.3g} ulps"


def within_a_step(actual: Array, expected: Array, what: str) -> None:
    """Integers of which few are off by one."""
    apart = np.abs(actual.astype(int) - expected.astype(int))
    assert apart.max(initial=0) <= 1, what
    assert np.mean(apart > 0) < 0.04, what


@dataclass(frozen=True)
class Job:
    """One run of a model."""

    name: str
    model: onnx.ModelProto  # with function bodies, inputs of static shape, one output
    feeds: dict[str, Array]
    dtype: np.dtype[Any]  # of the output
    expected: Array
    compare: Compare = close
    compare_body: Compare | None = None  # where the function body is compared in another way

    def check(self, actual: Array | str, *, native: bool = True) -> None:
        """Compare the output's elements, or report the error that came in their place."""
        assert not isinstance(actual, str), f"{self.name}: {actual}"
        assert actual.size == self.expected.size, f"{self.name}: {actual.size} elements of {self.expected.size}"
        compare = self.compare if native else self.compare_body or self.compare
        compare(actual.reshape(self.expected.shape), self.expected, self.name)


def kervolution_job(
    name: str,
    case: native_kernels.Case,
    expected: Array | None = None,
    compare: Compare = close,
    inputs: tuple[str, ...] = ("X",),
) -> Job:
    """A job of one of the six kernels; the float64 loop says what is expected, unless it is given."""
    serialized, feeds = make_model(case, inputs=inputs)
    model = onnx.load_from_string(serialized)
    model.opset_import[0].version = OPSET
    if expected is None:
        with np.errstate(invalid="ignore"):
            expected = native_kernels.oracle(case)
    return Job(name, apply_form(model, "functions"), feeds, case.x.dtype, expected, compare)


# Beside those of every backend: rows that fill the register tiles of every width, Winograd's tiles and more than one
# block of taps.
WINDOWS = (
    *kervolution_cases.WINDOWS,
    Window("rows", 1, 9, (5, 29), 21, (3, 3), pads=(1, 1, 1, 1)),
    Window("tiles", 2, 18, (7, 29), 37, (3, 3), pads=(1, 1, 0, 1)),
    Window("stem", 1, 3, (21, 34), 17, (7, 7), strides=(2, 2), pads=(3, 3, 3, 3)),
    Window("vector left", 1, 5, (2, 8), 9, (1, 1)),
    Window("blocks", 2, 300, (5, 9), 10, (1, 1), strides=(1, 2)),
)


def kervolution() -> Iterator[Job]:
    """All six kernels on shapes that hurt, in both types; filters that are no initialisers are among them."""
    for k, kernel in enumerate(native_kernels.KERNELS):
        for i, window in enumerate(WINDOWS):
            for j, dtype in enumerate(("float32", "float16")):
                bias, per_channel = (i + j) % 2 == 0, (i + k) % 2 == 0
                case = kervolution_cases.Case(kernel, window, bias, per_channel, dtype, degree=1 + (i + j) % 3)
                x, w, b, values = case.tensors()
                values = {"scale" if name == "gamma" else name: value for name, value in values.items()}
                native = native_kernels.Case(kernel, x, w, b, degree=case.degree, **values, **case.attributes)
                yield kervolution_job(case.id, native, inputs=("X", "W") if (i + k) % 5 == 0 else ("X",))


def extremes() -> Iterator[Job]:
    """NaN and infinities among the inputs: at each position what the loop says, and no further."""
    for kernel in native_kernels.KERNELS:
        for channels, value in ((5, np.nan), (5, np.inf), (17, np.nan), (17, -np.inf)):
            case = native_kernels.make_case(kernel, "float32", (1, channels, 6, 13), 18, (3, 3), pads=(1, 1, 1, 1))
            if kernel == "polynomial":
                case.degree = 1
            case.x[0, 2, 3, 4] = value
            yield kervolution_job(f"{kernel}-{channels}-{value}", case)


def conversions() -> Iterator[Job]:
    """Every float16 in and out, and sums between two float16: to the nearest, ties to even."""
    generator = np.random.default_rng(5)
    every = np.arange(65536, dtype=np.uint16).view(np.float16).reshape(1, 1, 256, 256)
    low = generator.standard_normal((1, 1, 1, 5000)) * 2.0 ** generator.integers(-26, 17, (1, 1, 1, 5000))
    with np.errstate(over="ignore"):
        two = np.concatenate([low, low * 2.0**-11], 1).astype(np.float16)
        sums = (two[:, :1].astype(np.float32) + two[:, 1:].astype(np.float32)).astype(np.float16)
    for name, x, expected in (("every", every, every), ("sums", two, sums)):
        w = np.ones((1, x.shape[1], 1, 1), np.float16)
        case = native_kernels.Case("polynomial", x, w, balance=np.float32([0]), degree=1)
        yield kervolution_job(f"float16-{name}", case, expected, equal)


def elementary() -> Iterator[Job]:
    """The exponential and the hyperbolic tangent over their whole range."""
    gamma = np.concatenate([np.linspace(-88.7, 110, 9011), np.geomspace(1e-9, 1, 999)]).astype(np.float32)
    one, zeros = np.ones((1, 1, 1, 1), np.float32), np.zeros((gamma.size, 1, 1, 1), np.float32)
    expected = np.exp(-gamma.astype(np.float64)).reshape(1, -1, 1, 1)
    yield kervolution_job("exp", native_kernels.Case("gaussian", one, zeros, scale=gamma), expected, accurate)
    x = np.concatenate([np.linspace(-12, 12, 9011), np.geomspace(1e-20, 1, 999), [0, -0.0, 100, -1e30]])
    x = x.astype(np.float32).reshape(1, 1, 1, -1)
    case = native_kernels.Case("sigmoid", x, one, balance=np.float32([0]), scale=np.float32([1]))
    yield kervolution_job("tanh", case, np.tanh(x.astype(np.float64)), accurate)


def qlinear() -> Iterator[Job]:
    """The 8-bit kernel on shapes that hurt, in every combination of types, with scales at which bodies are exact."""
    types = [(x, w, y) for x in qlinear_kernels.TYPES for w in qlinear_kernels.TYPES for y in qlinear_kernels.TYPES]
    for i, (name, (x_shape, filters, window, attributes)) in enumerate(qlinear_kernels.SHAPES.items()):
        if x_shape[0] == 0:
            continue  # the function body does not take an empty batch
        for k in (i, i + 3):
            options = {"types": types[k % 8], "bias": k % 3 != 0, "per_channel": k % 2 == 0, "dyadic": True}
            case = qlinear_kernels.make_case(x_shape, filters, window, **options, **attributes)
            inputs = ("X", "W", "x_scale", "w_zero_point") if k % 5 == 0 else ("X",)
            model, feeds = qlinear_models.make_model(case, inputs=inputs)
            dtype = np.dtype(options["types"][2])
            yield Job(f"qlinear-{name}-{k - i}", apply_form(model, "functions"), feeds, dtype, case.oracle(), equal)


def laid_out(y: Array, layout: str) -> Array:
    """An NCHW result in the layout that a model's output has."""
    return y if layout == "NCHW" else y.transpose(0, 2, 3, 1)


def set_shape(model: onnx.ModelProto, shape: tuple[int, ...]) -> None:
    """Make the shape of a model's output static."""
    for dim, size in zip(model.graph.output[0].type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = size


def qlinear_mobile() -> Iterator[Job]:
    """8-bit convolutions and mobile blocks in both types and layouts, with scales at which bodies are exact."""
    layouts = [(x, y) for x in qlinear_mobile_models.LAYOUTS for y in qlinear_mobile_models.LAYOUTS]
    for i, shape in enumerate(qlinear_mobile_models.SHAPES):
        dtype = ("uint8", "int8")[i % 2]
        case = qlinear_mobile_models.shaped(shape, dtype=dtype, dyadic=True, per_channel=i % 3 > 0, limits=i % 5 == 0)
        for stage in case.stages:
            stage.w //= 8  # the bodies' sums fit into the 24 bits of a float
        chosen = layouts[i % 4]
        model, feeds = qlinear_mobile_models.make_model(case, chosen, opset=OPSET)
        expected = laid_out(case.oracle(), chosen[1])
        set_shape(model, expected.shape)
        # ONNX Runtime makes a QLinearAdd of a body's residual, which rounds ties (here 1 in 40) its own way.
        body = within_a_step if case.operator.residual else equal
        yield Job(f"mobile-{shape}", apply_form(model, "functions"), feeds, np.dtype(dtype), expected, equal, body)


def qlinear_kervolution() -> Iterator[Job]:
    """8-bit kervolutions in both types and layouts; results next to a half may be a step off."""
    layouts = [(x, y) for x in qlinear_mobile_models.LAYOUTS for y in qlinear_mobile_models.LAYOUTS]
    every = itertools.product(qlinear_kervolution_models.KERNELS, qlinear_kervolution_models.SHAPES)
    for i, (kernel, shape) in enumerate(every):
        dtype, chosen = ("uint8", "int8")[i % 2], layouts[i % 4]
        case = qlinear_kervolution_models.make_case(kernel, shape, dtype=dtype, per_channel=i % 3 > 0, degree=1 + i % 4)
        model, feeds = qlinear_kervolution_models.make_model(case, chosen, opset=OPSET)
        expected = laid_out(case.oracle(), chosen[1])
        set_shape(model, expected.shape)

        def compare(actual: Array, _: Array, what: str, case: Any = case, layout: str = chosen[1]) -> None:
            case.check(actual if layout == "NCHW" else actual.transpose(0, 3, 1, 2), what)

        model = apply_form(model, "functions")
        yield Job(f"{kernel}-8-bits-{shape}", model, feeds, np.dtype(dtype), expected, compare)


def whitening() -> Iterator[Job]:
    """The mean or the inverse root of the covariance of patches, on shapes that hurt, in both types."""
    for i, case in enumerate(whitening_cases.CASES):
        x = case.input(("float32", "float16")[i % 2])
        expected = whitening_oracle.whitening(x, case.attributes)
        for k, output in enumerate(OPERATOR.outputs):
            element = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
            node = onnx.helper.make_node(NAME, ["X"], list(OPERATOR.outputs), domain=DOMAIN, **case.attributes)
            graph = onnx.helper.make_graph(
                [node],
                "whitening",
                [onnx.helper.make_tensor_value_info("X", element, x.shape)],
                [onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, expected[k].shape)],
            )
            opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(DOMAIN, VERSION)]
            model = apply_form(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), "functions")
            yield Job(f"{case.name}-{output}", model, {"X": x}, np.dtype(np.float32), expected[k])


FAMILIES: tuple[Callable[[], Iterator[Job]], ...] = (
    kervolution,
    extremes,
    conversions,
    elementary,
    qlinear,
    qlinear_mobile,
    qlinear_kervolution,
    whitening,
)


def all_jobs() -> list[Job]:
    """Every family's jobs."""
    return [job for family in FAMILIES for job in family()]
