"""The projection as a file: built, checked, and only then kept."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgeconv.checkpoint import Checkpoint
from edgeconv.errors import ParityError
from edgeconv.files import atomic_output
from edgeconv.normalization import Normalization
from edgeconv.visualization.image_set import ImageSet
from edgeconv.visualization.onnx_graph import build_projection
from edgeconv.visualization.onnx_parity import check_projection
from edgeconv.visualization.report import OnnxReport
from edgeconv.visualization.search import Progress, Search
from edgeconv.visualization.stack import Stack

StrPath = str | os.PathLike[str]

_CHECKED = 4
"""Real images that a file is checked on."""


def real_images(
    loaded: Checkpoint,
    stack: Stack,
    normalization: Normalization | None,
    place: ImageSet | None,
    found: Search | None,
    shown: Sequence[int],
) -> NDArray[Any] | None:
    """Return images that the exported projection is checked on: some that were found, or the checkpoint's samples."""
    if place is not None and found is not None and shown:
        return np.stack([place.read(each.key) for each in found.features[shown[0]][:_CHECKED]])
    samples: Tensor | None = (loaded.samples or {}).get("images")
    if samples is None or tuple(samples.shape[1:]) != stack.input_shape:
        return None
    return (normalization or Normalization((0.0,), (1.0,))).apply(samples[:_CHECKED].numpy())


def export_projection(
    stack: Stack,
    feature: int,
    path: StrPath,
    loaded: Checkpoint,
    normalization: Normalization | None,
    real: NDArray[Any] | None,
    progress: Progress,
) -> OnnxReport:
    """Write the projection of one feature, and check it.

    Args:
        stack: Of the layer.
        feature: The default of the graph's input `feature`.
        path: The `.onnx`; kept only if the check passes.
        loaded: What the stack is from.
        normalization: Stored in the file.
        real: Images to check on besides random ones.
        progress: Called with what is being done.

    Raises:
        InputError: The path cannot be written, or a layer has no counterpart in ONNX.
        ParityError: ONNX Runtime disagrees with PyTorch.
    """
    stored = normalization and {"mean": list(normalization.mean), "std": list(normalization.std)}
    metadata = {
        "edgeconv.architecture": loaded.architecture,
        "edgeconv.config": json.dumps(loaded.config),
        "edgeconv.layer": stack.layer,
        "edgeconv.input_shape": json.dumps([1, *stack.input_shape]),
        "edgeconv.normalization": json.dumps(stored),
        "edgeconv.source_sha256": loaded.source_sha256,
    }
    model = build_projection(stack, feature, metadata)
    with atomic_output(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
        parity = check_projection(model, stack, feature, real, lambda line: progress(line, 0.5))
        if not parity.passed:
            raise ParityError(parity, "The file was not kept.")
    return OnnxReport(os.fspath(path), model.ByteSize(), feature, parity)
