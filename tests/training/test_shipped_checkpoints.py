"""The shipped checkpoints: what they hold, how well they read the 200 shipped images, and that their records agree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeconv.checkpoint import Checkpoint, load_checkpoint
from edgeconv.models import resolve_config
from edgeconv.models.convolutions import DECONV_CONFIG
from edgeconv.nn import Kerv2d
from edgeconv.training import DATASETS
from edgeconv.training.loop import evaluate, normalize

EXAMPLES = Path(__file__).parents[2] / "examples"
MNIST = DATASETS["mnist"]

SHIPPED = {
    # file: architecture, kervolutional layers, least top-1 on the 10,000 test images
    "lenet_kerv.pt": ("lenet5", 3, 0.990),
    "resnet_kerv.pt": ("resnet20", 19, 0.994),
}


@pytest.fixture(params=SHIPPED)
def shipped(request: pytest.FixtureRequest) -> tuple[str, Checkpoint]:
    return request.param, load_checkpoint(EXAMPLES / request.param)


@pytest.fixture(scope="module")
def images() -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(EXAMPLES / "mnist_test_200.npz") as data:
        return torch.from_numpy(data["images"])[:, None], torch.from_numpy(data["labels"])


def test_images(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    pixels, labels = images
    assert pixels.shape == (200, 1, 28, 28)
    assert pixels.dtype == torch.uint8
    assert torch.bincount(labels).tolist() == [20] * 10
    # Digits, not noise: mostly background, and about as bright as the whole training set.
    assert 0.7 < float((pixels == 0).float().mean()) < 0.9
    assert abs(float(pixels.float().mean()) / 255 - MNIST.mean[0]) < 0.02


def test_reads_the_shipped_images(shipped: tuple[str, Checkpoint], images: tuple[torch.Tensor, torch.Tensor]) -> None:
    _, top1 = evaluate(shipped[1].module, *images, MNIST)
    assert top1 >= 0.99


def test_metadata(shipped: tuple[str, Checkpoint]) -> None:
    name, checkpoint = shipped
    architecture, layers, _ = SHIPPED[name]
    assert checkpoint.architecture == architecture
    assert checkpoint.input_shape == MNIST.input_shape
    assert checkpoint.normalization == MNIST.normalization
    assert checkpoint.class_names == list(MNIST.class_names)
    # Keys younger than the checkpoints take their defaults, which change nothing.
    younger = {"precision": "float32", **DECONV_CONFIG, **({"batch_norm": False} if architecture == "lenet5" else {})}
    assert not younger.keys() & checkpoint.config.keys()
    assert younger["deconv_block"] == 0
    assert resolve_config(architecture, checkpoint.config) == {**checkpoint.config, **younger}
    kervolutions = [module for module in checkpoint.module.modules() if isinstance(module, Kerv2d)]
    assert len(kervolutions) == layers
    assert {(module.kernel, module.degree) for module in kervolutions} == {("polynomial", 3)}


def test_training_record(shipped: tuple[str, Checkpoint]) -> None:
    """The history beside the checkpoint is the one inside, and the accuracy claimed is the last epoch's."""
    name, checkpoint = shipped
    architecture, _, least = SHIPPED[name]
    history = json.loads((EXAMPLES / "training" / f"{architecture}_polynomial_seed0.json").read_text())
    assert checkpoint.training is not None
    assert checkpoint.training["epochs"] == history["epochs"]
    assert checkpoint.training["settings"] == history["settings"]
    assert checkpoint.config == history["config"]
    assert checkpoint.training["top1"] == history["epochs"][-1]["test_top1"] >= least


def test_plain_runs_differ_only_in_kernel() -> None:
    histories = {path.stem: json.loads(path.read_text()) for path in (EXAMPLES / "training").glob("*.json")}
    assert any(name.endswith("_linear_seed0") for name in histories)
    for name, history in histories.items():
        architecture, kernel, seed = name.split("_")
        assert (history["architecture"], history["config"]["kernel"]) == (architecture, kernel)
        assert f"seed{history['settings']['seed']}" == seed
        twin = histories[f"{architecture}_polynomial_{seed}"]
        assert {**history["config"], "kernel": "", "init_gain": 0} == {**twin["config"], "kernel": "", "init_gain": 0}
        assert history["settings"] == twin["settings"]


def test_half_precision(shipped: tuple[str, Checkpoint], images: tuple[torch.Tensor, torch.Tensor]) -> None:
    """In float16 the classes stay. Normalisation stays in float32: a cube's variance exceeds float16's range."""
    module = shipped[1].module
    x = normalize(images[0], MNIST)
    with torch.no_grad():
        expected = module(x)
        normalisations = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
        kept = [{name: tensor.clone() for name, tensor in layer.state_dict().items()} for layer in normalisations]
        module.half()
        for layer, state in zip(normalisations, kept, strict=True):
            layer.float().load_state_dict(state)
        actual = module(x.half()).float()
    assert torch.equal(actual.argmax(1), expected.argmax(1))
    torch.testing.assert_close(actual, expected, rtol=0, atol=0.02 * float(expected.abs().max()))
