"""The exported projection against PyTorch.

Which of equal pixels a max pooling chooses, and where two activations are equally strong, is decided by rounding, and
runtimes round differently. So the runtime's choices are taken: each must lie in its window, and be the largest there
for PyTorch too, within the tolerance. With those switches and that position PyTorch makes the reconstruction that the
runtime's is compared with. A reconstruction has no scale of its own, so the tolerance is relative alone, to the root
mean square of the pixels that it reaches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from edgeconv.errors import EdgeconvError, MissingDependencyError
from edgeconv.export.parity import PLAIN, REFERENCE
from edgeconv.export.report import Comparison, ParityReport, Tolerance
from edgeconv.export.verification import TOLERANCES
from edgeconv.runtime.ort import OrtSession, require_onnxruntime
from edgeconv.visualization.onnx_graph import (
    ACTIVATION,
    IMAGE,
    POSITION,
    RECONSTRUCTION,
    switch_outputs,
    with_feature,
)
from edgeconv.visualization.operations import Convolution, MaxPooling
from edgeconv.visualization.project import single_activation, strongest
from edgeconv.visualization.stack import Recording, Stack
from edgeconv.visualization.window import Window

Array = NDArray[Any]
Runner = Callable[[dict[str, Array]], dict[str, Array]]

TOLERANCE = Tolerance(0.0, TOLERANCES["float32"].rtol)
_SMALL = 20_000_000
"""Products of the layers up to which the reference evaluator, an interpreter, runs the file too."""


def check_projection(
    model: onnx.ModelProto,
    stack: Stack,
    feature: int,
    real: Array | None,
    say: Callable[[str], None] = lambda _: None,
    switches: Sequence[str] | None = None,
) -> ParityReport:
    """Compare ONNX Runtime, and the reference evaluator on small stacks, with PyTorch.

    Each set of images is projected for the file's feature and for the one that is strongest on it.

    Args:
        model: The file's content.
        stack: What it was made of.
        feature: The file's default.
        real: Images (N, C, H, W), prepared, to compare on besides random ones.
        say: Called with a line about what happens next.
        switches: Names of the switches in the graph; by default those of its max poolings.

    Returns:
        The report.

    Raises:
        EdgeconvError: No runtime can check it.
    """
    generator = np.random.default_rng(0)
    trials = [("random", generator.standard_normal((2, *stack.input_shape)).astype(np.float32))]
    if real is not None and len(real):
        trials.append(("real", real))
    chosen = switch_outputs(model) if switches is None else switches
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    opened.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in chosen)
    runtimes: dict[str, Callable[[onnx.ModelProto], Runner]] = {PLAIN: _plain, REFERENCE: _reference}
    not_run: dict[str, str] = {}
    if _products(stack) > _SMALL:
        del runtimes[REFERENCE]
        not_run[REFERENCE] = "the layers are too large for an interpreter"
    try:
        require_onnxruntime()
    except MissingDependencyError as error:
        del runtimes[PLAIN]
        not_run[PLAIN] = error.message
    if not runtimes:
        raise EdgeconvError(
            "no runtime could check the file: " + "; ".join(f"{name}: {why}" for name, why in not_run.items()),
            "Install one: pip install 'edgeconv[cpu]'.",
        )
    comparisons = []
    for label, images in trials:
        recording = _record(stack, images)
        loudest = int(strongest(recording.maps)[0].mean(0).argmax())
        for name, load in list(runtimes.items()):
            for shown in sorted({feature, loudest}):
                say(f"{name}: {label} images, feature {shown}")
                try:
                    got = load(with_feature(opened, shown))({IMAGE: images})
                except (NotImplementedError, RuntimeError, TypeError, ValueError, IndexError) as error:
                    if name != REFERENCE:
                        raise
                    # The evaluator cannot do every grouped or padded ConvTranspose: its limit, not the file's.
                    not_run[name] = (str(error).strip() or type(error).__name__).splitlines()[0]
                    del runtimes[name]
                    break
                comparisons.append(_compare(name, label, stack, recording, shown, got, chosen))
    return ParityReport(comparisons, not_run, TOLERANCE)


@dataclasses.dataclass(frozen=True, eq=False)
class _Recorded(Recording):
    inputs: tuple[Tensor, ...] = ()


@torch.no_grad()
def _record(stack: Stack, images: Array) -> _Recorded:
    """Record as the stack does, and keep the inputs of its operations."""
    value = torch.from_numpy(images)
    inputs, switches = [], []
    for operation in stack.operations:
        inputs.append(value)
        value, chosen = operation.forward(value)
        switches.append(chosen)
    sizes = tuple((each.shape[2], each.shape[3]) for each in inputs)
    return _Recorded(value, sizes, tuple(switches), tuple(inputs))


@torch.no_grad()
def _compare(
    runtime: str,
    label: str,
    stack: Stack,
    recording: _Recorded,
    feature: int,
    got: dict[str, Array],
    names: Sequence[str],
) -> Comparison:
    notes: list[str] = []
    switches: list[Tensor | None] = []
    chosen = iter(names)
    for operation, value, own in zip(stack.operations, recording.inputs, recording.switches, strict=True):
        if not isinstance(operation, MaxPooling) or own is None:
            switches.append(None)
            continue
        flat = torch.from_numpy(np.ascontiguousarray(got[next(chosen)]))
        wrong = _wrong_switches(flat, value, own, operation.pooling)
        if wrong:
            notes.append(f"{wrong} switches of {operation.layer} do not point to the largest pixel of their window")
        switches.append(own if wrong else flat % (value.shape[2] * value.shape[3]))
    width = stack.output_shape[2]
    position = torch.from_numpy(np.ascontiguousarray(got[POSITION]))
    places = position[:, 0] * width + position[:, 1]
    maps = recording.maps[:, feature].flatten(1)
    largest = maps.max(1).values
    samples = torch.arange(len(maps))
    if bool(((places < 0) | (places >= maps.shape[1])).any()):
        notes.append("a position lies outside of the map")
        places = maps.max(1).indices
    elif not _close(largest, maps[samples, places]):
        notes.append("a position is not that of the largest activation")
    alone = single_activation(recording.maps, feature, places)
    used = Recording(recording.maps, recording.sizes, tuple(switches))
    want = [largest.numpy(), stack.project(alone, used).numpy()]
    reached = (want[1] != 0) | (got[RECONSTRUCTION] != 0) if want[1].shape == got[RECONSTRUCTION].shape else None
    if reached is None:
        return Comparison(runtime, label, len(samples), np.inf, np.inf, None, False, "the shapes differ")
    pairs = [(want[0], got[ACTIVATION]), (want[1][reached], got[RECONSTRUCTION][reached])]
    errors = [TOLERANCE.errors(expected, actual) for expected, actual in pairs]
    count = sum(error.count for error in errors)
    mean = sum(error.mean * error.count for error in errors) / count
    passed = all(error.passed for error in errors) and not notes
    return Comparison(
        runtime, label, len(samples), max(error.maximum for error in errors), mean, None, passed, "; ".join(notes)
    )


def _wrong_switches(flat: Tensor, value: Tensor, own: Tensor, window: Window) -> int:
    """Return how many switches leave their plane or window, or do not point to its largest pixel.

    Args:
        flat: (N, M, h, w), places in the flat input of the pooling.
        value: (N, M, H, W), that input in PyTorch.
        own: PyTorch's switches, places in a plane.
        window: Of the pooling.
    """
    height, width = value.shape[2:]
    planes = value.shape[0] * value.shape[1]
    plane = torch.arange(planes).view(*value.shape[:2], 1, 1)
    inside = flat // (height * width) == plane
    place = flat % (height * width)
    for axis, coordinate in enumerate((place // width, place % width)):
        starts = torch.arange(flat.shape[2 + axis]) * window.stride[axis] - window.before[axis]
        offset = coordinate - starts.view((-1, 1) if axis == 0 else (1, -1))
        inside &= (offset >= 0) & (offset < window.extent(axis)) & (offset % window.dilation[axis] == 0)
    pixels = value.flatten(2)
    largest, there = pixels.gather(2, own.flatten(2)), pixels.gather(2, place.flatten(2))
    bound = TOLERANCE.rtol * largest.square().mean().sqrt()
    return int((~(inside.flatten(2) & ((largest - there).abs() <= bound))).sum())


def _close(expected: Tensor, actual: Tensor) -> bool:
    return TOLERANCE.errors(expected.numpy(), actual.numpy()).passed


def _products(stack: Stack) -> int:
    """Multiplications of the convolutions, for one image."""
    return sum(
        operation.weight.numel() * after[1] * after[2]
        for operation, after in zip(stack.operations, stack.shapes[1:], strict=True)
        if isinstance(operation, Convolution)
    )


def _plain(model: onnx.ModelProto) -> Runner:
    return OrtSession(model.SerializeToString(), op_library=False).run


def _reference(model: onnx.ModelProto) -> Runner:
    evaluator = ReferenceEvaluator(model)

    def run(feeds: dict[str, Array]) -> dict[str, Array]:
        return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))

    return run
