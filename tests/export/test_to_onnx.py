"""`to_onnx` on modules of every kind, in every form; the files are opened by runtimes that share no code with it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import Lookup, Plain, Small, TwoInputs
from onnx.reference import ReferenceEvaluator
from rich.console import Console
from tolerances import assert_close
from torch import nn
from torch.export import ExportedProgram

import edgeconv
from edgeconv.errors import EdgeconvError, InputError, ParityError
from edgeconv.export.forms import Form
from edgeconv.models import registry
from edgeconv.nn import Kerv2d
from edgeconv.ops.kervolution import DOMAIN, KERNELS


def run(path: Path, feeds: dict[str, np.ndarray[Any, Any]], library: bool = False) -> list[np.ndarray[Any, Any]]:
    """Run a file in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    if library:
        options.register_custom_ops_library(edgeconv.op_library())
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_with_and_without_the_library(kernel: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network, image = Small(kernel).eval(), torch.randn(3, 3, 9, 14)
    path = tmp_path / "small.onnx"
    report = edgeconv.to_onnx(network, image[:1], path)
    assert report.parity is not None
    assert report.parity.passed
    assert report.inputs == {"image": ("batch", 3, 9, 14)}
    expected = network(image).detach().numpy()
    for library in (False, True):
        assert_close(run(path, {"image": image.numpy()}, library)[0], expected, np.float32, f"library={library}")


@pytest.mark.parametrize("form", ["functions", "inlined", "nodes"])
def test_forms(form: Form, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    report = edgeconv.to_onnx(Small("manhattan"), torch.randn(2, 3, 8, 7), path, form=form)
    model = onnx.load(path)
    domains = {node.domain for node in model.graph.node}
    assert (DOMAIN in domains) == (form != "inlined")
    assert [function.name for function in model.functions] == (["ManhattanKervolution"] if form == "functions" else [])
    assert (DOMAIN in {entry.domain for entry in model.opset_import}) == (form != "inlined")
    assert {entry.key: entry.value for entry in model.metadata_props}["edgeconv.form"] == form
    assert report.parity is not None
    ran = {comparison.runtime for comparison in report.parity.comparisons}
    assert ran | set(report.parity.not_run) == {"ORT + op library", "ORT", "ONNX reference"}
    assert len(ran) == {"functions": 3, "inlined": 2, "nodes": 1}[form]


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    network = TwoInputs().eval()
    picture, signal = torch.randn(2, 1, 5, 6), torch.randn(2, 2, 9)
    path = tmp_path / "two.onnx"
    report = edgeconv.to_onnx(
        network,
        picture,
        path,
        example_kwargs={"signal": signal},
        input_names=["camera", "microphone"],
        output_names=["score", "map", "trace"],
    )
    assert report.inputs == {"camera": ("batch", 1, 5, 6), "microphone": ("batch", 2, 9)}
    picture, signal = torch.randn(3, 1, 5, 6), torch.randn(3, 2, 9)
    with torch.no_grad():
        score, maps = network(picture, signal=signal)
    outputs = run(path, {"camera": picture.numpy(), "microphone": signal.numpy()}, library=True)
    for actual, expected in zip(outputs, (score, maps["map"], maps["trace"]), strict=True):
        assert_close(actual, expected.numpy(), np.float32)
    assert [output.name for output in onnx.load(path).graph.output] == ["score", "map", "trace"]


def test_integer_inputs_keep_the_examples_values(tmp_path: Path) -> None:
    report = edgeconv.to_onnx(Lookup(), torch.tensor([[1, 9, 3], [0, 2, 4]]), tmp_path / "lookup.onnx")
    assert report.parity is not None
    assert "example" in {comparison.inputs for comparison in report.parity.comparisons}


class Returning(nn.Module):
    """Its input comes back beside its features, and twice."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return image, image.relu(), image


@pytest.mark.parametrize("options", [{}, {"input_names": ["camera"]}, {"output_names": ["a", "b", "c"]}], ids=str)
def test_an_input_that_is_returned(options: dict[str, list[str]], tmp_path: Path) -> None:
    path, image = tmp_path / "returning.onnx", torch.randn(2, 3, 5, 4)
    edgeconv.to_onnx(Returning(), image, path, **options)  # type: ignore[arg-type]
    graph = onnx.load(path).graph
    assert [value.name for value in graph.input] == options.get("input_names", ["image"])
    names = [value.name for value in graph.output]
    assert len({*names, graph.input[0].name}) == 4
    assert names == options.get("output_names", names)
    outputs = run(path, {graph.input[0].name: image.numpy()}, library=False)
    for actual, expected in zip(outputs, (image, image.relu(), image), strict=True):
        np.testing.assert_array_equal(actual, expected.numpy())


def test_a_network_without_our_layers(tmp_path: Path) -> None:
    path = tmp_path / "plain.onnx"
    edgeconv.to_onnx(Plain(), torch.randn(1, 4, 6, 7), path)
    assert DOMAIN not in {entry.domain for entry in onnx.load(path).opset_import}


def test_dynamic_height_and_width(tmp_path: Path) -> None:
    network, path = Small("euclidean").eval(), tmp_path / "any.onnx"
    axes = {"image": {0: "batch", 2: "height", 3: "width"}}
    report = edgeconv.to_onnx(network, torch.randn(1, 3, 9, 8), path, dynamic=axes)
    assert report.inputs == {"image": ("batch", 3, "height", "width")}
    for shape in [(1, 3, 17, 5), (4, 3, 6, 21)]:
        image = torch.randn(shape)
        for library in (False, True):
            actual = run(path, {"image": image.numpy()}, library)[0]
            assert_close(actual, network(image).detach().numpy(), np.float32, str(shape))


def test_static(tmp_path: Path) -> None:
    report = edgeconv.to_onnx(Small(), torch.randn(2, 3, 8, 8), tmp_path / "s.onnx", dynamic=False)
    assert report.inputs == {"image": (2, 3, 8, 8)}


def test_fp16_keeps_float32_inputs_and_is_checked_against_float32(tmp_path: Path) -> None:
    network, path = Small("sigmoid").eval(), tmp_path / "half.onnx"
    report = edgeconv.to_onnx(network, torch.randn(2, 3, 8, 7), path, fp16=True)
    assert report.precision == "float16"
    assert report.parity is not None
    assert 1e-6 < max(comparison.max_error for comparison in report.parity.comparisons) < 1e-2
    model = onnx.load(path)
    types = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert types == {onnx.TensorProto.FLOAT}
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    assert weights
    assert all(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in weights)
    assert next(network.parameters()).dtype == torch.float32


def test_fp16_survives_variances_beyond_its_range(tmp_path: Path) -> None:
    network, path = Small("sigmoid").eval(), tmp_path / "half.onnx"
    norm = network.features[1]
    assert isinstance(norm, torch.nn.BatchNorm2d)
    with torch.no_grad():
        norm.running_var.fill_(1e6)
        norm.weight.fill_(1e3)
    report = edgeconv.to_onnx(network, torch.randn(2, 3, 8, 7), path, fp16=True)
    assert report.parity is not None
    names = [node.name for node in onnx.load(path).graph.node if node.domain == DOMAIN]
    assert names == ["features.0/SigmoidKervolution", "features.3/SigmoidKervolution"]


@pytest.mark.parametrize("opset", [18, 20, 21])
def test_opsets(opset: int, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    edgeconv.to_onnx(Small("chebyshev"), torch.randn(2, 3, 8, 7), path, opset=opset)
    model = onnx.load(path)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == opset
    assert model.functions[0].opset_import[0].version == opset
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.filterwarnings("error::FutureWarning")  # PyTorch's about itself are not the user's to read
def test_an_exported_program_keeps_its_operators(tmp_path: Path) -> None:
    network, image = Small("gaussian").eval(), torch.randn(2, 3, 8, 7)
    program = torch.export.export(network, (image,), dynamic_shapes=({0: torch.export.Dim("n")},))
    path = tmp_path / "program.onnx"
    report = edgeconv.to_onnx(program, image, path)
    assert dict(report.inputs) == {"image": ("batch", 3, 8, 7)}  # not torch's symbol, s77
    model = onnx.load(path)
    assert sum(node.domain == DOMAIN for node in model.graph.node) == 2
    image = torch.randn(5, 3, 8, 7)
    assert_close(run(path, {"image": image.numpy()})[0], network(image).detach().numpy(), np.float32)


class Mixed(nn.Module):
    """A kervolution of each precision, and one that takes none."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Kerv2d(3, 5, 3, kernel="polynomial", degree=2, precision="bf16x3")
        self.second = Kerv2d(5, 4, 3, padding=1, kernel="gaussian", gamma=0.02)
        self.third = Kerv2d(4, 3, (2, 3), stride=2, kernel="manhattan")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return feature maps."""
        return self.third(self.second(self.first(image)))  # type: ignore[no-any-return]


def precisions(path: Path) -> list[str | None]:
    """What the nodes themselves say, in order."""
    nodes = [node for node in onnx.load(path).graph.node if node.domain == DOMAIN]
    said = [{a.name: a.s.decode() for a in node.attribute if a.name == "precision"} for node in nodes]
    return [attributes.get("precision") for attributes in said]


@pytest.mark.parametrize("form", ["functions", "nodes"])
@pytest.mark.parametrize(
    ("asked", "written", "counts"),
    [
        (None, ["bf16x3", None, None], {"bf16x3": 1, "float32": 1}),
        ("bf16x3", ["bf16x3", "bf16x3", None], {"bf16x3": 2}),
        ("float32", [None, None, None], {"float32": 2}),
    ],
)
def test_precision(
    asked: str | None, written: list[str | None], counts: dict[str, int], form: Form, tmp_path: Path
) -> None:
    torch.manual_seed(2)
    network, image, path = Mixed().eval(), torch.randn(2, 3, 9, 10), tmp_path / "mixed.onnx"
    report = edgeconv.to_onnx(network, image, path, precision=asked, form=form)
    assert precisions(path) == written  # the default is not written
    assert report.parity is not None
    assert report.kervolution_precisions == report.parity.kervolution_precisions == counts
    assert report.to_dict()["parity"]["kervolution_precisions"] == counts
    assert report.precision == "float32"
    console = Console(file=io.StringIO(), width=200)
    report.render(console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(f"{count} in {name}" in shown for name, count in counts.items())
    assert ("AMX" in shown) == ("bf16x3" in counts)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    actual = run(path, {"image": image.numpy()}, library=True)[0]
    np.testing.assert_allclose(actual, network(image).detach().numpy(), rtol=1e-3)


def test_precision_of_float16_files_and_of_exported_programs(tmp_path: Path) -> None:
    image, path = torch.randn(2, 3, 8, 7), tmp_path / "net.onnx"
    report = edgeconv.to_onnx(Small("sigmoid"), image, path, fp16=True, precision="bf16x3")
    assert (report.precision, report.kervolution_precisions) == ("float16", {"bf16x3": 2})
    assert precisions(path) == ["bf16x3", "bf16x3"]
    network = Small("euclidean").eval()
    program = torch.export.export(network, (image,))
    assert precisions_of(program, image, path) == [None, None]
    assert precisions_of(program, image, path, precision="bf16x3") == ["bf16x3", "bf16x3"]
    network.features[3].precision = "bf16x3"  # type: ignore[assignment]
    program = torch.export.export(network, (image,))
    assert precisions_of(program, image, path) == [None, "bf16x3"]
    assert precisions_of(program, image, path, precision="float32") == [None, None]


def precisions_of(program: ExportedProgram, image: torch.Tensor, path: Path, **options: Any) -> list[str | None]:
    """Export a program and read what its nodes say."""
    edgeconv.to_onnx(program, image, path, verify=False, **options)
    return precisions(path)


def test_the_inlined_form_of_a_layer_with_a_precision_computes_in_float32(tmp_path: Path) -> None:
    network, image, path = Mixed().eval(), torch.randn(2, 3, 9, 10), tmp_path / "mixed.onnx"
    report = edgeconv.to_onnx(network, image, path, form="inlined")
    assert report.kervolution_precisions == {}
    assert b"bf16x3" not in path.read_bytes()
    assert edgeconv.to_onnx(network, image, path, form="inlined", precision="float32", verify=False).form == "inlined"


def test_precision_does_not_change_the_file_where_it_is_the_default(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Small("polynomial")
    for name, precision in (("one", None), ("two", "float32")):
        edgeconv.to_onnx(network, torch.ones(2, 3, 8, 7), tmp_path / name, precision=precision, verify=False)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    ("network", "options", "message", "remedy"),
    [
        (Small("gaussian"), {"precision": "bf16"}, "no precision 'bf16'", "--precision float32 or --precision bf16x3"),
        (Small("gaussian"), {"precision": "bf16x3", "form": "inlined"}, "--inline leaves standard ones only", "Drop"),
        (Small("manhattan"), {"precision": "bf16x3"}, "no layer is a kervolution that takes it", "gaussian, sigmoid"),
        (Small("linear"), {"precision": "bf16x3"}, "no layer is a kervolution that takes it", "polynomial"),
    ],
)
def test_a_precision_that_nothing_can_have(
    network: Small, options: dict[str, Any], message: str, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        edgeconv.to_onnx(network, torch.randn(2, 3, 8, 7), tmp_path / "small.onnx", **options)
    assert remedy in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_keeps_the_precision_with_the_architectures_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(kernel: str, precision: Any) -> nn.Module:
        return nn.Sequential(Kerv2d(1, 3, 3, kernel=kernel, precision=precision), nn.Flatten())

    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))  # which is as before, afterwards
    settings = {"kernel": "euclidean", "precision": "float32"}
    registry.register("precise", description="One layer", paper="none", input_shape=(1, 5, 6), config=settings)(build)
    exported = {}
    for name, config in (("before", {"kernel": "euclidean"}), ("after", {"precision": "bf16x3"})):
        path = tmp_path / f"{name}.pt"
        model = registry.create("precise", **config)
        edgeconv.save_checkpoint(path, model, architecture="precise", config=config, input_shape=(1, 5, 6))
        edgeconv.export_checkpoint(path)
        exported[name] = precisions(path.with_suffix(".onnx"))
        assert edgeconv.verify_model(path.with_suffix(".onnx"), path).passed
        edgeconv.export_checkpoint(path, tmp_path / "asked.onnx", precision="bf16x3", verify=False)
        assert precisions(tmp_path / "asked.onnx") == ["bf16x3"]
    assert exported == {"before": [None], "after": ["bf16x3"]}


def test_nodes_are_named_after_their_layers_and_nothing_of_the_machine_is_left(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    edgeconv.to_onnx(Small("manhattan"), torch.randn(2, 3, 8, 7), path)
    names = [node.name for node in onnx.load(path).graph.node if node.domain == DOMAIN]
    assert names == ["features.0/ManhattanKervolution", "features.3/ManhattanKervolution"]
    content = path.read_bytes()
    assert str(Path(__file__).parent.parent).encode() not in content
    assert b"stack_trace" not in content


def test_the_reference_evaluator_needs_nothing_of_ours(tmp_path: Path) -> None:
    network, image = Small("polynomial").eval(), torch.randn(1, 3, 8, 7)
    path = tmp_path / "small.onnx"
    edgeconv.to_onnx(network, image, path, verify=False)
    actual = ReferenceEvaluator(str(path)).run(None, {"image": image.numpy()})[0]
    assert_close(actual, network(image).detach().numpy(), np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"opset": 17}, "opset 17"),
        ({"opset": 99}, "opset 99"),
        ({"dynamic": {"picture": {0: "n"}}}, "no input 'picture'"),
        ({"dynamic": {"image": {4: "n"}}}, "none numbered 4"),
        ({"dynamic": {"image": {1: "channels"}}}, "channels"),
        ({"form": "flat"}, "no form 'flat'"),
        ({"input_names": ["a", "b"]}, "input_names has 2 names for 1"),
        ({"input_names": "a"}, "input_names has 1 names"),
        ({"output_names": ["a", "b"]}, "output_names has 2 names for 1"),
        ({"example_kwargs": {"scale": 3.0}}, "scale is a float, not a tensor"),
        ({"example_inputs": np.zeros((2, 3, 8, 7), np.float32)}, "is a ndarray, not a tensor"),
        ({"example_inputs": torch.zeros(2, 3, 8, 7, dtype=torch.float64)}, "is float64"),
        ({"module": Small().double()}, "computes in float64"),
        ({"atol": float("nan")}, "--atol must be finite"),
        ({"rtol": -1.0, "verify": False}, "--rtol must be finite"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else next(iter(value)),
)
def test_bad_arguments(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    with pytest.raises(InputError, match=message):
        edgeconv.to_onnx(**{"module": Small(), "example_inputs": torch.randn(2, 3, 8, 7), "path": path, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_and_inputs_are_not_overwritten(tmp_path: Path) -> None:
    model, inputs = tmp_path / "net.pt", tmp_path / "in.npz"
    edgeconv.save_checkpoint(
        model, registry.create("lenet5"), architecture="lenet5", config={}, input_shape=(1, 28, 28)
    )
    np.savez(inputs, images=np.zeros((1, 28, 28), np.uint8))
    before = {path: path.read_bytes() for path in (model, inputs)}
    for output in before:
        with pytest.raises(InputError, match="is a file that is read"):
            edgeconv.export_checkpoint(model, output, inputs=inputs)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("options", [{"batch": 2, "dynamic": False}, {"dynamic": False}, {"batch": 2}], ids=str)
def test_a_program_has_its_batch_fixed(options: dict[str, Any], tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Plain().eval(), (torch.zeros(1, 4, 8, 7),)), tmp_path / "net.pt2")
    with pytest.raises(InputError, match="has its batch fixed"):
        edgeconv.export_checkpoint(tmp_path / "net.pt2", **options)


def test_a_network_that_overflows_gets_another_remedy_than_rounding(tmp_path: Path) -> None:
    network = Plain().eval()
    with torch.no_grad():
        for value in network.parameters():
            value.fill_(torch.inf)
    with pytest.raises(ParityError, match="no finite value") as caught:
        edgeconv.to_onnx(network, torch.randn(2, 4, 8, 7), tmp_path / "net.onnx")
    assert "overflows" in caught.value.remedy
    assert "--rtol" not in caught.value.remedy
    assert not caught.value.report.warnings()


def test_names_with_brackets_are_printed_whole(tmp_path: Path) -> None:
    path = tmp_path / "net[v1].onnx"
    console = Console(file=io.StringIO(), width=200)
    edgeconv.to_onnx(Plain(), torch.randn(2, 4, 8, 7), path, verify=False).render(console)
    assert console.file.getvalue().count("net[v1].onnx") == 3  # type: ignore[attr-defined]


def test_a_shape_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2x4x8x7"):
        edgeconv.to_onnx(Small(), torch.randn(2, 4, 8, 7), tmp_path / "small.onnx")


def test_an_unwritable_output(tmp_path: Path) -> None:
    with pytest.raises(EdgeconvError, match="cannot write"):
        edgeconv.to_onnx(Small(), torch.randn(2, 3, 8, 7), tmp_path / "missing" / "small.onnx")
