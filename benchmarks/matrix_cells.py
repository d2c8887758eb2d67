"""The cells of the export matrix: which architecture, with which layers, at which resolution, and from which source."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import edgeconv
from edgeconv.models.registry import ModelInfo, create, list_models
from edgeconv.ops.kervolution import OPERATOR_OF_KERNEL
from edgeconv.ops.kervolution_function import FUNCTIONS

PLAIN, DECONVOLUTION = "plain", "deconvolution"
LAYERS = (PLAIN, *OPERATOR_OF_KERNEL, DECONVOLUTION)
"""What an architecture's convolutions are."""

SMALL, PAPER = "small", "paper"
SIZES = (SMALL, PAPER)
"""A small input, or the one of the paper (the architecture's default)."""

SMALL_INPUT = (64, 72)
"""Rows and columns of the small input where the paper's is larger: unequal, so that swapped axes show."""

BLOCK = 64
"""Channels that a deconvolution whitens together: the authors'."""

NORMALIZED = ("googlenet", "lenet5", "vgg11", "vgg13", "vgg16", "vgg19")
"""Architectures whose form without batch normalisation has no scale to hold a distance's values within float32; with
layers other than plain ones they are built with it (`batch_norm`)."""

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "tensorrt_rtx_cu13_libs")
"""What a cell's result depends on besides edgeconv."""

SOURCES = {
    **dict.fromkeys(OPERATOR_OF_KERNEL, ("nn/kervolution.py", "nn/convert.py")),
    DECONVOLUTION: ("nn/deconvolution.py", "nn/convert_deconvolution.py", "rewrite/fold_whitening.py"),
    PLAIN: (),
}
"""Files of edgeconv that make the layers, besides those of the architecture's own classes and the kernel's function."""

EXPORT = ("export/graph.py", "export/forms.py", "export/pipeline.py")
"""Files of edgeconv that every cell goes through."""


@dataclass(frozen=True)
class Cell:
    """One export.

    Attributes:
        architecture: As the registry names it.
        layers: One of `LAYERS`.
        size: One of `SIZES`.
        config: What the architecture is built with, besides its defaults.
        input_shape: C, H, W.
    """

    architecture: str
    layers: str
    size: str
    config: Mapping[str, Any]
    input_shape: tuple[int, int, int]

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.architecture}/{self.layers}/{self.size}"

    def to_dict(self) -> dict[str, Any]:
        """What the process that runs it is told."""
        return {"architecture": self.architecture, "config": dict(self.config), "input_shape": list(self.input_shape)}

    def digest(self) -> str:
        """Hash of what its result depends on: what is built and fed, the sources that do it, the packages' versions."""
        root = Path(edgeconv.__file__).parent
        here = Path(__file__).parent
        files = {
            *_class_files(self.architecture),
            *(root / name for name in (*SOURCES[self.layers], *EXPORT)),
            *(here / f"matrix_{part}.py" for part in ("prepare", "stages")),
        }
        told = {**self.to_dict(), "sources": {file.name: _code(file) for file in sorted(files)}, "packages": versions()}
        if operator := OPERATOR_OF_KERNEL.get(self.layers):
            told["function"] = FUNCTIONS[operator.name].SerializeToString(deterministic=True).hex()
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def cells(architectures: Iterable[str], layers: Iterable[str], sizes: Iterable[str]) -> Iterator[Cell]:
    """Every cell of a choice: small ones first, of one size the plain ones first.

    An architecture whose paper's input is already small has the small size alone, at that input.
    """
    known = {info.name: info for info in list_models()}
    chosen_layers, chosen = list(layers), [known[name] for name in architectures]
    for size in (size for size in SIZES if size in set(sizes)):
        for layer in chosen_layers:
            for info in chosen:
                if size == SMALL or has_paper_size(info):
                    yield _cell(info, layer, size)


def has_paper_size(info: ModelInfo) -> bool:
    """Whether the paper's input is larger than the small one."""
    return min(info.input_shape[1:]) > max(SMALL_INPUT)


def _cell(info: ModelInfo, layer: str, size: str) -> Cell:
    shape = (info.input_shape[0], *SMALL_INPUT) if size == SMALL and has_paper_size(info) else info.input_shape
    config: dict[str, Any] = {}
    if layer == DECONVOLUTION:
        config["deconv_block"] = BLOCK
    elif layer != PLAIN:
        config["kernel"] = layer
    if layer in OPERATOR_OF_KERNEL and info.name in NORMALIZED:
        config["batch_norm"] = True
    return Cell(info.name, layer, size, config, shape)


@cache
def versions() -> dict[str, str]:
    """The installed packages' versions; "none" of one that is missing."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


@cache
def _class_files(architecture: str) -> tuple[Path, ...]:
    """The files of edgeconv that define the classes an architecture consists of."""
    import torch

    with torch.device("meta"):
        model = create(architecture)
    modules = {type(module).__module__ for module in model.modules()}
    found = {sys.modules[name].__file__ for name in modules if name.split(".")[0] == "edgeconv"}
    return tuple(sorted(Path(file) for file in found if file is not None))


@cache
def _code(file: Path) -> str:
    """Hash of a file's code: comments, docstrings and layout do not count."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def _is_text(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
