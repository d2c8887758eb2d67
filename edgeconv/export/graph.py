"""A PyTorch module or ExportedProgram becomes an ONNX graph in which every edgeconv operator is a single node."""

from __future__ import annotations

import ast
import contextlib
import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import torch
from onnxscript import values
from torch import Tensor, nn
from torch.export import ExportedProgram

from edgeconv.errors import EdgeconvError, InputError
from edgeconv.inspection.nodes import standard_opset
from edgeconv.ops import deconv_whitening
from edgeconv.ops.kervolution import DOMAIN, PLUGIN_ATTRIBUTES, VERSION, KervolutionOperator
from edgeconv.ops.registry import LAYER_OPERATORS, operator_of, register_torch_operators
from edgeconv.ops.schema import register_schemas

MIN_OPSET, MAX_OPSET = 18, 23
"""The range of standard opsets that files can be written in: the functions' own, and what the exporter knows."""

SCOPES = "pkg.torch.onnx.name_scopes"
"""Node metadata that says from which module a node comes; it is kept, for the parity report names layers by it."""

# Shipped in the file, its IR version must be one that ONNX Runtime 1.18 and TensorRT 10.3 read; node metadata needs 10.
_IR_VERSION = 10


def torch_to_onnx(
    module: nn.Module | ExportedProgram,
    example_inputs: Sequence[Tensor],
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int = MIN_OPSET,
) -> onnx.ModelProto:
    """Export without function bodies.

    Args:
        module: In evaluation mode, or a program, whose dynamic axes are then its own.
        example_inputs: Positional inputs to trace with.
        example_kwargs: Keyword inputs to trace with.
        dynamic_shapes: As `torch.export.export` takes it.
        input_names: Names of the graph's inputs; by default the parameter names of `forward`.
        output_names: Names of the graph's outputs.
        opset: Standard opset, `MIN_OPSET` to `MAX_OPSET`.

    Raises:
        InputError: The opset is out of range, the inputs do not fit, or the model cannot be traced.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise InputError(f"opset {opset} is not supported.", f"Use --opset {MIN_OPSET} to {MAX_OPSET}.")
    register_schemas()
    with _quiet():
        program = module
        if not isinstance(program, ExportedProgram):
            program = _trace(program, example_inputs, example_kwargs, dynamic_shapes)
        try:
            exported = torch.onnx.export(
                program,
                tuple(example_inputs),
                kwargs=dict(example_kwargs or {}),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=input_names,
                output_names=output_names,
                custom_translation_table=translations(),
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise InputError(f"the traced model cannot be written as ONNX: {_cause(error)}") from error
    assert exported is not None
    model = exported.model_proto
    written = standard_opset(model)
    if written != opset:
        raise EdgeconvError(
            f"PyTorch's exporter wrote opset {written}; the graph cannot be converted to opset {opset}.",
            f"Export with --opset {written}.",
        )
    _copy_returned_inputs(model.graph)
    _clean(model)
    return model


_NORMALIZATIONS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


class HalfPrecision(nn.Module):
    """A copy of a model that computes in float16 and keeps float32 inputs and outputs.

    Normalisation layers compute in float32: behind a polynomial kernel their variances exceed float16's range.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.half_precision = copy.deepcopy(module)
        for layer in self.half_precision.modules():
            if isinstance(layer, _NORMALIZATIONS):
                layer.register_forward_pre_hook(lambda _layer, inputs: tuple(x.float() for x in inputs))
                layer.register_forward_hook(lambda _layer, _inputs, output: output.half())
            else:
                layer._apply(lambda t: t.half() if t.is_floating_point() else t, recurse=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model on the inputs in float16; floating outputs come back in float32."""

        def cast(tree: Any, dtype: torch.dtype) -> Any:
            return torch.utils._pytree.tree_map_only(
                Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, tree
            )

        return cast(self.half_precision(*cast(args, torch.float16), **cast(kwargs, torch.float16)), torch.float32)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the exporter's translation table: each torch operator of edgeconv becomes the ONNX node of its name."""
    register_torch_operators()
    return {
        getattr(torch.ops.edgeconv, name).default: (
            _translation(operator) if isinstance(operator, KervolutionOperator) else _translate_whitening
        )
        for name, operator in LAYER_OPERATORS.items()
    }


def _translation(operator: KervolutionOperator) -> Callable[..., Any]:
    """Translate a kervolution: tensors, an optional bias, then attributes in the torch schema's order."""
    node = getattr(values.Opset(DOMAIN, VERSION), operator.name)
    tensors = len(operator.inputs) - 1

    def translate(*args: Any) -> Any:
        inputs, bias, window = args[:tensors], args[tensors], args[tensors + 1 :]
        attributes: dict[str, Any] = dict(zip(("strides", "pads", "dilations", "group"), window, strict=False))
        rest = [name for name in ("degree", "precision") if getattr(operator, f"has_{name}")]
        attributes.update(zip(rest, window[4:], strict=False))  # a default may be left out
        attributes["kernel_shape"] = list(inputs[operator.weights].shape[2:])
        return node(*inputs, bias, **attributes, **PLUGIN_ATTRIBUTES)

    return translate


def _translate_whitening(
    x: Any,
    block: int,
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    eps: float,
    n_iter: int,
    sampling_stride: int,
    centered: bool = True,
) -> Any:
    node = getattr(values.Opset(DOMAIN, VERSION), deconv_whitening.NAME)
    return node(
        x,
        block=block,
        kernel_shape=list(kernel_shape),
        strides=list(strides),
        pads=list(pads),
        dilations=list(dilations),
        group=group,
        eps=eps,
        n_iter=n_iter,
        sampling_stride=sampling_stride,
        centered=int(centered),
        **PLUGIN_ATTRIBUTES,
    )


def _trace(
    module: nn.Module, inputs: Sequence[Tensor], kwargs: Mapping[str, Any] | None, dynamic_shapes: Any
) -> ExportedProgram:
    if isinstance(module, HalfPrecision) and dynamic_shapes:  # its forward takes *args and **kwargs
        by_input = list(dynamic_shapes.values())
        dynamic_shapes = {"args": tuple(by_input[: len(inputs)])}
        if kwargs:
            dynamic_shapes["kwargs"] = dict(zip(kwargs, by_input[len(inputs) :], strict=True))
    try:
        return torch.export.export(
            module.eval(), tuple(inputs), dict(kwargs or {}), dynamic_shapes=dynamic_shapes, strict=False
        )
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:  # the tracer runs the user's code, which may raise anything
        text = str(error)
        if "dynamic" in text.lower() and ("constraint" in text.lower() or "specializ" in text.lower()):
            raise InputError(
                f"an axis that was asked to be dynamic is fixed by the model: {_cause(error)}",
                "Export with --static, or name only the axes that may change in --shapes.",
            ) from error
        shapes = ", ".join("x".join(map(str, tensor.shape)) for tensor in inputs)
        raise InputError(
            f"the model cannot be traced with an input of shape {shapes}: {_cause(error)}",
            "Check --shapes against what the model takes; control flow that depends on data cannot be exported.",
        ) from error


def _copy_returned_inputs(graph: onnx.GraphProto) -> None:
    """Give an input that the model returns another name as an output: a graph's values have one definition each.

    PyTorch's exporter writes a copy of the input, and gives both the input's name.
    """
    inputs = {value.name for value in graph.input}
    for node in [node for node in graph.node if node.op_type == "Identity" and node.output[0] in inputs]:
        graph.node.remove(node)
    taken = inputs | {name for node in graph.node for name in node.output}
    for output in graph.output:
        if output.name in inputs:
            source, number = output.name, 1
            while (name := f"{source}_out{number}") in taken:
                number += 1
            taken.add(name)
            graph.node.append(onnx.helper.make_node("Identity", [source], [name]))
            output.name = name


def _clean(model: onnx.ModelProto) -> None:
    """Remove what only concerns the exporting machine (source paths, graph dumps); keep the layers' names."""
    model.ir_version = _IR_VERSION
    del model.functions[:]
    taken: dict[str, int] = {}
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if entry.key == SCOPES]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
        node.doc_string = ""
        node.name = _node_name(node, taken)
        operator = operator_of(node)
        if isinstance(operator, KervolutionOperator):
            _write_bias(model.graph, node, operator)
    del model.graph.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    model.graph.doc_string = ""


def _write_bias(graph: onnx.GraphProto, node: onnx.NodeProto, operator: KervolutionOperator) -> None:
    """Give a node without bias one of zeros.

    An omitted optional input is valid, but the reference evaluator wants as many inputs as a function has, and
    TensorRT's parser rejects it inside the function's body.
    """
    position = len(operator.inputs) - 1
    if len(node.input) > position and node.input[position]:
        return
    types = {tensor.name: (tensor.data_type, tensor.dims[0]) for tensor in graph.initializer if tensor.dims}
    for value in (*graph.value_info, *graph.input):
        tensor = value.type.tensor_type
        if tensor.shape.dim:
            types.setdefault(value.name, (tensor.elem_type, tensor.shape.dim[0].dim_value))
    element, filters = types[node.input[operator.weights]]
    if operator.is_quantized:
        element = onnx.TensorProto.FLOAT
    name = f"{node.output[0]}_bias"
    zeros = np.zeros(filters, onnx.helper.tensor_dtype_to_np_dtype(element))
    graph.initializer.append(onnx.numpy_helper.from_array(zeros, name))
    del node.input[position:]
    node.input.append(name)


def layer_of(node: onnx.NodeProto) -> str | None:
    """Return the dotted name of the module that a node of an exported graph comes from; empty for the model itself."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), None)
    path = [str(scope) for scope in ast.literal_eval(scopes)] if scopes else []
    return path[-2].removeprefix("half_precision").removeprefix(".") if len(path) >= 2 else None


def _node_name(node: onnx.NodeProto, taken: dict[str, int]) -> str:
    """Name a node after its layer, as profilers and error messages show it: `layer1.0.conv2/ManhattanKervolution`."""
    layer = layer_of(node)
    name = f"{layer}/{node.op_type}" if layer else node.op_type
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}_{taken[name]}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks about packages that it would also support."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _cause(error: BaseException) -> str:
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    return (str(root).strip() or type(root).__name__).splitlines()[0]
