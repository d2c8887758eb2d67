"""Names, configuration and errors of the model registry."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from torch import nn

from edgeconv.errors import InputError
from edgeconv.models import create, list_models, register, resolve_config
from edgeconv.models.convolutions import DECONV_CONFIG
from edgeconv.models.registry import ModelTable, model_info


def test_list() -> None:
    infos = list_models()
    assert [info.name for info in infos] == [
        "alexnet", "deeplabv3_resnet50", "densenet121", "dpn92", *(f"efficientnet_b{n}" for n in range(8)),
        "efficientnet_lite0", "googlenet", "lenet5", "mobilenet_v1", "mobilenet_v2", "nin", "pnasnet",
        "preact_resnet18", "resnet101", "resnet152", "resnet18", "resnet20", "resnet32", "resnet34", "resnet50",
        "resnet56", "resnext29_32x4d", "resnext29_8x64d", "resnext50_32x4d", "se_resnet50", "senet18", "vgg11",
        "vgg13", "vgg16", "vgg19", "zfnet",
    ]  # fmt: skip
    for info in infos:
        assert json.loads(json.dumps(info.to_dict()))["input_shape"] == list(info.input_shape)
        assert re.search(r'^[A-Z].+, ".+", .*(19|20)\d\d', info.paper), info.paper
        assert {"num_classes", "in_channels", "kernel", "where", "degree", "learnable"} <= set(info.config)
        assert {key: value for key, value in info.config.items() if key.startswith("deconv")} == DECONV_CONFIG


def test_weights_are_listed() -> None:
    assert model_info("resnet50").to_dict()["weights"] == ["torchvision resnet50", "timm resnet50"]
    assert model_info("lenet5").weights == ()
    console = Console(file=io.StringIO(), width=120)
    ModelTable(list_models()).render(console)
    assert "weights: torchvision resnet50, timm resnet50" in console.file.getvalue()  # type: ignore[attr-defined]


def test_resolve_config() -> None:
    resolved = resolve_config("lenet5", {"kernel": "gaussian"})
    assert resolved == {**model_info("lenet5").config, "kernel": "gaussian"}
    assert model_info("lenet5").config["kernel"] == "linear"
    with pytest.raises(TypeError):
        model_info("lenet5").config["kernel"] = "gaussian"  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("resnet-20", "Did you mean resnet20"), ("lenet", "Did you mean lenet5"), ("squeezenet", "Models: ")],
)
def test_unknown_name(name: str, remedy: str) -> None:
    with pytest.raises(InputError, match=f"no model is named '{name}'") as raised:
        create(name)
    assert remedy in raised.value.remedy
    assert "resnet50" in raised.value.remedy


def test_unknown_key() -> None:
    with pytest.raises(InputError, match="model 'resnet20' has no configuration key 'kernal'") as raised:
        create("resnet20", kernal="polynomial")
    assert raised.value.remedy.startswith("Did you mean 'kernel'? Keys: ")
    assert all(key in raised.value.remedy for key in model_info("resnet20").config)


@pytest.mark.parametrize(
    ("name", "config", "cause"),
    [
        ("resnet20", {"kernel": "cubic"}, "kernel must be one of"),
        ("resnet20", {"kernel": "polynomial", "degree": 0}, "degree must be"),
        ("resnet20", {"kernel": "polynomial", "degree": "three"}, "degree must be"),
        ("resnet20", {"kernel": "gaussian", "gamma": -1.0}, "gamma must be positive"),
        ("resnet20", {"kernel": "gaussian", "gamma": "wide"}, "cannot be built"),
        ("resnet20", {"kernel": "polynomial", "learnable": "pixel"}, "learnable must be"),
        ("resnet20", {"kernel": "polynomial", "init_gain": 0}, "init_gain must be positive"),
        ("resnet20", {"where": "last"}, "where must be one of all, first, 3x3"),
        ("resnet20", {"shortcut": "C"}, "shortcut must be"),
        ("resnet20", {"activation": "gelu"}, "activation must be one of relu, relu6"),
        ("resnet50", {"activation": "gelu"}, "activation must be one of relu, relu6"),
        ("resnet20", {"num_classes": -1}, "cannot be built with num_classes=-1"),
        ("resnet20", {"in_channels": "one"}, 'cannot be built with in_channels="one"'),
        ("lenet5", {"kernel": "polynomial", "where": "3x3"}, "no Conv1d or Conv2d layer matches"),
        ("lenet5", {"activation": "gelu"}, "activation must be one of relu, tanh, none"),
        ("lenet5", {"pool": "min"}, "pool must be one of max, avg"),
        ("vgg11", {"first_padding": 0}, "first_padding must be at least 1"),
        ("vgg11", {"deconv_block": -1}, "deconv_block must be a whole number, 0 for none; got -1"),
        ("vgg11", {"deconv_block": True}, "deconv_block must be a whole number"),
        ("vgg11", {"deconv_block": 8, "deconv_block_linear": 0.5}, "deconv_block_linear must be a whole number"),
        ("vgg11", {"deconv_block": 8, "deconv_eps": 0.0}, "eps must be positive"),
        ("vgg11", {"deconv_block": 8, "deconv_n_iter": 0}, "n_iter and sampling_stride must be at least 1"),
        ("lenet5", {"deconv_block": 8, "where": "3x3"}, "no Conv2d or Linear layer matches"),
        (
            "resnet20",
            {"deconv_block": 8, "kernel": "gaussian"},
            "kervolution or a deconvolution, not both; .*deconv_block=8",
        ),
    ],
)
def test_bad_value(name: str, config: dict[str, Any], cause: str) -> None:
    with pytest.raises(InputError, match=cause) as raised:
        create(name, **config)
    assert "edgeconv models" in raised.value.remedy


def test_register() -> None:
    with pytest.raises(ValueError, match="registered already"):

        @register("lenet5", description="", paper="", input_shape=(1, 1, 1), config={})
        def again() -> nn.Module:
            return nn.Identity()

    with pytest.raises(TypeError):
        register("other", description="", paper="", input_shape=(1, 1, 1), config={"layer": nn.ReLU})


def test_registry_needs_no_torch(tmp_path: Path) -> None:
    """Importing it must not; listing says what is missing."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import edgeconv.models, edgeconv.training\n"
        "from edgeconv.errors import MissingDependencyError\n"
        "for call in (edgeconv.models.list_models, lambda: edgeconv.training.train_model('lenet5')):\n"
        "    try: call()\n"
        "    except MissingDependencyError as error: print(error.message, error.remedy)\n"
        "    else: print('built')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("PyTorch, which is not installed. Install it: pip install 'edgeconv[export]'.") == 2
