"""Where Q/DQ pairs stand for each target, and what the written graph computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeconv.errors import InputError
from edgeconv.quantize.observe import Observation
from edgeconv.quantize.parameters import Parameters, initial_parameters
from edgeconv.quantize.pipeline import choose_grids
from edgeconv.quantize.placement import Placement, place
from edgeconv.quantize.prepare import PreparedModel, prepare_model
from edgeconv.quantize.quantized_graph import QuantizedGraph, write_graph
from edgeconv.quantize.running import with_outputs
from edgeconv.quantize.settings import Settings
from edgeconv.quantize.targets import TARGETS

from .models import build, image_batch, inverted_residuals, kinds, run, sqnr
from .oracle import evaluate

Array = NDArray[Any]


def quantized(
    model: onnx.ModelProto, target: str = "ort", images: Array | None = None, **options: Any
) -> tuple[PreparedModel, Placement, Parameters, QuantizedGraph]:
    """Min-max ranges over images, weights to the nearest step."""
    integer_io = options.pop("integer_io", False)
    prepared = prepare_model(model)
    placement = place(prepared, TARGETS[target], **options)
    images = image_batch() if images is None else images
    seen = {}
    for name in placement.bounds:
        seen[name] = Observation()
        values = images if name == "x" else run(with_outputs(prepared.model, [name], prepared.types), images)
        seen[name].add(values)
    grids = choose_grids(placement, seen, TARGETS[target], Settings())
    parameters = initial_parameters(prepared.model, placement, grids)
    graph = write_graph(prepared, placement, parameters, TARGETS[target], integer_io=integer_io)
    onnx.checker.check_model(graph.model, full_check=True)
    return prepared, placement, parameters, graph


def readers(model: onnx.ModelProto, name: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if name in node.input]


def maker(model: onnx.ModelProto, name: str) -> onnx.NodeProto | None:
    return next((node for node in model.graph.node if name in node.output), None)


def constant(model: onnx.ModelProto, name: str) -> Array:
    return numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name))


def test_ort_graph() -> None:
    _, placement, _, graph = quantized(inverted_residuals())
    model = graph.model
    assert "Clip" not in kinds(model)  # all absorbed
    assert len(graph.absorbed) == 5
    assert len(placement.layers) == 8
    assert placement.layers["dw1"].depthwise
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "Add", "GlobalAveragePool"):
            made = [maker(model, name) for name in node.input]
            assert [each.op_type for each in made if each] == ["DequantizeLinear"] * len(node.input), node.name
        if node.op_type in ("Conv", "Add", "GlobalAveragePool"):
            assert [each.op_type for each in readers(model, node.output[0])] == ["QuantizeLinear"]
        if node.op_type == "QuantizeLinear":
            assert constant(model, node.input[2]).dtype == np.uint8
    for name in ("w0", "w1", "w7"):
        values = constant(model, f"{name}_quantized")
        assert values.dtype == np.int8
        assert constant(model, f"{name}_scale").shape == (len(values),)
    assert constant(model, "b3_quantized").dtype == np.int32
    relu6 = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "e")
    assert (constant(model, relu6.input[1]), constant(model, relu6.input[2])) == (np.float32(6 / 255), 0)
    assert {t.name for t in model.graph.initializer}.isdisjoint({"w0", "b0", "six"})


def test_tensorrt_graph() -> None:
    _, placement, _, graph = quantized(inverted_residuals(), "tensorrt")
    model = graph.model
    assert graph.absorbed == []
    assert kinds(model).count("Clip") == 5
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero_point = constant(model, node.input[2])
            assert zero_point.dtype == np.int8
            assert not zero_point.any()
        if node.op_type == "Conv":
            x, w = (maker(model, name) for name in node.input[:2])
            assert x is not None
            assert w is not None
            assert (x.op_type, w.op_type) == ("DequantizeLinear", "DequantizeLinear")
            assert next(a.i for a in w.attribute if a.name == "axis") == 0
            assert maker(model, node.input[2]) is None  # the bias is a float constant
            assert constant(model, node.input[2]).dtype == np.float32
            # Between a Conv and its Clip, and between a Conv and the Add after it, there is nothing.
            (after,) = readers(model, node.output[0])
            assert after.op_type in ("Clip", "QuantizeLinear", "Add")
            if node.name in ("stem", "dw1", "expand2", "dw2", "head"):
                assert after.op_type == "Clip"
                assert [each.op_type for each in readers(model, after.output[0])] == ["QuantizeLinear"]
    add = next(node for node in model.graph.node if node.op_type == "Add")
    made = [maker(model, name) for name in add.input]
    assert sorted(each.op_type for each in made if each) == ["Conv", "DequantizeLinear"]
    clip = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "ec")
    assert constant(model, clip.input[1]) == np.float32(6 / 127)
    assert "q" not in placement.bounds


def test_portable_graph_has_symmetric_pairs_everywhere_and_float_biases() -> None:
    _, placement, _, graph = quantized(inverted_residuals(), "portable")
    assert graph.absorbed == []
    assert {"p", "q", "s"} <= placement.bounds.keys()
    for tensor in graph.model.graph.initializer:
        if tensor.name.endswith("zero_point"):
            value = numpy_helper.to_array(tensor)
            assert value.dtype == np.int8
            assert not value.any()
    assert maker(graph.model, next(n for n in graph.model.graph.node if n.op_type == "Conv").input[2]) is None


@pytest.mark.parametrize("target", TARGETS)
def test_the_graph_computes_what_its_integers_mean(target: str) -> None:
    """ONNX Runtime with its integer kernels, and step by step, against sums of integers in numpy."""
    _, _, _, graph = quantized(inverted_residuals(), target)
    images = image_batch(3, seed=9)
    expected = evaluate(graph.model, images)["y"]
    for optimized in (False, True):
        actual = run(graph.model, images, optimized=optimized)
        # An accumulator on the border of two steps may fall to either, and what follows differs by a little.
        assert sqnr(expected, actual) > 32, optimized
    # A layer alone has nothing before it that could differ: all but such borders are equal.
    single = with_outputs(graph.model, [graph.dequantized["ac"]], {})
    stem = {graph.results["stem"], "ac"}
    pair = next(n for n in graph.model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] in stem)
    step = constant(graph.model, pair.input[1])
    whole = evaluate(graph.model, images)[graph.dequantized["ac"]] / step
    for optimized in (False, True):
        off = np.abs(run(single, images, optimized=optimized) / step - whole)
        assert off.max() < 1.01
        assert np.mean(off > 0.5) < 0.005


def test_every_target_keeps_the_network() -> None:
    images = image_batch(6, seed=4)
    model = inverted_residuals()
    expected = run(model, images)
    for target in TARGETS:
        graph = quantized(model, target)[3]
        assert sqnr(expected, run(graph.model, images)) > 18, target


def test_excluded_layers_stay_in_float() -> None:
    """ONNX Runtime quantises float weights behind a DequantizeLinear by itself, with one step: that is prevented."""
    spread = np.exp(np.linspace(-4, 4, 6))[:, None, None, None]
    model = inverted_residuals(w1=(np.random.default_rng(1).standard_normal((6, 1, 3, 3)) * spread).astype(np.float32))
    _, placement, _, graph = quantized(model, exclude=["^dw"])
    assert placement.left == {"dw1": "excluded", "dw2": "excluded"}
    assert "Sum" in kinds(graph.model)
    names = {tensor.name for tensor in graph.model.graph.initializer}
    assert {"w1", "w4"} <= names
    images = image_batch(4, seed=5)
    plain, optimized = (run(graph.model, images, optimized=each) for each in (False, True))
    assert sqnr(plain, optimized) > 32
    for node in graph.model.graph.node:  # without what prevents it, the layer is not what the file says
        for index, name in enumerate(node.input):
            before = maker(graph.model, name)
            if before is not None and before.op_type == "Sum":
                node.input[index] = before.input[0]
    assert sqnr(plain, run(graph.model, images)) < 25


def test_exclude_is_checked() -> None:
    prepared = prepare_model(inverted_residuals())
    with pytest.raises(InputError, match="fits no node"):
        place(prepared, TARGETS["ort"], ["nothing"])
    with pytest.raises(InputError, match="not a regular expression"):
        place(prepared, TARGETS["ort"], ["("])


def test_matched_adds_share_a_grid() -> None:
    _, placement, parameters, graph = quantized(inverted_residuals(), match_adds=True)
    grids = parameters.activations
    assert grids["p"] == grids["q"] == grids["s"]
    assert placement.groups["p"] == placement.groups["s"] != placement.groups["ec"]
    assert sqnr(run(inverted_residuals(), image_batch(4)), run(graph.model, image_batch(4))) > 18


def test_8_bit_inputs_and_outputs() -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 3, 20, 26] x) => (float[N, 4, H, W] y) {
            [one] a = Conv <kernel_shape = [3, 3]> (x, w)
            [relu] b = Relu (a)
            [two] y = Conv <kernel_shape = [1, 1]> (b, v)
        }
    """
    generator = np.random.default_rng(2)
    model = build(
        text,
        {
            "w": generator.standard_normal((5, 3, 3, 3)).astype(np.float32),
            "v": generator.standard_normal((4, 5, 1, 1)).astype(np.float32),
        },
    )
    images = image_batch(3)
    _, _, parameters, plain = quantized(model)
    whole = quantized(model, integer_io=True)[3].model
    x, y = parameters.activations["x"], parameters.activations["y"]
    assert [v.type.tensor_type.elem_type for v in (*whole.graph.input, *whole.graph.output)] == [2, 2]
    assert "QuantizeLinear" not in [n.op_type for n in readers(whole, "x")]
    from edgeconv.quantize.grids import quantize

    integers = run(whole, quantize(images, x), optimized=False)
    assert integers.dtype == np.uint8
    assert np.array_equal(y.dequantize(integers), run(plain.model, images, optimized=False))
    notes = {entry.key for entry in whole.metadata_props}
    assert {"edgeconv.quantization.x", "edgeconv.quantization.y"} <= notes


def test_shared_weights_and_passed_on_tensors() -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 4, 12, 10] x) => (float[N, 4, H, W] y) {
            [one] a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w, b)
            [pool] p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
            [two] c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (p, w)
            [cat] d = Concat <axis = 1> (p, c)
            [three] y = Conv <kernel_shape = [1, 1]> (d, v)
        }
    """
    generator = np.random.default_rng(2)
    model = build(
        text,
        {
            "w": generator.standard_normal((4, 4, 3, 3)).astype(np.float32) / 3,
            "b": generator.standard_normal(4).astype(np.float32),
            "v": generator.standard_normal((4, 8, 1, 1)).astype(np.float32),
        },
    )
    images = image_batch(4, shape=(4, 12, 10))
    _, placement, parameters, graph = quantized(model, images=images)
    assert placement.groups["a"] == placement.groups["p"]
    assert parameters.activations["a"] == parameters.activations["p"]
    assert len([t for t in graph.model.graph.initializer if t.name.startswith("w_quantized")]) == 2
    assert sqnr(run(model, images), run(graph.model, images)) > 25


def test_a_bias_that_does_not_fit_is_not_cut_off() -> None:
    model = inverted_residuals()
    for tensor in model.graph.initializer:
        if tensor.name == "w1":
            values = numpy_helper.to_array(tensor).copy()
            values[2] *= 1e-12  # a dead filter, as folding a batch normalisation leaves them
            tensor.CopyFrom(numpy_helper.from_array(values, "w1"))
    images = image_batch(4)
    assert sqnr(run(model, images), run(quantized(model)[3].model, images)) > 18
