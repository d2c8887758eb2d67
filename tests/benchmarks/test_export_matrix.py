"""The export matrix: its cells, their limits, and a page that says what ran and what did not."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import export_matrix
import matrix_cells
import onnx
import pytest
import torch
from export_matrix import read_results, write_cells
from matrix_cells import LAYERS, PAPER, PLAIN, SIZES, SMALL, Cell, cells
from matrix_prepare import COMPARED, LEAST_SPREAD, MOST_ROUNDING, build, in_float64, rounding, spread
from matrix_run import FAILED, PASSED, Limits, run_cell, run_stage, stages_of
from matrix_stages import EXPORT, FUNCTIONS, NATIVE, OPENVINO, REFERENCE, TENSORRT
from matrix_table import BEGIN, END, markdown, write_page
from typer.testing import CliRunner

from edgeconv.errors import InputError
from edgeconv.models.registry import list_models
from edgeconv.nn import Kerv2d

LIMITS = Limits(120, 8000)


def cell(architecture: str = "resnet20", layers: str = PLAIN, size: str = SMALL) -> Cell:
    (found,) = cells([architecture], [layers], [size])
    return found


def test_every_architecture_has_every_kind_of_layer_at_both_sizes() -> None:
    every = list(cells([info.name for info in list_models()], LAYERS, SIZES))
    assert len({each.key for each in every}) == len(every)
    names = {info.name: info.input_shape for info in list_models()}
    for layer in LAYERS:
        assert {each.architecture for each in every if each.layers == layer and each.size == SMALL} == set(names)
    for each in every:
        if each.size == PAPER:
            assert each.input_shape == names[each.architecture]
    assert {each.architecture for each in every if each.size == PAPER} == {
        name for name, shape in names.items() if shape[1] > 72
    }
    assert REFERENCE in stages_of(cell("resnet18"))
    assert REFERENCE not in stages_of(cell("resnet18", size=PAPER))


def test_digest_depends_on_code_and_configuration_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {cell("resnet20", layer).digest() for layer in LAYERS}
    assert len(digests) == len(LAYERS)
    source = tmp_path / "a.py"
    hashes = []
    for text in ('"""Doc."""\nx = 1  # why\n', '"""Another."""\nx=1\n', "x = 2\n"):
        matrix_cells._code.cache_clear()
        source.write_text(text, encoding="utf-8")
        hashes.append(matrix_cells._code(source))
    assert hashes[0] == hashes[1] != hashes[2]
    before = cell().digest()
    monkeypatch.setattr(matrix_cells, "versions", lambda: {"torch": "0"})
    assert cell().digest() != before


@pytest.mark.parametrize("kernel", [layer for layer in LAYERS if layer not in (PLAIN, "deconvolution")])
def test_prepared_networks_tell_right_from_wrong(kernel: str) -> None:
    """Without preparation most of these are constant or not finite; then no comparison could fail."""
    model, noise, how = build("resnet20", {"kernel": kernel}, (3, 16, 20))
    assert how["where"] == "all"
    assert not model.training
    x = noise[:COMPARED]
    with torch.no_grad():
        output = model(x)
        assert spread([output]) >= LEAST_SPREAD
        assert rounding([output], in_float64(model, x)) <= MOST_ROUNDING[0]
        layer = next(module for module in model.modules() if isinstance(module, Kerv2d))
        layer.weight.mul_(1.01)
        change = (model(x) - output).abs().max() / output.square().mean().sqrt()
        assert not change < 1e-3  # infinite, too


def test_fewer_layers_are_replaced_where_all_prove_nothing() -> None:
    """Depthwise layers of maxima are chaotic; the first layer alone is not, and only it is replaced."""
    model, noise, how = build("mobilenet_v2", {"kernel": "chebyshev", "width": 0.5}, (3, 64, 72))
    assert how["where"] != "all"
    replaced = [module for module in model.modules() if isinstance(module, Kerv2d)]
    assert replaced
    assert all(layer.kernel_size == (3, 3) for layer in replaced)
    with torch.no_grad():
        x = noise[:COMPARED]
        assert rounding([model(x)], in_float64(model, x)) <= MOST_ROUNDING[0]


@pytest.mark.parametrize("size", [64, 224])
def test_squeezing_deconvolutions_do_not_amplify_rounding(size: int) -> None:
    """Whitened by the statistics of three samples, they lose 2 percent at 224x224."""
    _, _, how = build("efficientnet_b0", {"deconv_block": 64}, (3, size, size))
    assert how["rounding"] <= MOST_ROUNDING[0]


def test_what_is_tried_first() -> None:
    _, _, how = build("resnet20", {"kernel": "gaussian"}, (3, 16, 20), ("first", 0.5))
    assert (how["where"], how["strength"]) == ("first", 0.5)


def test_the_others_are_tried_after_what_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matrix_prepare.MOST_ROUNDING", (0.0,))
    with pytest.raises(RuntimeError, match=r"rms: first 1 loses \S+, all 1 loses \S+, all 0.3 loses .* first 0.3 "):
        build("resnet20", {"kernel": "polynomial"}, (3, 16, 20), ("first", 1.0))


def test_a_larger_loss_passes_where_no_other_way_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, usual = build("resnet20", {"kernel": "polynomial"}, (3, 16, 20))
    monkeypatch.setattr("matrix_prepare.MOST_ROUNDING", (0.0, 1e-4))
    _, _, how = build("resnet20", {"kernel": "polynomial"}, (3, 16, 20))
    assert how == usual


def test_a_larger_loss_passes_for_what_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([2e-4, 2e-4, 1.5e-4, 2e-4, 0.0, 2e-4, 0.0])
    monkeypatch.setattr("matrix_prepare.rounding", lambda *_: next(losses))
    _, _, how = build("resnet20", {"kernel": "polynomial"}, (3, 16, 20), ("3x3", 0.3))
    assert (how["where"], how["strength"], how["rounding"]) == ("3x3", 0.3, 2e-4)
    assert next(losses) == 0.0
    _, _, how = build("resnet20", {"kernel": "polynomial"}, (3, 16, 20))
    assert (how["where"], how["strength"], how["rounding"]) == ("all", 0.3, 0.0)


@pytest.mark.parametrize(
    ("losses", "strength"),
    [
        ([9e-5, 1e-5, 5e-5, 2e-5], 1.0),
        ([2e-4, 1.5e-4, 2.5e-4, 2e-4], 1.0),  # as steady as a larger bound wants it
        ([7e-5, 1.4e-4, 2.2e-4, 1.3e-4], 0.7),
        ([7e-5, 4e-4, 4e-4, 4e-4], 0.7),
    ],
)
def test_one_run_of_a_chaotic_network_is_no_proof(
    losses: list[float], strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = [] if strength == 1 else losses  # under the smaller bound
    found = iter([*losses, *again, 0.0, 0.0, 0.0, 0.0])
    monkeypatch.setattr("matrix_prepare.rounding", lambda *_: next(found))
    _, _, how = build("resnet20", {"kernel": "manhattan"}, (3, 16, 20), ("all", 1.0))
    assert (how["strength"], how["rounding"]) == (strength, max(losses) if strength == 1 else 0.0)


def test_a_network_that_proves_nothing_says_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matrix_prepare.MOST_ROUNDING", (0.0, 0.0))
    with pytest.raises(RuntimeError, match=r"rms: all 1 loses \S+, all 0.3 loses .* 3x3 1 .* first 0.3 loses \S+$"):
        build("resnet20", {"kernel": "polynomial"}, (3, 16, 20))
    with pytest.raises(RuntimeError, match=r"rms: it loses \S+$"):
        build("resnet20", {}, (3, 16, 20))
    monkeypatch.setattr("matrix_prepare.LEAST_SPREAD", 1e3)
    with pytest.raises(RuntimeError, match=r"rms: it varies by \S+$"):
        build("resnet20", {}, (3, 16, 20))


def test_float64_is_what_rounding_is_measured_against() -> None:
    model = torch.nn.Linear(4, 2).eval()
    x = torch.randn(5, 4)
    with torch.no_grad():
        output = model(x)
    exact = in_float64(model, x)
    assert exact[0].dtype == torch.float64
    assert rounding([output * 1.5], exact) > 0.4
    assert 0 < rounding([output], exact) < 1e-6
    assert rounding([output * float("nan")], exact) == float("inf")


def test_outputs_that_are_out_of_range_in_float64_alone_are_wrong() -> None:
    class Chaotic(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.dtype == torch.float32 else x * 1e298

    x = torch.randn(5, 4)
    assert rounding([x], in_float64(Chaotic(), x)) > 1


def test_spread_of_outputs_that_prove_nothing() -> None:
    assert spread([torch.ones(3, 4)]) == 0
    assert spread([torch.tensor([[1.0, float("inf")], [2.0, 3.0]])]) == 0
    assert spread([torch.tensor([[1.0, -1.0], [-1.0, 1.0]])]) == 1


def test_a_cell() -> None:
    outcomes = run_cell(cell("lenet5", "gaussian"), LIMITS)
    assert {stage: found.get("reason", "") for stage, found in outcomes.items()} == dict.fromkeys(
        (EXPORT, NATIVE, FUNCTIONS, REFERENCE, OPENVINO, TENSORRT), ""
    )
    assert all(found["status"] == PASSED for found in outcomes.values())
    assert outcomes[EXPORT]["macs"] > 200_000
    assert 0 < outcomes[OPENVINO]["error"] < 1e-3


def script(folder: Path, code: str) -> list[str]:
    program = folder / "stage.py"
    program.write_text(code, encoding="utf-8")
    return [sys.executable, str(program)]


@pytest.mark.parametrize(
    ("code", "limits", "reason"),
    [
        ("import time; time.sleep(60)", Limits(0.5, 1000), "more than 0.5 s"),
        ("x = bytearray(600 << 20); import time; time.sleep(60)", Limits(50, 400), "more than 400 MiB"),
        ("import os; os.kill(os.getpid(), 11)", LIMITS, "ended by SIGSEGV"),
        ("import sys; sys.exit('no such layer')", LIMITS, "ended with 1: no such layer"),
        ("import sys, pathlib; pathlib.Path(sys.argv[1], 'error.txt').write_text('why'); sys.exit(1)", LIMITS, "why"),
    ],
)
def test_a_stage_that_fails_says_why(code: str, limits: Limits, reason: str, tmp_path: Path) -> None:
    outcome = run_stage(script(tmp_path, code), tmp_path, limits)
    assert (outcome["status"], outcome["reason"]) == (FAILED, reason)


def test_an_interrupt_ends_the_stage_that_runs(tmp_path: Path) -> None:
    asked = iter([False, False, True])
    with pytest.raises(KeyboardInterrupt):
        run_stage(script(tmp_path, "import time; time.sleep(60)"), tmp_path, LIMITS, lambda: next(asked))


def test_cells_run_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=30)  # breaks unless two are there at a time

    def fake(each: Cell, *_: Any) -> dict[str, Any]:
        both.wait()
        return {"of": {"key": each.key}}

    monkeypatch.setattr(export_matrix, "run_cell", fake)
    todo = [cell(layers=layer) for layer in LAYERS[:4]]
    done = list(export_matrix.run_cells(todo, LIMITS, 2, {}, lambda _: None))
    assert {each.key for each, _ in done} == {each.key for each in todo}
    assert all(stages["of"]["key"] == each.key for each, stages in done)


def test_the_network_of_a_paper_is_built_first_as_the_small_one_was(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def fake(each: Cell, *rest: Any) -> dict[str, Any]:
        asked[each.key] = rest[-1]
        return {}

    monkeypatch.setattr(export_matrix, "run_cell", fake)
    kept = {cell("alexnet", "gaussian").key: {"stages": {EXPORT: {"where": "3x3", "strength": 0.25}}}}
    todo = [cell("alexnet", layer, size) for layer in ("gaussian", "sigmoid") for size in SIZES]
    list(export_matrix.run_cells(todo, LIMITS, 1, kept, lambda _: None))
    found = asked.pop("alexnet/gaussian/paper")
    assert found == ("3x3", 0.25)
    assert set(asked.values()) == {()}


def test_a_failed_export_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Cell("lenet5", PLAIN, SMALL, {"pool": "none"}, (1, 28, 28))
    outcomes = run_cell(broken, LIMITS)
    assert list(outcomes) == [EXPORT]
    assert "cannot be built" in outcomes[EXPORT]["reason"]


def outcome(where: str = "all", **failed: str) -> dict[str, Any]:
    stages: dict[str, Any] = {
        EXPORT: {
            "status": PASSED,
            "parameters": 269_722,
            "macs": 41_000_000,
            "file_mib": 1.04,
            "cpu_seconds": 6.2,
            "export_peak_mib": 512,
        },
        FUNCTIONS: {"status": PASSED},
    }
    stages[EXPORT]["where"] = where
    for stage, reason in failed.items():
        stages[stage] = {"status": FAILED, "reason": reason}
    return {"digest": "now", "stages": stages}


def test_table_tells_passed_failed_earlier_and_not_run() -> None:
    every = list(cells(["resnet18", "resnet20"], LAYERS, SIZES))
    digests = {each.key: "now" for each in every}
    results = {
        "resnet20/plain/small": outcome(),
        "resnet20/gaussian/small": outcome(OpenVINO="no such operator"),
        "resnet20/manhattan/small": {**outcome(), "digest": "before"},
        "resnet20/chebyshev/small": outcome("first"),
        "gone/plain/small": outcome(),
    }
    text = markdown(every, results, digests)
    assert f"{len(every)} cells: 3 passed, 1 with a failure, {len(every) - 4} not run." in text
    row = next(line for line in text.splitlines() if line.startswith("| `resnet20` | small 32x32"))
    assert row.split(" | ")[2:] == [
        "✓", "not run", "✗ OpenVINO (1)", "not run", "not run", "✓°", "✓ (first)", "not run |",
    ]  # fmt: skip
    assert "1. OpenVINO: no such operator" in text
    assert "| `resnet20` | 32x32 | 0.27 M | 41 M | 1.0 MiB | 6 s | 512 MiB |" in text
    assert text.count("| `resnet18` |") == 4


def test_page_is_changed_between_its_markers_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Head\n\n{BEGIN}\nold\n{END}\n\ntail\n", encoding="utf-8")
    write_page(page, "new")
    assert page.read_text(encoding="utf-8") == f"# Head\n\n{BEGIN}\n\nnew\n\n{END}\n\ntail\n"
    page.write_text("no markers", encoding="utf-8")
    with pytest.raises(InputError, match="has no lines"):
        write_page(page, "new")
    with pytest.raises(InputError, match="cannot be read"):
        write_page(tmp_path / "none.md", "new")
    assert BEGIN in export_matrix.PAGE.read_text(encoding="utf-8")


def test_results_file(tmp_path: Path) -> None:
    path, every = tmp_path / "results.json", [cell(), cell(layers="gaussian")]
    assert read_results(path) == ({}, {})
    write_cells(path, {"packages": {"torch": "1"}}, {every[1].key: outcome(), "gone": outcome()}, every)
    assert read_results(path) == ({every[1].key: outcome()}, {"torch": "1"})
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match="no results of this program"):
        read_results(path)


def test_program_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def fake(each: Cell, *_: Any) -> dict[str, Any]:
        ran.append(each.key)
        reason = {} if each.layers == PLAIN else {"OpenVINO": "reason"}
        found: dict[str, Any] = outcome(**reason)["stages"]
        return found

    monkeypatch.setattr(export_matrix, "run_cell", fake)
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    options = ["--architectures", "resnet20", "--results", str(tmp_path / "r.json"), "--page", str(page)]

    def run(*more: str) -> int:
        ran.clear()
        return CliRunner().invoke(export_matrix.app, [*options, *more]).exit_code

    assert run("--layers", "plain", "--sizes", "small") == 0
    assert ran == ["resnet20/plain/small"]
    assert run("--layers", "plain,gaussian", "--sizes", "small") == 1
    assert ran == ["resnet20/gaussian/small"]
    assert "1 passed, 1 with a failure" in page.read_text(encoding="utf-8")
    assert run("--layers", "plain,gaussian", "--retry") == 1
    assert ran == ["resnet20/gaussian/small"]
    assert run("--layers", "plain", "--fresh") == 0
    assert ran == ["resnet20/plain/small"]
    assert run("--page-only", "--layers", "manhattan") == 0
    assert ran == []

    kept = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    kept["packages"]["onnx"] = "0.1"
    kept["cells"]["resnet20/plain/small"]["digest"] = "before"
    (tmp_path / "r.json").write_text(json.dumps(kept), encoding="utf-8")
    result = CliRunner().invoke(export_matrix.app, [*options, "--layers", "plain,gaussian"])
    assert ran == ["resnet20/plain/small"]
    said = " ".join(result.stderr.split())
    assert f"1 of the kept results are of other code or packages (onnx 0.1, here {onnx.__version__})" in said
    assert run("--architectures", "resnet21") == 2
