"""Export in order: trace, write the form asked for, check what was written, and only then keep it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from rich.console import Console
from rich.markup import escape
from torch import Tensor, nn
from torch.export import ExportedProgram

from edgeconv.checkpoint import Checkpoint, load_checkpoint
from edgeconv.errors import InputError, ParityError
from edgeconv.export.deconvolution import DeconvSummary, request_deconv_stats, summarize
from edgeconv.export.forms import Form, apply_form
from edgeconv.export.graph import MIN_OPSET, HalfPrecision, torch_to_onnx
from edgeconv.export.parity import NOT_FINITE, TorchModel, Trial, compare_runtimes
from edgeconv.export.precision import check_request, request_precision
from edgeconv.export.report import ParityReport
from edgeconv.export.samples import graph_inputs, random_trials, real_trials
from edgeconv.export.shapes import (
    DynamicAxes,
    Shape,
    check_inputs,
    check_names,
    default_shape,
    dynamic_axes,
    name_axes,
    parameter_names,
    parse_shapes,
    rename_inputs,
    sizes,
    tracing_inputs,
    tracing_shapes,
)
from edgeconv.export.verification import quantizes, real_inputs, tolerance
from edgeconv.files import atomic_output, check_output
from edgeconv.nn.whitening import DeconvStats
from edgeconv.ops.kervolution import count_precisions, describe_precisions
from edgeconv.rewrite.fold_whitening import fold_whitening

StrPath = str | os.PathLike[str]
Progress = Callable[[str], None]

_FORMS: dict[Form, str] = {
    "functions": "operators with their functions",
    "inlined": "standard operators only",
    "nodes": "operators without functions",
}

_LARGEST_FILE = 2**31 - 1  # protobuf's limit


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: The file.
        bytes: Its size.
        opset: Its standard opset.
        form: How custom operators stand in it (`edgeconv.export.forms.Form`).
        precision: Type of the network's tensors, "float32" or "float16".
        inputs: Input name -> sizes; dynamic axes by name.
        parity: The comparison with PyTorch, or None if it was not asked for.
        kervolution_precisions: How many kervolutions on x·w ask for each `edgeconv.ops.kervolution.Precision`.
        deconvolution: What became of the deconvolutions, if there are any.
        next_commands: What to do with the file, to paste.
    """

    path: str
    bytes: int
    opset: int
    form: Form
    precision: str
    inputs: Mapping[str, tuple[int | str, ...]]
    parity: ParityReport | None
    kervolution_precisions: Mapping[str, int]
    deconvolution: DeconvSummary | None = None
    next_commands: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        parity = self.parity.to_dict() if self.parity else None
        deconvolution = dataclasses.asdict(self.deconvolution) if self.deconvolution else None
        return {**fields, "parity": parity, "deconvolution": deconvolution}

    def render(self, console: Console) -> None:
        """Print the parity report, what was written, and the commands that follow from it."""
        if self.parity is not None:
            self.parity.render(console)
        shapes = ", ".join(f"{name} {'x'.join(map(str, axes))}" for name, axes in self.inputs.items())
        kind = f"opset {self.opset}, {self.precision}, {_FORMS[self.form]}"
        console.print(f"[bold]{escape(self.path)}[/]: {self.bytes / 2**20:.2f} MiB, {kind}")
        console.print(f"inputs: {escape(shapes)}")
        if self.deconvolution is not None:
            console.print(self.deconvolution.describe(), soft_wrap=True)
        if self.parity is None:
            if self.kervolution_precisions:
                console.print(describe_precisions(self.kervolution_precisions), soft_wrap=True)
            console.print("[yellow]not checked (--no-verify)[/]")
        console.print("\nNext:", highlight=False)
        for command in self.next_commands:
            console.print(f"  {escape(command)}", highlight=False, soft_wrap=True)


def to_onnx(
    module: nn.Module | ExportedProgram,
    example_inputs: Tensor | Sequence[Tensor],
    path: StrPath,
    *,
    example_kwargs: Mapping[str, Tensor] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic: bool | Mapping[str, Mapping[int, str]] = True,
    opset: int = MIN_OPSET,
    form: Form = "functions",
    fp16: bool = False,
    precision: str | None = None,
    deconv_stats: DeconvStats | str | None = None,
    verify: bool = True,
    atol: float | None = None,
    rtol: float | None = None,
    real_inputs: np.ndarray[Any, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Export any module to one `.onnx` file and check it against PyTorch.

    Args:
        module: Any module, with edgeconv layers or without; it is put into evaluation mode. An ExportedProgram keeps
            its own dynamic axes.
        example_inputs: What `forward` takes, to trace with; a tensor or several.
        path: The file; written whole, and only if the check passes.
        example_kwargs: Tensors that `forward` takes by keyword.
        input_names: Names of the graph's inputs; by default the parameter names of `forward`.
        output_names: Names of the graph's outputs.
        dynamic: True: the first axis of every input that has as many samples as the first one is the dynamic axis
            "batch". False: every size is fixed. Or input name -> {axis: name}, with the parameter names of `forward`.
        opset: Standard opset, at least 18.
        form: "functions" (one file for every runtime), "inlined" or "nodes"; see `edgeconv.export.forms.Form`.
        fp16: Compute in float16; inputs and outputs stay float32. The check compares with float32 PyTorch.
        precision: Of every kervolution on x·w (`edgeconv.ops.kervolution.Precision`): "float32" or "bf16x3". By default
            each layer's own. The operators' nodes carry it, so it does not go with the form "inlined".
        deconv_stats: What deconvolutions whiten with: "frozen" running statistics, which are folded into the weights;
            the "batch" that the device sees; or "blend=0.3" (or 0.3), with that share of the batch's. By default each
            layer's own; the layers keep what is asked for.
        verify: Compare PyTorch with ONNX Runtime, with and without the op library, and the reference evaluator.
        atol: Absolute tolerance; by default `edgeconv.export.verification.TOLERANCES`.
        rtol: Tolerance relative to the output's rms; by default `edgeconv.export.verification.TOLERANCES`.
        real_inputs: (N, C, H, W), to compare on besides random ones.
        metadata: Key-value pairs to store in the file.
        progress: Called with a line about what happens next.

    Returns:
        What was written, with the parity report.

    Raises:
        InputError: The model cannot be traced, an input is no tensor or float64, a name, axis, form or tolerance does
            not exist, nothing in the file could have the precision, or the file cannot be written.
        ParityError: A runtime disagrees with PyTorch; no file is left behind.
    """
    say = progress or (lambda _: None)
    if form not in _FORMS:
        raise InputError(f"there is no form {form!r}.", f"Choose one of: {', '.join(_FORMS)}.")
    if not isinstance(example_inputs, Sequence):
        example_inputs = (example_inputs,)
    inputs = tuple(example_inputs)
    kwargs = dict(example_kwargs or {})
    tolerance("float32", atol, rtol)  # refuses wrong ones before the work
    if isinstance(module, nn.Module):
        module.eval()
        if any(parameter.dtype == torch.float64 for parameter in module.parameters()):
            raise InputError("the module computes in float64.", "Export module.float().")
    check_request(precision, form)
    request_deconv_stats(module, deconv_stats)
    dtype = "float16" if fp16 else "float32"
    if fp16 and isinstance(module, ExportedProgram):
        raise InputError("a .pt2 program has its precision fixed.", "Export the module itself with --fp16.")

    say("Tracing")
    parameters = [*parameter_names(module, len(inputs)), *kwargs]
    tensors = dict(zip(parameters, (*inputs, *kwargs.values()), strict=True))
    check_inputs(tensors)
    check_names("input_names", input_names, len(parameters))
    axes = {} if isinstance(module, ExportedProgram) else dynamic_axes(tensors, dynamic)
    tensors = tracing_inputs(tensors, axes)
    model = torch_to_onnx(
        HalfPrecision(module) if fp16 and isinstance(module, nn.Module) else module,
        list(tensors.values())[: len(inputs)],
        example_kwargs={name: tensors[name] for name in kwargs},
        dynamic_shapes=tracing_shapes(tensors, axes) if axes else None,
        input_names=parameters,
        output_names=output_names,
        opset=opset,
    )
    check_names("output_names", output_names, len(model.graph.output))
    name_axes(model, axes)
    rename_inputs(model, dict(zip(parameters, input_names or parameters, strict=True)))
    request_precision(model.graph.node, precision)
    model, folding = fold_whitening(model)
    deconvolution = summarize(module, len(folding.folded))
    model = apply_form(model, form)
    model.producer_name, model.producer_version = "edgeconv", importlib.metadata.version("edgeconv")
    fed = graph_inputs(model)
    first = next(iter(tensors.values()), None)
    properties = {
        "edgeconv.version": model.producer_version,
        "edgeconv.form": form,
        "edgeconv.precision": dtype,
        "edgeconv.input_shape": json.dumps([1, *first.shape[1:]]) if first is not None else "null",
        **({"edgeconv.deconv_stats": deconvolution.stats} if deconvolution else {}),
        **{key: str(value) for key, value in (metadata or {}).items()},
    }
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model)
    size = model.ByteSize()
    if size > _LARGEST_FILE:
        raise InputError(
            f"the file would have {size / 2**30:.1f} GiB; an .onnx file holds at most 2.", "Export with --fp16."
        )
    parity = None
    with atomic_output(path) as temporary:
        say("Writing")
        temporary.write_bytes(model.SerializeToString())
        if verify:
            arrays = dict(zip(fed, (tensor.numpy(force=True) for tensor in tensors.values()), strict=True))
            trials = [*random_trials(model, arrays), *real_trials(model, real_inputs)]
            if len(fed) > 1 or any(not np.issubdtype(array.dtype, np.floating) for array in arrays.values()):
                trials.append(Trial("example", arrays))
            written = onnx.load(temporary)
            reference = TorchModel(module, list(fed), list(kwargs))
            limits = tolerance("int8" if quantizes(written) else dtype, atol, rtol)
            parity = compare_runtimes(written, reference, trials, limits, say)
            if not parity.passed:
                overflows = any(comparison.note == NOT_FINITE for comparison in parity.comparisons)
                raise ParityError(parity, _OVERFLOW_REMEDY if overflows else _PARITY_REMEDY)
    quoted = shlex.quote(os.fspath(path))
    commands = (f"edgeconv inspect {quoted}", f"edgeconv bench {quoted} --provider cpu --compare")
    counts = count_precisions(model.graph.node)
    return ExportReport(os.fspath(path), size, opset, form, dtype, fed, parity, counts, deconvolution, commands)


def export_checkpoint(
    checkpoint: StrPath,
    output: StrPath | None = None,
    *,
    architecture: str | None = None,
    config: Mapping[str, Any] | None = None,
    opset: int = MIN_OPSET,
    batch: int = 1,
    shapes: Sequence[str] = (),
    dynamic: bool = True,
    form: Form = "functions",
    fp16: bool = False,
    precision: str | None = None,
    deconv_stats: str | None = None,
    verify: bool = True,
    atol: float | None = None,
    rtol: float | None = None,
    inputs: StrPath | None = None,
    trust_pickle: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Export a checkpoint file: `edgeconv export`.

    Args:
        checkpoint: A `.pt`, `.pth` or `.pt2` file; see `edgeconv.load_checkpoint`.
        output: The `.onnx` file; by default beside the checkpoint, with its name.
        architecture: Registry name for a bare state dict.
        config: Its keyword arguments.
        opset: Standard opset, at least 18.
        batch: The batch size of a static file.
        shapes: `[NAME:]1x3x224x224`, a word for a dynamic axis (`Nx3xH=64xW=64`), for a model whose file does not
            say its input's shape or to override it.
        dynamic: Whether the batch axis is dynamic; axes named in `shapes` are in any case.
        form: See `edgeconv.export.forms.Form`.
        fp16: Compute in float16.
        precision: Of every kervolution on x·w, "float32" or "bf16x3", as in `edgeconv.to_onnx`; by default as the
            checkpoint says.
        deconv_stats: What deconvolutions whiten with, as in `edgeconv.to_onnx`: "frozen" by default.
        verify: Check against PyTorch; a file that fails is not kept.
        atol: Absolute tolerance.
        rtol: Tolerance relative to the output's rms.
        inputs: A `.npz` (array `images`) or `.npy` of real inputs to compare on, instead of the checkpoint's samples.
        trust_pickle: Load pickled modules, which runs code from the file.
        progress: Called with a line about what happens next.

    Returns:
        What was written, with the parity report.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        InputError: An option does not fit the model, or the file cannot be written.
        ParityError: A runtime disagrees with PyTorch; no file is left behind.
    """
    if batch < 1:
        raise InputError(f"--batch must be at least 1, got {batch}.")
    check_request(precision, form)
    say = progress or (lambda _: None)
    say(f"Loading {checkpoint}")
    loaded = load_checkpoint(checkpoint, architecture=architecture, config=config, trust_pickle=trust_pickle)
    target = Path(output) if output is not None else Path(checkpoint).with_suffix(".onnx")
    check_output("--output", target, [checkpoint] if inputs is None else [checkpoint, inputs])
    metadata = {
        "edgeconv.architecture": loaded.architecture,
        "edgeconv.config": json.dumps(loaded.config),
        "edgeconv.class_names": json.dumps(loaded.class_names),
        "edgeconv.normalization": json.dumps(loaded.normalization),
        "edgeconv.source_sha256": loaded.source_sha256,
    }
    module: nn.Module | ExportedProgram
    axes: bool | DynamicAxes
    if loaded.program is not None:
        if shapes:
            raise InputError("a .pt2 program has its shapes fixed.", "Drop --shapes, or export the program anew.")
        if batch != 1 or not dynamic:
            raise InputError("a .pt2 program has its batch fixed.", "Drop --batch and --static, or export it anew.")
        module, examples, axes = loaded.program, _program_inputs(loaded.program), True
    else:
        if batch != 1 and dynamic:
            raise InputError(
                "--batch is the size of a static batch.", "Add --static, or drop --batch: it is left open."
            )
        named = _input_shapes(loaded, shapes, batch, dynamic)
        module = loaded.module
        examples = tuple(torch.zeros(sizes(shape)) for shape in named.values())
        axes = {name: {i: a.name for i, a in enumerate(s) if a.name} for name, s in named.items()}
    report = to_onnx(
        module,
        examples,
        target,
        dynamic=axes,
        opset=opset,
        form=form,
        fp16=fp16,
        precision=precision,
        deconv_stats=deconv_stats,
        verify=verify,
        atol=atol,
        rtol=rtol,
        real_inputs=real_inputs(loaded, inputs),
        metadata=metadata,
        progress=progress,
    )
    again = f"edgeconv verify {shlex.quote(os.fspath(target))} --against {shlex.quote(os.fspath(checkpoint))}"
    return dataclasses.replace(report, next_commands=(*report.next_commands, again))


_OVERFLOW_REMEDY = (
    "The file was not kept. The network itself overflows, before any export: give inputs of its own kind (--inputs), "
    "or train it or scale its weights (init_gain) so that it does not."
)

_PARITY_REMEDY = (
    "The file was not kept. If the difference is rounding that your application tolerates, raise --rtol; to look at "
    "the file anyway, export with --no-verify."
)


def _input_shapes(loaded: Checkpoint, texts: Sequence[str], batch: int, dynamic: bool) -> dict[str, Shape]:
    default = None if loaded.input_shape is None else default_shape(loaded.input_shape, batch=batch, dynamic=dynamic)
    given = parse_shapes(texts, None if default is None else sizes(default))
    if not given:
        if default is None:
            raise InputError(
                f"the checkpoint of {loaded.architecture} does not say its input's shape.",
                "Add --shapes 1x3x224x224 (batch, channels, height, width).",
            )
        given = {"": default}
    first = parameter_names(loaded.module, 1)[0]
    named = {name or first: shape for name, shape in given.items()}
    if dynamic:
        named = {
            name: shape
            if shape[0].name or loaded.input_shape is None or len(shape) != len(loaded.input_shape) + 1
            else (dataclasses.replace(shape[0], size=max(2, shape[0].size), name="batch"), *shape[1:])
            for name, shape in named.items()
        }
    order = parameter_names(loaded.module, len(named))
    unknown = sorted(named.keys() - set(order))
    if unknown:
        raise InputError(f"the model has no input {unknown[0]!r}.", f"Its inputs: {', '.join(order)}.")
    return {name: named[name] for name in order}


def _program_inputs(program: ExportedProgram) -> tuple[Tensor, ...]:
    if program.example_inputs is None:
        raise InputError("the .pt2 program has no example inputs.", "Export it again with torch.export.export.")
    args, kwargs = program.example_inputs
    leaves = torch.utils._pytree.tree_leaves((args, kwargs))
    return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
