"""The torch operators: gradients, non-finite numbers, half precision, and what torch.export sees."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from kervolution_cases import WINDOWS, Window
from onnx import TensorProto, helper
from sessions import session
from torch import Tensor, nn

from edgeconv.ops.kervolution import DOMAIN, KERNELS, OPERATOR_OF_KERNEL, VERSION
from edgeconv.ops.kervolution_function import FUNCTIONS, OPSET
from edgeconv.ops.kervolution_torch import kervolution

WINDOW = {window.name: window for window in WINDOWS}
DISTANCES = ("manhattan", "euclidean", "chebyshev")


def tensors(window: Window, kernel: str, dtype: torch.dtype, per_channel: bool) -> dict[str, Tensor]:
    """x, weight, bias and the kernel's parameters, of a size at which every kernel is alive."""
    generator = torch.Generator().manual_seed(len(window.name) * 31 + len(kernel))
    depth = window.channels // window.group * math.prod(window.window)
    shape = (window.filters,) if per_channel else ()
    values = {
        "x": torch.randn(window.batch, window.channels, *window.size, generator=generator, dtype=dtype),
        "weight": torch.randn(
            window.filters, window.channels // window.group, *window.window, generator=generator, dtype=dtype
        )
        / math.sqrt(depth),
        "bias": torch.randn(window.filters, generator=generator, dtype=dtype),
    }
    parameters = {
        "balance": 0.3 + torch.rand(shape, generator=generator, dtype=dtype),
        "gamma": (0.3 + torch.rand(shape, generator=generator, dtype=dtype)) / depth,
        "scale": 0.2 + torch.rand(shape, generator=generator, dtype=dtype),
    }
    names = OPERATOR_OF_KERNEL[kernel].parameters if kernel != "linear" else ()
    return {**values, **{name: parameters[name] for name in names}}


def options(window: Window) -> dict[str, Any]:
    return {"stride": window.strides, "pads": window.pads, "dilation": window.dilations, "groups": window.group}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["lopsided", "multiplier", "single", "small"])
def test_gradients_equal_finite_differences(kernel: str, name: str) -> None:
    small = Window("small", 2, 2, (4, 3), 2, (2, 2), (2, 1), (1, 2, 0, 1), (2, 1), 2)
    window = WINDOW.get(name, small)
    given = tensors(window, kernel, torch.float64, per_channel=name != "single")
    names, values = list(given), [value.requires_grad_() for value in given.values()]

    def function(*inputs: Tensor) -> Tensor:
        return kervolution(kernel=kernel, degree=3, **options(window), **dict(zip(names, inputs, strict=True)))

    assert torch.autograd.gradcheck(function, values, fast_mode=name != "small")


@pytest.mark.parametrize("magnitude", [0.0, 1.0, 1e4, 1e15, 1e25])
@pytest.mark.parametrize("kernel", OPERATOR_OF_KERNEL)
def test_gradients_are_finite(kernel: str, magnitude: float) -> None:
    if kernel == "polynomial":
        magnitude = min(magnitude, 1e9)  # of a cube: float32 ends at 3.4e38, and here sums of 150 are added
    given = tensors(WINDOW["batch"], kernel, torch.float32, per_channel=True)
    given["x"] = given["x"] * magnitude
    leaves = [value.requires_grad_() for value in given.values()]
    y = kervolution(kernel=kernel, **options(WINDOW["batch"]), **given)
    for name, gradient in zip(given, torch.autograd.grad(y.sum(), leaves), strict=True):
        assert gradient.isfinite().all(), name


@pytest.mark.parametrize("kernel", OPERATOR_OF_KERNEL)
def test_gradients_at_distance_zero_and_at_ties(kernel: str) -> None:
    """A patch that equals its filter; with constant data every difference ties as well."""
    for weight in (torch.full((3, 2, 2, 2), 0.25), torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(1))):
        x = weight[1:2].clone().requires_grad_()
        w = weight.clone().requires_grad_()
        y = kervolution(x, w, kernel=kernel, gamma=0.5)
        gradients = torch.autograd.grad(y[0, 1].sum(), (x, w))
        assert all(gradient.isfinite().all() for gradient in gradients)
        if kernel in (*DISTANCES, "gaussian"):
            assert y[0, 1, 0, 0].item() == pytest.approx(1.0 if kernel == "gaussian" else 0.0, abs=1e-6)
            assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-5


def run_torch(kernel: str, given: dict[str, Tensor], window: Window) -> np.ndarray[Any, Any]:
    return kervolution(kernel=kernel, **options(window), **given).numpy()


def run_function(kernel: str, given: dict[str, Tensor], window: Window, native: bool = False) -> np.ndarray[Any, Any]:
    """ONNX Runtime: the function body, or the op library's kernel."""
    operator = OPERATOR_OF_KERNEL[kernel]
    names = ["x", "weight", *operator.parameters, "bias"]
    attributes: dict[str, Any] = {
        "kernel_shape": window.window,
        "strides": window.strides,
        "pads": window.pads,
        "dilations": window.dilations,
        "group": window.group,
    }
    graph = helper.make_graph(
        [helper.make_node(operator.name, names, ["y"], domain=DOMAIN, **attributes)],
        "one",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(given[name].shape)) for name in names],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=[FUNCTIONS[operator.name]])
    feeds = {name: given[name].numpy() for name in names}
    return np.asarray(session(model, native=native).run(None, feeds)[0])


def run_native(kernel: str, given: dict[str, Tensor], window: Window) -> np.ndarray[Any, Any]:
    """The op library's kernel."""
    return run_function(kernel, given, window, native=True)


RUNS = {"torch": run_torch, "function": run_function, "native": run_native}
TOUCHED = (1, slice(None), slice(2, 5), slice(3, 6))
"""The outputs of the window "batch" that read the input at (1, 2, 3, 4)."""


def with_one_value(kernel: str, value: float, run: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The outputs that a bad input touches, and the others minus what they are without it.

    Exactly, but for the native kernels, which sum a block with such an input in another form: there less than rounding
    is 0.
    """
    window = WINDOW["batch"]
    given = tensors(window, kernel, torch.float32, per_channel=False)
    clean = RUNS[run](kernel, given, window)
    given["x"] = given["x"].clone()
    given["x"][1, 2, 3, 4] = value
    y = RUNS[run](kernel, given, window)
    others = np.ones(y.shape, bool)
    others[TOUCHED] = False
    difference = y[others] - clean[others]
    rounding = 2e-6 * np.abs(clean[others]) + 1e-5 if run == "native" else 0
    return y[TOUCHED], np.where(np.abs(difference) <= rounding, 0, difference)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("kernel", OPERATOR_OF_KERNEL)
def test_nan_reaches_the_output_and_no_further(kernel: str, run: str) -> None:
    touched, others = with_one_value(kernel, math.nan, run)
    assert np.isnan(touched).all()
    assert not others.any()


@pytest.mark.parametrize("value", [math.inf, -math.inf])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("kernel", [*DISTANCES, "gaussian"])
def test_infinity_is_infinitely_far(kernel: str, value: float, run: str) -> None:
    touched, others = with_one_value(kernel, value, run)
    if kernel == "gaussian":
        bias = tensors(WINDOW["batch"], kernel, torch.float32, per_channel=False)["bias"].numpy()
        assert np.array_equal(touched, np.broadcast_to(bias[:, None, None], touched.shape))
    else:
        assert np.isneginf(touched).all()
    assert not others.any()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_accumulated_in_float32_and_rounded_once(kernel: str, dtype: torch.dtype) -> None:
    window = WINDOW["deep"]
    given = tensors(window, kernel, torch.float32, per_channel=True)
    half = {k: v.to(dtype) if k in ("x", "weight", "bias") else v for k, v in given.items()}
    wide = {k: v.float() for k, v in half.items()}
    y = kervolution(kernel=kernel, **options(window), **half)
    assert y.dtype == dtype
    if kernel != "linear":  # that is torch's own convolution
        assert torch.equal(y, kervolution(kernel=kernel, **options(window), **wide).to(dtype))


@pytest.mark.parametrize("kernel", OPERATOR_OF_KERNEL)
def test_autocast_leaves_the_operators_in_float32(kernel: str) -> None:
    window = WINDOW["batch"]
    given = tensors(window, kernel, torch.float32, per_channel=True)
    expected = kervolution(kernel=kernel, **options(window), **given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(kervolution(kernel=kernel, **options(window), **given), expected)
        narrow = kervolution(kernel=kernel, **options(window), **{**given, "x": given["x"].bfloat16()})
    assert narrow.dtype == torch.bfloat16


class Layer(nn.Module):
    """One operator with fixed weights."""

    def __init__(self, kernel: str, window: Window) -> None:
        super().__init__()
        self.kernel, self.window = kernel, window
        for name, value in tensors(window, kernel, torch.float32, per_channel=True).items():
            if name != "x":
                self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in and out."""
        return kervolution(x, kernel=self.kernel, degree=2, **options(self.window), **dict(self.named_buffers()))


@pytest.mark.parametrize("kernel", OPERATOR_OF_KERNEL)
def test_export_keeps_one_node_with_open_sizes_and_survives_a_file(kernel: str) -> None:
    window = WINDOW["everything"]
    layer = Layer(kernel, window).eval()
    batch, height, width = torch.export.Dim("n"), torch.export.Dim("h", min=12), torch.export.Dim("w", min=8)
    example = torch.randn(2, window.channels, *window.size)
    program = torch.export.export(layer, (example,), dynamic_shapes=({0: batch, 2: height, 3: width},))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    name = OPERATOR_OF_KERNEL[kernel].name
    assert targets.count(f"edgeconv.{name}.default") == 1
    assert not [target for target in targets if "conv2d" in target or "patch_distance" in target]

    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer)
    for shape in ((1, 14, 9), (3, 21, 12)):
        x = torch.randn(shape[0], window.channels, *shape[1:])
        torch.testing.assert_close(program.module()(x), layer(x), rtol=0, atol=0)
        torch.testing.assert_close(loaded.module()(x), layer(x), rtol=0, atol=0)


def test_compilers_see_through_the_operators_and_their_gradients() -> None:
    for kernel in ("gaussian", "chebyshev"):
        window = WINDOW["lopsided"]
        layer = Layer(kernel, window)
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        given = torch.randn(window.batch, window.channels, *window.size)
        gradients = []
        for module in (layer, compiled):
            x = given.clone().requires_grad_()
            module(x).square().sum().backward()
            assert x.grad is not None
            gradients.append(x.grad)
        torch.testing.assert_close(*gradients)


TAKES_PRECISION = [kernel for kernel, operator in OPERATOR_OF_KERNEL.items() if operator.has_precision]


@pytest.mark.parametrize("kernel", TAKES_PRECISION)
def test_precision_changes_nothing_here(kernel: str) -> None:
    given = tensors(WINDOW["batch"], kernel, torch.float32, per_channel=True)
    leaves = [value.requires_grad_() for value in given.values()]
    results = []
    for precision in ("float32", "bf16x3"):
        y = kervolution(kernel=kernel, precision=precision, **options(WINDOW["batch"]), **given)
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("kernel", OPERATOR_OF_KERNEL)
def test_a_precision_that_is_none_or_not_taken_is_refused(kernel: str) -> None:
    given = tensors(WINDOW["single"], kernel, torch.float32, per_channel=False)
    with pytest.raises(ValueError, match="precision must be one of float32, bf16x3; got 'bf16'"):
        kervolution(kernel=kernel, precision="bf16", **options(WINDOW["single"]), **given)
    if kernel not in TAKES_PRECISION:
        with pytest.raises(ValueError, match=f"gaussian, sigmoid, euclidean; the {kernel} kernel takes float32 only"):
            kervolution(kernel=kernel, precision="bf16x3", **options(WINDOW["single"]), **given)
    operator = getattr(torch.ops.edgeconv, OPERATOR_OF_KERNEL[kernel].name).default
    assert [(a.name, a.default_value) for a in operator._schema.arguments if a.name == "precision"] == (
        [("precision", "float32")] if kernel in TAKES_PRECISION else []
    )
    if kernel in TAKES_PRECISION:  # the operator itself, as a saved program calls it
        window = WINDOW["single"]
        tensors_in_order = [given[name] for name in ("x", "weight", *OPERATOR_OF_KERNEL[kernel].parameters, "bias")]
        attributes: list[Any] = [window.strides, window.pads, window.dilations, window.group]
        attributes += [3] if kernel == "polynomial" else []
        assert torch.equal(operator(*tensors_in_order, *attributes), operator(*tensors_in_order, *attributes, "bf16x3"))
        with pytest.raises(ValueError, match="got 'tf32'"):
            operator(*tensors_in_order, *attributes, "tf32")


@pytest.mark.parametrize("precision", ["float32", "bf16x3"])
def test_a_saved_program_keeps_the_precision(precision: str) -> None:
    class Precise(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return kervolution(
                x, kernel="gaussian", precision=precision, **options(self.window), **dict(self.named_buffers())
            )

    layer = Precise("gaussian", WINDOW["batch"]).eval()
    x = torch.randn(3, 5, 6, 11)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(layer, (x,)), buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer)
    calls = [node for node in loaded.graph.nodes if str(node.target).startswith("edgeconv")]
    said = [value for value in (*calls[0].args, *calls[0].kwargs.values()) if isinstance(value, str)]
    assert said == ([] if precision == "float32" else [precision])  # nothing: older versions take it too
    assert torch.equal(loaded.module()(x), layer(x))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
