"""The 8-bit products on AMX tiles: bit for bit those of the integer loop, and of every other instruction set.

The library is that of `test_bf16x3.py`, with tiles in software (tests/native/software_tiles.h), which end the program
where the hardware would raise an exception, and count the products: a test cannot pass because vector registers did the
work. Where the CPU has AMX, the installed library runs the same.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qlinear_kervolution_models as kervolutions
import qlinear_mobile_models as mobile
from qlinear_mobile_models import Array
from sessions import session

from .conftest import INSTALLED_HAS_TILES
from .test_qlinear_mobile_ort import zero_at_the_end

BELOW = ("baseline", "avx2", "avx512", "avx512_vnni")
SAME = (1, 1, 1, 1)
Run = Callable[..., Array]

# Operator, x shape, filters of each stage, window, attributes.
SHAPES: dict[str, tuple[str, tuple[int, int, int, int], tuple[int, ...], tuple[int, int], dict[str, Any]]] = {
    "all steps whole": ("QLinearConvolution", (1, 128, 10, 16), (64,), (1, 1), {}),
    "no whole steps": ("QLinearConvolution", (1, 60, 5, 16), (48,), (1, 1), {}),
    "four activations left": ("QLinearConvolution", (2, 68, 9, 7), (33,), (1, 1), {}),
    "tiles that overlap, odd channels": ("QLinearConvolution", (2, 129, 7, 7), (70,), (1, 1), {}),
    "one position more than a tile": ("QLinearConvolution", (1, 200, 1, 17), (50,), (1, 1), {}),
    "fewer positions than a tile": ("QLinearConvolution", (3, 200, 3, 3), (64,), (1, 1), {}),
    "one vector, five tiles": ("QLinearConvolution", (1, 76, 7, 11), (7,), (1, 1), {}),
    "two vectors, three tiles": ("QLinearConvolution", (1, 96, 6, 7), (30,), (1, 1), {}),
    "three blocks of channels": ("QLinearConvolution", (1, 64, 21, 33), (130,), (1, 1), {}),
    "strides": ("QLinearConvolution", (1, 72, 9, 35), (20,), (1, 1), {"strides": (2, 2)}),
    "window": ("QLinearConvolution", (2, 37, 9, 18), (21,), (3, 3), {"pads": SAME}),
    "window, strides 2": ("QLinearConvolution", (1, 20, 13, 35), (40,), (3, 3), {"pads": SAME, "strides": (2, 2)}),
    "window, dilated": (
        "QLinearConvolution", (1, 36, 14, 31), (17,), (3, 2), {"pads": (2, 0, 1, 3), "dilations": (2, 3)},
    ),
    "padding only": ("QLinearConvolution", (1, 64, 2, 3), (19,), (3, 3), {"pads": (6, 7, 6, 7)}),
    "separable": ("QLinearSeparableConvolution", (2, 75, 12, 19), (75, 33), (3, 3), {"pads": SAME, "strides": (2, 1)}),
    "bottleneck": ("QLinearBottleneck", (2, 44, 31, 25), (150, 37), (3, 3), {"pads": SAME, "strides": (2, 2)}),
    "bottleneck, small": ("QLinearBottleneck", (2, 44, 9, 14), (150, 37), (5, 5), {"pads": (2, 2, 2, 2)}),
    "residual": ("QLinearInvertedResidual", (2, 45, 30, 23), (200, 45), (3, 3), {"pads": SAME}),
    "residual, small": ("QLinearInvertedResidual", (3, 64, 7, 8), (257, 64), (3, 3), {"pads": SAME}),
}  # fmt: skip


class Library:
    """A library with tiles, in ONNX Runtime, and its counters where the tiles are software."""

    def __init__(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self._monkeypatch, c = path, monkeypatch, ctypes.CDLL(path)
        self.software = hasattr(c, "edgeconv_software_tile_products")
        names = ("edgeconv_software_tile_products", "edgeconv_software_tile_users")
        self._counters = [ctypes.c_int64.in_dll(c, name) for name in names] if self.software else []

    def run(self, module: Any, case: Any, isa: str = "amx", *, threads: int = 1, tiles: bool = True,
            layouts: tuple[str, str] = ("NHWC", "NHWC"), inputs: tuple[str, ...] = ("X",)) -> Array:  # fmt: skip
        """The result in NCHW; `tiles`: whether some of it must come from tiles, if `isa` has them."""
        self._monkeypatch.setenv("EDGECONV_CPU_ISA", isa)
        model, feeds = module.make_model(case, layouts, inputs)
        before = self._counters[0].value if self.software else 0
        (y,) = session(model, threads, library=self.path).run(None, feeds)
        if self.software:
            products, users = (counter.value for counter in self._counters)
            assert (products > before) == (tiles and isa == "amx"), f"{products - before} products on tiles"
            assert users == 0, "a thread has not released its tiles"
        return np.asarray(y if layouts[1] == "NCHW" else y.transpose(0, 3, 1, 2))


@pytest.fixture
def library(tile_library: str, monkeypatch: pytest.MonkeyPatch) -> Library:
    return Library(tile_library, monkeypatch)


def shaped(key: str, **options: Any) -> mobile.Case:
    name, x_shape, channels, window, attributes = SHAPES[key]
    filters = mobile.residual_channels(channels, mobile.CONVOLUTIONS[name])
    return mobile.make_case(name, x_shape, filters, window, **options, **attributes)


@pytest.mark.skipif(not INSTALLED_HAS_TILES, reason="this CPU has no AMX: its tiles were played by software only")
def test_installed_library_runs_on_real_tiles() -> None:
    """That the rest of this file ran with it is what the fixture `tile_library` says; here only that it is there."""
    assert INSTALLED_HAS_TILES


def test_the_products_are_tile_instructions(native_build: Path) -> None:
    (path,) = native_build.rglob("*qlinear_mobile_amx.cc.o")
    command = ["objdump", "-d", "--no-show-raw-insn", str(path)]
    code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = set(re.findall(r"\b(tdp\w+|tile\w+|ldtilecfg)\b", code))
    assert found == {"tdpbusd", "tileloadd", "tilestored", "tilerelease", "ldtilecfg"}


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_loop(library: Library, shape: str, dtype: str) -> None:
    """With int8, scales are dyadic (many ties), per tensor, and the results cut; one layout a case."""
    signed, index = dtype == "int8", list(SHAPES).index(shape)
    case = shaped(shape, dtype=dtype, per_channel=not signed, dyadic=signed, limits=signed)
    expected = case.oracle()
    assert len(np.unique(expected)) > min(20, expected.size // 12)
    layouts = (mobile.LAYOUTS[(index + signed) % 2], mobile.LAYOUTS[index // 2 % 2])
    for isa in ("amx", "avx512_vnni"):
        actual = library.run(mobile, case, isa, layouts=layouts)
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected, isa)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(SHAPES[shape][2]) > 1])
def test_behind_a_relu_it_matches_the_loop(library: Library, shape: str, dtype: str) -> None:
    """Sums that begin as bits of floats; in place where X is uint8, channels last and whole steps."""
    case = zero_at_the_end(shaped(shape, dtype=dtype))
    np.testing.assert_array_equal(library.run(mobile, case), case.oracle())


def test_any_configuration(library: Library) -> None:
    generator = np.random.default_rng(11)
    names = ("QLinearConvolution", "QLinearSeparableConvolution", "QLinearBottleneck", "QLinearInvertedResidual")
    for index in range(40):
        name = names[index % 4]
        channels, hidden, filters = (int(value) for value in generator.integers((40, 64, 1), (140, 200, 140)))
        window = tuple(int(value) for value in generator.integers(1, 5, 2))
        options: dict[str, Any] = {"pads": tuple(generator.integers(0, 3, 4).tolist()),
                                   "strides": tuple(generator.integers(1, 3, 2).tolist()),
                                   "dilations": tuple(generator.integers(1, 3, 2).tolist())}  # fmt: skip
        stages: tuple[int, ...] = (filters,)
        if name == "QLinearSeparableConvolution":
            stages = (channels, filters)
        elif name == "QLinearBottleneck":
            stages = (hidden, hidden, filters)
        elif name == "QLinearInvertedResidual":
            stages, window, options = (hidden, hidden, channels), (3, 3), {"pads": SAME}
        size = tuple(int(value) for value in generator.integers(8, 24, 2))
        case = mobile.make_case(
            name, (int(generator.integers(1, 3)), channels, *size), stages, window,
            dtype=("uint8", "int8")[index // 4 % 2], per_channel=bool(index % 3), dyadic=index % 5 == 0, **options,
        )  # fmt: skip
        layouts = (mobile.LAYOUTS[index // 2 % 2], mobile.LAYOUTS[index // 3 % 2])
        actual = library.run(mobile, zero_at_the_end(case) if index % 2 else case, layouts=layouts)
        np.testing.assert_array_equal(actual, case.oracle(), f"{index}: {name}")


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("shape", ["tiles that overlap, odd channels", "bottleneck, small"])
def test_sums_at_their_ends(library: Library, shape: str, dtype: str) -> None:
    """Activations and weights at the ends of their ranges, where 16 bits would saturate; quotients near and far."""
    ends = np.iinfo(dtype)
    for scale, zero in ((1e-12, ends.min), (1e-3, ends.max), (40.0, 0), (1e6, ends.max)):
        case = shaped(shape, dtype=dtype)
        case.x_zero_point = np.asarray(zero, dtype)
        case.x[:] = np.where(np.arange(case.x.size).reshape(case.x.shape) % 3 > 0, ends.max, ends.min)
        for stage in case.stages:
            stage.w[:] = np.where(np.arange(stage.w.size).reshape(stage.w.shape) % 5 > 1, 127, -128)
            stage.scale = np.float32(stage.scale * scale)
        np.testing.assert_array_equal(library.run(mobile, case), case.oracle())


@pytest.mark.parametrize("x_sign", ["highest", "lowest"])
@pytest.mark.parametrize("weight", [127, -128])
def test_largest_sums(library: Library, weight: int, x_sign: str) -> None:
    """Every product at its extreme, of both signs: a sum of 2^24 and more, which no narrower integer could hold."""
    for dtype in ("uint8", "int8"):
        ends = np.iinfo(dtype)
        x, zero = (ends.max, ends.min) if x_sign == "highest" else (ends.min, ends.max)
        case = mobile.make_case("QLinearConvolution", (1, 1030, 4, 5), (18,), (1, 1), dtype=dtype)
        case.x[:], case.x_zero_point = x, np.asarray(zero, dtype)
        (stage,) = case.stages
        stage.w[:], stage.bias[:] = weight, np.arange(18)
        assert abs(1030 * 255 * weight) > 2**24
        stage.w_scale = np.asarray(stage.w_scale / 100, np.float32)
        np.testing.assert_array_equal(library.run(mobile, case), case.oracle())


@pytest.mark.parametrize("shape", ["three blocks of channels", "window", "bottleneck", "residual, small"])
def test_threads_give_the_same_bytes(library: Library, shape: str) -> None:
    case = shaped(shape)
    expected = case.oracle()
    for threads in (1, 2, 3):
        for _ in range(3):
            np.testing.assert_array_equal(library.run(mobile, case, threads=threads), expected)


@pytest.mark.parametrize("shape", ["four activations left", "residual, small"])
def test_weights_that_come_at_run_time(library: Library, shape: str) -> None:
    case = shaped(shape)
    np.testing.assert_array_equal(library.run(mobile, case, inputs=tuple(case.tensors())), case.oracle())


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("shape", ["plain", "pointwise", "dilations", "rows"])
@pytest.mark.parametrize("kernel", kervolutions.KERNELS)
def test_kervolutions(library: Library, kernel: str, shape: str, dtype: str) -> None:
    """What follows the sums is that of AVX-512 VNNI: the same bytes, also where float32 has rounded."""
    case = kervolutions.make_case(kernel, shape, dtype=dtype)
    # Eight channels and two columns that are not neighbours: eight activations in a stretch.
    actual = library.run(kervolutions, case, tiles=shape != "dilations", threads=2)
    case.check(actual, "amx")
    np.testing.assert_array_equal(actual, library.run(kervolutions, case, "avx512_vnni"))


@pytest.mark.parametrize(("shape", "reason"), [
    ("stem", "9 activations in a row of the window"), ("one pixel", "one row of a tile"),
    ("depthwise", "a channel has no product with another's activations"),
])  # fmt: skip
def test_small_products_stay_in_vectors(library: Library, shape: str, reason: str) -> None:
    case = mobile.shaped(shape)
    np.testing.assert_array_equal(library.run(mobile, case, tiles=False), case.oracle(), reason)


@pytest.mark.parametrize("isa", BELOW)
def test_environment_holds_it_below_amx(library: Library, isa: str) -> None:
    """`run` fails if a tile is used where `isa` has none."""
    case = shaped("bottleneck, small")
    np.testing.assert_array_equal(library.run(mobile, case, isa), case.oracle())
