"""From a module to the chain of operations that leads to a layer.

`torch.export` reads the module: it follows any Python code, keeps the names of modules, and reads `.pt2` programs in
the same form. What does not depend on the image (a deconvolution's whitened weights) is computed once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from edgeconv.errors import InputError
from edgeconv.visualization.operations import ChannelScale, Convolution, Operation, Rectifier, ZeroPadding
from edgeconv.visualization.reading import KINDS, PASSED, Refusal, read_normalization_layer, read_operation
from edgeconv.visualization.stack import Shape, Stack

_ASSERTION = "_assert_tensor_metadata"
_MOST_NAMES = 40


@dataclass(frozen=True)
class _Link:
    """How a node follows from the one before it: an operation, or None where the value passes unchanged."""

    source: Node
    read: Callable[[], Operation] | None


class Trace:
    """The graph of a module, for stacks up to any of its layers.

    Args:
        program: Of one image input.

    Attributes:
        names: Every layer's name in the order of the graph.
    """

    def __init__(self, program: ExportedProgram) -> None:
        self._program = program
        self._values: dict[str, Any] = {}
        self._input = self._find_input()
        self._active: dict[Node, bool] = {}
        for node in program.graph.nodes:
            reached = node is self._input or any(self._active.get(each, False) for each in node.all_input_nodes)
            self._active[node] = reached and _ASSERTION not in str(node.target)
        paths = {_path(node) for node in self._active}
        self._leaves = {path for path in paths if path and not any(each.startswith(f"{path}.") for each in paths)}
        self._named: dict[str, Node] = {}
        for node, active in self._active.items():
            if active and node.op == "call_function":
                self._named[self._name(node)] = node
        self._links: dict[Node, _Link | Refusal] = {}
        for node, active in self._active.items():
            if active and node.op == "call_function":
                self._links[node] = self._link(node)

    @property
    def names(self) -> list[str]:
        """Every layer's name in the order of the graph."""
        return list(self._named)

    @property
    def input_shape(self) -> Shape:
        """(C, H, W) of the image."""
        return _shape(self._input)

    @property
    def dtype(self) -> torch.dtype:
        """Of the image."""
        found: torch.dtype = self._input.meta["val"].dtype
        return found

    def shown(self) -> list[str]:
        """Return the names of the layers that a stack can be made for."""
        return [name for name, node in self._named.items() if self._refusal(node) is None and self._maps(node)]

    def first_filters(self) -> tuple[str, Tensor]:
        """Return the name and the weights (M, C, kH, kW) of the layer that the image meets first, C being 1 or 3.

        Padding before it counts as its own.

        Raises:
            InputError: It has no filters, or none that a picture can show.
        """
        node: Node | None = self._input
        while node is not None:
            users = [user for user in node.users if self._active.get(user, False)]
            for user in users:
                for argument in user.args[1:]:
                    if isinstance(argument, Node) and not self._active[argument]:
                        value = self._constant(argument)
                        if isinstance(value, Tensor) and value.dim() == 4:
                            return self._name(user), self._drawable(value.detach(), self._name(user))
            link = self._links.get(users[0]) if len(users) == 1 else None
            passes = isinstance(link, _Link) and (link.read is None or self._kind(users[0]) is ZeroPadding)
            node = users[0] if passes else None
        raise InputError("the layer that the image meets first has no filters.", "Leave out --filters.")

    def _drawable(self, weights: Tensor, name: str) -> Tensor:
        if weights.shape[1] not in (1, 3):
            raise InputError(
                f"the filters of {name} have {weights.shape[1]} channels; pictures have 1 or 3.", "Leave out --filters."
            )
        if not weights.isfinite().all():
            raise InputError(f"the filters of {name} have NaN or infinite values.", "Check how the file was saved.")
        return weights

    def stack(self, layer: str) -> Stack:
        """Return the operations up to a layer, with the batch normalisation and the rectifier that follow it.

        Args:
            layer: A name of `names`, or of a module that holds some of them: its last one.

        Raises:
            InputError: There is no such layer, or no chain of operations that can be projected leads to it.
        """
        node = self._find(layer)
        refusal = self._refusal(node)
        if refusal is not None:
            raise InputError(f"layer {layer!r} cannot be shown: {refusal.reason}.", self._remedy())
        if not self._maps(node):
            raise InputError(f"layer {layer!r} cannot be shown: it gives no maps (N, C, H, W).", self._remedy())
        chain: list[Operation] = []
        shapes: list[Shape] = []
        node = self._rectified(node)
        shapes.append(_shape(node))
        while node is not self._input:
            link = self._links[node]
            assert isinstance(link, _Link)
            node = link.source
            if link.read is not None:
                chain.append(link.read())
                shapes.append(_shape(node))
        if not chain:
            raise InputError(f"layer {layer!r} is the image itself.", self._remedy())
        return Stack(layer, tuple(reversed(chain)), tuple(reversed(shapes)))

    def _find_input(self) -> Node:
        users = self._program.graph_signature.user_inputs
        found = [node for node in self._program.graph.nodes if node.op == "placeholder" and node.name in users]
        shape = found[0].meta["val"].shape if found and isinstance(found[0].meta.get("val"), Tensor) else ()
        if len(found) != 1 or len(shape) != 4:
            raise InputError(
                f"the model takes {len(found)} inputs, the first of {len(shape)} dimensions.",
                "The deconvnet is for models of one image input (N, C, H, W).",
            )
        image: Node = found[0]
        return image

    def _name(self, node: Node) -> str:
        """Return the path of a module without submodules, with @1, @2, … where it is called again; else the node's."""
        path = _path(node)
        if path not in self._leaves:
            return node.name
        key = list(node.meta["nn_module_stack"])[-1]
        again = re.search(r"@\d+$", key)
        return f"{path}{again[0] if again else ''}"

    def _find(self, layer: str) -> Node:
        if layer in self._named:
            return self._named[layer]
        inside = [node for name, node in self._named.items() if _path(node).startswith(f"{layer}.")]
        if not inside:
            raise InputError(f"the model has no layer {layer!r}.", self._remedy())
        return inside[-1]

    def _remedy(self) -> str:
        names = self.shown()
        if not names:
            reasons = (self._refusal(node) for node in self._named.values())
            reason = next((refusal.reason for refusal in reasons if refusal is not None), "it has none")
            return f"No layer of this model can be shown: {reason}."
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        return f"Layers that can be shown: {', '.join(names[:_MOST_NAMES])}{more}."

    def _link(self, node: Node) -> _Link | Refusal:
        name = self._name(node)
        if _is_normalization(node):
            group = self._group(node)
            outside = {source for each in group for source in each.all_input_nodes} - set(group)
            sources = [source for source in outside if self._active[source]]
            if len(sources) == 1 and _shape(sources[0]) == _shape(node):
                return _Link(sources[0], lambda: read_normalization_layer(name, group))
        sources = [source for source in node.all_input_nodes if self._active[source]]
        if len(sources) != 1:
            return Refusal(
                f"{name} ({node.target}) takes {len(sources)} layers' results, so no single chain leads here"
            )
        if str(node.target) in PASSED and _shape(node) == _shape(sources[0]):
            return _Link(sources[0], None)
        refusal = read_operation(node, name, None)
        if refusal is not None and isinstance(refusal, Refusal):
            return refusal
        return _Link(sources[0], lambda: self._read(node, name))

    def _read(self, node: Node, name: str) -> Operation:
        operation = read_operation(node, name, self._constant)
        assert isinstance(operation, Operation)
        return operation

    def _group(self, node: Node) -> list[Node]:
        key = list(node.meta["nn_module_stack"])[-1]
        return [each for each in self._active if list(each.meta.get("nn_module_stack") or [""])[-1] == key]

    def _refusal(self, node: Node) -> Refusal | None:
        """Return why no chain leads to a node: the reason nearest to the image."""
        found = None
        while node is not self._input:
            link = self._links[node]
            if isinstance(link, Refusal):
                found = link
                sources = [source for source in node.all_input_nodes if self._active[source]]
                node = sources[0]
            else:
                node = link.source
        return found

    def _rectified(self, node: Node) -> Node:
        """Return the rectifier that alone reads a convolution, perhaps through batch normalisation; else the node."""
        if self._kind(node) not in (Convolution, ChannelScale):
            return node
        current = node
        while True:
            users = [user for user in current.users if self._active[user]]
            if len(users) != 1 or not isinstance(self._links.get(users[0]), _Link):
                return node
            current = users[0]
            link, kind = self._links[current], self._kind(current)
            if kind is Rectifier:
                return current
            if kind is not ChannelScale and not (isinstance(link, _Link) and link.read is None):
                return node

    def _kind(self, node: Node) -> type[Operation] | None:
        return KINDS.get(str(node.target))

    def _maps(self, node: Node) -> bool:
        value = node.meta.get("val")
        return isinstance(value, Tensor) and value.dim() == 4

    def _constant(self, node: Node) -> Any:
        """Compute what does not depend on the image."""
        if node.name not in self._values:
            with torch.no_grad():
                self._values[node.name] = self._compute(node)
        return self._values[node.name]

    def _compute(self, node: Node) -> Any:
        if node.op == "placeholder":
            return _parameters(self._program)[node.name].detach()
        if node.op == "get_attr":
            found: Any = self._program.graph_module
            for part in str(node.target).split("."):
                found = getattr(found, part)
            return found
        arguments, keywords = torch.fx.node.map_arg((node.args, node.kwargs), self._constant)
        assert callable(node.target)
        return node.target(*arguments, **keywords)


def trace(module: nn.Module | ExportedProgram, example: Tensor) -> Trace:
    """Read a module's graph.

    Args:
        module: Any module, which is put into evaluation mode, or a program, which keeps its own sizes.
        example: (N, C, H, W), of the size that the layers will see.

    Raises:
        InputError: The module cannot be traced, or takes anything but one image.
    """
    if isinstance(module, ExportedProgram):
        return Trace(module)
    module.eval()
    try:
        program = torch.export.export(module, (example,), strict=False)
    except Exception as error:  # whatever the model's own code raises, and all that torch.export does not support
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        shape = "x".join(map(str, example.shape))
        raise InputError(
            f"the model cannot be traced on an input of shape {shape}: {reason}",
            "Check the size of the input, and that the model's code does not depend on its values.",
        ) from error
    return Trace(program)


def _parameters(program: ExportedProgram) -> Mapping[str, Tensor]:
    signature = program.graph_signature
    found = {name: program.state_dict[target] for name, target in signature.inputs_to_parameters.items()}
    for name, target in signature.inputs_to_buffers.items():
        found[name] = program.state_dict[target] if target in program.state_dict else program.constants[target]
    for name, target in signature.inputs_to_lifted_tensor_constants.items():
        found[name] = program.constants[target]
    return found


def _path(node: Node) -> str:
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""


def _is_normalization(node: Node) -> bool:
    stack = node.meta.get("nn_module_stack") or {"": ("", "")}
    return str(list(stack.values())[-1][1]).endswith(".LocalResponseNorm")


def _shape(node: Node) -> Shape:
    value = node.meta.get("val")
    shape = value.shape[1:] if isinstance(value, Tensor) else ()
    return tuple(int(size) for size in shape)  # type: ignore[return-value]
