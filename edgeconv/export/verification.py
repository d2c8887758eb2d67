"""Checking an exported file against its checkpoint, at export time or years later."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgeconv.bench.model_file import read_model_file
from edgeconv.checkpoint import Checkpoint, load_checkpoint
from edgeconv.errors import InputError
from edgeconv.export.deconvolution import request_deconv_stats
from edgeconv.export.parity import TorchModel, compare_runtimes
from edgeconv.export.report import ParityReport, Tolerance
from edgeconv.export.samples import graph_inputs, load_inputs, prepare, random_trials, real_trials
from edgeconv.inspection.nodes import walk
from edgeconv.ops.registry import operator_of

StrPath = str | os.PathLike[str]

TOLERANCES = {
    "float32": Tolerance(1e-5, 1e-3),
    "float16": Tolerance(1e-3, 2e-2),
    "int8": Tolerance(1e-3, 2e-2, steps=1),
}
"""Default tolerances by precision: float32 keeps 4 digits through a deep network, float16 about 2.

"int8" is for whatever quantises on its way, whatever its precision besides: float sums that differ in their last digit
may round to neighbouring integers, and one step is 1/255 of a tensor's range.
"""

_UNKNOWN_SIZE = 32  # of a dynamic axis that neither the file nor the checkpoint gives a size


def verify_model(
    model: StrPath,
    against: StrPath,
    *,
    architecture: str | None = None,
    config: Mapping[str, Any] | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    inputs: StrPath | None = None,
    trust_pickle: bool = False,
    progress: Callable[[str], None] | None = None,
) -> ParityReport:
    """Check an exported file against its checkpoint: `edgeconv verify`.

    Args:
        model: The `.onnx` file.
        against: The checkpoint, as in `edgeconv.export_checkpoint`.
        architecture: Registry name for a bare state dict.
        config: Its keyword arguments.
        atol: Absolute tolerance; by default by the precision that the file says it has.
        rtol: Tolerance relative to the output's rms.
        inputs: Real inputs, as in `edgeconv.export_checkpoint`.
        trust_pickle: Load pickled modules, which runs code from the file.
        progress: Called with a line about what happens next.

    Returns:
        The report; its `passed` says whether every runtime agrees.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        InputError: The model cannot be read, or its inputs do not fit the checkpoint's.
    """
    read_model_file(model)  # says clearly what is wrong with a file
    content = onnx.load(model)
    loaded = load_checkpoint(against, architecture=architecture, config=config, trust_pickle=trust_pickle)
    properties = {entry.key: entry.value for entry in content.metadata_props}
    stats = properties.get("edgeconv.deconv_stats")
    if stats is not None and loaded.program is None:
        request_deconv_stats(loaded.module, stats)
    examples = {name: _example(axes, loaded) for name, axes in graph_inputs(content).items()}
    trials = [*random_trials(content, examples), *real_trials(content, real_inputs(loaded, inputs))]
    reference = TorchModel(loaded.program or loaded.module, list(examples))
    precision = "int8" if quantizes(content) else properties.get("edgeconv.precision", "float32")
    limits = tolerance(precision, atol, rtol)
    return compare_runtimes(content, reference, trials, limits, progress)


def quantizes(model: onnx.ModelProto) -> bool:
    """Tell whether some node rounds to a grid of integers: QuantizeLinear, or an operator on 8-bit integers."""
    return any(
        node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") or _is_quantized(node)
        for node in walk(model.graph.node)
    )


def _is_quantized(node: onnx.NodeProto) -> bool:
    operator = operator_of(node)
    return operator is not None and operator.is_quantized


def tolerance(precision: str, atol: float | None, rtol: float | None) -> Tolerance:
    """Return the default tolerance of a precision, with what the caller gives over it.

    Raises:
        InputError: What the caller gives is negative or not finite.
    """
    for option, value in (("--atol", atol), ("--rtol", rtol)):
        if value is not None and not 0 <= value < math.inf:
            raise InputError(f"{option} must be finite, 0 or more, got {value}.", "Leave it out for the default.")
    default = TOLERANCES.get(precision, TOLERANCES["float32"])
    return replace(default, atol=default.atol if atol is None else atol, rtol=default.rtol if rtol is None else rtol)


def real_inputs(loaded: Checkpoint, path: StrPath | None) -> npt.NDArray[Any] | None:
    """Return the real inputs of a file that the user gives, or else the checkpoint's own samples, if it has any."""
    if path is not None:
        return load_inputs(Path(path), loaded.normalization)
    return prepare(loaded.samples["images"].numpy(), loaded.normalization) if loaded.samples else None


def _example(axes: tuple[int | str, ...], loaded: Checkpoint) -> npt.NDArray[np.float32]:
    shape = loaded.input_shape
    known = (2, *shape) if shape is not None and len(shape) + 1 == len(axes) else (2, *[_UNKNOWN_SIZE] * len(axes))
    return np.zeros([size if isinstance(size, int) else known[i] for i, size in enumerate(axes)], np.float32)
