"""Everything that competes computes the same thing: standard graphs, PyTorch's forms and the quantised operator."""

from __future__ import annotations

import numpy as np
import onnx
import oracles
import pytest
import torch
from competitors import library_has
from layers import HELD, LAYERS, Layer, parameters
from quantized_graphs import X_SCALE, X_ZERO_POINT, expected_output, quantized_operator, quantized_tensors, y_scale
from standard_graphs import Graph, operator, plain_conv, standard_graphs
from tolerances import assert_close
from torch_forms import compiled_forms, eager_forms, input_tensor

from edgeconv.ops.kervolution import OPERATOR_OF_KERNEL
from edgeconv.ops.qlinear_manhattan_function import FUNCTION
from edgeconv.runtime.op_library import op_library
from edgeconv.runtime.ort import OrtSession

SMALL = (
    Layer("plain", 5, 7, 9, 6, 3),
    Layer("strided", 3, 12, 9, 4, 5, stride=2),
    Layer("pointwise", 11, 5, 6, 7, 1),
    Layer("grouped", 6, 8, 5, 9, 3, group=3),
    Layer("grouped batch", 4, 6, 7, 4, 3, stride=2, group=2, batch=2),
    Layer("depthwise", 5, 9, 6, 5, 3, group=5),
    Layer("depthwise strided", 4, 8, 11, 4, 3, stride=2, group=4, batch=2),
    Layer("batch", 9, 4, 5, 3, 3, batch=3),
)
KERNELS = list(OPERATOR_OF_KERNEL)


def oracle(kernel: str, layer: Layer) -> np.ndarray:
    x, w = layer.tensors()
    return oracles.kervolution(
        x, w, None, kernel=kernel, strides=(layer.stride,) * 2, pads=(layer.pad,) * 4, dilations=(1, 1),
        group=layer.group, degree=3, **parameters(kernel, layer),
    )  # fmt: skip


def run(model: bytes, x: np.ndarray) -> np.ndarray:
    return OrtSession(model, threads=1, op_library=False).run({"X": x})["Y"]


@pytest.mark.parametrize("layer", SMALL, ids=lambda layer: layer.name)
@pytest.mark.parametrize("kernel", KERNELS)
def test_standard_graphs(kernel: str, layer: Layer) -> None:
    """The first is the operator's function body; each of the others has other nodes and the same result."""
    expected = oracle(kernel, layer)
    graphs = dict(standard_graphs(kernel, layer))
    assert len(graphs) == len(set(graphs.values())) >= 2
    for name, model in graphs.items():
        assert_close(run(model, layer.tensors()[0]), expected, np.float32, name)


@pytest.mark.parametrize("layer", SMALL, ids=lambda layer: layer.name)
def test_plain_conv(layer: Layer) -> None:
    assert_close(run(plain_conv(layer), layer.tensors()[0]), oracle("linear", layer), np.float32)


@pytest.mark.parametrize("layer", SMALL, ids=lambda layer: layer.name)
@pytest.mark.parametrize("kernel", KERNELS)
def test_torch_forms(kernel: str, layer: Layer) -> None:
    """Eager forms, and those offered to torch.compile before it compiles them."""
    expected = oracle(kernel, layer)
    forms = [*eager_forms(kernel, layer), *(form[:3] for form in compiled_forms(kernel, layer))]
    assert len(forms) >= 5
    for name, module, channels_last in forms:
        with torch.no_grad():
            assert_close(module.eval()(input_tensor(layer, channels_last)).numpy(), expected, np.float32, name)


def test_the_library_runs_without_a_function() -> None:
    """So that nothing but a native kernel can be timed as the library."""
    model = operator("polynomial", SMALL[0], functions=False)
    assert library_has(model)
    session = OrtSession(model, threads=1, op_library=op_library())
    assert_close(session.run({"X": SMALL[0].tensors()[0]})["Y"], oracle("polynomial", SMALL[0]), np.float32)
    graph = Graph(SMALL[0])
    assert not library_has(graph.model(graph.add("NoSuchKervolution", "X", domain="edgeconv")))


@pytest.mark.parametrize("layer", SMALL[:6], ids=lambda layer: layer.name)
def test_quantized_operator(layer: Layer) -> None:
    """The expected output against a loop over integers, and the function body within one step of it."""
    x, w = quantized_tensors(layer)
    assert x.min() < 60
    assert x.max() > 200
    padded = np.pad(x.astype(int) - X_ZERO_POINT, ((0, 0), (0, 0), (layer.pad,) * 2, (layer.pad,) * 2))
    sums = np.zeros(layer.y_shape, int)
    for m in range(layer.filters):
        first = m // (layer.filters // layer.group) * layer.depth
        for i in range(layer.output_height):
            for j in range(layer.output_width):
                rows, columns = (slice(s * layer.stride, s * layer.stride + layer.window) for s in (i, j))
                patch = padded[:, first : first + layer.depth, rows, columns]
                sums[:, m, i, j] = np.abs(patch - w[m].astype(int)).sum((1, 2, 3))
    steps = -(X_SCALE * sums.astype(np.float32)) / y_scale(layer)
    expected = np.clip(np.rint(steps) + 255, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(expected_output(layer), expected)
    assert expected.min() < 200
    assert expected.max() > expected.min()
    graph = quantized_operator(layer, conversions=False)
    body = run(with_function(graph), x)
    assert np.abs(body.astype(int) - expected).max() <= 1
    if library_has(graph):
        native = OrtSession(graph, threads=1, op_library=op_library()).run({"X": x})["Y"]
        np.testing.assert_array_equal(native, expected)


def with_function(graph: bytes) -> bytes:
    model = onnx.load_from_string(graph)
    model.functions.append(FUNCTION)
    result: bytes = model.SerializeToString()
    return result


def test_layers() -> None:
    """Counts of multiply-adds by hand, and every geometry that the held set is there for."""
    assert [layer.macs for layer in LAYERS.values()] == [115_605_504] * 4 + [118_013_952]
    assert HELD["dw56"].macs == 144 * 56 * 56 * 9
    assert HELD["groups"].macs == 128 * 56 * 56 * 4 * 9
    assert HELD["batch4"].macs == 4 * LAYERS["14"].macs
    assert HELD["dw112s2"].y_shape == (1, 96, 56, 56)
    assert HELD["odd"].bytes() == 4 * (40 * 37 * 41 + 72 * 40 * 9 + 72 * 37 * 41)
    held = HELD.values()
    assert {layer.window for layer in held} == {1, 3, 5}
    assert any(layer.depthwise and layer.stride == 2 for layer in held)
    assert any(1 < layer.group < layer.channels for layer in held)
    assert any(layer.height != layer.width for layer in held)
