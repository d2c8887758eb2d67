"""Small facts about ONNX nodes, functions and tensors that every part of the inspection uses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import onnx
from onnx import TensorProto

from edgeconv.ops.registry import operator_of

STANDARD_DOMAINS = ("", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview", "ai.onnx.preview.training")
"""Domains of the ONNX standard itself."""

FunctionKey = tuple[str, str, str]
"""Domain, name and overload of a model-local function."""

_DTYPES: dict[int, str] = {
    elem: name.lower() for name, elem in TensorProto.DataType.items() if elem != TensorProto.UNDEFINED
}

_BITS: dict[int, int] = {
    TensorProto.FLOAT: 32, TensorProto.UINT8: 8, TensorProto.INT8: 8, TensorProto.UINT16: 16, TensorProto.INT16: 16,
    TensorProto.INT32: 32, TensorProto.INT64: 64, TensorProto.BOOL: 8, TensorProto.FLOAT16: 16, TensorProto.DOUBLE: 64,
    TensorProto.UINT32: 32, TensorProto.UINT64: 64, TensorProto.COMPLEX64: 64, TensorProto.COMPLEX128: 128,
    TensorProto.BFLOAT16: 16, TensorProto.FLOAT8E4M3FN: 8, TensorProto.FLOAT8E4M3FNUZ: 8, TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8, TensorProto.UINT4: 4, TensorProto.INT4: 4, TensorProto.FLOAT4E2M1: 4,
}  # fmt: skip


def domain_of(proto: onnx.NodeProto | onnx.FunctionProto | onnx.OperatorSetIdProto) -> str:
    """Return the domain, with the standard one always as the empty string."""
    return "" if proto.domain == "ai.onnx" else str(proto.domain)


def label(domain: str, op_type: str) -> str:
    """Return ``domain::op``, or ``op`` alone for the standard domain."""
    return f"{domain}::{op_type}" if domain else op_type


def node_label(node: onnx.NodeProto) -> str:
    """Return `label` of a node."""
    return label(domain_of(node), node.op_type)


def is_edgeconv_operator(node: onnx.NodeProto) -> bool:
    """Tell whether the node is one of edgeconv's operators, which are counted whole and have native kernels."""
    return operator_of(node) is not None


def standard_opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators that the file uses, 0 if it does not say."""
    return next((int(entry.version) for entry in model.opset_import if not domain_of(entry)), 0)


def functions_of(model: onnx.ModelProto) -> dict[FunctionKey, onnx.FunctionProto]:
    """Return the model-local functions by key."""
    return {(domain_of(function), function.name, function.overload): function for function in model.functions}


def function_key(node: onnx.NodeProto) -> FunctionKey:
    """Return the key under which a local function for `node` would be found."""
    return domain_of(node), node.op_type, node.overload


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that the node holds as attributes (the branches of an If, the body of a Loop)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def walk(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield the nodes and, depth first, those of their subgraphs."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from walk(graph.node)


def consumed(node: onnx.NodeProto) -> list[str]:
    """Return the names that a node reads, with those that its subgraphs take from outside."""
    names = [name for name in node.input if name]
    for graph in subgraphs(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        for inner in graph.node:
            names += [name for name in consumed(inner) if name not in own]
            own.update(inner.output)
        names += [value.name for value in graph.output if value.name not in own]
    return names


def tensor_elements(tensor: TensorProto) -> int:
    """Return the number of elements."""
    return math.prod(tensor.dims)


def tensor_bytes(tensor: TensorProto) -> int:
    """Return the bytes that the values take, packed as ONNX stores them; strings count their UTF-8 bytes."""
    if tensor.data_type == TensorProto.STRING:
        return sum(len(text) for text in tensor.string_data)
    return (tensor_elements(tensor) * _BITS.get(tensor.data_type, 8) + 7) // 8


def dtype_name(elem: int) -> str:
    """Return ONNX's name for an element type in lower case (``float16``), or ``unknown``."""
    return _DTYPES.get(elem, "unknown")


def elem_type(name: str) -> int:
    """Return the element type that `dtype_name` gives this name to, 0 for none."""
    return next((elem for elem, known in _DTYPES.items() if known == name), TensorProto.UNDEFINED)
