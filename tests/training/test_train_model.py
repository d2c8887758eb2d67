"""The recipe on synthetic data: it learns, resumes exactly, and leaves nothing half-written."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgeconv.training.loop
import edgeconv.training.recipe
import edgeconv.training.run
from edgeconv.checkpoint import load_checkpoint
from edgeconv.errors import EdgeconvError, InputError
from edgeconv.nn import Deconv2d, DeconvLinear
from edgeconv.training import Dataset, DatasetSpec, TrainingReport, train_model
from edgeconv.training.loop import evaluate, learning_rate, normalize, random_shift

CLASSES = 4


def bars(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy 28x28 images: class k is a bright bar, horizontal or vertical, thin or thick, somewhere in the middle."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 80, (count, 1, 28, 28), np.uint8)
    labels = rng.integers(0, CLASSES, count)
    for image, label in zip(images, labels, strict=True):
        at, width = rng.integers(8, 16), 2 if label < 2 else 6
        (image[0] if label % 2 else image[0].T)[at : at + width] += 150
    return images, labels.astype(np.int64)


SPEC = DatasetSpec(
    name="bars", input_shape=(1, 28, 28), mean=(0.2,), std=(0.3,), class_names=("a", "b", "c", "d"),
    train_files=("", ""), test_files=("", ""), train_count=400, test_count=100,
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Dataset(SPEC, *bars(400, 0), *bars(100, 1))


SETTINGS: dict[str, Any] = {
    "epochs": 3, "seed": 5, "batch_size": 32, "lr": 0.01, "threads": 1, "progress": False,
    "config": {"kernel": "polynomial", "degree": 2},
}  # fmt: skip


def train(dataset: Dataset, output: Path | None, **changed: Any) -> TrainingReport:
    return train_model("lenet5", data=dataset, output=output, **{**SETTINGS, **changed})


@pytest.fixture(scope="module")
def finished(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingReport, Path]:
    directory = tmp_path_factory.mktemp("finished")
    report = train(dataset, directory / "model.pt", history=directory / "history.json")
    return report, directory / "model.pt"


def test_learns(dataset: Dataset, finished: tuple[TrainingReport, Path]) -> None:
    report, path = finished
    assert [row.epoch for row in report.epochs] == [1, 2, 3]
    assert report.epochs[0].test_top1 < report.top1
    assert report.top1 > 0.9
    assert report.epochs[0].train_loss > 2 * report.epochs[-1].train_loss
    assert sorted(file.name for file in path.parent.iterdir()) == ["history.json", "model.pt"]
    assert json.loads((path.parent / "history.json").read_text()) == report.to_dict()
    assert report.table().row_count == 3


def test_deconvolution_trains(dataset: Dataset, tmp_path: Path) -> None:
    """Layers, recipe, checkpoint and back: the running statistics travel with it."""
    config = {"deconv_block": 2, "deconv_block_linear": 12}
    report = train(dataset, tmp_path / "model.pt", config=config)
    assert report.top1 > 0.9
    module = load_checkpoint(tmp_path / "model.pt").module
    layers = [layer for layer in module.modules() if isinstance(layer, Deconv2d | DeconvLinear)]
    assert len(layers) == 5
    for layer in layers:
        assert not torch.allclose(layer.running_deconv, torch.eye(len(layer.running_deconv)), atol=0.1)
    test = torch.from_numpy(dataset.test_images), torch.from_numpy(dataset.test_labels)
    assert evaluate(module, *test, SPEC)[1] == report.top1


def test_small_images_are_padded(dataset: Dataset) -> None:
    """VGG's 32x32 is made of the data's 28x28, in the CIFAR form; what is asked for is kept."""
    fill = edgeconv.training.recipe._with_data_defaults
    assert fill("vgg11", SPEC, {}) == {"num_classes": CLASSES, "in_channels": 1, "form": "cifar", "first_padding": 3}
    assert fill("vgg13", SPEC, {"form": "imagenet"})["form"] == "imagenet"
    assert fill("vgg11", SPEC, {"first_padding": 5})["first_padding"] == 5
    assert "first_padding" not in fill("lenet5", SPEC, {})
    wide = dataclasses.replace(SPEC, input_shape=(1, 31, 64))
    assert fill("vgg11", wide, {})["first_padding"] == 2
    large = dataclasses.replace(SPEC, input_shape=(1, 224, 240))
    assert fill("vgg11", large, {}) == {"num_classes": CLASSES, "in_channels": 1, "first_padding": 1}


def test_checkpoint(dataset: Dataset, finished: tuple[TrainingReport, Path]) -> None:
    report, path = finished
    checkpoint = load_checkpoint(path)
    assert checkpoint.architecture == "lenet5"
    assert checkpoint.config == report.config
    assert (checkpoint.config["num_classes"], checkpoint.config["kernel"]) == (CLASSES, "polynomial")
    assert checkpoint.normalization == {"mean": [0.2], "std": [0.3]}
    assert checkpoint.class_names == ["a", "b", "c", "d"]
    assert checkpoint.training is not None
    assert checkpoint.training["epochs"] == report.to_dict()["epochs"]
    assert path.stat().st_size < 4 * report.parameters + 16 * 28 * 28 + 20_000
    assert checkpoint.samples is not None
    np.testing.assert_array_equal(checkpoint.samples["images"], dataset.test_images[:16])
    np.testing.assert_array_equal(checkpoint.samples["labels"], dataset.test_labels[:16])
    test = torch.from_numpy(dataset.test_images), torch.from_numpy(dataset.test_labels)
    loss, top1 = evaluate(checkpoint.module, *test, SPEC)
    assert top1 == report.top1
    assert loss == pytest.approx(report.epochs[-1].test_loss, rel=1e-5)


class Stopped(KeyboardInterrupt):
    """Ctrl-C, at a known place."""


def interrupt(monkeypatch: pytest.MonkeyPatch, *, after_batches: int) -> None:
    count = 0
    original = edgeconv.training.loop.random_shift

    def shift(*arguments: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        if count > after_batches:
            raise Stopped
        return original(*arguments)

    monkeypatch.setattr(edgeconv.training.loop, "random_shift", shift)


@pytest.mark.parametrize(
    ("optimizer", "lr", "learnable"), [("adamw", 0.01, False), ("adamw", 0.01, "channel"), ("sgd", 0.001, "layer")]
)
def test_resumes_bit_for_bit(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, lr: float, learnable: bool | str
) -> None:
    config = {"kernel": "polynomial", "degree": 2, "learnable": learnable}
    changed = {"config": config, "optimizer": optimizer, "lr": lr}
    whole = train(dataset, tmp_path / "whole.pt", **changed)
    output = tmp_path / "resumed.pt"
    with monkeypatch.context() as patch:
        interrupt(patch, after_batches=20)  # in the second of three epochs of 13 batches
        with pytest.raises(Stopped):
            train(dataset, output, **changed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed.pt.resume", "whole.pt"]
    with monkeypatch.context() as patch:
        interrupt(patch, after_batches=26)  # had the first epoch been repeated, this would stop the third
        resumed = train(dataset, output, resume=True, **changed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed.pt", "whole.pt"]
    one, two = (torch.load(path, weights_only=True)["state_dict"] for path in (tmp_path / "whole.pt", output))
    assert list(one) == list(two)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [row.test_loss for row in whole.epochs] == [row.test_loss for row in resumed.epochs]


def test_interrupted_while_writing(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "model.pt"
    replace = os.replace

    def stopped_at_the_checkpoint(source: Path, target: Path) -> None:
        if Path(target) == output:
            assert Path(source).stat().st_size > 0
            raise Stopped
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped_at_the_checkpoint)
        with pytest.raises(Stopped):
            train(dataset, output)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt.resume"]
    with monkeypatch.context() as patch:
        interrupt(patch, after_batches=0)  # the training is over; only the checkpoint is missing
        assert train(dataset, output).top1 > 0.9
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_same_seed_same_weights(dataset: Dataset, finished: tuple[TrainingReport, Path], tmp_path: Path) -> None:
    report, _ = finished
    torch.manual_seed(99)  # the caller's generator plays no part, and is left as it was
    before = torch.get_rng_state()
    again = train(dataset, tmp_path / "again.pt")
    assert torch.equal(before, torch.get_rng_state())
    assert [row.test_loss for row in again.epochs] == [row.test_loss for row in report.epochs]
    other = train(dataset, None, seed=6, epochs=1)
    assert other.epochs[0].train_loss != report.epochs[0].train_loss


def test_resume_refuses_other_settings(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "model.pt"
    with monkeypatch.context() as patch:
        interrupt(patch, after_batches=20)
        with pytest.raises(Stopped):
            train(dataset, output)
    with pytest.raises(InputError, match=r"other settings: lr 0\.01 \(now 0\.03\)") as raised:
        train(dataset, output, lr=0.03)
    assert "--no-resume" in raised.value.remedy
    assert train(dataset, output, lr=0.03, epochs=1, resume=False).settings["lr"] == 0.03
    with pytest.raises(InputError, match="no interrupted run to resume"):
        train(dataset, output, resume=True)


@pytest.mark.parametrize("content", [b"", b"half a file", None])
def test_damaged_state(dataset: Dataset, tmp_path: Path, content: bytes | None) -> None:
    state = tmp_path / "model.pt.resume"
    if content is None:
        torch.save({"format": "another"}, state)
    else:
        state.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.pt\.resume"):
        train(dataset, tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"optimizer": "lion"}, "no optimiser is named 'lion'"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": float("nan")}, "lr must be positive"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"schedule": "linear"}, "one of one-cycle, cosine, constant; got 'linear'"),
        ({"shift": -1}, "shift"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"threads": 0}, "threads must be at least 1; got 0"),
        ({"device": "warp"}, "device 'warp'"),
        ({"data": "cifar"}, "no data set is named 'cifar'"),
        ({"config": {"kernle": "polynomial"}}, "no configuration key 'kernle'"),
        ({"config": {"kernel": "cubic"}}, "cannot be built with .*kernel must be one of"),
        ({"config": {"num_classes": 7}}, "num_classes=7 does not fit the data set 'bars', which has 4"),
        ({"config": {"in_channels": 3}}, "in_channels=3 does not fit"),
    ],
)
def test_refuses(dataset: Dataset, tmp_path: Path, changed: dict[str, Any], cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        train_model("lenet5", **{"data": dataset, "output": tmp_path / "model.pt", **SETTINGS, **changed})
    assert list(tmp_path.iterdir()) == []


def test_missing_directory(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"directory of .* does not exist"):
        train(dataset, tmp_path / "none" / "model.pt")


def test_unwritable_output_is_found_before_training(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, after_batches=0)
    with pytest.raises(InputError, match="is a directory"):
        train(dataset, tmp_path)
    with pytest.raises(InputError, match="is a directory"):
        train(dataset, tmp_path / "model.pt", history=tmp_path)
    # Permissions do not bind the superuser, so the answer of the system is given here.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(InputError, match="not writable"):
        train(dataset, tmp_path / "model.pt")


def test_divergence_is_said(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(EdgeconvError, match="training diverged: the loss is") as raised:
        train(dataset, tmp_path / "model.pt", lr=1e6, optimizer="sgd")
    assert "--lr" in raised.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_learning_rate() -> None:
    assert learning_rate("constant", 0.3, 0.9) == 0.3
    assert learning_rate("cosine", 0.3, 0.0) == 0.3
    assert learning_rate("cosine", 0.3, 0.5) == pytest.approx(0.15)
    one_cycle = [learning_rate("one-cycle", 1.0, step / 100) for step in range(100)]
    assert one_cycle[0] == pytest.approx(0.1)
    assert max(one_cycle) == one_cycle[20] == 1.0
    assert one_cycle[10] == pytest.approx(0.55)
    assert one_cycle[60] == pytest.approx(0.5)
    assert all(a > b for a, b in itertools.pairwise(one_cycle[20:]))


def test_random_shift() -> None:
    images = torch.randint(1, 256, (50, 2, 5, 7), dtype=torch.uint8)
    assert random_shift(images, 0, torch.Generator()) is images
    shifted = random_shift(images, 2, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    found = set()
    for before, after in zip(padded, shifted, strict=True):
        places = [(y, x) for y in range(5) for x in range(5) if torch.equal(before[:, y : y + 5, x : x + 7], after)]
        assert len(places) == 1
        found.add(places[0])
    assert len({y for y, _ in found}) == len({x for _, x in found}) == 5


def test_normalize() -> None:
    spec = DatasetSpec("x", (2, 1, 1), (0.5, 0.25), (0.5, 0.25), (), ("", ""), ("", ""), 0, 0)
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 2, 1, 1)
    torch.testing.assert_close(normalize(images, spec).flatten(), torch.tensor([-1.0, 3.0]))


def test_kernel_parameters_have_no_weight_decay(dataset: Dataset) -> None:
    config = {"num_classes": CLASSES, "learnable": "layer", "kernel": "polynomial"}
    settings = {"seed": 0, "optimizer": "adamw", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
    run = edgeconv.training.run.Run("lenet5", config, settings, dataset, None, "cpu")
    decay = {id(p): group["weight_decay"] for group in run.optimizer.param_groups for p in group["params"]}
    for name, parameter in run.model.named_parameters():
        assert decay[id(parameter)] == (0.1 if name.endswith(".weight") else 0.0), name
