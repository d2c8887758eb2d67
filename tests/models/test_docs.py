"""docs/models.md against the registry: figures, keys and whose weights load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from edgeconv.models import create, list_models
from edgeconv.models.convolutions import CONVOLUTION_CONFIG
from edgeconv.models.registry import model_info

from .test_figures import agrees
from .zoo import default_figures, parameters

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def rows(section: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    lines = PAGE[PAGE.index(section) :].splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("|---"))
    table = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return table


FIGURES = rows("# Architectures")


@pytest.mark.parametrize("row", FIGURES, ids=[row[0] for row in FIGURES])
def test_figures(row: list[str]) -> None:
    name, _, shape, count, macs, keys = row
    info = model_info(name.strip("`"))
    assert shape == "×".join(map(str, info.input_shape))
    own = [key for key in info.config if key not in CONVOLUTION_CONFIG and key not in ("num_classes", "in_channels")]
    assert re.findall(r"`(\w+)`", keys) == own
    counted, macs_counted = default_figures(info.name)
    assert f"{counted:,}" == count
    assert agrees(macs_counted, macs)


def test_every_architecture_is_there() -> None:
    assert sorted(row[0].strip("`") for row in FIGURES) == sorted(info.name for info in list_models())


def test_other_figures() -> None:
    with torch.device("meta"):
        assert f"{parameters(create('googlenet', aux=False)):,}" in PAGE
        assert f"{parameters(create('alexnet', columns=1)):,}" in PAGE


def test_whose_weights_load() -> None:
    """Every architecture that takes weights has a row, and every name in a row is one that is known."""
    table = " ".join(" ".join(row) for row in rows("## Weights that others trained"))
    sources = {source.split(" ")[1] for info in list_models() for source in info.weights}
    families = ("vgg", "resnet", "efficientnet_b", "tf_efficientnet_b")  # written as ranges
    for name in sources:
        assert f"`{name}`" in table or re.sub(r"\d+(_bn)?$", "", name) in families, name
    settings = {"columns", "form", "num_classes", "batch_norm", "width", "padding", "bn_eps", "blocks"}
    named = {name for name in re.findall(r"`(\w+)", table) if name not in settings}
    assert named <= sources | {info.name for info in list_models()}
