"""The parity check must see what is wrong, name the layer, and keep no file that fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import Small
from onnx import numpy_helper
from torch import nn

import edgeconv
from edgeconv.errors import InputError, ParityError
from edgeconv.export.parity import TorchModel, Trial, compare_runtimes
from edgeconv.export.report import Comparison, ParityReport, Tolerance

IMAGE = torch.linspace(-1, 1, 2 * 3 * 8 * 7).reshape(2, 3, 8, 7)


def spoil(model: onnx.ModelProto, layer: str, by: float) -> None:
    """Add `by` to one element of a layer's weights."""
    for tensor in model.graph.initializer:
        if tensor.name == f"{layer}.weight":
            values = numpy_helper.to_array(tensor).copy()
            values.flat[0] += by
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            return
    raise AssertionError(f"no weights of {layer}")


@pytest.mark.parametrize("layer", ["features.0", "features.3", "head"])
def test_the_first_layer_that_differs_is_named(layer: str, tmp_path: Path) -> None:
    network, path = Small("euclidean").eval(), tmp_path / "small.onnx"
    edgeconv.to_onnx(network, IMAGE, path, verify=False)
    model = onnx.load(path)
    spoil(model, layer, 0.5)
    report = compare_runtimes(
        model, TorchModel(network, ["image"]), [Trial("real", {"image": IMAGE.numpy()})], Tolerance(1e-5, 1e-3)
    )
    assert not report.passed
    assert report.divergence is not None
    assert report.divergence.layer == layer
    assert layer in report.verdict()


def test_a_wrong_function_body_fails_the_export_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeconv.ops import kervolution_function

    wrong = onnx.FunctionProto()
    wrong.CopyFrom(kervolution_function.FUNCTIONS["GaussianKervolution"])
    exponential = next(node for node in wrong.node if node.op_type == "Exp")
    exponential.op_type = "Sin"
    monkeypatch.setitem(kervolution_function.FUNCTIONS, "GaussianKervolution", wrong)
    with pytest.raises(ParityError, match=r"features\.0") as caught:
        edgeconv.to_onnx(Small("gaussian"), IMAGE, tmp_path / "small.onnx")
    by_runtime = {c.runtime: c.passed for c in caught.value.report.comparisons if c.inputs == "random"}
    assert by_runtime == {"ORT + op library": True, "ORT": False, "ONNX reference": False}
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_gives_nan_does_not_pass(tmp_path: Path) -> None:
    network = Small("gaussian").eval()
    with torch.no_grad():
        network.features[1].running_var.fill_(float("nan"))
    with pytest.raises(ParityError, match=r"no finite value.*features\.1"):
        edgeconv.to_onnx(network, IMAGE, tmp_path / "small.onnx")


def test_pooling_of_nothing_but_nan_is_no_traceback(tmp_path: Path) -> None:
    """The reference evaluator's MaxPool raises where a window has no number."""
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.MaxPool2d(3, 1, 1)).eval()
    with torch.no_grad():
        network[0].bias.fill_(float("nan"))
    with pytest.raises(ParityError, match="no finite value"):
        edgeconv.to_onnx(network, IMAGE, tmp_path / "nan.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_no_file(tmp_path: Path) -> None:
    def interrupt(text: str) -> None:
        if text.startswith("ONNX reference"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edgeconv.to_onnx(Small(), IMAGE, tmp_path / "small.onnx", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    path.write_bytes(b"precious")
    with pytest.raises(ParityError):
        edgeconv.to_onnx(Small("sigmoid"), IMAGE, path, atol=0.0, rtol=0.0)
    assert path.read_bytes() == b"precious"


def test_without_the_library_the_report_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeconv.errors import MissingDependencyError
    from edgeconv.export import parity

    def absent() -> str:
        raise MissingDependencyError("the op library is not there", "build it")

    monkeypatch.setattr(parity, "op_library", absent)
    report = edgeconv.to_onnx(Small(), IMAGE, tmp_path / "small.onnx")
    assert report.parity is not None
    assert report.parity.not_run == {"ORT + op library": "the op library is not there"}


def test_real_inputs_of_another_size_are_refused(tmp_path: Path) -> None:
    images = np.zeros((4, 3, 9, 9), np.float32)
    with pytest.raises(InputError, match="3x9x9"):
        edgeconv.to_onnx(Small(), IMAGE, tmp_path / "small.onnx", real_inputs=images)


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20),
    st.floats(0, 1e2),
    st.floats(0, 1e-1),
    st.floats(0, 1.0),
)
def test_tolerance_is_what_it_says(values: list[float], error: float, atol: float, rtol: float) -> None:
    expected = np.asarray(values)
    actual = expected.copy()
    actual[-1] += error
    measured = Tolerance(atol, rtol).errors(expected, actual)
    assert measured.maximum == pytest.approx(abs(actual[-1] - expected[-1]))
    rms = float(np.sqrt(np.mean(expected**2)))
    assert measured.passed == (measured.maximum <= atol + rtol * rms)


def test_nan_in_one_place_only_is_an_infinite_error() -> None:
    tolerance = Tolerance(1.0, 1.0)
    one, two = np.array([1.0, np.nan]), np.array([1.0, 2.0])
    assert tolerance.errors(one, one).passed
    assert not tolerance.errors(one, two).passed
    assert not tolerance.errors(two, one).passed
    assert not tolerance.errors(np.array([np.nan]), np.array([np.nan])).passed


def test_shapes_that_differ_fail() -> None:
    report = ParityReport([Comparison("ORT", "random", 1, 0.0, 0.0, None, False, "shapes differ")], {}, Tolerance(1, 1))
    assert not report.passed
    assert "shapes differ" in report.verdict()


@pytest.mark.parametrize("dilation", [1, 150])
def test_a_convolution_too_large_for_the_reference_evaluator(dilation: int, tmp_path: Path) -> None:
    """It writes dilated filters out with their zeros: 64·64·301² of them here, and two indices for each."""
    network = nn.Conv2d(64, 64, 3, padding=dilation, dilation=dilation)
    report = edgeconv.to_onnx(network, torch.randn(1, 64, 6, 7), tmp_path / "net.onnx", dynamic=False)
    assert report.parity is not None
    assert report.parity.passed
    why = report.parity.not_run.get("ONNX reference")
    assert (why is None) == (dilation == 1)
    assert why is None or why == "it would hold 7 GiB for the convolution Conv"


@pytest.mark.parametrize(("scale", "warned"), [(1e-3, False), (1e-9, True)])
def test_an_output_below_the_absolute_tolerance_is_warned_about(scale: float, warned: bool, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 6 * 7, 4, bias=False))
    with torch.no_grad():
        network[2].weight.mul_(scale)
    report = edgeconv.to_onnx(network.eval(), torch.randn(2, 3, 8, 9), tmp_path / "net.onnx")
    assert report.parity is not None
    assert report.parity.passed
    assert any("lets anything pass" in warning for warning in report.parity.to_dict()["warnings"]) == warned
