"""Reading .pt2 files: good ones give the same answers; in bad ones nothing runs, wherever it hides."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeconv.checkpoint import load_checkpoint
from edgeconv.errors import CheckpointError
from edgeconv.nn import Kerv2d
from edgeconv.pt2 import load_exported_program

Edit = Callable[[dict[str, Any]], None]


class Net(nn.Module):
    """Operators of ours and torch's, string arguments, constants, a subgraph, several outputs in containers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Kerv2d(3, 4, 3, padding="same", kernel="gaussian", gamma=0.05, learnable="channel")
        self.second = Kerv2d(4, 8, 3, stride=2, kernel="chebyshev")
        self.heads = nn.ModuleDict({"a-b": nn.Linear(8, 2)})
        self.register_buffer("shift", torch.ones(2))

    def forward(self, x: Tensor, more: dict[str, Tensor]) -> dict[str, Any]:
        """(N, 3, H, W) and a scale."""
        y = nn.functional.gelu(self.second(self.first(x)), approximate="tanh") * more["scale"]
        y = nn.functional.interpolate(y, scale_factor=2.0, mode="bilinear")
        with torch.no_grad():
            mean = y.mean((2, 3))
        out = self.heads["a-b"](mean) + self.shift + torch.tensor([1.0, 2.0])
        return {"out": out, "maps": [y, torch.einsum("bchw,oc->bohw", y, self.heads["a-b"].weight)]}


def example(batch: int = 2, height: int = 9, width: int = 8) -> tuple[Tensor, dict[str, Tensor]]:
    return torch.randn(batch, 3, height, width), {"scale": torch.tensor(1.5)}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with open batch, height and width."""
    torch.manual_seed(0)
    dim = torch.export.Dim
    shapes = {"x": {0: dim("n"), 2: dim("h", min=8), 3: dim("w", min=8)}, "more": {"scale": {}}}
    program = torch.export.export(Net().eval(), example(), dynamic_shapes=shapes)
    path = tmp_path_factory.mktemp("pt2") / "good.pt2"
    torch.export.save(program, path)
    return path


def rewrite(
    source: Path, target: Path, edits: dict[str, Edit] | None = None, extra: dict[str, bytes] | None = None
) -> Path:
    """Copy an archive with changed JSON parts and additional or replaced parts."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            entry = name.partition("/")[2]
            data = old.read(name)
            if entry in (edits or {}):
                tree = json.loads(data)
                (edits or {})[entry](tree)
                data = json.dumps(tree).encode()
            if entry not in (extra or {}):
                new.writestr(name, data)
        for entry, data in (extra or {}).items():
            new.writestr(f"{source.stem}/{entry}", data)
    return target


def graph_of(tree: dict[str, Any]) -> dict[str, Any]:
    graph: dict[str, Any] = tree["graph_module"]["graph"]
    return graph


def rename(tree: Any, old: str, new: str) -> Any:
    """The JSON tree with a name changed wherever it stands."""
    if isinstance(tree, dict):
        return {new if key == old else key: rename(value, old, new) for key, value in tree.items()}
    if isinstance(tree, list):
        return [rename(value, old, new) for value in tree]
    return new if tree == old else tree


def refused(path: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    for word in (path.name, *words):
        assert word in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.remedy


MODEL = "models/model.json"
CONSTANTS = "data/constants/model_constants_config.json"
WEIGHTS = "data/weights/model_weights_config.json"


def test_good_program_gives_the_same_answers(good: Path) -> None:
    ours, theirs = load_exported_program(good), torch.export.load(good)
    trusted = load_exported_program(good, trust_pickle=True)
    for shape in ((1, 9, 8), (3, 12, 17)):
        inputs = example(*shape)
        expected = pytree.tree_leaves(theirs.module()(*inputs))
        assert len(expected) == 3
        for program in (ours, trusted):
            for actual, want in zip(pytree.tree_leaves(program.module()(*inputs)), expected, strict=True):
                assert torch.equal(actual, want)
    stacks = [node.meta.get("nn_module_stack") for node in ours.graph.nodes if "gaussian" in node.name]
    assert any("Kerv2d" in str(stack) for stack in stacks), "layer names are kept, for reports"
    assert torch.equal(pytree.tree_leaves(ours.example_inputs)[0], pytree.tree_leaves(theirs.example_inputs)[0])


def test_checkpoint_of_a_program(good: Path) -> None:
    loaded = load_checkpoint(good)
    assert loaded.architecture == "exported program"
    assert loaded.program is not None
    assert loaded.module(*example())["out"].shape == (2, 2)


def touch(marker: Path) -> str:
    return f"__import__('os').mkdir({str(marker)!r})"


def bad_guards(marker: Path) -> Edit:
    return lambda tree: tree.update(guards_code=[f"[{touch(marker)}]"])


def bad_placeholder(marker: Path) -> Edit:
    def edit(tree: dict[str, Any]) -> None:
        renamed = rename(tree, "more_scale", f"more_scale={touch(marker)}")  # the last: it may have a default
        tree.clear()
        tree.update(renamed)

    return edit


def bad_node(marker: Path) -> Edit:
    def edit(tree: dict[str, Any]) -> None:
        name = graph_of(tree)["nodes"][0]["outputs"][0]["as_tensor"]["name"]
        renamed = rename(tree, name, f"a = {touch(marker)}\n    b")
        tree.clear()
        tree.update(renamed)

    return edit


def bad_key(marker: Path) -> Edit:
    return lambda tree: graph_of(tree)["tensor_values"].update({touch(marker): {}})


def bad_operator(marker: Path) -> Edit:
    def edit(tree: dict[str, Any]) -> None:
        tree["verifiers"] = []
        argument = {"name": "", "arg": {"as_string": str(marker)}, "kind": 1}
        graph_of(tree)["nodes"][-1].update(target="torch.serialization.os.mkdir", inputs=[argument])

    return edit


def bad_operator_argument(marker: Path) -> Edit:
    def edit(tree: dict[str, Any]) -> None:
        argument = {"name": "", "arg": {"as_operator": "torch.serialization.os.mkdir"}, "kind": 1}
        graph_of(tree)["nodes"][-1]["inputs"].append(argument)

    return edit


def bad_size(expression: Callable[[Path], str]) -> Callable[[Path], Edit]:
    def of(marker: Path) -> Edit:
        def edit(tree: dict[str, Any]) -> None:
            values = graph_of(tree)["tensor_values"]
            size = next(s for meta in values.values() for s in meta["sizes"] if "as_expr" in s)
            size["as_expr"]["expr_str"] = expression(marker)

        return edit

    return of


def bad_inputs(context: Callable[[Path], dict[str, Any]]) -> Callable[[Path], Edit]:
    """A description of the inputs that imports `evil_module`, which makes the marker."""

    def of(marker: Path) -> Edit:
        (marker.parent / "evil_module.py").write_text(f"{touch(marker)}\nclass Colour: pass\n")

        def edit(tree: dict[str, Any]) -> None:
            entry = tree["graph_module"]["module_call_graph"][0]["signature"]
            entry["in_spec"] = json.dumps([1, {"children_spec": [], **context(marker)}])

        return edit

    return of


ENUM = json.dumps({"__enum__": True, "fqn": "evil_module:Colour", "name": "RED"})
DEFAULT = {"default_factory_module": "evil_module", "default_factory_name": "Colour", "dict_context": []}

ATTACKS: dict[str, tuple[Callable[[Path], Edit], str]] = {
    "placeholder": (bad_placeholder, "unusual name"),
    "node": (bad_node, "unusual name"),
    "key": (bad_key, "a name that is not plain"),
    "operator": (bad_operator, "an unusual target"),
    "operator argument": (bad_operator_argument, "an unusual as operator"),
    "size: call": (bad_size(touch), "a symbolic size that is not arithmetic"),
    "size: mkdir": (bad_size(lambda m: f"Symbol('s0').__class__.__mro__[1], {touch(m)}"), "a symbolic size"),
    "inputs: enum": (
        bad_inputs(lambda m: {"type": "builtins.list", "context": ENUM}),
        "inputs or outputs of an unusual",
    ),
    "inputs: default": (
        bad_inputs(lambda m: {"type": "collections.defaultdict", "context": DEFAULT}),
        "inputs or outputs of an unusual type",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_code_in_the_graph_does_not_run(
    good: Path, tmp_path: Path, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)
    marker = tmp_path / "executed"
    make, words = ATTACKS[attack]
    refused(rewrite(good, tmp_path / "bad.pt2", {MODEL: make(marker)}), words)
    assert not marker.exists()


@pytest.mark.parametrize("attack", ["placeholder", "size: call", "inputs: default", "inputs: enum"])
def test_the_attacks_are_real(good: Path, tmp_path: Path, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch alone, or we with --trust-pickle, would have run them: the checks are not for show."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)
    marker = tmp_path / "executed"
    path = rewrite(good, tmp_path / "bad.pt2", {MODEL: ATTACKS[attack][0](marker)})
    with contextlib.suppress(CheckpointError):
        load_exported_program(path, trust_pickle=True)
    assert marker.exists()


def test_guards_are_dropped_because_they_are_source_code(good: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    path = rewrite(good, tmp_path / "bad.pt2", {MODEL: bad_guards(marker)})
    with torch.no_grad():
        load_checkpoint(path).module(*example())
    assert not marker.exists()
    torch.export.load(path).module()(*example())
    assert marker.exists(), "torch alone runs them"


class Bomb:
    """Unpickling it makes a directory."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def torch_pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def add_constant(path_name: str, use_pickle: bool) -> Edit:
    meta = {
        "dtype": 1,
        "sizes": [{"as_int": 4}],
        "requires_grad": False,
        "device": {"type": "cpu", "index": None},
        "strides": [{"as_int": 1}],
        "storage_offset": {"as_int": 0},
        "layout": 7,
    }
    entry = {"path_name": path_name, "is_param": False, "use_pickle": use_pickle, "tensor_meta": meta}
    return lambda tree: tree["config"].update(evil=entry)


@pytest.mark.parametrize(
    ("place", "name", "use_pickle", "words"),
    [
        (WEIGHTS, "weight_99", True, "pickled objects"),
        (CONSTANTS, "tensor_99", True, "pickled objects"),
        (CONSTANTS, "opaque_obj_0", False, "an unusual path name ('opaque_obj_0')"),
        (CONSTANTS, "custom_obj_0", False, "an unusual path name"),
        (CONSTANTS, "../../weights/weight_0", False, "an unusual path name"),
    ],
)
def test_pickles_in_weights_and_constants_do_not_go_off(
    good: Path, tmp_path: Path, place: str, name: str, use_pickle: bool, words: str
) -> None:
    marker = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(marker)) if "opaque" in name else torch_pickled(Bomb(marker))
    extra = {f"{place.rpartition('/')[0]}/{name}": bomb}
    path = rewrite(good, tmp_path / "bad.pt2", {place: add_constant(name, use_pickle)}, extra)
    refused(path, words)
    assert not marker.exists()
    if "custom" not in name and ".." not in name:
        with contextlib.suppress(CheckpointError):
            load_exported_program(path, trust_pickle=True)
        assert marker.exists()


def test_pickle_in_the_sample_inputs_does_not_go_off(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "executed"
    path = rewrite(good, tmp_path / "bad.pt2", extra={"data/sample_inputs/model.pt": torch_pickled((Bomb(marker), {}))})
    refused(path, "cannot be loaded")
    assert not marker.exists()
    # torch's warning about it is malformed, which pytest would report.
    monkeypatch.setattr(logging.getLogger("torch._export.serde.serialize"), "disabled", True)
    torch.export.load(path)
    assert marker.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_names_of_sample_inputs_are_plain(good: Path, tmp_path: Path) -> None:
    """torch writes source code with them."""
    sample: Any = ((torch.randn(2, 3, 9, 8), {"scale'] or print('": torch.tensor(1.5)}), {})
    path = rewrite(good, tmp_path / "bad.pt2", extra={"data/sample_inputs/model.pt": torch_pickled(sample)})
    refused(path, "an unusual input name")


def test_what_is_not_needed_is_not_loaded(good: Path, tmp_path: Path) -> None:
    """Compiled libraries, files of other formats, a second model; and of two parts with one name, the checked one."""
    marker = tmp_path / "executed"
    second = json.loads(zipfile.ZipFile(good).read(f"good/{MODEL}"))
    bad_placeholder(marker)(second)
    extra = {
        "data/aotinductor/model/evil.wrapper.so": b"\x7fELF",
        "data/weights/model.pt": torch_pickled(Bomb(marker)),
        "data/constants/model.pt": torch_pickled(Bomb(marker)),
        "models/second.json": json.dumps(second).encode(),
        "models/MODEL.JSON": json.dumps(second).encode(),
    }
    path = rewrite(good, tmp_path / "odd.pt2", extra=extra)
    load_checkpoint(path).module(*example())
    assert not marker.exists()


def test_archive_without_the_program(good: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(tmp_path / "none.pt2", "w") as new:
        for name in old.namelist():
            if not name.endswith("models/model.json"):
                new.writestr(name, old.read(name))
    refused(tmp_path / "none.pt2", "holds no exported program named 'model'")


@pytest.mark.parametrize(
    "edit",
    [
        lambda tree: tree.clear(),
        lambda tree: tree.update(schema_version={"major": 99, "minor": 1}),
        lambda tree: graph_of(tree)["nodes"].pop(0),
        lambda tree: graph_of(tree)["nodes"][0].update(target="torch.ops.edgeconv.Unknown.default"),
        lambda tree: graph_of(tree)["tensor_values"].clear(),
        lambda tree: tree.update(graph_module=3),
        lambda tree: tree.update(verifiers=["NONE"]),
        lambda tree: tree["graph_module"]["module_call_graph"][0]["signature"].update(in_spec="{}"),
        lambda tree: tree["graph_module"]["module_call_graph"][0]["signature"].update(in_spec="not json"),
    ],
)
def test_damaged_graph(good: Path, tmp_path: Path, edit: Edit) -> None:
    refused(rewrite(good, tmp_path / "bad.pt2", {MODEL: edit}), "cannot be loaded as an ExportedProgram")


def test_damaged_archive(good: Path, tmp_path: Path) -> None:
    data = good.read_bytes()
    for cut in (30, 1000, len(data) // 2, len(data) - 30, len(data) - 1):
        (tmp_path / "cut.pt2").write_bytes(data[:cut])
        refused(tmp_path / "cut.pt2", "damaged")
    flipped = bytearray(data)
    flipped[data.index(b"graph_module")] ^= 1
    (tmp_path / "flipped.pt2").write_bytes(flipped)
    refused(tmp_path / "flipped.pt2", "fails its checksum")
    part = rewrite(good, tmp_path / "part.pt2", extra={"data/weights/weight_0": b"short"})
    refused(part, "cannot be loaded as an ExportedProgram")
    no_json = rewrite(good, tmp_path / "text.pt2", extra={MODEL: b"\xff not JSON"})
    refused(no_json, "cannot be loaded as an ExportedProgram")
