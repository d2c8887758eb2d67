"""`visualize_model`: a checkpoint and images in; pictures, a table and perhaps an `.onnx` out."""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeconv.checkpoint import Checkpoint, load_checkpoint
from edgeconv.errors import InputError
from edgeconv.files import check_output
from edgeconv.normalization import read_normalization
from edgeconv.pictures import check_picture
from edgeconv.quantize.images import InputSpec
from edgeconv.visualization.image_set import ImageSet
from edgeconv.visualization.onnx_file import export_projection, real_images
from edgeconv.visualization.operations import OPERATION_NAMES
from edgeconv.visualization.patches import project_patches
from edgeconv.visualization.picture import draw_features, draw_filters
from edgeconv.visualization.project import check_feature
from edgeconv.visualization.report import FeatureReport, PatchReport, VisualizationReport
from edgeconv.visualization.search import Progress, Search, search_images
from edgeconv.visualization.stack import Shape, Stack
from edgeconv.visualization.tracing import Trace, trace

StrPath = str | os.PathLike[str]

_GIVE_IMAGES = "Give --image: a picture, a directory of them, a .npy or a .npz."
TOP, COUNT, BATCH = 9, 9, 16


def visualize_model(
    checkpoint: StrPath,
    layer: str | None = None,
    images: StrPath | Sequence[StrPath] = (),
    *,
    output: StrPath | None = None,
    features: Sequence[int] = (),
    top: int = TOP,
    count: int = COUNT,
    filters: StrPath | None = None,
    export_onnx: StrPath | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: tuple[int, int] | None = None,
    batch: int = BATCH,
    architecture: str | None = None,
    config: Mapping[str, Any] | None = None,
    trust_pickle: bool = False,
    progress: Progress | None = None,
) -> VisualizationReport:
    """Show what excites features of a layer: `edgeconv visualize`.

    Source: Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014 (arXiv 1311.2901).

    Args:
        checkpoint: A `.pt`, `.pth`, `.safetensors` or `.pt2` file; see `edgeconv.load_checkpoint`.
        layer: The layer's name in the model. Only pictures of filters do without. Alone it is described in the report.
        images: What to search for strong activations, one place or several: pictures, directories of them, `.npy` or
            `.npz` (`images`). uint8 is normalised, float is taken as it is.
        output: The picture to write, `.png`, `.svg` or `.pdf`: each feature's patches beside their reconstructions.
        features: Which to show; by default those with the strongest activations.
        top: How many activations of a feature, each of another image.
        count: How many features, if none are given.
        filters: A picture to write of the first layer's filters.
        export_onnx: An `.onnx` to write, which projects one feature; kept only if ONNX Runtime agrees with PyTorch.
        mean: Subtracted from pixels in [0, 1] (in [0, 255] if a value exceeds 1); by default as the checkpoint says.
        std: What they are divided by.
        size: Height and width of the network's input; by default the checkpoint's.
        batch: Images at a time.
        architecture: Registry name for a bare state dict.
        config: Its keyword arguments.
        trust_pickle: Load pickled modules, which runs code from the file.
        progress: Called with what is being done and how much of it (0 to 1).

    Returns:
        The strongest activations of the features shown, and what was written.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        InputError: The layer cannot be shown, an option or an image does not fit, or a file cannot be written.
        MissingDependencyError: Pictures need matplotlib, reading them pillow.
        ParityError: ONNX Runtime disagrees with PyTorch; no file is left behind.
    """
    tell = progress or (lambda _what, _done: None)
    images = [images] if isinstance(images, str | os.PathLike) else list(images)
    for option, value in (("--top", top), ("--count", count), ("--batch", batch)):
        if value < 1:
            raise InputError(f"{option} must be 1 or more, got {value}.")
    if not images:
        if output is not None:
            raise InputError("--output needs images.", _GIVE_IMAGES)
        if features and export_onnx is None:
            raise InputError("--feature needs images, or --export-onnx.", _GIVE_IMAGES)
    _check_outputs([checkpoint, *images], output, filters, export_onnx)
    tell("Loading", 0.0)
    loaded = load_checkpoint(checkpoint, architecture=architecture, config=config, trust_pickle=trust_pickle)
    traced, shape = _trace(loaded, size)
    normalization = read_normalization({"edgeconv.normalization": json.dumps(loaded.normalization)}, mean, std)
    if layer is None and (images or export_onnx is not None or filters is None):
        raise InputError("no layer is named.", f"Give --layer. Layers: {', '.join(traced.shown()) or 'none'}.")
    first_filters = traced.first_filters() if filters is not None else None
    stack = None if layer is None else traced.stack(layer)
    if stack is not None:
        for feature in features:
            check_feature(stack, feature)
    found: Search | None = None
    shown: list[int] = list(dict.fromkeys(features))
    place = None
    if stack is not None and images:
        place = ImageSet(images, InputSpec("image", shape, normalization))
        found = search_images(stack, place, top, batch, tell)
        shown = shown or found.strongest_features(count)
    onnx_report = None
    if stack is not None and export_onnx is not None:
        tell("Exporting", 0.0)
        real = real_images(loaded, stack, normalization, place, found, shown)
        first = shown[0] if shown else 0
        onnx_report = export_projection(stack, first, export_onnx, loaded, normalization, real, tell)
    if stack is not None and found is not None and place is not None and output is not None:
        drawings = []
        for index, each in enumerate(shown):
            tell("Projecting", index / len(shown))
            patches = project_patches(stack, place, found.features[each], each, normalization, batch)
            drawings.append((f"feature {each}", patches))
        tell("Drawing", 0.9)
        draw_features(drawings, shape[1:], output)
    if filters is not None and first_filters is not None:
        name, weights = first_filters
        draw_filters(weights.float().numpy(force=True), f"filters of {name}", filters)
    return VisualizationReport(
        checkpoint=os.fspath(checkpoint),
        layer=layer,
        operations={} if stack is None else _operations(stack),
        features=0 if stack is None else stack.features,
        map_size=(0, 0) if stack is None else stack.output_shape[1:],
        input_shape=shape,
        receptive_field=(0, 0) if stack is None else _field(stack),
        images=0 if found is None else found.images,
        skipped={} if place is None else place.skipped,
        silent=0 if found is None else found.silent,
        shown=[] if stack is None or found is None else [_feature_report(stack, found, each) for each in shown],
        output=None if output is None else os.fspath(output),
        filters=None if filters is None else os.fspath(filters),
        onnx=onnx_report,
    )


def _check_outputs(
    inputs: Sequence[StrPath], output: StrPath | None, filters: StrPath | None, export_onnx: StrPath | None
) -> None:
    """Refuse outputs that cannot be written, that are inputs, or that are the same file."""
    for option, picture in (("--output", output), ("--filters", filters)):
        if picture is not None:
            check_picture(option, picture, inputs)
    if export_onnx is not None:
        check_output("--export-onnx", export_onnx, inputs)
    written = [Path(path).resolve() for path in (output, filters, export_onnx) if path is not None]
    if len(set(written)) < len(written):
        raise InputError(
            "--output, --filters and --export-onnx name the same file.", "Name a file of its own for each."
        )


def _trace(loaded: Checkpoint, size: tuple[int, int] | None) -> tuple[Trace, Shape]:
    """Trace the model at the input's size."""
    if loaded.program is not None:
        if size is not None:
            raise InputError("a .pt2 program has its input's size fixed.", "Leave out --size.")
        traced = Trace(loaded.program)
        if traced.dtype != torch.float32:
            raise InputError(
                f"the program computes in {str(traced.dtype).removeprefix('torch.')}.", "Save a float32 one."
            )
        return traced, traced.input_shape
    shape = loaded.input_shape
    if shape is None and size is None:
        raise InputError(f"the checkpoint of {loaded.architecture} does not say its input's size.", "Give --size.")
    channels = shape[0] if shape is not None else _channels(loaded.module)
    height, width = size if size is not None else shape[1:] if shape is not None else (0, 0)
    traced = trace(loaded.module.float(), torch.zeros(1, channels, height, width))
    return traced, (channels, height, width)


def _channels(module: nn.Module) -> int:
    first = next((each for each in module.modules() if isinstance(each, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels


def _operations(stack: Stack) -> dict[str, int]:
    return dict(collections.Counter(OPERATION_NAMES[type(each)] for each in stack.operations))


def _field(stack: Stack) -> tuple[int, int]:
    field = stack.unclipped_field(0, 0)
    return field.height, field.width


def _feature_report(stack: Stack, found: Search, feature: int) -> FeatureReport:
    reports = []
    for each in found.features[feature]:
        box = stack.receptive_field(each.row, each.column)
        patch = (box.top, box.left, box.bottom, box.right)
        reports.append(PatchReport(each.activation, each.image, each.row, each.column, patch))
    return FeatureReport(feature, reports)
