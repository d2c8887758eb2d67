"""Checkpoints: what is saved comes back, and no file, however bad, does more than raise one clear error."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import random
import resource
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from edgeconv.checkpoint import FORMAT_VERSION, load_checkpoint, save_checkpoint
from edgeconv.errors import CheckpointError, InputError
from edgeconv.models.registry import create

CONFIG = {"num_classes": 7, "kernel": "sigmoid", "learnable": "channel", "scale": 0.25}
IMAGE = (1, 28, 28)


class Bomb:
    """Unpickling it runs a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.marker),)


class Whole(nn.Module):
    """A module that is pickled whole."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        return self.layer(x)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return create("lenet5", **CONFIG).eval()


@pytest.fixture
def saved(tmp_path: Path, model: nn.Module) -> Path:
    path = tmp_path / "model.pt"
    samples = {"images": torch.arange(2 * 784, dtype=torch.int64).to(torch.uint8).reshape(2, *IMAGE)}
    save_checkpoint(
        path,
        model,
        architecture="lenet5",
        config=CONFIG,
        input_shape=IMAGE,
        normalization={"mean": [0.1307], "std": [0.3081]},
        class_names=[f"class {i}" for i in range(7)],
        training={"seed": 3, "curve": [0.5, 0.9]},
        samples={**samples, "labels": torch.tensor([4, 2])},
    )
    return path


def content_of(path: Path) -> dict[str, Any]:
    return dict(torch.load(path, weights_only=True))


def fails(path: Path, *words: str, **options: Any) -> CheckpointError:
    """Loading raises one CheckpointError with these words, a cause and a remedy."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, **options)
    for word in (path.name, *words):
        assert word in str(caught.value)
    assert "\n" not in caught.value.message
    assert caught.value.remedy
    return caught.value


def test_what_is_saved_comes_back(saved: Path, model: nn.Module) -> None:
    loaded = load_checkpoint(saved)
    assert not loaded.module.training
    x = torch.randn(3, *IMAGE)
    assert torch.equal(loaded.module(x), model(x))
    assert (loaded.architecture, loaded.config, loaded.input_shape) == ("lenet5", CONFIG, IMAGE)
    assert loaded.normalization == {"mean": [0.1307], "std": [0.3081]}
    assert loaded.class_names == [f"class {i}" for i in range(7)]
    assert loaded.training == {"seed": 3, "curve": [0.5, 0.9]}
    assert loaded.samples is not None
    assert loaded.samples["images"].shape == (2, *IMAGE)
    assert loaded.samples["labels"].tolist() == [4, 2]
    assert loaded.source_sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert loaded.program is None


def test_optional_fields_may_be_absent(tmp_path: Path, model: nn.Module) -> None:
    save_checkpoint(tmp_path / "a.pt", model, architecture="lenet5", config=CONFIG, input_shape=IMAGE)
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert (loaded.normalization, loaded.class_names, loaded.training, loaded.samples) == (None, None, None, None)


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"kernel": torch.float32}},
        {"training": {"loss": torch.tensor(1.0)}},
        {"samples": {"images": torch.zeros(2, *IMAGE)}},
        {"samples": {"images": torch.zeros(2, *IMAGE), "labels": torch.zeros(2)}},
        {"samples": {"images": torch.zeros(2, 1, 28, 27, dtype=torch.uint8), "labels": torch.zeros(2)}},
        {"samples": {"images": torch.zeros(2, *IMAGE, dtype=torch.uint8), "labels": torch.zeros(3)}},
    ],
    ids=str,
)
def test_what_cannot_be_loaded_is_not_saved(tmp_path: Path, model: nn.Module, change: dict[str, Any]) -> None:
    given: dict[str, Any] = {"architecture": "lenet5", "config": CONFIG, "input_shape": IMAGE, **change}
    with pytest.raises(ValueError, match=r"JSON-able|samples must be uint8 images \(N, 1, 28, 28\)"):
        save_checkpoint(tmp_path / "a.pt", model, **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [True, False])
def test_full_disk_and_interruption_leave_no_half_file(tmp_path: Path, model: nn.Module, keep: bool) -> None:
    path = tmp_path / "a.pt"
    if keep:
        path.write_bytes(b"before")
    given: dict[str, Any] = {"architecture": "lenet5", "config": CONFIG, "input_shape": IMAGE}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(InputError, match=r"cannot write .*a\.pt: File too large"):
            save_checkpoint(path, model, **given)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(path, model, **given)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == ({"a.pt": b"before"} if keep else {})


def test_unwritable_output_is_an_input_error(tmp_path: Path, model: nn.Module) -> None:
    for parent in (tmp_path / "missing", Path(__file__)):
        with pytest.raises(InputError, match="cannot write"):
            save_checkpoint(parent / "a.pt", model, architecture="lenet5", config=CONFIG, input_shape=IMAGE)
    assert not list(tmp_path.iterdir())


def png() -> bytes:
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0\0")),
        (b"IEND", b""),
    ]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def onnx_file() -> bytes:
    text = '<ir_version: 9, opset_import: ["" : 18]> g (float[1] x) => (float[1] y) { y = Relu (x) }'
    return bytes(onnx.parser.parse_model(text).SerializeToString())


def zip_of(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def torchscript() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(nn.ReLU()), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"not a checkpoint\n" * 40, "is not a PyTorch file"),
        (b"\x80", "damaged"),
        (b"PK", "truncated or damaged"),
        (png(), "is not a PyTorch file"),
        (onnx_file(), "is not a PyTorch file"),
        (zip_of(readme=b"hello"), "a zip file, but not one that PyTorch wrote"),
        (zip_of(), "a zip file, but not one that PyTorch wrote"),
        (zip_of()[:14], "truncated or damaged"),
        (torchscript(), "is a TorchScript archive"),
        (pickle.dumps({"a": 1}), "damaged"),
        (random.Random(0).randbytes(5000), "is not a PyTorch file"),
        (b"\x80\x02" + random.Random(0).randbytes(5000), "damaged"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value.replace(" ", "-"),
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_foreign_files(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "foreign.pt"
    path.write_bytes(data)
    fails(path, words)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    fails(tmp_path / "missing.pt", "No such file or directory")
    fails(tmp_path, "Is a directory")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files(tmp_path: Path, model: nn.Module, zipped: bool) -> None:
    path = tmp_path / "cut.pt"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    cuts = [1, 2, 3, 10, 21, 30, 64, 100, 300, 500, 1000, *range(2000, len(data), len(data) // 12)]
    for cut in [*cuts, len(data) - 22, len(data) - 4, len(data) - 1]:
        path.write_bytes(data[:cut])
        for trust in (False, True):
            fails(path, architecture="lenet5", config=CONFIG, trust_pickle=trust)


@pytest.mark.parametrize("zipped", [True, False])
def test_flipped_bits_are_found_or_do_no_harm(tmp_path: Path, model: nn.Module, zipped: bool) -> None:
    path = tmp_path / "flipped.pt"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    errors: list[InputError] = []
    generator = random.Random(1)
    # In the two ends, which hold the structure; a changed weight is only seen in a zip file, by its checksum.
    starts, ends = [generator.randrange(2500) for _ in range(120)], [-1 - generator.randrange(2500) for _ in range(80)]
    for place in (*starts, *ends):
        flipped = bytearray(data)
        flipped[place] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        try:
            load_checkpoint(path, architecture="lenet5", config=CONFIG)
        except InputError as error:
            errors.append(error)
    assert len(errors) > 20
    assert all("flipped.pt" in error.message and "\n" not in error.message for error in errors)


@pytest.mark.parametrize("place", ["state", "format", "alone"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_bomb_does_not_go_off(tmp_path: Path, saved: Path, zipped: bool, place: str) -> None:
    marker = tmp_path / "executed"
    bombs: dict[str, Any] = {
        "state": {"weight": torch.zeros(2), "bomb": Bomb(marker)},
        "format": {**content_of(saved), "training": Bomb(marker)},
        "alone": Bomb(marker),
    }
    path = tmp_path / "bomb.pt"
    torch.save(bombs[place], path, _use_new_zipfile_serialization=zipped)
    error = fails(path, "holds pickled Python objects (posix.mkdir)", architecture="lenet5")
    assert "--trust-pickle" in error.remedy
    assert not marker.exists()
    with contextlib.suppress(CheckpointError):  # it is no model; but now it goes off, so the test above can fail
        load_checkpoint(path, trust_pickle=True)
    assert marker.exists()


def test_whole_module_only_with_trust(tmp_path: Path) -> None:
    path = tmp_path / "whole.pt"
    module = Whole()
    torch.save(module, path)
    fails(path, "pickled Python objects")
    loaded = load_checkpoint(path, trust_pickle=True)
    x = torch.randn(1, 1, 5, 6)
    assert torch.equal(loaded.module(x), module(x))
    assert (loaded.architecture, loaded.module.training, loaded.input_shape) == ("Whole", False, None)
    fails(path, "is a whole model", trust_pickle=True, architecture="lenet5")


def test_module_of_an_unknown_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "whole.pt"
    torch.save(Whole(), path)
    monkeypatch.delitem(globals(), "Whole")
    fails(path, "needs a class that is not importable here", trust_pickle=True)


@pytest.mark.parametrize("wrap", ["", "state_dict", "model_state_dict", "model", "net", "anything"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_bare_state_dict(tmp_path: Path, model: nn.Module, wrap: str, prefix: str) -> None:
    path = tmp_path / "state.pth"
    state: dict[str, Any] = {prefix + name: value for name, value in model.state_dict().items()}
    torch.save({wrap: state, "epoch": 3} if wrap else state, path)
    error = fails(path, "bare state dict")
    assert "--arch" in error.remedy
    loaded = load_checkpoint(path, architecture="lenet5", config=CONFIG)
    x = torch.randn(2, *IMAGE)
    assert torch.equal(loaded.module(x), model(x))
    assert (loaded.config, loaded.input_shape, loaded.normalization) == (CONFIG, IMAGE, None)


def test_several_state_dicts(tmp_path: Path, model: nn.Module) -> None:
    path = tmp_path / "states.pth"
    other = {name: value + 1 for name, value in model.state_dict().items()}
    torch.save({"teacher": other, "student": model.state_dict()}, path)
    fails(path, "holds several state dicts: teacher, student", architecture="lenet5", config=CONFIG)
    torch.save({"teacher": other, "model": model.state_dict()}, path)
    found = load_checkpoint(path, architecture="lenet5", config=CONFIG).module.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in model.state_dict().items())


def test_counters_of_batch_normalisation_may_be_absent(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.manual_seed(1)
    network = create("resnet20").eval()
    state = {name: value for name, value in network.state_dict().items() if "num_batches_tracked" not in name}
    torch.save(state, path)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(load_checkpoint(path, architecture="resnet20").module(x), network(x))
    del state["bn1.running_mean"]
    torch.save(state, path)
    fails(path, "missing: bn1.running_mean", architecture="resnet20")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weight: weight.to("meta"), "is without values, expected plain values"),
        (lambda weight: weight.to_sparse(), "is sparse, expected plain values"),
        (lambda weight: weight.to(torch.uint8), "is uint8, expected float32"),
        (lambda weight: weight.to(torch.complex64), "is complex64, expected float32"),
    ],
    ids=["meta", "sparse", "uint8", "complex"],
)
def test_tensors_that_are_no_weights(
    tmp_path: Path, model: nn.Module, change: Callable[[Tensor], Tensor], words: str
) -> None:
    path = tmp_path / "state.pth"
    state = model.state_dict()
    name = next(iter(state))
    torch.save({**state, name: change(state[name])}, path)
    fails(path, f"{name} {words}", architecture="lenet5", config=CONFIG)
    torch.save({**state, name: state[name].double()}, path)
    load_checkpoint(path, architecture="lenet5", config=CONFIG)


def test_state_dict_of_other_channels_says_its_input(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    torch.save(create("resnet20", in_channels=1).state_dict(), path)
    assert load_checkpoint(path, architecture="resnet20", config={"in_channels": 1}).input_shape == (1, 32, 32)


def test_wrong_architecture_names_what_does_not_fit(tmp_path: Path, saved: Path, model: nn.Module) -> None:
    path = tmp_path / "state.pt"
    state = model.state_dict()
    torch.save(state, path)
    error = fails(path, "does not fit resnet20: missing: ", "not in the model: ", "more", architecture="resnet20")
    assert "--arch" in error.remedy
    name = next(name for name in state if name.endswith("weight"))
    fails(path, "not in the model: ", "scale", architecture="lenet5", config={"num_classes": 7})
    fails(path, "is (7, 84), expected (10, 84)", architecture="lenet5", config={**CONFIG, "num_classes": 10})
    torch.save({key: value for key, value in state.items() if key != name}, path)
    fails(path, f"does not fit lenet5: missing: {name}.", architecture="lenet5", config=CONFIG)
    fails(saved, "holds a lenet5, not a resnet20", architecture="resnet20")
    with pytest.raises(InputError, match="no model is named 'lenet'"):
        load_checkpoint(path, architecture="lenet")


def test_configuration_of_a_checkpoint_is_its_own(saved: Path) -> None:
    assert load_checkpoint(saved, architecture="lenet5", config={"num_classes": 7}).config == CONFIG
    fails(saved, "num_classes is 7", config={"num_classes": 10})
    fails(saved, "degree is left at its default", config={"degree": 2})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": FORMAT_VERSION + 1}, f"has checkpoint format {FORMAT_VERSION + 1}"),
        ({"format_version": None}, "has checkpoint format None"),
        ({"architecture": None}, "without a usable architecture"),
        ({"architecture": 5}, "without a usable architecture"),
        ({"config": None}, "without a usable config"),
        ({"config": [1]}, "without a usable config"),
        ({"config": {3: 4}}, "without a usable config"),
        ({"config": {"scale": torch.zeros(1)}}, "without a usable config"),
        ({"state_dict": None}, "without a usable state_dict"),
        ({"state_dict": {"a": 1}}, "without a usable state_dict"),
        ({"input_shape": None}, "without a usable input_shape"),
        ({"input_shape": 28}, "without a usable input_shape"),
        ({"input_shape": [1, "x", 2]}, "without a usable input_shape"),
        ({"input_shape": [1, 28, 0]}, "without a usable input_shape"),
        ({"normalization": {"mean": [0.1]}}, "without a usable normalization"),
        ({"class_names": [1, 2]}, "without a usable class_names"),
        ({"training": {"loss": torch.zeros(1)}}, "without a usable training"),
        ({"samples": {"images": torch.zeros(1)}}, "without a usable samples"),
        ({"architecture": None, "config": None}, "without a usable architecture, config"),
        ({"state_dict": {}}, "does not fit lenet5: missing: "),
    ],
    ids=str,
)
def test_fields_that_are_missing_or_wrong(tmp_path: Path, saved: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "bad.pt"
    torch.save({**content_of(saved), **change}, path)
    fails(path, words)


@pytest.mark.parametrize(
    "change",
    [{"architecture": "lenet9"}, {"config": {"colour": 1}}, {"config": {"degree": 0, "kernel": "polynomial"}}],
    ids=str,
)
def test_architecture_and_config_that_do_not_exist(tmp_path: Path, saved: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "bad.pt"
    torch.save({**content_of(saved), **change}, path)
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.zeros(3), "holds a Tensor, not a model"),
        ([1, 2], "holds a list, not a model"),
        ({}, "neither an edgeconv checkpoint nor a state dict"),
        ({"epoch": 1}, "neither an edgeconv checkpoint nor a state dict"),
        ({1: torch.zeros(1)}, "neither an edgeconv checkpoint nor a state dict"),
        ({"state_dict": {}}, "neither an edgeconv checkpoint nor a state dict"),
    ],
    ids=str,
)
def test_contents_that_are_no_model(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    fails(path, words, architecture="lenet5")


def test_safetensors(tmp_path: Path, model: nn.Module) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    loaded = load_checkpoint(path, architecture="lenet5", config=CONFIG)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], value)
    with pytest.raises(CheckpointError, match="bare state dict"):
        load_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(path, architecture="lenet5", config=CONFIG)
