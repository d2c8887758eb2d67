"""How far 8-bit operators are from what their function bodies say, in steps of their results.

Every operator runs natively in its place in the file. Its function body runs on the very same input, in float32 and
without any fusion, so that a difference is the operator's own and not one that an earlier layer has made. Kernels sum
exactly and round once, where a body sums rounded products: where a quotient lies next to a half, they differ by a step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgeconv.ops.registry import OPERATORS
from edgeconv.runtime.ort import OrtSession

Array = NDArray[Any]

AS_WRITTEN = {"session.disable_quant_qdq": "1", "session.intra_op.allow_spinning": "0"}
"""Session configuration under which DequantizeLinear, Conv and QuantizeLinear each run by themselves, in float32."""
_GIVEN = "given_"


@dataclass(frozen=True)
class Steps:
    """One operator's results against those of its function body.

    Attributes:
        elements: How many results were compared.
        different: How many are not the same.
        largest: The largest difference, in steps of the results' grid.
    """

    elements: int
    different: int
    largest: int


def sum_steps(each: Iterable[Steps]) -> Steps:
    """Return the figures of several operators, or inputs, together."""
    found = list(each)
    return Steps(
        sum(steps.elements for steps in found),
        sum(steps.different for steps in found),
        max((steps.largest for steps in found), default=0),
    )


class StepCounter:
    """Compares the 8-bit operators of a file with their function bodies.

    Args:
        model: A file with function bodies.
        nodes: Names of the nodes to compare, each with one output.

    Attributes:
        native: The session with the op library; its `native` says whether there is one.
    """

    def __init__(self, model: onnx.ModelProto, nodes: Collection[str]) -> None:
        self._chosen = [node for node in model.graph.node if node.name in nodes]
        types = _element_types(model, self._chosen)
        self._names = list(dict.fromkeys(name for node in self._chosen for name in (node.input[0], node.output[0])))
        self.native = OrtSession(_shown(model, self._names, types), options=AS_WRITTEN)
        self._bodies = OrtSession(_cut(model, self._chosen, types), op_library=False, options=AS_WRITTEN)
        self._found = {node.name: Steps(0, 0, 0) for node in self._chosen}

    def add(self, feeds: Mapping[str, Array]) -> None:
        """Compare on one more input of the file."""
        values = self.native.run(feeds)
        bodies = self._bodies.run({_GIVEN + name: values[name] for name in {node.input[0] for node in self._chosen}})
        for node in self._chosen:
            ours, theirs = (values[node.output[0]].astype(np.int64), bodies[node.output[0]].astype(np.int64))
            difference = np.abs(ours - theirs)
            now = Steps(difference.size, int(np.count_nonzero(difference)), int(difference.max(initial=0)))
            self._found[node.name] = sum_steps((self._found[node.name], now))

    @property
    def found(self) -> dict[str, Steps]:
        """What was found so far, by the nodes' names."""
        return dict(self._found)


def _element_types(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> dict[str, int]:
    """Element types of what the nodes take and give: those of the zero-points."""
    stored = {tensor.name: int(tensor.data_type) for tensor in model.graph.initializer}
    types = {}
    for node in nodes:
        inputs = dict(zip(OPERATORS[node.op_type].inputs, node.input, strict=False))
        types[node.input[0]] = stored[inputs["x_zero_point"]]
        types[node.output[0]] = stored[inputs["y_zero_point"]]
    return types


def _shown(model: onnx.ModelProto, names: Sequence[str], types: Mapping[str, int]) -> bytes:
    """The file with these values as outputs too."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    taken = {value.name for value in (*model.graph.output, *model.graph.input)}
    shown.graph.output.extend(
        helper.make_tensor_value_info(name, types[name], None) for name in names if name not in taken
    )
    return bytes(shown.SerializeToString())


def _cut(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], types: Mapping[str, int]) -> bytes:
    """A file of these nodes alone, each with an input of its own."""
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    graph = cut.graph
    for field in (graph.node, graph.input, graph.output, graph.value_info):
        del field[:]
    for node in nodes:
        alone = graph.node.add()
        alone.CopyFrom(node)
        alone.input[0] = _GIVEN + node.input[0]
        graph.output.append(helper.make_tensor_value_info(node.output[0], types[node.output[0]], None))
    for name in dict.fromkeys(node.input[0] for node in nodes):
        shape: list[int | str | None] = [None] * 4
        graph.input.append(helper.make_tensor_value_info(_GIVEN + name, types[name], shape))
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return bytes(cut.SerializeToString())
