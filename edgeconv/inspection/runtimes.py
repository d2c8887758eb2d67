"""Which path each runtime takes through a file: its kernels, the functions in the file, or neither.

What the runtimes do, in the order of the rows (docs/design.md, section 2):

- ONNX Runtime prefers a registered custom operator to the function of the same name, and inlines the function else. Its
  CUDA provider takes the operators for which the op library, built with CUDA, has CUDA kernels; the CPU the others.
- The ONNX reference evaluator runs the function.
- TensorRT's parser, from 10.7 on, takes a plugin before a function; a node finds it by the attributes plugin_version
  and plugin_namespace. Without the plugin it imports the function. Before 10.7 a function shadows the plugin.
- TensorRT's parser loses strides and dilations that a function hands on to a Conv: the functions of kervolutions then
  fail to load. `DeconvWhitening` computes its positions with them, and they arrive.
- TensorRT dequantises int8 with zero-point 0 only: the functions of operators on other integers fail to load, and
  inlining them does not help.
- The ONNX reference evaluator has DequantizeLinear and QuantizeLinear from opset 19 on.
- TensorRT-RTX has no plugin layers: it imports the function, unless a plugin is registered, on which its parser aborts.
- OpenVINO takes neither custom operators nor local functions.

A path tells how custom operators and functions are taken. Whether a runtime has every standard operator of the file,
in the version and type that the file uses, only loading it tells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, numpy_helper

from edgeconv.inspection.nodes import (
    STANDARD_DOMAINS,
    FunctionKey,
    domain_of,
    function_key,
    functions_of,
    is_edgeconv_operator,
    label,
    node_label,
    standard_opset,
    tensor_elements,
    walk,
)
from edgeconv.inspection.reading import SMALL
from edgeconv.inspection.report import CustomOperator, RuntimePath
from edgeconv.ops import deconv_whitening, kervolution, qlinear_manhattan
from edgeconv.ops.kervolution import DOMAIN, PLUGIN_ATTRIBUTES, KervolutionOperator
from edgeconv.ops.registry import OPERATORS, operator_of

NATIVE, FUNCTION, STANDARD = "native kernel", "function body", "standard operators"
NO_LOAD, NOT_KNOWN = "will not load", "not known"

MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operators; other runtimes take some of them."""

CUDA_KERNELS = frozenset(
    label(DOMAIN, name)
    for name in (*kervolution.OPERATORS, qlinear_manhattan.OPERATOR.name, deconv_whitening.OPERATOR.name)
)
"""Labels of the operators that the op library has CUDA kernels for, where it is built with CUDA."""

_QUANTIZATION_OPSET = 19  # the first in which the reference evaluator has DequantizeLinear


@dataclass(frozen=True)
class Usage:
    """What a file asks of a runtime.

    Attributes:
        operators: Calls of each operator outside the standard, through functions other than edgeconv's operators.
        bodies: Labels of the operators for which the file has a function.
        native: Labels of edgeconv's operators.
        missing: Labels of operators outside the standard for which the file has no function, edgeconv's included.
        missing_inside: The same in the bodies of edgeconv's operators, which only matter where no kernel is loaded.
        strided: Labels of kervolutions whose function is in the file and that have strides or dilations.
        quantized: Labels of edgeconv's operators on 8-bit integers.
        asymmetric: Those of them that somewhere have other integers than int8 with zero-point 0.
        opset: Version of the standard operators.
        plugin_attributes: Whether every call of edgeconv's operators can find its plugin.
        exported: Whether edgeconv wrote the file.
    """

    operators: dict[tuple[str, str], int]
    bodies: frozenset[str]
    native: frozenset[str]
    missing: frozenset[str]
    missing_inside: frozenset[str]
    strided: frozenset[str]
    quantized: frozenset[str]
    asymmetric: frozenset[str]
    opset: int
    plugin_attributes: bool
    exported: bool


def find_usage(model: onnx.ModelProto) -> Usage:
    """Follow every call in the file."""
    functions = functions_of(model)
    calls: Counter[tuple[str, str]] = Counter()
    marked: list[bool] = []
    missing: set[str] = set()
    missing_inside: set[str] = set()
    strided: set[str] = set()
    asymmetric: set[str] = set()
    stored = {tensor.name: tensor for tensor in model.graph.initializer}

    def follow(nodes: Iterable[onnx.NodeProto], inside: tuple[FunctionKey, ...], counted: bool) -> None:
        for node in walk(nodes):
            key = function_key(node)
            custom = domain_of(node) not in STANDARD_DOMAINS
            if counted and custom:
                calls[(domain_of(node), node.op_type)] += 1
            if counted and is_edgeconv_operator(node):
                marked.append(_has_plugin_attributes(node))
                if key in functions and _is_strided(node):
                    strided.add(node_label(node))
                if _is_asymmetric(node, stored):
                    asymmetric.add(node_label(node))
            if key in functions:
                if key not in inside:  # a function that calls itself is invalid; do not follow it for ever
                    follow(functions[key].node, (*inside, key), counted and not is_edgeconv_operator(node))
            elif custom:
                (missing if counted else missing_inside).add(node_label(node))

    follow(model.graph.node, (), True)
    used = {label(domain, op) for domain, op in calls}
    ours = {label(domain, op): OPERATORS[op] for domain, op in calls if domain == DOMAIN and op in OPERATORS}
    return Usage(
        operators=dict(calls),
        bodies=frozenset(label(domain, name) for domain, name, _ in functions) & used,
        native=frozenset(ours),
        missing=frozenset(missing),
        missing_inside=frozenset(missing_inside),
        strided=frozenset(strided),
        quantized=frozenset(name for name, operator in ours.items() if operator.is_quantized),
        asymmetric=frozenset(asymmetric),
        opset=standard_opset(model),
        plugin_attributes=all(marked),
        exported=any(entry.key.startswith("edgeconv.") for entry in model.metadata_props),
    )


def custom_operators(usage: Usage) -> list[CustomOperator]:
    """List the operators outside the standard."""
    return [
        CustomOperator(domain, op, count, label(domain, op) in usage.bodies, label(domain, op) in usage.native)
        for (domain, op), count in sorted(usage.operators.items())
    ]


def runtime_paths(usage: Usage) -> list[RuntimePath]:
    """Say for each runtime which path it takes, why, and what would be better."""
    return [
        _with_op_library("ONNX Runtime, edgeconv op library", usage),
        _with_functions(
            "ONNX Runtime, no op library",
            usage,
            "register the op library: SessionOptions.register_custom_ops_library(edgeconv.op_library())",
            takes_microsoft=True,
        ),
        _reference("ONNX reference evaluator", usage),
        _with_plugin("TensorRT >= 10.7, edgeconv plugin", usage),
        _with_tensorrt_functions("TensorRT >= 10.7, no plugin", usage, _inlined(usage)),
        _old_tensorrt("TensorRT < 10.7 (JetPack 6.1, 6.2)", usage),
        _rtx("TensorRT-RTX", usage),
        _openvino("OpenVINO", usage),
    ]


def _with_kernels(runtime: str, usage: Usage, *, takes_microsoft: bool = False) -> RuntimePath:
    lacking = _lacking(runtime, usage, usage.missing - usage.native, takes_microsoft)
    if lacking:
        return lacking
    if usage.native:
        return RuntimePath(runtime, NATIVE, "a registered kernel is preferred to the function of its name")
    return _with_functions(runtime, usage, "", takes_microsoft=takes_microsoft)


def _with_op_library(runtime: str, usage: Usage) -> RuntimePath:
    path = _with_kernels(runtime, usage, takes_microsoft=True)
    if path.path != NATIVE:
        return path
    cpu_only = usage.native - CUDA_KERNELS
    where = f"on the CPU only: {_names(cpu_only)}" if cpu_only else "on GPUs too, if the library is built with CUDA"
    return RuntimePath(runtime, NATIVE, f"{path.reason}; {where}")


def _with_functions(runtime: str, usage: Usage, remedy: str, *, takes_microsoft: bool = False) -> RuntimePath:
    lacking = _lacking(runtime, usage, (usage.missing | usage.missing_inside) - usage.native, takes_microsoft)
    if lacking:
        return lacking
    bare = usage.native & usage.missing
    if bare:
        return RuntimePath(runtime, NO_LOAD, f"no function in the file for {_names(bare)}", remedy)
    if usage.bodies:
        return RuntimePath(runtime, FUNCTION, f"runs the file's function for {_names(usage.bodies)}")
    return RuntimePath(runtime, STANDARD, "nothing in the file is outside the standard")


def _reference(runtime: str, usage: Usage) -> RuntimePath:
    path = _with_functions(runtime, usage, _with_bodies(usage))
    if path.path == FUNCTION and usage.quantized and usage.opset < _QUANTIZATION_OPSET:
        reason = f"has DequantizeLinear from opset {_QUANTIZATION_OPSET} on; the file has {usage.opset}"
        return RuntimePath(runtime, NO_LOAD, reason, f"write the file in opset {_QUANTIZATION_OPSET} or later")
    return path


def _with_tensorrt_functions(runtime: str, usage: Usage, remedy: str) -> RuntimePath:
    path = _with_functions(runtime, usage, remedy)
    if path.path == FUNCTION and usage.asymmetric:
        reason = f"dequantises int8 with zero-point 0 only; other integers in {_names(usage.asymmetric)}"
        return RuntimePath(runtime, NO_LOAD, reason, "quantise inputs, weights and outputs to int8, symmetrically")
    if path.path == FUNCTION and usage.strided:
        reason = f"its parser loses strides and dilations inside functions: {_names(usage.strided)}"
        return RuntimePath(runtime, NO_LOAD, reason, _inlined(usage))
    return path


def _with_plugin(runtime: str, usage: Usage) -> RuntimePath:
    if usage.native and not usage.plugin_attributes:
        path = _with_tensorrt_functions(runtime, usage, "")
        reason = f"{path.reason}; without plugin_version and plugin_namespace a node may not find its plugin"
        return RuntimePath(runtime, path.path, reason, path.remedy or "edgeconv export writes these attributes")
    path = _with_kernels(runtime, usage)
    if path.path == NATIVE:
        return RuntimePath(runtime, NATIVE, "a loaded plugin is preferred to the function; edgeconv ships none yet")
    return path


def _old_tensorrt(runtime: str, usage: Usage) -> RuntimePath:
    shadowed = usage.native & usage.bodies
    if shadowed:
        path = _with_tensorrt_functions(runtime, usage, "")
        remedy = "to use the plugin, edgeconv export --no-functions"
        if path.path != FUNCTION:
            return path
        return RuntimePath(runtime, FUNCTION, f"a function shadows the plugin of its name: {_names(shadowed)}", remedy)
    path = _with_plugin(runtime, usage)
    if path.path != NATIVE:
        return path
    return RuntimePath(
        runtime, NATIVE, "no function shadows the plugin", f"where the plugin is not loaded, {_inlined(usage)}"
    )


def _rtx(runtime: str, usage: Usage) -> RuntimePath:
    path = _with_tensorrt_functions(runtime, usage, _inlined(usage))
    if path.path == FUNCTION and usage.native:
        reason = f"{path.reason}; its parser aborts where a plugin of that name is registered"
        return RuntimePath(runtime, FUNCTION, reason, f"to be safe, {_inlined(usage)}")
    return path


def _openvino(runtime: str, usage: Usage) -> RuntimePath:
    lacking = _lacking(runtime, usage, (usage.missing | usage.missing_inside) - usage.native, False)
    if lacking and lacking.path == NO_LOAD:
        return lacking
    taken = usage.native | usage.bodies
    if taken:
        reason = f"takes neither custom operators nor local functions: {_names(taken)}"
        return RuntimePath(runtime, NO_LOAD, reason, _inlined(usage))
    return lacking or RuntimePath(runtime, STANDARD, "nothing in the file is outside the standard")


def _lacking(runtime: str, usage: Usage, missing: frozenset[str], takes_microsoft: bool) -> RuntimePath | None:
    """Return the path if operators that are not edgeconv's have neither a kernel nor a function."""
    microsoft = frozenset(name for name in missing if name.startswith(f"{MICROSOFT}::"))
    other = missing - microsoft
    if other:
        remedy = f"load the library that defines {_names(other)}, or add a function for it to the file"
        return RuntimePath(runtime, NO_LOAD, f"neither a kernel nor a function for {_names(other)}", remedy)
    if microsoft and not takes_microsoft:
        reason = f"some runtimes take some of ONNX Runtime's own operators: {_names(microsoft)}"
        return RuntimePath(runtime, NOT_KNOWN, reason, "save the model before ONNX Runtime's optimisation")
    return None


def _is_strided(node: onnx.NodeProto) -> bool:
    """Tell whether a node has strides or dilations that its function hands on to a Conv."""
    if not isinstance(operator_of(node), KervolutionOperator):
        return False
    return any(set(attribute.ints) - {1} for attribute in node.attribute if attribute.name in ("strides", "dilations"))


def _is_asymmetric(node: onnx.NodeProto, stored: Mapping[str, TensorProto]) -> bool:
    """Tell whether a zero-point in the file is not 0, or of another type than int8."""
    operator = operator_of(node)
    if operator is None or not operator.is_quantized:
        return False
    points = [name for key, name in zip(operator.inputs, node.input, strict=False) if key.endswith("_zero_point")]
    known = [stored[name] for name in points if name in stored]
    return any(
        tensor.data_type != TensorProto.INT8
        or (tensor_elements(tensor) <= SMALL and bool(numpy_helper.to_array(tensor).any()))
        for tensor in known
    )


def _has_plugin_attributes(node: onnx.NodeProto) -> bool:
    given = {attribute.name: attribute.s.decode(errors="replace") for attribute in node.attribute}
    return all(given.get(name) == value for name, value in PLUGIN_ATTRIBUTES.items())


def _with_bodies(usage: Usage) -> str:
    made_by_rewrite = usage.quantized & usage.missing
    return "fuse_qlinear_manhattan with_function=True" if made_by_rewrite else "edgeconv export without --no-functions"


def _inlined(usage: Usage) -> str:
    inline = "inline the functions (onnx.inliner.inline_local_functions)"
    if usage.quantized:  # usually made by a rewrite of the exported file: exporting again would not give it
        return f"{_with_bodies(usage)}, then {inline}" if usage.quantized & usage.missing else inline
    return "edgeconv export --inline" if usage.native & usage.missing or usage.exported else inline


def _names(labels: frozenset[str]) -> str:
    ordered = sorted(labels)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")
