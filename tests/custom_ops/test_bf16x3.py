"""The precision bf16x3: products in pairs of bfloat16 numbers on AMX tiles.

The library is built with tiles in software (tests/native/software_tiles.h), so that this runs on every CPU with AVX-512
BF16; where the CPU has AMX, the installed library runs the same. All but the tiles is as on AMX: strips, packing, cut,
dispatch, fallbacks. `test_build.py` runs this file under the address sanitizer.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_checks import (
    LARGE_SHAPES,
    OUTLIERS,
    SIZES,
    cases,
    check,
    check_infinity,
    check_magnitudes,
    check_nan,
    check_offsets,
    check_order_of_tasks,
    check_outlier,
    large_case,
)
from native_kernels import ALGORITHMS, KERNELS, Case, Library, make_case, oracle
from native_models import make_model
from sessions import session
from tolerances import BF16X3_PRODUCT_RTOL

from edgeconv.runtime.op_library import op_library

from .conftest import INSTALLED_HAS_TILES

AMX = ("amx",)
PRODUCTS = KERNELS[:4]

# x shape, filters, window, attributes
SHAPES: dict[str, tuple[tuple[int, int, int, int], int, tuple[int, int], dict[str, Any]]] = {
    "odd channels": ((2, 33, 9, 13), 40, (3, 3), {"pads": (1, 0, 2, 1)}),
    "several blocks of channels": ((1, 70, 7, 7), 33, (3, 3), {"pads": (1, 1, 1, 1)}),
    "groups": ((2, 48, 10, 9), 70, (5, 3), {"group": 2, "strides": (3, 4), "pads": (4, 1, 0, 2)}),
    "first layer": ((1, 3, 30, 33), 48, (7, 7), {"pads": (3, 3, 3, 3), "strides": (2, 2)}),
    "pointwise": ((2, 64, 9, 7), 32, (1, 1), {}),
    "pointwise, several blocks": ((1, 500, 3, 5), 40, (1, 1), {}),
    "pointwise, stride 2": ((1, 40, 9, 30), 20, (1, 1), {"strides": (2, 2)}),
    "pointwise, padded": ((1, 32, 5, 6), 16, (1, 1), {"pads": (1, 2, 0, 1)}),
    "dilation, one row for each tap": ((1, 16, 40, 6), 16, (3, 3), {"pads": (8, 8, 8, 8), "dilations": (8, 7)}),
    "strides that share rows": ((1, 16, 25, 12), 16, (5, 2), {"strides": (2, 3), "dilations": (3, 1)}),
    "pieces of rows": ((1, 16, 3, 500), 24, (3, 3), {"pads": (1, 1, 1, 1)}),
    "many taps": ((1, 5, 20, 24), 16, (9, 11), {"pads": (2, 3, 4, 5)}),
    "most taps": ((1, 2, 32, 31), 16, (29, 28), {"pads": (0, 2, 0, 0)}),
    "many filters": ((1, 16, 4, 5), 300, (3, 3), {"pads": (1, 1, 1, 1)}),
    "one position": ((2, 50, 3, 4), 33, (3, 4), {}),
    "one tile and a position": ((1, 32, 1, 17), 17, (1, 1), {}),
    "padding only": ((1, 16, 4, 6), 16, (3, 3), {"pads": (9, 9, 9, 9)}),
    "kernel larger than input": ((1, 16, 3, 3), 32, (5, 4), {"pads": (2, 2, 2, 2)}),
    "empty batch": ((0, 16, 4, 6), 16, (3, 3), {}),
}


@pytest.fixture(scope="module")
def library(tile_library: str) -> Library:
    return Library(tile_library)


def served(kernel: str, dtype: str = "float32", **options: Any) -> Case:
    """A small case that is computed on tiles, with two blocks of input channels."""
    return make_case(kernel, dtype, (1, 70, 5, 7), 24, (3, 3), pads=(1, 1, 1, 1), precision="bf16x3", **options)


def in_float32(case: Case) -> Case:
    return Case(**{**vars(case), "precision": "float32"})


def algorithm(library: Library, case: Case, isa: str = AMX[0]) -> str:
    return ALGORITHMS[library.prepare(case, isa)[1].algorithm]


@pytest.mark.skipif(not INSTALLED_HAS_TILES, reason="this CPU has no AMX: its tiles were played by software only")
def test_installed_library_runs_on_real_tiles() -> None:
    """That the rest of this file ran with it is what the fixture `tile_library` says; here only that AMX was used."""
    library, case = Library(op_library()), served("polynomial")
    assert algorithm(library, case) == "bf16x3"
    assert (library.run(case, AMX[0]) != library.run(in_float32(case), AMX[0])).any()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kernel", PRODUCTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_loop(library: Library, shape: str, kernel: str, dtype: str) -> None:
    x_shape, filters, window, attributes = SHAPES[shape]
    case = make_case(kernel, dtype, x_shape, filters, window, precision="bf16x3", **attributes)
    assert algorithm(library, case) == "bf16x3"
    check(library, case, AMX)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=cases(PRODUCTS, st.integers(8, 70), st.integers(10, 40), precision="bf16x3"))
def test_any_configuration(library: Library, case: Case) -> None:
    check(library, case, AMX)


@pytest.mark.parametrize(
    ("x_shape", "filters", "window", "attributes"),
    [
        ((1, 64, 8, 56), 64, (3, 3), {"pads": (1, 1, 1, 1)}),
        ((1, 128, 10, 28), 64, (3, 3), {"pads": (1, 1, 1, 1)}),
        ((1, 256, 14, 14), 64, (3, 3), {"pads": (1, 1, 1, 1)}),
        ((1, 512, 7, 7), 64, (3, 3), {"pads": (1, 1, 1, 1)}),
        ((1, 3, 40, 112), 64, (7, 7), {"pads": (3, 3, 3, 3), "strides": (2, 2)}),
    ],
)
def test_error_of_the_products(library: Library, x_shape: Any, filters: int, window: Any, attributes: Any) -> None:
    """x.w itself, at ResNet's depths; with one of the three products left out the error is a hundred times that."""
    generator = np.random.default_rng(7)
    x = generator.standard_normal(x_shape).astype(np.float32)
    w = generator.standard_normal((filters, x_shape[1], *window)).astype(np.float32)
    case = Case("polynomial", x, w, degree=1, balance=np.float32([0]), precision="bf16x3", **attributes)
    assert algorithm(library, case) == "bf16x3"
    expected = oracle(case)
    error = np.abs(library.run(case, AMX[0]) - expected).max() / np.sqrt(np.mean(expected**2))
    assert error <= BF16X3_PRODUCT_RTOL


@pytest.mark.parametrize("kernel", KERNELS)
def test_only_where_it_is_served(library: Library, kernel: str) -> None:
    """Differences, depthwise filters, and filters that would leave the tiles nearly empty are computed in float32."""
    shapes: list[tuple[Any, int, Any, dict[str, Any]]] = [
        ((1, 6, 5, 7), 6, (3, 3), {"group": 6}),
        ((1, 1, 9, 9), 16, (3, 3), {}),
        ((1, 32, 9, 9), 3, (3, 3), {}),
        ((1, 16, 9, 60), 16, (2, 2), {"strides": (1, 17)}),
        ((1, 2, 41, 30), 16, (40, 28), {}),
        *([] if kernel in PRODUCTS else [((1, 64, 5, 7), 32, (3, 3), {})]),
    ]
    for x_shape, filters, window, attributes in shapes:
        case = make_case(kernel, "float32", x_shape, filters, window, precision="bf16x3", **attributes)
        assert algorithm(library, case) != "bf16x3"
        np.testing.assert_array_equal(library.run(case, AMX[0]), library.run(in_float32(case), AMX[0]))


@pytest.mark.parametrize("kernel", PRODUCTS)
def test_below_amx_it_is_float32(library: Library, kernel: str) -> None:
    case = served(kernel)
    for isa in library.isas:
        same = (library.run(case, isa) == library.run(in_float32(case), isa)).all()
        assert same == (isa != AMX[0]), isa


@pytest.mark.parametrize("kernel", PRODUCTS)
def test_installed_library_without_amx_is_float32(kernel: str) -> None:
    library, case = Library(op_library()), served(kernel)
    for isa in library.isas:
        if isa != AMX[0]:
            np.testing.assert_array_equal(library.run(case, isa), library.run(in_float32(case), isa), isa)


@pytest.mark.parametrize("where", ["x", "w", "bias"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kernel", PRODUCTS)
def test_nan_reaches_the_output(library: Library, kernel: str, dtype: str, where: str) -> None:
    check_nan(library, AMX, partial(served, kernel, dtype), where)


@pytest.mark.parametrize("kernel", PRODUCTS)
@pytest.mark.parametrize("infinity", [np.inf, -np.inf])
def test_infinity_is_plain_arithmetic(library: Library, kernel: str, infinity: float) -> None:
    check_infinity(library, AMX, partial(served, kernel), infinity)


@pytest.mark.parametrize("kernel", PRODUCTS)
@pytest.mark.parametrize("outlier", OUTLIERS)
def test_an_outlier_spoils_no_neighbour(library: Library, kernel: str, outlier: float) -> None:
    check_outlier(library, AMX, partial(served, kernel), outlier)


@pytest.mark.parametrize("kernel", ["gaussian", "euclidean"])
def test_offsets_do_not_cancel(library: Library, kernel: str) -> None:
    check_offsets(library, AMX, partial(served, kernel))


@pytest.mark.parametrize("kernel", PRODUCTS)
@pytest.mark.parametrize("size", SIZES)
def test_magnitudes(library: Library, kernel: str, size: float) -> None:
    check_magnitudes(library, AMX, partial(served, kernel), size)


@pytest.mark.parametrize("sizes", [(1e-20, 1e10), (1e10, 1e-20), (1e-11, 1e-11), (1e-38, 1e17)])
def test_small_by_large(library: Library, sizes: tuple[float, float]) -> None:
    """Tiles take subnormal numbers for zeros: no digit of the result may hang on them."""
    case = served("polynomial", degree=1, bias=False)
    case.balance = np.float32([0])
    case.x = (case.x.astype(np.float64) * sizes[0]).astype(np.float32)
    case.w = (case.w.astype(np.float64) * sizes[1]).astype(np.float32)
    expected = oracle(case)
    error = np.abs(library.run(case, AMX[0]) - expected).max() / np.sqrt(np.mean(expected**2))
    assert error <= BF16X3_PRODUCT_RTOL


def test_distance_is_never_negative(library: Library) -> None:
    """Where x equals w, |x|^2 + |w|^2 - 2 x.w falls below 0 by rounding."""
    w = np.random.default_rng(3).standard_normal((40, 30, 3, 3)).astype(np.float32) * 100
    for kernel, best in (("euclidean", 0.0), ("gaussian", 1.0)):
        case = Case(kernel, w.copy(), w, scale=np.float32([50.0]), precision="bf16x3")
        assert algorithm(library, case) == "bf16x3"
        assert library.run(case, AMX[0]).max() <= best


@pytest.mark.parametrize("kernel", PRODUCTS)
def test_tasks_in_any_order_give_the_same_bits(library: Library, kernel: str) -> None:
    case = make_case(
        kernel, "float32", (2, 64, 30, 40), 140, (3, 3), pads=(1, 1, 1, 1), group=2, precision="bf16x3"
    )  # fmt: skip
    assert algorithm(library, case) == "bf16x3"
    check_order_of_tasks(library, AMX, case)


@pytest.mark.parametrize(
    ("x_shape", "filters", "window", "attributes"),
    [
        *LARGE_SHAPES,
        ((1, 64, 300, 5000), 256, (7, 7), {"strides": (16, 16), "dilations": (3, 170)}),
        ((1, 16, 500, 500), 64, (19, 19), {}),
        ((1, 48, 400, 4), 272, (5, 1), {"dilations": (40, 1)}),
    ],
)
def test_memory_is_bounded(library: Library, x_shape: Any, filters: int, window: Any, attributes: Any) -> None:
    case = large_case(x_shape, filters, window, attributes, precision="bf16x3")
    packed, scratch = library.memory(case, AMX[0])
    assert scratch <= 2**20
    plan = library.prepare(case, AMX[0])[1]
    if ALGORITHMS[plan.packing] == "bf16x3":
        # Both parts of a weight are as large as a float; at most three in four are padding.
        assert 4 * case.w.size <= packed - 4 * (filters + 2) <= 4 * 4 * case.w.size


def run_file(case: Case, path: str, threads: int = 1, **model: Any) -> np.ndarray[Any, Any]:
    serialized, feeds = make_model(case, precision=case.precision, **model)
    return np.asarray(session(serialized, threads, library=path).run(None, feeds)[0])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kernel", PRODUCTS)
def test_a_file_asks_for_it(library: Library, tile_library: str, kernel: str, dtype: str) -> None:
    """In ONNX Runtime, with filters that are packed at the session's creation and at each run, and several threads."""
    case = make_case(kernel, dtype, (2, 40, 21, 26), 300, (3, 3), pads=(1, 1, 1, 1), precision="bf16x3")
    expected = library.run(case, AMX[0])
    np.testing.assert_array_equal(run_file(case, tile_library), expected)
    np.testing.assert_array_equal(run_file(case, tile_library, threads=3, inputs=("X", "W")), expected)
    single = in_float32(case)
    np.testing.assert_array_equal(run_file(single, tile_library), library.run(single, AMX[0]))
    assert dtype == "float16" or (run_file(single, tile_library) != expected).any()


def test_environment_holds_it_below_amx(monkeypatch: pytest.MonkeyPatch, library: Library, tile_library: str) -> None:
    case = served("sigmoid")
    monkeypatch.setenv("EDGECONV_CPU_ISA", "avx512_vnni")
    np.testing.assert_array_equal(run_file(case, tile_library), library.run(in_float32(case), "avx512_vnni"))
