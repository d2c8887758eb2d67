"""The exported projection: against PyTorch in each case, and a check that finds what is wrong."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from tolerances import assert_close
from torch import nn

from edgeconv.errors import InputError
from edgeconv.export.parity import PLAIN, REFERENCE
from edgeconv.visualization import project_feature, trace
from edgeconv.visualization.onnx_graph import build_projection
from edgeconv.visualization.onnx_parity import check_projection

from .networks import CASES, build

NAMES = ["activation", "position", "reconstruction"]


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_pytorch(name: str) -> None:
    import onnxruntime

    module, images, layer = build(name)
    stack = trace(module, images).stack(layer)
    model = build_projection(stack, 1, {})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch, feature in ((3, None), (1, 0), (2, stack.features - 1)):
        expected = project_feature(stack, images[:batch], 1 if feature is None else feature)
        feeds = {"image": images[:batch].numpy()}
        if feature is not None:
            feeds["feature"] = np.array(feature, np.int64)
        activation, position, reconstruction = session.run(NAMES, feeds)
        assert position.tolist() == expected.position.tolist()
        assert_close(activation, expected.activation, np.float32, name)
        assert_close(reconstruction, expected.reconstruction, np.float32, name)
    assert check_projection(model, stack, 1, images.numpy()).passed


def test_the_reference_evaluator_agrees() -> None:
    for name in ("overlapping", "hanging", "gaps"):
        module, images, layer = build(name)
        stack = trace(module, images).stack(layer)
        report = check_projection(build_projection(stack, 0, {}), stack, 0, images.numpy())
        assert report.passed
        assert {comparison.runtime for comparison in report.comparisons} == {PLAIN, REFERENCE}


def test_the_form_of_the_graph() -> None:
    """MaxUnpool where windows tile, ScatterElements elsewhere; standard operators; a batch that is open."""
    tiled = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 1)).eval()
    for size, expected in (((1, 1, 8, 12), {"MaxUnpool"}), ((1, 1, 9, 12), {"ScatterElements"})):
        model = build_projection(trace(tiled, torch.zeros(size)).stack("3"), 1, {"edgeconv.layer": "3"})
        operators = {node.op_type for node in model.graph.node}
        assert operators & {"MaxUnpool", "ScatterElements"} == expected
        assert {"MaxPool", "ConvTranspose"} <= operators
        assert {node.domain for node in model.graph.node} == {""}
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
        assert [each.name for each in model.graph.output] == NAMES
        defaults = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        assert defaults["feature"] == 1


def test_names_of_layers_do_not_clash_with_those_of_the_graph() -> None:
    from edgeconv.models.registry import create

    module = create("lenet5").eval()  # one of its layers is called activation
    images = torch.randn(2, 1, 28, 28)
    stack = trace(module, images).stack("activation@1")
    assert check_projection(build_projection(stack, 3, {}), stack, 3, images.numpy()).passed


def _changed(model: onnx.ModelProto, operator: str, **attributes: object) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    node = [each for each in copy.graph.node if each.op_type == operator][-1]
    for name, value in attributes.items():
        kept = [each for each in node.attribute if each.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])
    return copy


def test_the_check_finds_errors() -> None:
    module, images, layer = build("overlapping")
    stack = trace(module, images).stack(layer)
    model = build_projection(stack, 0, {})
    real = images.numpy()
    assert check_projection(model, stack, 0, real).passed
    # Filters that are turned round: a convolution, and not its transpose.
    turned = onnx.ModelProto()
    turned.CopyFrom(model)
    node = [each for each in turned.graph.node if each.op_type == "ConvTranspose"][-1]
    weight = next(numpy_helper.to_array(each) for each in turned.graph.initializer if each.name == node.input[1])
    turned.graph.initializer.append(numpy_helper.from_array(weight[:, :, ::-1, ::-1].copy(), "turned"))
    node.input[1] = "turned"
    assert not check_projection(turned, stack, 0, real).passed
    # Not added where windows overlap.
    assert not check_projection(_changed(model, "ScatterElements", reduction="max"), stack, 0, real).passed
    # Other switches: those of the last of equal pixels are right, those of the least pixels are not.
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    pool = next(each for each in wrong.graph.node if each.op_type == "MaxPool")
    index = list(wrong.graph.node).index(pool)
    negative = onnx.helper.make_node("Neg", [pool.input[0]], ["negative"])
    pool.input[0] = "negative"
    wrong.graph.node.insert(index, negative)
    report = check_projection(wrong, stack, 0, real)
    assert not report.passed
    assert any("do not point to the largest pixel" in comparison.note for comparison in report.comparisons)
    # Another place: the smallest activation.
    least = onnx.ModelProto()
    least.CopyFrom(model)
    next(each for each in least.graph.node if each.op_type == "ArgMax").op_type = "ArgMin"
    report = check_projection(least, stack, 0, real)
    assert any("not that of the largest activation" in comparison.note for comparison in report.comparisons)


def test_a_runtime_may_choose_among_equal_pixels() -> None:
    """Flat maps: every pixel of a window is the largest, and a runtime that takes the last one is not wrong."""
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 1)).eval()
    with torch.no_grad():
        for each in (module[0], module[3]):
            each.weight.fill_(0.5)
            each.bias.fill_(0.5)
    flat = torch.full((2, 1, 4, 6), 0.25)
    stack = trace(module, flat).stack("3")
    model = build_projection(stack, 0, {})
    pool = next(each for each in model.graph.node if each.op_type == "MaxPool")
    switches = pool.output[1]
    # Each switch moves to the last pixel of its window: one row and one column on.
    pool.output[1] = "first"
    model.graph.initializer.append(numpy_helper.from_array(np.array(6 + 1, np.int64), "to_the_last"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(2 * 2 * 4 * 6 - 1, np.int64), "end"))
    moved = onnx.helper.make_node("Add", ["first", "to_the_last"], ["moved"])
    bounded = onnx.helper.make_node("Min", ["moved", "end"], [switches])
    place = list(model.graph.node).index(pool) + 1
    model.graph.node.insert(place, moved)
    model.graph.node.insert(place + 1, bounded)
    report = check_projection(model, stack, 0, flat.numpy(), switches=[switches])
    assert [(each.inputs, each.passed) for each in report.comparisons if each.runtime == PLAIN] == [
        ("random", False), ("real", True)
    ]  # fmt: skip


def test_an_even_normalisation_is_refused() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LocalResponseNorm(4)).eval()
    stack = trace(module, torch.zeros(1, 1, 8, 9)).stack("1")
    with pytest.raises(InputError, match="1 normalises over 4 channels"):
        build_projection(stack, 0, {})
