"""`inspect_model`: from a path to a `ModelReport`."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from edgeconv.inspection.layers import LayerTable
from edgeconv.inspection.nodes import domain_of, walk
from edgeconv.inspection.reading import read_model
from edgeconv.inspection.report import ModelReport, OperatorCount, Tensor
from edgeconv.inspection.runtimes import custom_operators, find_usage, runtime_paths
from edgeconv.inspection.shapes import fix_dimensions, infer_values, known_values, model_inputs, value_of
from edgeconv.ops.kervolution import count_precisions


def inspect_model(path: str | os.PathLike[str], *, shapes: Mapping[str, Sequence[int]] | None = None) -> ModelReport:
    """Look into an ONNX file, whoever wrote it: operators, shapes, parameters, MACs, sizes, and runtimes' paths.

    Nothing is run and large weights are not kept in memory. Dynamic sizes come from `shapes`, else the batch is 1 and
    the others come from the metadata that `edgeconv export` writes; what stays unknown is said in `notes`.

    Args:
        path: The .onnx file; its external data, if it has any, beside it.
        shapes: Shape to assume for an input, by its name; the empty name means the only input.

    Raises:
        InputError: The file is missing, truncated or not ONNX, its external data is missing, or `shapes` does not fit.
    """
    read = read_model(path)
    model = read.model
    declared = {info.name: value_of(info).shape for info in (*model.graph.input, *model.graph.output)}
    usage = find_usage(model)
    notes = fix_dimensions(model, shapes)
    inferred, problems = infer_values(model)
    values = known_values(inferred.graph)
    table = LayerTable(inferred)

    def tensors(infos: Sequence[onnx.ValueInfoProto]) -> list[Tensor]:
        return [Tensor(i.name, values[i.name].dtype, declared[i.name], values[i.name].shape) for i in infos]

    counts = Counter((domain_of(node), node.op_type) for node in walk(model.graph.node))
    return ModelReport(
        path=os.fspath(path),
        file_bytes=read.file_bytes,
        external_files=read.external_files,
        ir_version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        opsets={domain_of(entry): entry.version for entry in model.opset_import},
        metadata={entry.key: _decode(entry.key, entry.value) for entry in model.metadata_props},
        inputs=tensors(model_inputs(model.graph)),
        outputs=tensors(model.graph.output),
        operators=[OperatorCount(*key, n) for key, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))],
        custom_operators=custom_operators(usage),
        layers=table.layers,
        parameters=table.parameters,
        weights_bytes=read.weights_bytes,
        macs=table.cost.macs,
        absolute_differences=table.cost.absolute_differences,
        complete=table.cost.complete,
        runtimes=runtime_paths(usage),
        kervolution_precisions=count_precisions(walk(model.graph.node)),
        notes=[*notes, *problems, *table.notes],
    )


def _decode(key: str, text: str) -> Any:
    """Decode the lists and objects that edgeconv writes; a version or a name stays the text that it is."""
    if not key.startswith("edgeconv.") or text[:1] not in ("[", "{"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
