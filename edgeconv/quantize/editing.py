"""Edits of a graph beyond what `edgeconv.rewrite.graph.Graph` has: nodes in place of one, values under new names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeconv.inspection.nodes import subgraphs
from edgeconv.rewrite.graph import Graph


class EditableGraph(Graph):
    """A graph whose nodes are edited by hand; each method leaves the index true."""

    def reindex(self) -> None:
        """Read the graph anew after a node was edited in place."""
        self._index()

    def discard(self, node: onnx.NodeProto) -> None:
        """Remove a node whose results nothing reads any more, and the constants that only it read."""
        names = list(node.input)
        self._graph.node.remove(node)
        self._index()
        for name in names:
            self.drop_unused(name)

    def drop_unused(self, name: str) -> None:
        """Remove an initialiser, or a Constant node, that nothing reads."""
        if not name or name in self._consumers or name in self.outputs or name in self._inputs:
            return
        tensor, node = self._initializers.get(name), self._producers.get(name)
        if tensor is not None:
            self._graph.initializer.remove(tensor)
        elif node is not None and node.op_type == "Constant":
            self._graph.node.remove(node)
        self._index()

    def substitute(self, node: onnx.NodeProto, new: Sequence[onnx.NodeProto]) -> None:
        """Put nodes in the place of one."""
        position = next(index for index, each in enumerate(self._graph.node) if each.name == node.name)
        later = [onnx.NodeProto.FromString(each.SerializeToString()) for each in self._graph.node[position + 1 :]]
        names = list(node.input)
        del self._graph.node[position:]
        self._graph.node.extend([*new, *later])
        self._index()
        for name in names:
            self.drop_unused(name)

    def rename(self, old: str, new: str) -> None:
        """Let every reader of a value read another one."""
        for node in self.consumers(old):
            _rename_inputs(node, old, new)
        self._index()

    def take_over(self, node: onnx.NodeProto, after: onnx.NodeProto) -> None:
        """Let a node make what the one after it made, which is removed."""
        result = after.output[0]
        self._graph.node.remove(after)
        node.output[0] = result
        self._index()
        for name in after.input:
            self.drop_unused(name)

    def set_constant(self, node: onnx.NodeProto, operand: int, value: NDArray[np.floating]) -> None:
        """Give a node its own float32 constant; the old one goes if nothing else reads it."""
        while len(node.input) <= operand:
            node.input.append("")
        old = node.input[operand]
        node.input[operand] = self.add_constant(value.astype(np.float32), old or f"{node.name}_bias")
        self._index()
        self.drop_unused(old)

    def alone(self, node: onnx.NodeProto) -> bool:
        """Tell whether a node's first result goes to one node and nowhere else."""
        result = node.output[0]
        return len(self.consumers(result)) == 1 and result not in self.outputs


def _rename_inputs(node: onnx.NodeProto, old: str, new: str) -> None:
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new
    for inner in subgraphs(node):
        for each in inner.node:
            _rename_inputs(each, old, new)
        for value in inner.output:
            if value.name == old:
                value.name = new
