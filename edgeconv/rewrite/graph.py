"""What every pass needs of a graph: who makes a value, who reads it, what is constant; and edits without leftovers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edgeconv.inspection.nodes import consumed, domain_of, standard_opset, subgraphs, walk
from edgeconv.ops.schema import register_schemas

Array = NDArray[Any]


class NotRewritten(Exception):
    """A node is not what the pass rewrites; the text is the reason that the report gives."""


class Graph:
    """The main graph of a model, with an index that edits keep true.

    Args:
        model: Is edited in place.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._graph = model.graph
        self._index()

    def _index(self) -> None:
        self.outputs = {value.name for value in self._graph.output}
        self._inputs = {value.name for value in self._graph.input}
        self._producers = {name: node for node in self._graph.node for name in node.output if name}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self._graph.node:
            for name in set(consumed(node)):
                self._consumers.setdefault(name, []).append(node)
        self._initializers = {tensor.name: tensor for tensor in self._graph.initializer}

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes, in their order."""
        return list(self._graph.node)

    def producer(self, name: str) -> onnx.NodeProto | None:
        """Return the node that makes a value; None for inputs and initialisers."""
        return self._producers.get(name)

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        """Return the nodes that read a value, those included whose subgraphs do."""
        return self._consumers.get(name, [])

    def constant(self, name: str) -> Array | None:
        """Return the value of an initialiser that no input overrides, or of a `Constant` node; else None."""
        tensor = self._initializers.get(name)
        if tensor is not None:
            overridable = name in self._inputs and self.model.ir_version >= 4
            absent = tensor.data_location == TensorProto.EXTERNAL  # not loaded with the model
            return None if overridable or absent else np.asarray(numpy_helper.to_array(tensor))
        node = self._producers.get(name)
        if node is None or node.op_type != "Constant" or domain_of(node):
            return None
        value = onnx.helper.get_attribute_value(node.attribute[0])
        kind = node.attribute[0].name
        if kind == "value":
            return np.asarray(numpy_helper.to_array(value))
        dtype = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
        return np.asarray(value, dtype[kind]) if kind in dtype else None

    def element_type(self, name: str) -> int:
        """Return a value's element type (`TensorProto.DataType`), by inference if need be; 0 if it is not known."""
        tensor = self._initializers.get(name)
        return int(tensor.data_type) if tensor is not None else self._types.get(name, TensorProto.UNDEFINED)

    @cached_property
    def _types(self) -> dict[str, int]:
        register_schemas()
        graph = onnx.shape_inference.infer_shapes(self.model).graph
        values = (*graph.value_info, *graph.input, *graph.output)
        return {value.name: value.type.tensor_type.elem_type for value in values}

    def add_constant(self, value: Array, hint: str) -> str:
        """Add an initialiser under a name that is not taken, `hint` if possible, and return the name."""
        return self.add_constants({hint: value})[0]

    def add_constants(self, values: Mapping[str, Array]) -> list[str]:
        """Add an initialiser for each, under a name that is not taken, the key if possible, and return the names."""
        taken, names = self._names, []
        for hint, value in values.items():
            name, count = hint, 1
            while name in taken:
                count += 1
                name = f"{hint}_{count}"
            taken.add(name)
            names.append(name)
            tensor = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
            self._graph.initializer.append(tensor)
        self._index()
        return names

    @property
    def _names(self) -> set[str]:
        names = {*self._inputs, *self._initializers, *self.outputs}
        for node in walk(self._graph.node):
            names.update(node.input, node.output)
            for graph in subgraphs(node):
                names.update(value.name for value in (*graph.input, *graph.output, *graph.initializer))
        return names

    def replace(self, old: Sequence[onnx.NodeProto], new: onnx.NodeProto) -> None:
        """Put a node in the place of the last of `old`, and remove whatever only the old nodes needed.

        A node, an initialiser, a shape or an annotation goes if nothing reads it any more and it is no output. What was
        unused before stays.
        """
        made = {name for node in old for name in node.output}
        orphans = [*(name for node in old for name in consumed(node)), *made.difference(new.output)]
        positions = [index for index, node in enumerate(self._graph.node) if not made.isdisjoint(node.output)]
        self._graph.node[positions[-1]].CopyFrom(new)
        for index in reversed(positions[:-1]):
            del self._graph.node[index]
        self._index()
        gone = self._remove_unused(orphans)
        for values in (self._graph.value_info, self._graph.quantization_annotation):
            for index in reversed(range(len(values))):
                if getattr(values[index], "name", None) in gone or getattr(values[index], "tensor_name", None) in gone:
                    del values[index]

    def forget_shape(self, name: str) -> None:
        """Take out what the file says of a value's shape."""
        values = self._graph.value_info
        for index in reversed(range(len(values))):
            if values[index].name == name:
                del values[index]

    def _remove_unused(self, names: list[str]) -> set[str]:
        """Remove the values of these names that nothing reads, and what only they needed; return what is not there."""
        gone = set()
        while names:
            name = names.pop()
            node = self._producers.get(name)
            made = [name] if node is None else list(node.output)
            if name in self._inputs or any(each in self._consumers or each in self.outputs for each in made):
                continue
            gone.add(name)
            if node is not None:
                names += consumed(node)
                gone.update(node.output)
                self._graph.node.remove(node)
            elif name in self._initializers:
                self._graph.initializer.remove(self._initializers[name])
            self._index()
        return gone


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of a node's attribute, or the default where it is absent."""
    return next((onnx.helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


def name_of(node: onnx.NodeProto) -> str:
    """Return what messages call a node: its name, or its first output."""
    return str(node.name or node.output[0])


def is_standard(node: onnx.NodeProto | None, op_type: str) -> bool:
    """Tell whether a node is the standard operator of that name."""
    return node is not None and node.op_type == op_type and not domain_of(node)


def nested_nodes(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.NodeProto]]:
    """Yield the nodes outside the main graph's own list, each with the place where it is."""
    for node in model.graph.node:
        for graph in subgraphs(node):
            for inner in walk(graph.node):
                yield f"a subgraph of {name_of(node)}", inner
    for function in model.functions:
        for inner in walk(function.node):
            yield f"the function {function.domain}::{function.name}", inner


def add_function(model: onnx.ModelProto, function: onnx.FunctionProto) -> None:
    """Put a function into a file that lacks it, in the file's version of the standard operators."""
    if not any((each.domain, each.name) == (function.domain, function.name) for each in model.functions):
        added = model.functions.add()
        added.CopyFrom(function)
        for entry in added.opset_import:
            if not domain_of(entry):
                entry.version = standard_opset(model)  # one version in the whole file: an inliner may not mix them
    model.ir_version = max(model.ir_version, 8)  # the first with functions


def remove_function_if_unused(model: onnx.ModelProto, domain: str, name: str) -> None:
    """Take a function out of a file in which nothing calls it."""
    called = (domain, name)
    everywhere = (*model.graph.node, *(node for _, node in nested_nodes(model)))
    if any((node.domain, node.op_type) == called for node in everywhere):
        return
    for function in [each for each in model.functions if (each.domain, each.name) == called]:
        model.functions.remove(function)
