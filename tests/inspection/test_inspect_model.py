"""The report as a whole: dynamic sizes, metadata, JSON, tables, and files with a defect."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import pytest
from onnx import helper
from rich.console import Console

from edgeconv.errors import InputError
from edgeconv.inspection import ModelReport, inspect_model
from edgeconv.ops.kervolution import OPERATORS

from .conftest import InspectText, MakeKervolution

DYNAMIC = """
<ir_version: 8, opset_import: ["" : 17], producer_name: "acme", producer_version: "2.1">
network (float[N,3,H,W] image, float[N,4] extra) => (float[N,2,H,W] map, float[N,4] copy)
<float[2,3,1,1] w = {1,2,3,4,5,6}> { map = Conv (image, w)  copy = Identity (extra) }
"""


@pytest.fixture
def dynamic(tmp_path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(DYNAMIC), tmp_path / "dynamic.onnx")
    return tmp_path / "dynamic.onnx"


def set_metadata(path: Path, metadata: dict[str, str]) -> None:
    model = onnx.load(path)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)


def text_of(report: ModelReport, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=200)
    report.render(console, **options)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_sizes_from_the_caller_reach_every_use_of_a_symbol(dynamic: Path) -> None:
    report = inspect_model(dynamic, shapes={"image": [2, 3, 5, 7]})
    assert [(t.name, t.declared, t.shape) for t in report.inputs] == [
        ("image", ("N", 3, "H", "W"), (2, 3, 5, 7)),
        ("extra", ("N", 4), (2, 4)),
    ]
    assert [t.shape for t in report.outputs] == [(2, 2, 5, 7), (2, 4)]
    assert report.macs == 2 * 2 * 5 * 7 * 3
    assert report.complete


def test_sizes_from_the_metadata_at_batch_one(dynamic: Path) -> None:
    set_metadata(dynamic, {"edgeconv.input_shape": "[8, 3, 6, 4]"})
    report = inspect_model(dynamic)
    assert report.inputs[0].shape == (1, 3, 6, 4)
    assert report.macs == 2 * 6 * 4 * 3
    assert any("batch 1" in note for note in report.notes)
    assert inspect_model(dynamic, shapes={"image": [3, 3, 2, 2]}).macs == 3 * 2 * 2 * 2 * 3


@pytest.mark.parametrize("metadata", [{}, {"edgeconv.input_shape": "[3"}, {"edgeconv.input_shape": "[1, 3, 0, 5]"}])
def test_open_sizes_are_said(metadata: dict[str, str], dynamic: Path) -> None:
    set_metadata(dynamic, metadata)
    report = inspect_model(dynamic)
    assert report.inputs[0].shape == (1, 3, "H", "W")
    assert report.outputs[0].shape == (1, 2, "H", "W")
    assert (report.macs, report.complete) == (0, False)
    assert any("--shapes image:" in note for note in report.notes)
    assert "not known" in text_of(report)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"picture": [1, 3, 5, 7]}, "no input 'picture'"),
        ({"image": [1, 4, 5, 7]}, "does not fit input image, which is declared as Nx3xHxW"),
        ({"image": [1, 3, 5]}, "does not fit"),
        ({"image": [1, 3, 0, 7]}, "positive"),
        ({"": [1, 3, 5, 7]}, "2 inputs: image, extra"),
        ({"image": [2, 3, 5, 7], "extra": [3, 4]}, "'N' would be 2 in one place and 3 in input extra"),
    ],
)
def test_shapes_that_do_not_fit(shapes: dict[str, list[int]], message: str, dynamic: Path) -> None:
    with pytest.raises(InputError) as caught:
        inspect_model(dynamic, shapes=shapes)
    assert message in caught.value.message


def test_the_empty_name_means_the_only_input(make_kervolution: MakeKervolution, tmp_path: Path) -> None:
    onnx.save(make_kervolution(), tmp_path / "k.onnx")
    report = inspect_model(tmp_path / "k.onnx", shapes={"": [5, 6, 9, 7]})
    assert report.outputs[0].shape == (5, 8, 5, 7)
    assert report.absolute_differences == 5 * 8 * 5 * 7 * 3 * 3 * 2


def test_what_the_file_says_of_itself(dynamic: Path) -> None:
    set_metadata(dynamic, {"edgeconv.class_names": '["a", "b"]', "edgeconv.version": "0.1", "other": "[1]"})
    report = inspect_model(dynamic)
    assert report.producer == "acme 2.1"
    assert (report.ir_version, report.opsets) == (8, {"": 17})
    assert report.metadata == {"edgeconv.class_names": ["a", "b"], "edgeconv.version": "0.1", "other": "[1]"}
    assert report.file_bytes == dynamic.stat().st_size == report.size_bytes
    assert report.weights_bytes == 24
    assert {(o.op_type, o.count) for o in report.operators} == {("Conv", 1), ("Identity", 1)}
    assert report.custom_operators == []


def test_json_and_tables_hold_the_same(make_kervolution: MakeKervolution, tmp_path: Path) -> None:
    onnx.save(make_kervolution(), tmp_path / "k.onnx")
    report = inspect_model(tmp_path / "k.onnx")
    data = json.loads(json.dumps(report.to_dict()))
    assert data["absolute_differences"] == 8 * 5 * 7 * 3 * 3 * 2
    assert data["layers"][0]["output_shape"] == [1, 8, 5, 7]
    assert data["custom_operators"] == [
        {"domain": "edgeconv", "op_type": "ManhattanKervolution", "count": 1, "function": True, "native": True}
    ]
    text = text_of(report)
    for shown in ("edgeconv::ManhattanKervolution", "5.04 k abs. differences", "152", "[1, 8, 5, 7]", "--inline"):
        assert shown in text
    for row in data["runtimes"]:
        assert row["runtime"] in text
        assert row["path"] in text


def kervolutions(tmp_path: Path, **precision_of: str) -> Path:
    """A file of one node of each operator named; an empty precision is not written."""
    shapes = {"X": "1,2,4,5", "W": "3,2,2,2", "p": "1"}
    nodes = []
    for name, precision in precision_of.items():
        inputs = ", ".join(["X", "W", *("p" for _ in OPERATORS[name].parameters)])
        said = f' <precision = "{precision}">' if precision else ""
        nodes.append(f"{name.lower()} = edgeconv.{name}{said} ({inputs})")
    inputs = ", ".join(f"float[{shape}] {name}" for name, shape in shapes.items())
    text = f"""<ir_version: 8, opset_import: ["" : 18, "edgeconv" : 1]>
    g ({inputs}) => (float[1,3,3,4] {nodes[-1].split(" ")[0]}) {{ {"  ".join(nodes)} }}"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "kervolutions.onnx")
    return tmp_path / "kervolutions.onnx"


def test_precision_of_each_kervolution(tmp_path: Path) -> None:
    given = {"GaussianKervolution": "bf16x3", "SigmoidKervolution": "", "ManhattanKervolution": ""}
    report = inspect_model(kervolutions(tmp_path, **given))
    assert report.notes == []
    data = json.loads(json.dumps(report.to_dict()))
    assert [layer["precision"] for layer in data["layers"]] == ["bf16x3", "float32", None]
    assert data["kervolution_precisions"] == {"bf16x3": 1, "float32": 1}
    text = text_of(report)
    assert "1 in bf16x3 (by the op library on a CPU with AMX; elsewhere in float32), 1 in float32" in text
    assert "precision" in text.split("Layers")[1]  # a column, because they differ


def test_precision_that_all_share_is_said_once(tmp_path: Path) -> None:
    for precision, count in (("", "2 in float32"), ("bf16x3", "2 in bf16x3")):
        given = {"PolynomialKervolution": precision, "EuclideanKervolution": precision, "ChebyshevKervolution": ""}
        text = text_of(inspect_model(kervolutions(tmp_path, **given)))
        summary, layers = text.split("Layers")
        assert count in summary
        assert "precision" not in layers.split("Which path")[0]
    report = inspect_model(kervolutions(tmp_path, ManhattanKervolution=""))
    assert report.kervolution_precisions == {}
    assert "x·w" not in text_of(report)


def test_a_precision_that_is_none_is_said(tmp_path: Path) -> None:
    report = inspect_model(kervolutions(tmp_path, SigmoidKervolution="[bold]int4"))
    assert any("precision is '[bold]int4'; it must be float32 or bf16x3" in note for note in report.notes)
    assert "1 in [bold]int4" in text_of(report)


def test_names_with_brackets_are_printed_as_they_are(dynamic: Path) -> None:
    model = onnx.load(dynamic)
    model.graph.node[0].name = "block[0][bold]/Conv"
    onnx.save(model, dynamic)
    text = text_of(inspect_model(dynamic, shapes={"image": [1, 3, 5, 7]}))
    assert "block[0][bold] " in text  # without the operator, which is in the next column


def test_layers_without_figures_are_shown_on_request(dynamic: Path) -> None:
    report = inspect_model(dynamic, shapes={"image": [1, 3, 5, 7]})
    assert "Identity" not in text_of(report).split("Layers")[1]
    assert "1 more" in text_of(report)
    assert "Identity" in text_of(report, all_layers=True).split("Layers")[1]


def test_a_defect_in_the_graph_is_said_and_the_rest_is_shown(make_kervolution: MakeKervolution, tmp_path: Path) -> None:
    model = make_kervolution()
    model.graph.initializer[0].dims[:] = [8, 9, 1, 2]  # as many values, another depth
    onnx.save(model, tmp_path / "k.onnx")
    report = inspect_model(tmp_path / "k.onnx")
    assert any("ManhattanKervolution" in note and "kerv" in note and "channels" in note for note in report.notes)
    assert report.parameters == 8 * 9 * 2 + 8
    assert len(report.runtimes) == 8


def test_a_model_of_another_kind(inspect_text: InspectText) -> None:
    report = inspect_text("""<ir_version: 8, opset_import: ["" : 17]> g (seq(float[3]) s, int64 i) => (float[3] y)
    { y = SequenceAt (s, i) }""")
    assert [(t.dtype, t.shape) for t in report.inputs] == [("sequence", None), ("int64", ())]
    assert report.notes == []
    assert "sequence" in text_of(report)
