"""State dicts of torchvision and timm: every name and shape finds its place, and what does not fit is listed.

`names/` holds the names and shapes of torchvision 0.28 and timm 1.0.31; `bn` stands for the five tensors of a batch
normalisation. That the outputs agree with theirs too was checked with both packages, for every entry of
`ModelInfo.weights`; neither is needed here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgeconv.checkpoint import load_checkpoint
from edgeconv.errors import CheckpointError
from edgeconv.models import create
from edgeconv.models.registry import match_state, model_info, rename_state

NAMES = Path(__file__).parent / "names"

CASES: list[tuple[str, str, dict[str, Any], dict[str, str]]] = [
    # file, architecture, configuration, some of the names with what they are called here
    (
        "timm_dpn92",
        "dpn92",
        {},
        {"features.conv3_1.c1x1_w_s2.bn.weight": "features.conv3_1.c1x1_w_s2.bn.weight", "classifier.bias": "fc.bias"},
    ),
    (
        "timm_resnetv2_18",
        "preact_resnet18",
        {},
        {
            "stem.conv.weight": "conv1.weight",
            "stages.1.blocks.0.downsample.conv.weight": "layer2.0.downsample.weight",
            "stages.3.blocks.1.norm2.running_var": "layer4.1.bn2.running_var",
            "norm.bias": "bn.bias",
            "head.fc.weight": "fc.weight",
        },
    ),
    ("timm_seresnet50", "se_resnet50", {}, {"layer3.5.se.fc2.bias": "layer3.5.se.fc2.bias"}),
    (
        "timm_mobilenetv1_100",
        "mobilenet_v1",
        {},
        {
            "conv_stem.weight": "features.0.0.weight",
            "bn1.bias": "features.0.1.bias",
            "blocks.0.0.conv_dw.weight": "features.1.0.0.weight",
            "blocks.2.1.bn1.running_mean": "features.5.0.1.running_mean",
            "blocks.3.5.conv_pw.weight": "features.11.1.0.weight",
            "blocks.4.1.bn2.weight": "features.13.1.1.weight",
            "classifier.weight": "classifier.1.weight",
        },
    ),
    (
        "timm_mobilenetv2_100",
        "mobilenet_v2",
        {},
        {
            "blocks.0.0.conv_dw.weight": "features.1.conv.0.0.weight",
            "blocks.0.0.conv_pw.weight": "features.1.conv.1.weight",
            "blocks.0.0.bn2.bias": "features.1.conv.2.bias",
            "blocks.2.1.conv_pw.weight": "features.5.conv.0.0.weight",
            "blocks.2.1.bn2.weight": "features.5.conv.1.1.weight",
            "blocks.6.0.conv_pwl.weight": "features.17.conv.2.weight",
            "blocks.6.0.bn3.weight": "features.17.conv.3.weight",
            "conv_head.weight": "features.18.0.weight",
            "bn2.weight": "features.18.1.weight",
        },
    ),
    (
        "timm_efficientnet_b0",
        "efficientnet_b0",
        {},
        {
            "blocks.0.0.conv_pw.weight": "features.1.0.block.2.0.weight",
            "blocks.0.0.se.conv_expand.bias": "features.1.0.block.1.fc2.bias",
            "blocks.3.2.conv_dw.weight": "features.4.2.block.1.0.weight",
            "blocks.6.0.bn3.bias": "features.7.0.block.3.1.bias",
            "conv_head.weight": "features.8.0.weight",
        },
    ),
    (
        "timm_vgg16",
        "vgg16",
        {},
        {
            "pre_logits.fc1.weight": "classifier.0.weight",
            "pre_logits.fc2.bias": "classifier.3.bias",
            "head.fc.weight": "classifier.6.weight",
            "features.28.bias": "features.28.bias",
        },
    ),
    ("torchvision_googlenet", "googlenet", {"batch_norm": True}, {"aux2.fc2.bias": "aux2.fc2.bias"}),
    (
        "torchvision_deeplabv3_resnet50",
        "deeplabv3_resnet50",
        {},
        {"classifier.0.convs.4.1.weight": "classifier.0.convs.4.1.weight"},
    ),
    ("torchvision_densenet121", "densenet121", {}, {"features.norm5.bias": "features.norm5.bias"}),
    ("torchvision_alexnet", "alexnet", {"columns": 1}, {"classifier.6.bias": "classifier.6.bias"}),
    (
        "torchvision_resnext50_32x4d",
        "resnext50_32x4d",
        {},
        {"layer1.0.downsample.1.bias": "layer1.0.downsample.1.bias"},
    ),
]


def recorded(file: str) -> dict[str, Tensor]:
    """The state dict of a names file, on no device."""
    state: dict[str, Tensor] = {}
    for line in (NAMES / f"{file}.txt").read_text().splitlines():
        name, *shape = line.split()
        if shape and shape[0] == "bn":
            for part in ("weight", "bias", "running_mean", "running_var"):
                state[f"{name}.{part}"] = torch.empty(int(shape[1]), device="meta")
            state[f"{name}.num_batches_tracked"] = torch.empty((), dtype=torch.int64, device="meta")
        else:
            state[name] = torch.empty([int(size) for size in shape], device="meta")
    return state


@pytest.mark.parametrize(("file", "name", "config", "pairs"), CASES, ids=[case[0] for case in CASES])
def test_every_name_finds_its_place(file: str, name: str, config: dict[str, Any], pairs: dict[str, str]) -> None:
    state = recorded(file)
    with torch.device("meta"):
        model = create(name, **config)
    expected = model.state_dict()
    found = match_state(name, model, state)
    assert {key: value.shape for key, value in found.state.items()} == {k: v.shape for k, v in expected.items()}
    if file != "timm_resnetv2_18":  # timm's blocks begin with the shortcut
        assert list(found.state) == list(expected)
    for theirs, ours in pairs.items():
        assert found.state[ours].numel() == state[theirs].numel()
        assert list(found.state).index(ours) == list(state).index(theirs)
    library, _, model_name = file.partition("_")
    known = [source.partition(" (")[0] for source in model_info(name).weights]
    assert f"{library} {model_name}" in known
    assert found.source is None or found.source.startswith(f"{library} {model_name}")
    assert (found.source is None) == all(theirs == ours for theirs, ours in pairs.items()) or name == "dpn92"


def test_published_densenet() -> None:
    """torchvision's files of 2017 number the layers of a block with a point of their own."""
    state = recorded("torchvision_densenet121")
    published = {re.sub(r"(denselayer\d+\.)(norm|conv)([12])\.", r"\1\2.\3.", key): v for key, v in state.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in published
    with torch.device("meta"):
        model = create("densenet121")
    found = match_state("densenet121", model, published)
    assert list(found.state) == list(model.state_dict())
    assert found.source == "torchvision densenet121 (published file)"
    # As those of before PyTorch 0.4.1 they hold no counters.
    old = {key: value for key, value in published.items() if not key.endswith("num_batches_tracked")}
    assert len(old) < len(published)
    assert match_state("densenet121", model, old).state.keys() <= model.state_dict().keys()


def filled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else torch.tensor(3)
        for key, value in state.items()
    }


def test_values_arrive(tmp_path: Path) -> None:
    state = filled(recorded("timm_mobilenetv1_100"))
    torch.save(state, tmp_path / "timm.pth")
    loaded = load_checkpoint(tmp_path / "timm.pth", architecture="mobilenet_v1").module.state_dict()
    pairs = next(pairs for file, _, _, pairs in CASES if file == "timm_mobilenetv1_100")
    for theirs, ours in pairs.items():
        assert torch.equal(loaded[ours], state[theirs])
    assert loaded["features.0.1.num_batches_tracked"] == 3


def test_convolutions_become_linear_layers() -> None:
    """timm's VGG sees 7x7 maps through a convolution; flattened, channels come first in both."""
    model = create("vgg13", width=0.01, num_classes=3)
    state = dict(model.state_dict())
    theirs = {key: value for key, value in state.items() if key.startswith("features.")}
    for layer, ours, shape in (
        ("pre_logits.fc1", "classifier.0", (40, 8, 7, 7)),
        ("pre_logits.fc2", "classifier.3", (40, 40, 1, 1)),
        ("head.fc", "classifier.6", (3, 40)),
    ):
        theirs[f"{layer}.weight"] = state[f"{ours}.weight"].reshape(shape)
        theirs[f"{layer}.bias"] = state[f"{ours}.bias"]
    renamed = rename_state("vgg13", model, theirs)
    assert renamed.keys() == state.keys()
    assert all(torch.equal(renamed[key], value) for key, value in state.items())


def test_what_does_not_match_is_listed(tmp_path: Path) -> None:
    """Names that are known are read as such, so that only the others are missing."""
    state = filled(recorded("timm_mobilenetv1_100"))
    state["blocks.9.0.conv_dw.weight"] = state.pop("blocks.4.1.conv_dw.weight")
    state["classifier.weight"] = torch.zeros(10, 1024)
    state["classifier.bias"] = torch.zeros(10)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(tmp_path / "other.pth", architecture="mobilenet_v1")
    message = raised.value.message
    assert "does not fit mobilenet_v1" in message
    assert "missing: features.13.0.0.weight; " in message
    assert "not in the model: blocks.9.0.conv_dw.weight; " in message
    assert "classifier.1.weight is (10, 1024), expected (1000, 1024)" in message


def test_a_foreign_state_stays_as_it_is() -> None:
    with torch.device("meta"):
        model = create("mobilenet_v1")
    state = {"encoder.weight": torch.zeros(2), "encoder.bias": torch.zeros(2)}
    found = match_state("mobilenet_v1", model, state)
    assert found.source is None
    assert found.state == state


def test_shapes_are_not_forced() -> None:
    """A kernel of other proportions is no flattened one."""
    model = create("lenet5")
    state = dict(model.state_dict())
    state["c1.weight"] = state["c1.weight"].reshape(6, 1, 25, 1)
    assert match_state("lenet5", model, state).state["c1.weight"].shape == (6, 1, 25, 1)
