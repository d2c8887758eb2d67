"""Prepares a model for TensorRT's parser: in the form that it takes, with names that lead back to the layers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.inliner

from edgeconv.bench.model_file import read_model_file
from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.inspection import inspect_model
from edgeconv.inspection.nodes import dtype_name, functions_of, walk
from edgeconv.inspection.report import ModelReport
from edgeconv.ops.kervolution import DOMAIN, PLUGIN_ATTRIBUTES
from edgeconv.ops.registry import OPERATORS, onnx_functions, operator_of
from edgeconv.rewrite.graph import add_function
from edgeconv.runtime.ort import TensorInfo

PREPARATION = 1
"""Is raised when the same file is prepared differently, so that engines made of the old form are stale."""


@dataclass(frozen=True)
class EngineModel:
    """A model as TensorRT's parser gets it.

    Attributes:
        path: The file that it was made from; external weights lie beside it.
        sha256: Digest of that file, external weights included.
        content: The prepared model, serialised; external weights are not in it.
        plugins: Nodes that are left to plugins, by operator.
        inlined: Nodes of edgeconv's operators that became standard operators.
        inputs: The inputs to feed.
        outputs: The outputs.
        metadata: The file's metadata properties.
        precisions: Layers with products or distances by the type that they are on, as the file has them.
    """

    path: Path
    sha256: str
    content: bytes
    plugins: dict[str, int]
    inlined: dict[str, int]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    metadata: dict[str, str]
    precisions: dict[str, int]

    @property
    def name(self) -> str:
        """File name, for messages."""
        return self.path.name

    @property
    def is_half(self) -> bool:
        """Whether the file computes in float16, as far as its operators can."""
        # In an inlined file the kervolutions' float32 sums are operators of their own.
        return "float16" in self.precisions or self.metadata.get("edgeconv.precision") == "float16"


def prepare_model(path: str | os.PathLike[str], plugins: Collection[str] = ()) -> EngineModel:
    """Read a file and give it the form that TensorRT's parser takes.

    Operators with a plugin stay nodes, without the function bodies that would shadow the plugin before TensorRT 10.7.
    Every other function is inlined: the parser would lose strides and dilations that a function hands on to a Conv.

    Args:
        path: An ``.onnx`` file in any of its forms.
        plugins: Names of edgeconv's operators for which a plugin is registered.

    Raises:
        InputError: The file is missing, damaged or not ONNX.
        MissingDependencyError: The file has an operator without its function, and there is no plugin for it.
    """
    report = inspect_model(path)  # says clearly what is wrong with a file
    file = read_model_file(path)
    model = onnx.load(path, load_external_data=False)
    quantized = _quantized_layers(model)
    calls = [node for node in _all_nodes(model) if operator_of(node) is not None]
    left = {node.op_type for node in calls}.intersection(plugins)
    expanded = {node.op_type for node in calls} - left
    _add_missing_functions(model, expanded, file.name)
    if model.functions:
        layers = {node.output[0]: node.name for node in model.graph.node if operator_of(node) is not None and node.name}
        known = {node.name for node in walk(model.graph.node)}
        model = onnx.inliner.inline_selected_functions(model, [(DOMAIN, name) for name in sorted(left)], exclude=True)
        del model.functions[:]
        _name_after_layers(model.graph, layers, known)
    for node in walk(model.graph.node):
        if operator_of(node) is not None:
            _mark_for_plugin(node)
    if not left:
        kept = [entry for entry in model.opset_import if entry.domain != DOMAIN]
        del model.opset_import[:]
        model.opset_import.extend(kept)
    inputs, metadata = _interface(model)
    return EngineModel(
        path=Path(path),
        sha256=file.sha256,
        content=model.SerializeToString(),
        plugins={name: count for name, count in file.operators.items() if name in left},
        inlined={name: count for name, count in file.operators.items() if name in expanded},
        inputs=inputs,
        outputs=tuple(_tensor_info(value) for value in model.graph.output),
        metadata=metadata,
        precisions=_precisions(report, quantized),
    )


def read_interface(path: str | os.PathLike[str]) -> tuple[tuple[TensorInfo, ...], dict[str, str]]:
    """Return the inputs that a file's caller feeds, and its metadata properties, without loading its weights."""
    return _interface(onnx.load(path, load_external_data=False))


def _interface(model: onnx.ModelProto) -> tuple[tuple[TensorInfo, ...], dict[str, str]]:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_tensor_info(value) for value in model.graph.input if value.name not in constants)
    return inputs, {entry.key: entry.value for entry in model.metadata_props}


def _all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of the graph and of functions that are not edgeconv's operators themselves."""
    yield from walk(model.graph.node)
    for function in model.functions:
        if function.domain != DOMAIN or function.name not in OPERATORS:
            yield from walk(function.node)


def _add_missing_functions(model: onnx.ModelProto, names: Collection[str], file: str) -> None:
    """Give a file that was written without function bodies (`edgeconv export --no-functions`) those that it needs."""
    missing = sorted(set(names) - {name for domain, name, _ in functions_of(model) if domain == DOMAIN})
    if not missing:
        return
    try:
        functions = onnx_functions()
    except ImportError as error:
        raise MissingDependencyError(
            f"{file} has the operator {DOMAIN}::{missing[0]} without its function, there is no plugin for it here, and "
            f"{error.name} is not installed, which the function is made with.",
            "Export the file without --no-functions, or pip install 'edgeconv[export]'.",
        ) from error
    for name in missing:
        add_function(model, functions[name])


def _name_after_layers(graph: onnx.GraphProto, layers: dict[str, str], known: set[str]) -> None:
    """Name the nodes that the inliner made after the layer that they come from.

    The inliner names the nodes of its k-th call NAME__k; the last of them makes the output that the call made.
    """
    calls = {
        node.name.rpartition("__")[2]: layers[output]
        for node in graph.node
        for output in node.output
        if output in layers and node.name not in known
    }
    for node in walk(graph.node):
        inner, _, call = node.name.rpartition("__")
        if node.name not in known and call in calls:
            node.name = f"{calls[call]}/{node.op_type}_{inner}"


def _mark_for_plugin(node: onnx.NodeProto) -> None:
    """Make sure that the node names its plugin, as exported ones do."""
    given = {attribute.name for attribute in node.attribute}
    for name, value in PLUGIN_ATTRIBUTES.items():
        if name not in given:
            node.attribute.append(onnx.helper.make_attribute(name, value))


def _tensor_info(value: onnx.ValueInfoProto) -> TensorInfo:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise InputError(f"{value.name} is not a tensor, and TensorRT has nothing else.")
    shape = (int(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim)
    return TensorInfo(value.name, f"tensor({dtype_name(tensor.elem_type)})", tuple(shape))


def _quantized_layers(model: onnx.ModelProto) -> dict[str, str]:
    """Return the type of the stored weights of layers whose weights are dequantised first (QDQ), by layer."""
    dequantized = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    stored = {tensor.name: dtype_name(tensor.data_type) for tensor in model.graph.initializer}
    return {
        node.name or node.output[0]: stored.get(dequantized[node.input[1]], "int8")
        for node in model.graph.node
        if len(node.input) > 1 and node.input[1] in dequantized
    }


def _precisions(report: ModelReport, quantized: dict[str, str]) -> dict[str, int]:
    """Count the layers by the type that they compute on."""
    counts: Counter[str] = Counter()
    for layer in report.layers:
        if layer.operand_type is not None:
            kind = quantized.get(layer.name, layer.operand_type)
            counts["float32" if kind == "float" else kind] += 1
    return dict(counts)
