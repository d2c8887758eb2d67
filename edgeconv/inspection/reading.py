"""Reads an ONNX file without its large weights, and checks that its external data is there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto
from onnx.external_data_helper import load_external_data_for_tensor

from edgeconv.errors import InputError
from edgeconv.inspection.nodes import subgraphs, tensor_bytes, tensor_elements
from edgeconv.onnx_file import read_onnx

# The constants on which shapes depend (a Reshape's target, a Resize's scales) are small; everything else is weights.
SMALL = 1024


@dataclass(frozen=True)
class ReadFile:
    """A model without the values of its large tensors.

    Attributes:
        model: The model; tensors of more than `SMALL` elements keep their type and dimensions only.
        file_bytes: Size of the .onnx file itself.
        external_files: Size of each file of external data, by its location relative to the model.
        weights_bytes: Bytes of all stored tensors.
    """

    model: onnx.ModelProto
    file_bytes: int
    external_files: dict[str, int]
    weights_bytes: int


def read_model(path: str | os.PathLike[str]) -> ReadFile:
    """Read the model in `path` and check that the external data that it names is there.

    Raises:
        InputError: The file is missing, unreadable, truncated or not ONNX, or its external data is missing or short.
    """
    file = Path(path)
    model, content = read_onnx(file)
    size = len(content)
    del content
    external = _check_external_data(file, model)
    weights = sum(tensor_bytes(tensor) for tensor in stored_tensors(model))
    for tensor in stored_tensors(model):
        _keep_small(file, tensor)
    return ReadFile(model, size, external, weights)


def stored_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor that the file stores: initialisers and the values of attributes, functions' included."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for graph in subgraphs(node):
            yield from _graph_tensors(graph)


def _check_external_data(file: Path, model: onnx.ModelProto) -> dict[str, int]:
    sizes: dict[str, int] = {}
    directory = file.parent.resolve()
    for tensor in stored_tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        target = directory / location
        if not location or not target.resolve().is_relative_to(directory):
            raise InputError(
                f"{file} keeps tensor {tensor.name!r} in {location!r}, which is not a file in the model's directory.",
                "Runtimes refuse such a file; save it again with its weights beside it.",
            )
        if location not in sizes:
            if not target.is_file():
                raise InputError(
                    f"{file} keeps its weights in {location}, which is missing from {file.parent}.",
                    "Keep the .onnx file and its external data together under their original names.",
                )
            sizes[location] = target.stat().st_size
        offset = int(entries.get("offset", 0))
        end = offset + int(entries.get("length", tensor_bytes(tensor)))
        if end > sizes[location]:
            raise InputError(
                f"{location}, the external data of {file}, is truncated: tensor {tensor.name!r} ends at byte {end}, "
                f"the file at byte {sizes[location]}.",
                "Copy both files again.",
            )
    return sizes


def _keep_small(file: Path, tensor: TensorProto) -> None:
    external = tensor.data_location == TensorProto.EXTERNAL
    if tensor_elements(tensor) <= SMALL:
        if external:
            load_external_data_for_tensor(tensor, str(file.parent))
            tensor.data_location = TensorProto.DEFAULT
            tensor.ClearField("external_data")
        return
    kept = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    tensor.CopyFrom(kept)
