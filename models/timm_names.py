"""timm's names of MobileNetV2 and EfficientNet: which state dicts load, and what their layers are called here.

timm numbers stages and blocks (`blocks.2.0`) and names layers by their part in a block: `conv_pw` expands, `conv_dw` is
depthwise, `conv_pwl` projects; in a block that does not expand `conv_pw` projects.
"""

from __future__ import annotations

import re

from torch import nn

from edgeconv.models import efficientnet, mobilenet_v2
from edgeconv.models.registry import add_weights
from edgeconv.nn.blocks import MBConv

EXPANDING = {
    "conv_pw": ("expand", "conv"), "bn1": ("expand", "norm"), "conv_dw": ("depthwise", "conv"),
    "bn2": ("depthwise", "norm"), "conv_pwl": ("project", "conv"), "bn3": ("project", "norm"),
}  # fmt: skip
"""Layers of a block that expands: their part, and whether they are its convolution or its normalisation."""
PLAIN = {
    "conv_dw": ("depthwise", "conv"), "bn1": ("depthwise", "norm"),
    "conv_pw": ("project", "conv"), "bn2": ("project", "norm"),
}  # fmt: skip
"""Layers of one that does not."""
SQUEEZE = {"se.conv_reduce": "fc1", "se.conv_expand": "fc2"}
ENDS = {"conv_stem": (0, "0"), "bn1": (0, "1"), "conv_head": (-1, "0"), "bn2": (-1, "1")}


def _end(model: nn.Module, layer: str) -> str | None:
    if layer == "classifier":
        return "classifier.1"
    if layer not in ENDS:
        return None
    index, inner = ENDS[layer]
    features = model.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    return f"features.{index % len(features)}.{inner}"


def _in_block(layer: str) -> tuple[int, int, str] | None:
    found = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(.+)", layer)
    return None if found is None else (int(found[1]), int(found[2]), found[3])


def rename_mobilenet_v2(model: nn.Module, name: str) -> str | None:
    """Return the name in MobileNetV2 of what timm calls `name`."""
    layer, _, tensor = name.rpartition(".")
    place = _in_block(layer)
    if place is None:
        end = _end(model, layer)
        return None if end is None else f"{end}.{tensor}"
    stage, block, inner = place
    if stage >= len(mobilenet_v2.STAGES):
        return None
    expands = mobilenet_v2.STAGES[stage][0] != 1
    layers = EXPANDING if expands else PLAIN
    if inner not in layers:
        return None
    part, kind = layers[inner]
    position = ["expand", "depthwise", "project"].index(part) - (not expands)
    where = str(position + (kind == "norm")) if part == "project" else f"{position}.{0 if kind == 'conv' else 1}"
    index = 1 + sum(blocks for _, _, blocks, _ in mobilenet_v2.STAGES[:stage]) + block
    return f"features.{index}.conv.{where}.{tensor}"


def rename_efficientnet(model: nn.Module, name: str) -> str | None:
    """Return the name in EfficientNet of what timm calls `name`."""
    layer, _, tensor = name.rpartition(".")
    place = _in_block(layer)
    if place is None:
        end = _end(model, layer)
        return None if end is None else f"{end}.{tensor}"
    stage, block, inner = place
    path = f"features.{stage + 1}.{block}"
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return None
    if not isinstance(module, MBConv):
        return None
    parts = ["expand"] * module.expands + ["depthwise"] + ["squeeze"] * module.squeezes + ["project"]
    if inner in SQUEEZE and module.squeezes:
        return f"{path}.block.{parts.index('squeeze')}.{SQUEEZE[inner]}.{tensor}"
    layers = EXPANDING if module.expands else PLAIN
    if inner not in layers:
        return None
    part, kind = layers[inner]
    return f"{path}.block.{parts.index(part)}.{0 if kind == 'conv' else 1}.{tensor}"


add_weights(
    "mobilenet_v2",
    {
        "torchvision mobilenet_v2": None,
        **{
            f"timm mobilenetv2_{round(100 * width):03d}{f' (width={width})' if width != 1 else ''}": rename_mobilenet_v2
            for width in (1.0, 0.35, 0.5, 0.75, 1.4)
        },
    },
)
for _scale in efficientnet.SCALES:
    _theirs = _scale in ("b5", "b6", "b7")  # see efficientnet.py: these have TensorFlow's epsilon by default
    _eps = ", bn_eps=0.001" if not _theirs else ""
    add_weights(
        f"efficientnet_{_scale}",
        {
            f"torchvision efficientnet_{_scale}": None,
            f"timm efficientnet_{_scale}{' (bn_eps=1e-5)' if _theirs else ''}": rename_efficientnet,
            f"timm tf_efficientnet_{_scale} (padding=same{_eps})": rename_efficientnet,
        },
    )
add_weights(
    "efficientnet_lite0",
    {
        "timm tf_efficientnet_lite0": rename_efficientnet,
        "timm efficientnet_lite0 (padding=symmetric, bn_eps=1e-5)": rename_efficientnet,
    },
)
