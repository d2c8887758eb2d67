"""Modules that call the 8-bit Manhattan kervolution: in every form and runtime, from `.pt2` files, and their check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import Quantized
from onnx import TensorProto, numpy_helper
from onnx.inliner import inline_local_functions

import edgeconv
from edgeconv.errors import EdgeconvError, InputError, ParityError
from edgeconv.export.forms import apply_form
from edgeconv.export.report import Tolerance
from edgeconv.export.verification import TOLERANCES
from edgeconv.ops.kervolution import DOMAIN, PLUGIN_ATTRIBUTES
from edgeconv.ops.qlinear_manhattan import OPERATOR
from edgeconv.ops.registry import LAYER_OPERATORS, OPERATORS, onnx_functions

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same images in every run."""
    torch.manual_seed(6)


def run(path: Path, image: torch.Tensor, library: bool = False) -> Array:
    """Run a file in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    if library:
        options.register_custom_ops_library(edgeconv.op_library())
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": image.numpy()})[0])


def steps_off(actual: Array, expected: torch.Tensor, step: float) -> Array:
    """How many steps each element is off; the outputs must be alive."""
    assert len(np.unique(expected)) > 30
    found = np.abs(actual.astype(np.float64) - expected.numpy().astype(np.float64)) / step
    np.testing.assert_allclose(found, np.round(found), atol=1e-4)
    return np.round(found)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8], ids=["uint8", "int8"])
@pytest.mark.parametrize("bias", [False, True])
def test_with_and_without_the_library(dtype: torch.dtype, bias: bool, tmp_path: Path) -> None:
    network, path = Quantized(dtype, bias=bias).eval(), tmp_path / "quantized.onnx"
    report = edgeconv.to_onnx(network, torch.randn(1, 4, 7, 9), path, opset=19)
    assert report.inputs == {"image": ("batch", 4, 7, 9)}
    assert report.parity is not None
    assert report.parity.passed
    ran = {comparison.runtime for comparison in report.parity.comparisons}
    assert ran == {"ORT + op library", "ORT", "ONNX reference"}
    assert not report.parity.not_run
    image = torch.randn(5, 4, 7, 9)
    for library in (False, True):
        off = steps_off(run(path, image, library), network(image), float(network.y_scale))
        assert off.max() <= 1, library
        assert np.count_nonzero(off) <= off.size / 1000, library


def test_the_node(tmp_path: Path) -> None:
    path = tmp_path / "quantized.onnx"
    edgeconv.to_onnx(Quantized(bias=False), torch.randn(1, 4, 7, 9), path, opset=19)
    model = onnx.load(path)
    (node,) = (node for node in model.graph.node if node.domain == DOMAIN)
    assert node.op_type == OPERATOR.name
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    window = {"kernel_shape": [3, 2], "strides": [1, 2], "pads": [1, 0, 0, 1], "dilations": [1, 1], "group": 2}
    assert given == window | {name: value.encode() for name, value in PLUGIN_ATTRIBUTES.items()}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    constants = [numpy_helper.to_array(tensors[name]) for name in node.input[1:]]
    kinds = dict(zip(OPERATOR.inputs[1:], ((value.dtype.name, value.shape) for value in constants), strict=True))
    assert kinds == {
        "x_scale": ("float32", ()), "x_zero_point": ("uint8", ()), "W": ("int8", (6, 2, 3, 2)),
        "w_scale": ("float32", (6,)), "w_zero_point": ("int8", (6,)),
        "y_scale": ("float32", ()), "y_zero_point": ("uint8", ()), "B": ("float32", (6,)),
    }  # fmt: skip
    assert not constants[-1].any()  # a bias of zeros, because the layer has none
    assert [function.name for function in model.functions] == [OPERATOR.name]
    onnx.checker.check_model(model, full_check=True)


def test_inlined(tmp_path: Path) -> None:
    network, image, path = Quantized().eval(), torch.randn(3, 4, 7, 9), tmp_path / "inlined.onnx"
    report = edgeconv.to_onnx(network, image, path, opset=19, form="inlined")
    model = onnx.load(path)
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {entry.domain for entry in model.opset_import} == {""}
    assert report.parity is not None
    assert {comparison.runtime for comparison in report.parity.comparisons} == {"ORT", "ONNX reference"}
    assert steps_off(run(path, image), network(image), float(network.y_scale)).max() <= 1


def test_nodes_without_functions_get_them_back(tmp_path: Path) -> None:
    network, image = Quantized(torch.int8).eval(), torch.randn(2, 4, 7, 9)
    for form in ("functions", "nodes"):
        edgeconv.to_onnx(network, image, tmp_path / form, opset=19, form=form, verify=False)  # type: ignore[arg-type]
    bare, full = onnx.load(tmp_path / "nodes"), onnx.load(tmp_path / "functions")
    assert not bare.functions
    again = apply_form(bare, "functions")
    assert again.functions == full.functions
    assert again.graph == full.graph


def test_operators_in_the_branch_of_an_if_get_their_functions() -> None:
    """Forms see nested graphs too."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 19, "edgeconv" : 1]>
    g (bool c, float[1,2,5,6] x, float[3,2,1,1] w, float[3] b) => (float[1,3,5,6] y) {
      y = If (c) <then_branch = t () => (float[1,3,5,6] u) {
                   u = edgeconv.ChebyshevKervolution <kernel_shape = [1,1], strides = [1,1], pads = [0,0,0,0],
                                                      dilations = [1,1], group = 1> (x, w, b) },
                  else_branch = e () => (float[1,3,5,6] o) {
                   o = edgeconv.ManhattanKervolution <kernel_shape = [1,1], strides = [1,1], pads = [0,0,0,0],
                                                      dilations = [1,1], group = 1> (x, w, b) }> }""")
    generator = np.random.default_rng(0)
    feeds = {name: generator.standard_normal(shape, dtype=np.float32) for name, shape in
             {"x": (1, 2, 5, 6), "w": (3, 2, 1, 1), "b": (3,)}.items()}  # fmt: skip
    apply_form(model, "functions")
    assert {function.name for function in model.functions} == {"ChebyshevKervolution", "ManhattanKervolution"}
    for file in (model, inline_local_functions(model)):
        session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
        for chebyshev in (True, False):
            difference = np.abs(feeds["x"][:, None] - feeds["w"][None, :, :, :1, :1])
            expected = -(difference.max(2) if chebyshev else difference.sum(2)) + feeds["b"][:, None, None]
            (actual,) = session.run(None, {"c": np.asarray(chebyshev), **feeds})
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_every_operator_has_its_function_and_its_torch_operator() -> None:
    assert onnx_functions().keys() == OPERATORS.keys()
    for name, operator in OPERATORS.items():
        assert list(onnx_functions()[name].input) == list(operator.inputs)
    for name in LAYER_OPERATORS:
        assert getattr(torch.ops.edgeconv, name)


def test_opset_18_is_written_and_checked_by_onnx_runtime_alone(tmp_path: Path) -> None:
    report = edgeconv.to_onnx(Quantized(), torch.randn(2, 4, 7, 9), tmp_path / "old.onnx", opset=18)
    assert report.parity is not None
    assert {comparison.runtime for comparison in report.parity.comparisons} == {"ORT + op library", "ORT"}
    assert "DequantizeLinear" in report.parity.not_run["ONNX reference"]


def test_dynamic_height_and_width(tmp_path: Path) -> None:
    network, path = Quantized().eval(), tmp_path / "any.onnx"
    axes = {"image": {0: "batch", 2: "height", 3: "width"}}
    report = edgeconv.to_onnx(network, torch.randn(1, 4, 7, 9), path, opset=19, dynamic=axes)
    assert report.inputs == {"image": ("batch", 4, "height", "width")}
    image = torch.randn(3, 4, 12, 5)
    assert steps_off(run(path, image), network(image), float(network.y_scale)).max() <= 1


def test_outputs_next_to_the_middle_of_two_steps_do_not_fail_the_check(tmp_path: Path) -> None:
    """The body's float sums decide ties in another way than integers do; that is a step, and no defect."""
    image = torch.randn(2, 4, 17, 19)
    for dequantize in (True, False):
        network = Quantized(ties=True, bias=False, dequantize=dequantize).eval()
        path = tmp_path / f"{dequantize}.onnx"
        report = edgeconv.to_onnx(network, image, path, opset=19)
        off = steps_off(run(path, image), network(image), float(network.y_scale) if dequantize else 1.0)
        assert off.max() == 1  # or this shows nothing
        assert report.parity is not None
        assert report.parity.tolerance == TOLERANCES["int8"]
    with pytest.raises(ParityError):  # what a float32 network is held to
        edgeconv.to_onnx(Quantized(ties=True, bias=False), image, path, opset=19, atol=1e-5, rtol=1e-3)


def test_two_steps_off_fail() -> None:
    expected = np.int8([3, -2, 1, 0])
    limits = Tolerance(1e-3, 2e-2, steps=1)
    assert limits.errors(expected, np.int8([4, -3, 1, 0])).passed
    assert not limits.errors(expected, np.int8([5, -2, 1, 0])).passed
    assert not Tolerance(1e-3, 2e-2).errors(expected, np.int8([4, -2, 1, 0])).passed
    assert not limits.errors(expected.astype(np.int64), np.int64([4, -2, 1, 0])).passed  # a class or an index


def test_a_wrong_zero_point_fails_the_check_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that forgets the zero-point of the weights is found out."""
    from edgeconv.ops import qlinear_manhattan_function

    wrong = onnx.FunctionProto()
    wrong.CopyFrom(qlinear_manhattan_function.FUNCTION)
    (weights,) = (n for n in wrong.node if n.op_type == "DequantizeLinear" and n.input[0] == "W")
    del weights.input[2]
    monkeypatch.setattr(qlinear_manhattan_function, "FUNCTION", wrong)
    with pytest.raises(ParityError, match="ORT differs"):
        edgeconv.to_onnx(Quantized(), torch.randn(2, 4, 7, 9), tmp_path / "wrong.onnx", opset=19, form="inlined")
    assert list(tmp_path.iterdir()) == []


def test_a_program_in_a_pt2_file(tmp_path: Path) -> None:
    """The commands, in processes that have not yet heard of the operator."""
    network, image = Quantized().eval(), torch.randn(2, 4, 7, 9)
    program = torch.export.export(network, (image,), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, tmp_path / "q.pt2")
    for arguments in (
        ["export", "q.pt2", "--output", "q.onnx", "--opset", "19"],
        ["verify", "q.onnx", "--against", "q.pt2"],
        ["inspect", "q.onnx"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", "from edgeconv.cli import main; main()", *arguments],
            cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert "abs. differences in 8 bits" in done.stdout
    image = torch.randn(5, 4, 7, 9)
    assert steps_off(run(tmp_path / "q.onnx", image), network(image), float(network.y_scale)).max() <= 1
    node = next(node for node in onnx.load(tmp_path / "q.onnx").graph.node if node.domain == DOMAIN)
    assert node.name == OPERATOR.name


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("x_scale", torch.tensor(0.017, dtype=torch.float64), "x_scale of QLinear.* is float64; it must be float32"),
        ("w_zero_point", torch.zeros(6, dtype=torch.int32), "w_zero_point .* is int32; it must be uint8 or int8"),
        ("x_zero_point", torch.tensor(1, dtype=torch.int8), "x_zero_point .* is int8, X is uint8"),
    ],
)
def test_tensors_of_other_types(name: str, tensor: torch.Tensor, message: str, tmp_path: Path) -> None:
    network, image = Quantized(), torch.randn(2, 4, 7, 9)
    setattr(network, name, tensor)
    if name == "x_zero_point":  # which the module casts to
        arguments = [torch.zeros(1, 4, 7, 9, dtype=torch.uint8), network.x_scale, tensor, network.weight]
        rest = [network.w_scale, network.w_zero_point, network.y_scale, network.y_zero_point, None]
        with pytest.raises(ValueError, match=message):
            torch.ops.edgeconv.QLinearManhattanKervolution(*arguments, *rest, [1, 2], [1, 0, 0, 1], [1, 1], 2)
        return
    with pytest.raises(ValueError, match=message):
        network(image)
    with pytest.raises(InputError, match=message):
        edgeconv.to_onnx(network, image, tmp_path / "bad.onnx")
    assert list(tmp_path.iterdir()) == []


def test_fp16_does_not_halve_its_scales_in_silence(tmp_path: Path) -> None:
    with pytest.raises(EdgeconvError, match="x_scale of QLinearManhattanKervolution is float16; it must be float32"):
        edgeconv.to_onnx(Quantized(), torch.randn(2, 4, 7, 9), tmp_path / "half.onnx", fp16=True)


def test_element_types_of_the_outputs(tmp_path: Path) -> None:
    """Integers may leave the network: they stay integers in the file."""
    path = tmp_path / "bytes.onnx"
    edgeconv.to_onnx(Quantized(torch.int8, dequantize=False), torch.randn(2, 4, 7, 9), path, opset=19)
    (output,) = onnx.load(path).graph.output
    assert output.type.tensor_type.elem_type == TensorProto.INT8
