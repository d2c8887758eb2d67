"""From a node of a traced graph to the operation that it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node
from torch.fx.operator_schemas import normalize_function

from edgeconv.visualization.operations import (
    AveragePooling,
    ChannelScale,
    Convolution,
    MaxPooling,
    Operation,
    Rectifier,
    ResponseNormalization,
    ZeroPadding,
)
from edgeconv.visualization.window import Pair, Window

PASSED = frozenset(
    f"aten.{name}"
    for name in (
        "dropout.default", "dropout_.default", "feature_dropout.default", "feature_dropout_.default",
        "alpha_dropout.default", "feature_alpha_dropout.default", "clone.default", "contiguous.default",
        "detach.default", "alias.default", "to.dtype", "to.device", "to.dtype_layout", "identity.default",
        "native_dropout.default", "lift_fresh_copy.default",
    )
)  # fmt: skip
"""What leaves values as they are, in evaluation."""

KINDS: dict[str, type[Operation]] = {
    "aten.conv2d.default": Convolution,
    "aten.conv2d.padding": Convolution,
    "aten.convolution.default": Convolution,
    "aten.relu.default": Rectifier,
    "aten.relu_.default": Rectifier,
    "aten.relu6.default": Rectifier,
    "aten.hardtanh.default": Rectifier,
    "aten.hardtanh_.default": Rectifier,
    "aten.clamp_min.default": Rectifier,
    "aten.clamp.default": Rectifier,
    "aten.max_pool2d.default": MaxPooling,
    "aten.avg_pool2d.default": AveragePooling,
    "aten.adaptive_avg_pool2d.default": AveragePooling,
    "aten.batch_norm.default": ChannelScale,
    "aten._native_batch_norm_legit_no_training.default": ChannelScale,
    "aten.pad.default": ZeroPadding,
    "aten.constant_pad_nd.default": ZeroPadding,
}
"""What each operator of PyTorch is here."""


@dataclass(frozen=True)
class Refusal:
    """Why a node cannot be projected."""

    reason: str


Constant = Callable[[Node], Any]


def read_operation(node: Node, layer: str, constant: Constant | None) -> Operation | Refusal | None:
    """Return what a node does.

    Args:
        node: Of the graph.
        layer: Its layer's name.
        constant: Gives the value of a node that does not depend on the image; None: only say whether it can be done.

    Returns:
        The operation; a refusal; None where `constant` is None and nothing is refused.
    """
    target = str(node.target)
    kind = KINDS.get(target)
    if kind is None:
        return Refusal(_why(layer, node, target))
    values = _arguments(node)
    if "adaptive" in target:
        values["size"] = tuple(node.all_input_nodes[0].meta["val"].shape[2:])
    unfit = _unfit(kind, target, values)
    if unfit:
        return Refusal(f"{layer} ({target}) {unfit}")
    if constant is None:
        return None
    given = {name: constant(value) if isinstance(value, Node) else value for name, value in values.items()
             if name not in ("input", "self")}  # fmt: skip
    return _BUILDERS[kind](layer, given)


def read_normalization_layer(layer: str, nodes: Sequence[Node]) -> Operation:
    """Return the local response normalisation that a module's nodes compute."""
    found: dict[str, Any] = {}
    for node in nodes:
        target = str(node.target)
        if "avg_pool" in target:
            found["size"] = max(node.args[1])  # type: ignore[arg-type]
        elif target == "aten.mul.Tensor" and not isinstance(node.args[1], Node):
            found["alpha"] = node.args[1]
        elif target == "aten.add.Tensor" and not isinstance(node.args[1], Node):
            found["k"] = node.args[1]
        elif target == "aten.pow.Tensor_Scalar" and not isinstance(node.args[1], Node):
            found["beta"] = node.args[1]
    return ResponseNormalization(
        layer, int(found.get("size", 1)), float(found["alpha"]), float(found["beta"]), float(found["k"])
    )


def _arguments(node: Node) -> dict[str, Any]:
    assert callable(node.target)
    normalized = normalize_function(node.target, node.args, node.kwargs, normalize_to_only_use_kwargs=True)
    return dict(node.kwargs if normalized is None else normalized.kwargs)


def _why(layer: str, node: Node, target: str) -> str:
    if target.startswith("edgeconv."):
        name = target.split(".")[1]
        if "Kervolution" in name:
            return f"{layer} is a kervolution ({name}), which transposed weights do not project back"
        return f"{layer} ({name}) depends on the other images of the batch"
    if target.startswith(("aten.flatten", "aten.linear", "aten.view", "aten.reshape", "aten.addmm")):
        return f"{layer} ({target}) leaves no maps of rows and columns"
    return (
        f"{layer} ({target}) is no convolution, ReLU, max or average pooling, batch or local response normalisation, "
        "zero padding or dropout"
    )


def _unfit(kind: type[Operation], target: str, values: dict[str, Any]) -> str | None:
    """Return what about the arguments has no counterpart on the way down."""
    if kind is Rectifier:
        low = values.get("min_val", values.get("min", 0))
        high = values.get("max_val", values.get("max"))
        if "relu" not in target and (low != 0 or (high is not None and not high > 0)):
            return f"clips to {low} … {high}, which is no ReLU"
    if kind is ZeroPadding and (values.get("mode", "constant") != "constant" or values.get("value") or len(
        values["pad"]) > 4):  # fmt: skip
        return "pads with something else than zeros"
    if target == "aten.convolution.default" and (values["transposed"] or len(values["stride"]) != 2):
        return "is a transposed convolution"
    if "adaptive" in target and any(size % count for size, count in zip(values["size"], _counts(values), strict=True)):
        return f"averages {values['size']} pixels to {_counts(values)}, in windows that differ in size"
    if kind is ChannelScale and values.get("training"):
        return "normalises with the batch's own statistics"
    return None


def _pair(value: Any) -> Pair:
    numbers = [value] if isinstance(value, int) else list(value)
    return (int(numbers[0]), int(numbers[-1]))


def _convolution(layer: str, values: dict[str, Any]) -> Operation:
    weight: torch.Tensor = values["weight"]
    strides, dilations = _pair(values["stride"]), _pair(values["dilation"])
    padding = values["padding"]
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
        pads = (total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2)
    else:
        rows, columns = (0, 0) if padding == "valid" else _pair(padding)
        pads = (rows, columns, rows, columns)
    return Convolution(layer, weight, values["bias"], strides, pads, dilations, int(values["groups"]))


def _rectifier(layer: str, values: dict[str, Any]) -> Operation:
    high = values.get("max_val", values.get("max"))
    return Rectifier(layer, None if high is None else float(high))


def _window(values: dict[str, Any]) -> Window:
    kernel = _pair(values["kernel_size"])
    stride = _pair(values["stride"]) if values.get("stride") else kernel
    return Window(kernel, stride, _pair(values["padding"]), _pair(values.get("dilation", 1)))


def _max_pooling(layer: str, values: dict[str, Any]) -> Operation:
    return MaxPooling(layer, _window(values), bool(values["ceil_mode"]))


def _counts(values: dict[str, Any]) -> Pair:
    return _pair(values["output_size"])


def _average_pooling(layer: str, values: dict[str, Any]) -> Operation:
    if "output_size" in values:
        (height, width), (rows, columns) = values["size"], _counts(values)
        kernel = (height // rows, width // columns)
        return AveragePooling(layer, Window(kernel, kernel))
    counts, divisor = bool(values["count_include_pad"]), values["divisor_override"]
    return AveragePooling(layer, _window(values), bool(values["ceil_mode"]), counts, divisor)


def _channel_scale(layer: str, values: dict[str, Any]) -> Operation:
    mean, variance = values["running_mean"].double(), values["running_var"].double()
    scale = 1 / (variance + values["eps"]).sqrt()
    scale = scale if values["weight"] is None else scale * values["weight"].double()
    shift = -mean * scale
    shift = shift if values["bias"] is None else shift + values["bias"].double()
    dtype = values["running_mean"].dtype
    return ChannelScale(layer, scale.to(dtype), shift.to(dtype))


def _zero_padding(layer: str, values: dict[str, Any]) -> Operation:
    left, right, top, bottom = (*values["pad"], 0, 0)[:4]
    return ZeroPadding(layer, (top, left, bottom, right))


_BUILDERS: dict[type[Operation], Callable[[str, dict[str, Any]], Operation]] = {
    Convolution: _convolution,
    Rectifier: _rectifier,
    MaxPooling: _max_pooling,
    AveragePooling: _average_pooling,
    ChannelScale: _channel_scale,
    ZeroPadding: _zero_padding,
}
