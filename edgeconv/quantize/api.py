"""`quantize_model`: a float file and images in, an 8-bit file and a report out."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from edgeconv.bench.inputs import INPUT_SHAPE_KEY
from edgeconv.bench.model_file import ModelFile, read_model_file
from edgeconv.errors import InputError
from edgeconv.files import atomic_output, check_output
from edgeconv.normalization import read_normalization
from edgeconv.pictures import check_picture
from edgeconv.quantize.compare import Agreement, compare_outputs
from edgeconv.quantize.half import half_precision
from edgeconv.quantize.images import ImageSource, InputSpec, LabelledImages, open_images
from edgeconv.quantize.labels import open_labelled
from edgeconv.quantize.layer_report import IMAGES as LAYER_IMAGES
from edgeconv.quantize.layer_report import report_layers
from edgeconv.quantize.own_operators import fuse_own_operators
from edgeconv.quantize.pipeline import Progress, Result, run_pipeline, sample_images
from edgeconv.quantize.plot import plot_ranges
from edgeconv.quantize.prepare import prepare_model
from edgeconv.quantize.quantized_graph import write_graph
from edgeconv.quantize.report import QuantizationReport
from edgeconv.quantize.sensitivity import IMAGES as SENSITIVITY_IMAGES
from edgeconv.quantize.sensitivity import TARGET_DB, SensitivityReport, measure_sensitivity
from edgeconv.quantize.settings import Settings, check_settings
from edgeconv.quantize.verdict import measure_latency

StrPath = str | os.PathLike[str]

_FEW_IMAGES = 16
_POOR_AGREEMENT = 0.9


def quantize_model(
    model: StrPath,
    calibration: StrPath,
    *,
    output: StrPath | None = None,
    target: str = "ort",
    method: str = "minmax",
    percentile: float = 99.99,
    equalize: bool = True,
    relax_relu6: bool = False,
    bias_correction: bool = True,
    rounding: str = "covariance",
    exclude: Sequence[str] | None = None,
    int8_io: bool = False,
    sensitivity: bool = False,
    target_sqnr: float = TARGET_DB,
    accuracy: StrPath | None = None,
    compare: StrPath | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: tuple[int, int] | None = None,
    limit: int | None = None,
    batch: int = 16,
    plot: StrPath | None = None,
    latency: bool = True,
    architecture: str | None = None,
    config: Mapping[str, Any] | None = None,
    trust_pickle: bool = False,
    progress: Progress | None = None,
) -> QuantizationReport:
    """Quantise a network to 8 bits after training.

    Args:
        model: A float32 `.onnx` of one input (N, C, H, W), or a checkpoint, which is exported first.
        calibration: Images like those that the network will see: a directory of pictures, a `.npy`, or a `.npz` with
            `images`. uint8 is normalised, float is taken as it is.
        output: The `.onnx` to write, by default MODEL.int8.onnx beside the model. Written whole or not at all.
        target: "ort", "tensorrt" or "portable" (`edgeconv.quantize.targets`).
        method: How the ranges of activations are chosen: "minmax", "percentile", "mse" or "entropy"
            (`edgeconv.quantize.ranges`).
        percentile: Share of the values that the range of that method holds, in percent.
        equalize: Scale channels so that they use their tensor's steps alike; the network's function does not change.
        relax_relu6: Those of ReLU6's outputs too; a channel's bound is then twice what the calibration images showed.
        bias_correction: Take the mean error of each channel from its bias.
        rounding: Of weights: "nearest"; "covariance", by what the errors do to the layer's output; or "learned",
            block by block, with torch.
        exclude: Regular expressions; nodes in whose names one is found stay in float.
        int8_io: The network's inputs and outputs become 8-bit, where they are quantised at all.
        sensitivity: Measure what each layer costs, and propose which to leave in float.
        target_sqnr: Signal-to-noise ratio in dB that the proposal is for.
        accuracy: Labelled images: a directory for each class, or a `labels.csv`.
        compare: Images to measure the agreement on; by default the labelled ones, or else those of the calibration.
        mean: Subtracted from pixels in [0, 1] (in [0, 255] if a value exceeds 1); by default as the file says.
        std: What they are divided by.
        size: Height and width, where the file leaves them open.
        limit: Use the first so many calibration images only.
        batch: Images at a time.
        plot: Draw the ranges of weights and activations to this file.
        latency: Measure both files in ONNX Runtime on this machine, for the verdict.
        architecture: Registry name for a bare state dict.
        config: Its keyword arguments.
        trust_pickle: Load pickled modules, which runs code from the file.
        progress: Called with what is being done and how much of it (0 to 1).

    Returns:
        What was done, what it cost, and whether it pays.

    Raises:
        InputError: The model, the images or an option cannot be used.
        MissingDependencyError: A package that the request needs is not installed.
    """
    settings = check_settings(
        target=target, method=method, percentile=percentile, equalize=equalize, relax_relu6=relax_relu6,
        bias_correction=bias_correction, rounding=rounding, exclude=exclude, int8_io=int8_io, batch=batch,
    )  # fmt: skip
    if not math.isfinite(target_sqnr):
        raise InputError(f"--target-sqnr must be a number of dB, got {target_sqnr:g}.")
    read = [path for path in (model, calibration, accuracy, compare) if path is not None]
    if plot is not None:
        check_picture("--plot", plot, read)
    tell: Progress = progress or (lambda _what, _done: None)
    goal = Path(output) if output is not None else Path(model).with_suffix(".int8.onnx")
    check_output("--output", goal, read)
    with _float_file(model, architecture, config, trust_pickle, tell) as file:
        described = read_model_file(file)
        loaded = onnx.load(file)
        if loaded.ByteSize() == 0:
            raise InputError(f"{model} holds no graph.")
        metadata = {entry.key: entry.value for entry in loaded.metadata_props}
        name = os.fspath(model)
        prepared = prepare_model(loaded, name)
        spec = _input_spec(loaded, metadata, name, mean, std, size, calibration)
        source = open_images(calibration, spec, limit)
        labelled = open_labelled(accuracy, spec, metadata) if accuracy is not None else None
        others = open_images(compare, spec) if compare is not None else None
        result = run_pipeline(prepared, source, settings, state=Path(f"{goal}.resume"), tell=tell)
        tell("comparing with the float network", 0.0)
        judged, on = (others, str(compare)) if others else (source, "those of the calibration")
        agreement, half, halved, said = _compare(result, judged, labelled, settings.batch, alone=others is None)
        if labelled is not None and others is None:
            on = str(accuracy)
        images = sample_images(source, result.images, max(LAYER_IMAGES, SENSITIVITY_IMAGES))
        layers = report_layers(result, images[:LAYER_IMAGES], settings.batch)
        ranking: SensitivityReport | None = None
        if sensitivity:
            ranking = measure_sensitivity(
                result, images[:SENSITIVITY_IMAGES], batch=settings.batch, target_db=target_sqnr, tell=tell
            )
        written, left, notes = _finish(result, settings, metadata, source, described)
        with atomic_output(goal) as temporary:
            temporary.write_bytes(written.SerializeToString())
            took = None
            if latency:
                tell("measuring latency", 0.0)
                shape = (1, *images.shape[1:])
                networks = {"int8": written} | ({} if halved is None else {"float16": halved})
                took, note = measure_latency(file, networks, source.spec.name, shape)
                notes += [note] if note else []
        if plot is not None:
            plot_ranges(result, plot)
        return QuantizationReport(
            source=name,
            path=os.fspath(goal),
            target=settings.target,
            settings=settings.to_dict(),
            calibration={"source": os.fspath(calibration), "images": result.images, "skipped": len(source.skipped)},
            bytes_before=described.size,
            bytes_after=goal.stat().st_size,
            quantized={
                "layers": len(result.placement.layers),
                "operators": len(result.placement.operators),
                "tensors": len(result.placement.bounds),
            },
            absorbed=len(result.graph.absorbed),
            equalized=len(result.equalized),
            left=left,
            agreement=agreement,
            half=half,
            measured_on=on,
            layers=layers,
            sensitivity=ranking,
            latency=took,
            warnings=tuple([*_warnings(result, source, agreement.same_class), *said, *notes]),
        )


@contextlib.contextmanager
def _float_file(
    model: StrPath, architecture: str | None, config: Mapping[str, Any] | None, trust_pickle: bool, tell: Progress
) -> Iterator[Path]:
    """Yield the `.onnx` to quantise: the one given, or one exported from a checkpoint for as long as it is needed."""
    path = Path(model)
    if path.suffix not in (".pt", ".pth", ".pt2"):
        yield path
        return
    import edgeconv

    with tempfile.TemporaryDirectory(prefix="edgeconv-quantize-") as directory:
        exported = Path(directory) / "float.onnx"
        say: Callable[[str], None] = lambda text: tell(text, 0.0)  # noqa: E731
        edgeconv.export_checkpoint(
            path, exported, architecture=architecture, config=config, trust_pickle=trust_pickle, progress=say
        )
        yield exported


def _input_spec(
    model: onnx.ModelProto,
    metadata: dict[str, str],
    name: str,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    size: tuple[int, int] | None,
    calibration: StrPath,
) -> InputSpec:
    """Read what the network takes; sizes that it leaves open come from `size` or from the calibration array."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise InputError(f"{name} has {len(inputs)} inputs ({names}); networks of one input are quantised.")
    tensor = inputs[0].type.tensor_type
    dims = tensor.shape.dim
    if tensor.elem_type != TensorProto.FLOAT or len(dims) != 4:
        raise InputError(
            f"the input {inputs[0].name} of {name} is not a float32 tensor of 4 dimensions (N, C, H, W).",
            "Quantise an image network whose input is float32.",
        )
    known: list[int | None] = [dim.dim_value or None for dim in dims]
    if size is not None:
        for axis, value in zip((2, 3), size, strict=True):
            if known[axis] not in (None, value):
                raise InputError(f"--size {size[0]}x{size[1]} contradicts {name}, whose input is fixed.")
            known[axis] = value
    elif None in known[2:] and Path(calibration).is_dir():
        stored = json.loads(metadata.get(INPUT_SHAPE_KEY, "null"))
        example = f"{stored[2]}x{stored[3]}" if isinstance(stored, list) and len(stored) == 4 else "224x224"
        raise InputError(
            f"{name} leaves its input's height and width open: ranges of activations depend on them.",
            f"Say for which size: --size {example}.",
        )
    normalization = read_normalization(metadata, mean, std)
    return InputSpec(inputs[0].name, (known[1], known[2], known[3]), normalization, known[0])


def _finish(
    result: Result, settings: Settings, metadata: dict[str, str], source: ImageSource, described: ModelFile
) -> tuple[onnx.ModelProto, dict[str, str], list[str]]:
    """Return the model to write, what stays in float, and what to tell the user."""
    graph = result.graph
    if settings.int8_io:
        graph = write_graph(result.prepared, result.placement, result.parameters, result.target, integer_io=True)
    model, left, notes = fuse_own_operators(graph.model, result.placement)
    model.producer_name, model.producer_version = "edgeconv", importlib.metadata.version("edgeconv")
    kept = {entry.key: entry.value for entry in model.metadata_props}
    about = {
        "edgeconv.version": model.producer_version,
        "edgeconv.precision": "int8",
        "edgeconv.quantization": json.dumps({**settings.to_dict(), "images": result.images}),
        "edgeconv.calibration_sha256": source.fingerprint(),
        "edgeconv.float_sha256": described.sha256,
    }
    onnx.helper.set_model_props(model, {**metadata, **kept, **about})
    onnx.checker.check_model(model)
    return model, left, notes


def _compare(
    result: Result, judged: ImageSource, labelled: LabelledImages | None, batch: int, *, alone: bool
) -> tuple[Agreement, Agreement | None, onnx.ModelProto | None, list[str]]:
    """Compare the quantised network and the one in float16 with the float one.

    Args:
        result: The networks.
        judged: Images for the agreement.
        labelled: Images for the accuracy.
        batch: Images at a time.
        alone: The labelled images are those for the agreement as well.

    Returns:
        Both agreements, the network in float16, and why there is none.
    """
    reference = result.original.model
    halved, note = half_precision(reference)
    networks = [result.graph.model, *([] if halved is None else [halved])]
    if labelled is None:
        found = compare_outputs(reference, networks, judged, batch=batch)
    else:
        found = compare_outputs(reference, networks, labelled.source, batch=batch, labels=labelled.labels)
        if not alone:
            agreed = compare_outputs(reference, networks, judged, batch=batch)
            found = [replace(one, accuracy=other.accuracy) for one, other in zip(agreed, found, strict=True)]
    return found[0], found[1] if len(found) > 1 else None, halved, [note] if note else []


def _warnings(result: Result, source: ImageSource, same_class: float | None) -> list[str]:
    found = []
    if result.images == 1:
        found.append("calibrated on a single image: ranges that other images need are cut off; give a hundred or more")
    elif result.images < _FEW_IMAGES:
        found.append(f"calibrated on {result.images} images only; a hundred or more give steadier ranges")
    if source.skipped:
        first, reason = next(iter(source.skipped.items()))
        found.append(f"{len(source.skipped)} images could not be read and were skipped, {first} first: {reason}")
    if result.not_learned:
        found.append(
            f"{len(result.not_learned)} layers are rounded by covariance, {result.not_learned[0]} first: their blocks "
            "hold an operator that learned rounding does not know"
        )
    if same_class is not None and same_class < _POOR_AGREEMENT:
        found.append("many images change their class: --sensitivity shows which layers to --exclude")
    return found


__all__ = ["quantize_model"]
