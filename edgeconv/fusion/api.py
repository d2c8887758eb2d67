"""`fuse_model`: a QDQ file in, a file of 8-bit operators out, compared value by value."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx

from edgeconv.bench.model_file import read_model_file
from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.files import atomic_output, check_output
from edgeconv.fusion.passes import Operator, fuse_graph
from edgeconv.fusion.report import FusionReport
from edgeconv.fusion.steps import StepCounter, Steps
from edgeconv.runtime.feeds import read_feeds

StrPath = str | os.PathLike[str]
Progress = Callable[[str, float], None]

_IMAGES = 64  # of those given, that the operators are compared on


def fuse_model(
    model: StrPath,
    output: StrPath | None = None,
    *,
    inputs: StrPath | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    functions: bool = True,
    check: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> FusionReport:
    """Turn the quantised layers of a QDQ file into 8-bit operators for ONNX Runtime on the CPU: `edgeconv fuse`.

    The operators are edgeconv's own (`edgeconv.ops.qlinear_mobile` and its neighbours). With their function bodies in
    it the file still runs in every runtime, only slower than the QDQ file there: keep both.

    Args:
        model: A QDQ `.onnx`, from `edgeconv quantize` or from another tool.
        output: The file to write, by default MODEL.fused.onnx beside it. Written whole or not at all.
        inputs: What the operators are compared on: `.npy`, or `.npz` with `images` or with an array for each input.
            uint8 images are prepared as the file's metadata says. By default random values.
        shapes: Shapes of random inputs by name, where neither the file nor its metadata says them.
        functions: Write function bodies. Without them the file needs the op library.
        check: Compare every operator with its function body on the inputs, and count the values that differ.
        seed: Of random inputs.
        progress: Called with what is being done and how much of it (0 to 1).

    Returns:
        What became of the layers, and how many values differ, by how many steps.

    Raises:
        InputError: The model or the inputs cannot be used, or nothing in the model can be fused.
        MissingDependencyError: A package that the request needs is not installed.
    """
    tell: Progress = progress or (lambda _what, _done: None)
    described = read_model_file(model)
    goal = Path(output) if output is not None else Path(model).with_suffix(".fused.onnx")
    check_output("--output", goal, [model] if inputs is None else [model, inputs])  # other runtimes want the QDQ file
    tell("fusing", 0.0)
    loaded = onnx.load(model)
    fused, operators, left = fuse_graph(loaded, with_function=functions)
    if not operators:
        reason = next((f": {node}: {why}" for node, why in left.items()), "")
        raise InputError(
            f"{model} has no quantised layer that an 8-bit operator computes{reason}.",
            "Quantise it first: edgeconv quantize MODEL.onnx --calib IMAGES --target ort.",
        )
    onnx.checker.check_model(fused)
    found: dict[str, Steps] | None = None
    on, note = "", "it was not asked for"
    if check:
        # What has no body is compared with the bodies all the same; the file is written without.
        whole = fused if functions else fuse_graph(loaded)[0]
        found, on, note = _compare(whole, operators, model, inputs, shapes, seed, tell)
    with atomic_output(goal) as temporary:
        temporary.write_bytes(fused.SerializeToString())
    return FusionReport(
        source=described.path,
        path=os.fspath(goal),
        operators=operators,
        left=left,
        nodes=(len(loaded.graph.node), len(fused.graph.node)),
        functions=functions,
        steps=found,
        inputs=on,
        note=note,
    )


def _compare(
    model: onnx.ModelProto,
    operators: Sequence[Operator],
    path: StrPath,
    inputs: StrPath | None,
    shapes: Mapping[str, Sequence[int]] | None,
    seed: int,
    tell: Progress,
) -> tuple[dict[str, Steps] | None, str, str]:
    """Return what was counted, on what, and why nothing was."""
    tell("comparing with the QDQ file", 0.0)
    try:
        counter = StepCounter(model, {each.node for each in operators})
    except MissingDependencyError as error:
        return None, "", error.message
    if not counter.native.native:
        return None, "", counter.native.missing_library
    declared, metadata = counter.native.inputs, counter.native.metadata
    feeds = read_feeds(inputs, declared, metadata, 1, shapes, seed, path)
    if inputs is None:
        counter.add(feeds)
        return counter.found, "on random values", ""
    count = min(len(array) for array in feeds.values())
    fixed = declared[0].shape[0] if declared[0].shape else None
    batch = fixed if isinstance(fixed, int) else 1
    used = min(count, _IMAGES) // batch * batch
    if not used:
        raise InputError(f"{inputs} has {count} inputs; {path} takes {batch} at a time.")
    for first in range(0, used, batch):
        tell("comparing with the QDQ file", first / used)
        counter.add({name: array[first : first + batch] for name, array in feeds.items()})
    return counter.found, f"on {used} of the given inputs", ""
