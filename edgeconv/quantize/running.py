"""Running models over images, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeconv.quantize.prepare import PreparedModel
from edgeconv.runtime.ort import OrtSession

Array = NDArray[Any]

PATIENT = {"session.intra_op.allow_spinning": "0"}
"""Session configuration under which threads sleep while they wait: runs here take turns, and are not timed."""
MEMORY = 512 * 2**20
"""Bytes that the extra outputs of one run may take."""


def with_outputs(model: onnx.ModelProto, names: Sequence[str], types: dict[str, int]) -> onnx.ModelProto:
    """Return a copy of a model whose outputs are these values, in this order."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    old = {value.name: value for value in model.graph.output}
    del result.graph.output[:]
    for name in names:
        value = old.get(name)
        if value is None:
            value = onnx.helper.make_tensor_value_info(name, types.get(name, onnx.TensorProto.FLOAT), None)
        result.graph.output.append(value)
    return result


class ModelRunner:
    """A model in ONNX Runtime.

    Args:
        model: What to run.
        batch: Images at a time; a model of fixed batch size takes its own.
    """

    def __init__(self, model: onnx.ModelProto, batch: int) -> None:
        self.session = OrtSession(model.SerializeToString(), options=PATIENT)
        self.input = self.session.inputs[0].name
        first = self.session.inputs[0].shape[0] if self.session.inputs[0].shape else None
        self.fixed = first if isinstance(first, int) else None
        self.batch = self.fixed or batch

    def run(self, images: Array) -> dict[str, Array]:
        """Run on images (≤ batch, C, H, W); with a fixed batch, the last one is repeated and what it gives is cut."""
        count = len(images)
        if self.fixed and count < self.fixed:
            images = np.concatenate([images, np.repeat(images[-1:], self.fixed - count, 0)])
        results = self.session.run({self.input: images})
        if self.fixed and count < self.fixed:
            results = {
                name: value[:count] if value.ndim and len(value) == self.fixed else value
                for name, value in results.items()
            }
        return results


def output_groups(prepared: PreparedModel, tensors: Sequence[str], batch: int, image: int) -> list[list[str]]:
    """Split tensors so that the values of each part fit into `MEMORY`.

    Args:
        prepared: Its shapes say how large tensors are.
        tensors: Their names.
        batch: Images at a time.
        image: Elements of an image, taken where a size is not known.
    """
    groups: list[list[str]] = [[]]
    used = 0
    for name in tensors:
        shape = prepared.shapes.get(name, ())
        known = [size for size in shape[1:] if size]
        elements = math.prod(known) if known and len(known) == len(shape) - 1 else 8 * image
        size = 4 * batch * elements
        if groups[-1] and used + size > MEMORY:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    return groups
