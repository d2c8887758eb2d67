"""The TensorRT plugins, driven as TensorRT drives them, with kernels that run on the host: from a node's attributes to
an engine's fields, and to outputs that are compared with float64 oracles."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builds import address_sanitizer
from deconv_kernels import assert_whitened
from deconv_kernels import make_case as make_whitening
from kervolution_cases import WINDOWS, Window
from native_kernels import KERNELS, make_case
from native_kernels import oracle as expected
from tolerances import assert_close
from trt_cases import (
    QLINEAR,
    WHITENING,
    call_of,
    node,
    qlinear_call,
    qlinear_case,
    qlinear_node,
    run,
    whitening_call,
)
from trt_conformance import (
    FIELD_FLOAT32,
    FIELD_INT32,
    HWC,
    HWC8,
    HWC16,
    LINEAR,
    PluginError,
    Plugins,
)
from trt_libraries import build as build_libraries

from edgeconv.ops.kervolution import OPERATORS as KERVOLUTIONS
from edgeconv.ops.kervolution import PLUGIN_ATTRIBUTES

OPERATORS = (*KERVOLUTIONS, QLINEAR, WHITENING)
HURTING = ("plain", "stride", "lopsided", "group", "multiplier", "pointwise", "everything")
# Attributes that a node has for the plugin alone.
PLUGIN_ONLY = {"constant_filters", "x_scale", "x_zero_point", "w_scale", "y_scale", "y_zero_point"}
FILES = [Path(__file__).with_name(f"test_trt_{name}.py") for name in ("plugins", "contexts", "refusals")]


@pytest.fixture(scope="module")
def libraries() -> tuple[str, str]:
    return build_libraries()


@pytest.fixture(scope="module")
def plugins(libraries: tuple[str, str]) -> Plugins:
    return Plugins(*libraries)


# The library and its creators


def test_library_needs_no_tensorrt(libraries: tuple[str, str]) -> None:
    dynamic = subprocess.run(["readelf", "-d", libraries[0]], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"NEEDED.*(nvinfer|nvonnx|cudart|libcuda)", dynamic)
    symbols = subprocess.run(["nm", "-D", libraries[0]], capture_output=True, text=True, check=True).stdout
    undefined = [line.split()[1] for line in symbols.splitlines() if line.split()[0] == "U"]
    assert not [name for name in undefined if re.search("nvinfer|InferLib|getLogger|PluginRegistry", name)]
    exported = {line.split()[2] for line in symbols.splitlines() if line.split()[1] in "TBDV"}
    assert {name for name in exported if not name.startswith(("edgeconv_", "__asan", "__odr_asan"))} == {
        "getCreators", "setLoggerFinder",
    }  # fmt: skip


def test_creators_are_the_operators(plugins: Plugins) -> None:
    assert tuple(plugins.creators) == OPERATORS
    for creator in plugins.creators.values():
        assert (creator.version, creator.namespace) == (
            PLUGIN_ATTRIBUTES["plugin_version"],
            PLUGIN_ATTRIBUTES["plugin_namespace"],
        )


@pytest.mark.parametrize("name", OPERATORS)
def test_fields_are_the_operator_s_attributes(plugins: Plugins, name: str) -> None:
    from edgeconv.ops.schema import FAMILIES

    schema = next(schema for family in FAMILIES for schema in family() if schema.name == name)
    types = {"INT": FIELD_INT32, "INTS": FIELD_INT32, "FLOAT": FIELD_FLOAT32}
    # `precision` is a permission that only CPUs have a use for; a field that is absent from a node is a warning.
    attributes = {
        key: types[attribute.type.name]
        for key, attribute in schema.attributes.items()
        if key not in {*PLUGIN_ATTRIBUTES, "precision"}
    }
    fields = {key: kind for key, (kind, _) in plugins.creators[name].fields.items()}
    assert {key: kind for key, kind in fields.items() if key not in PLUGIN_ONLY} == attributes


# In TensorRT's own notation, in words, and the major version whose headers a library that serves it is built with.
VERSIONS = [
    (8601, "8.6.1", 0), (8502, "8.5.2", 0), (100000, "10.0.0", 0), (100200, "10.2.0", 0), (100300, "10.3.0", 10),
    (101401, "10.14.1", 10), (109900, "10.99.0", 10), (110000, "11.0.0", 11), (110205, "11.2.5", 11),
    (120000, "12.0.0", 12),
]  # fmt: skip


@pytest.mark.parametrize(("version", "name", "major"), VERSIONS)
def test_versions(
    libraries: tuple[str, str], capfd: pytest.CaptureFixture[str], version: int, name: str, major: int
) -> None:
    loaded = Plugins(*libraries, version=version)
    said = capfd.readouterr().err
    built_for = loaded.c.conformance_header_version() // 10000
    if major == built_for:
        assert len(loaded.creators) == len(OPERATORS)
        assert not said
    else:
        assert not loaded.creators
        assert re.search(rf"edgeconv: .* built for TensorRT {built_for}\b.* TensorRT {name} .*\(TENSORRT_ROOT\)", said)
        assert "libconformance.so" in said  # whose version it is
    Plugins(*libraries)  # as the other tests want it


def test_without_a_logger_errors_go_to_standard_error(
    libraries: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    loaded = Plugins(*libraries, with_finder=False)
    assert len(loaded.creators) == len(OPERATORS)
    with pytest.raises(PluginError):
        loaded.create("PolynomialKervolution", {"degree": 0}, layer="conv1")
    assert "edgeconv: PolynomialKervolution 'conv1': degree is 0" in capfd.readouterr().err
    Plugins(*libraries)


# Numbers


@pytest.mark.parametrize("form", [LINEAR, HWC, HWC8], ids=["linear", "hwc", "hwc8"])
@pytest.mark.parametrize("window", [window for window in WINDOWS if window.name in HURTING], ids=lambda w: w.name)
@pytest.mark.parametrize("kernel", KERNELS)
def test_kervolution(plugins: Plugins, kernel: str, window: Window, form: int) -> None:
    even = (KERNELS.index(kernel) + HURTING.index(window.name) + form) % 2 == 0
    for dtype in {HWC: ["float32"], HWC8: ["float16"], LINEAR: ["float16" if even else "float32"]}[form]:
        case = make_case(
            kernel, dtype, (window.batch, window.channels, *window.size), window.filters, window.window, bias=even,
            per_channel=not even, strides=window.strides, pads=window.pads, dilations=window.dilations,
            group=window.group,
        )  # fmt: skip
        (y,) = run(plugins, *node(case), call_of(case, form))
        assert_close(y, expected(case), dtype)


@pytest.mark.parametrize("form", [LINEAR, HWC16], ids=["linear", "hwc16"])
@pytest.mark.parametrize("same_grid", [True, False])
@pytest.mark.parametrize(("bias", "group"), [(True, 1), (False, 2)])
def test_qlinear(plugins: Plugins, form: int, same_grid: bool, bias: bool, group: int) -> None:
    case = qlinear_case(form, bias=bias, group=group, same_grid=same_grid)
    (y,) = run(plugins, *qlinear_node(case), qlinear_call(case, form))
    if same_grid:
        np.testing.assert_array_equal(y, case.oracle())
    else:
        assert np.abs(y - case.real_oracle()).max() <= 0.5 + 1e-3


WHITENINGS = [
    ((2, 6, 9, 8), (3, 3), 3, {"pads": (1, 1, 1, 1)}),
    ((1, 8, 9, 7), (3, 3), 8, {"n_iter": 3}),  # fewer samples than features
    ((3, 6, 14, 11), (3, 3), 2, {"group": 3, "pads": (1, 1, 1, 1), "centered": 0, "eps": 1e-2}),
    ((3, 13, 5, 7), (1, 1), 13, {"strides": (2, 1), "sampling_stride": 1}),
]


@pytest.mark.parametrize(("dtype", "form"), [("float32", LINEAR), ("float32", HWC), ("float16", LINEAR),
                                             ("float16", HWC8)])  # fmt: skip
@pytest.mark.parametrize(("x_shape", "window", "block", "attributes"), WHITENINGS)
def test_whitening(
    plugins: Plugins, x_shape: Any, window: Any, block: int, attributes: dict[str, Any], dtype: str, form: int
) -> None:
    case = make_whitening(x_shape, window, block, dtype, **attributes)
    mean, deconv = run(plugins, WHITENING, {**case.attributes, **PLUGIN_ATTRIBUTES}, whitening_call(case, form))
    assert_whitened(case, (mean, deconv))


# Memory errors


def test_under_address_sanitizer() -> None:
    """Every test of the plugins once more, in a process with the sanitizer in both libraries."""
    if "EDGECONV_CONFORMANCE_ASAN" in os.environ:
        return
    library, harness = build_libraries("address")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", *map(str, FILES),
         "-k", "not under_address"],
        env={**os.environ, **address_sanitizer(), "EDGECONV_TRT_LIBRARY": library,
             "EDGECONV_CONFORMANCE_LIBRARY": harness, "EDGECONV_CONFORMANCE_ASAN": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-6000:]
