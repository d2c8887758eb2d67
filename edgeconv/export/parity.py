"""PyTorch against every runtime that is here, and the first layer that differs when they disagree."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.export import ExportedProgram

from edgeconv.errors import EdgeconvError, InputError, MissingDependencyError
from edgeconv.export.graph import layer_of
from edgeconv.export.reference_limit import LIMIT, reference_bytes
from edgeconv.export.report import Comparison, Divergence, ParityReport, Tolerance
from edgeconv.ops.kervolution import DOMAIN, count_precisions
from edgeconv.runtime.op_library import op_library
from edgeconv.runtime.ort import OrtSession

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
Runner = Callable[[Feeds], Mapping[str, Array]]

NOT_FINITE = "PyTorch's own output holds no finite value"
NATIVE, PLAIN, REFERENCE = "ORT + op library", "ORT", "ONNX reference"


@dataclass(frozen=True)
class Trial:
    """One set of inputs to compare on.

    Attributes:
        label: Where they come from: "random", "real" or "example".
        feeds: Input name -> array.
        slow: Whether the reference evaluator, an interpreter in numpy, runs them too.
    """

    label: str
    feeds: Feeds
    slow: bool = True

    @property
    def batch(self) -> int:
        """Size of the first input's first axis (1 for a scalar)."""
        first = next(iter(self.feeds.values()))
        return int(first.shape[0]) if first.ndim else 1


def _unflatten(program: ExportedProgram) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's about its own code
        return torch.export.unflatten(program)


class TorchModel:
    """The PyTorch side: runs a module on feeds and, for the search of a difference, hands out layers' outputs.

    Args:
        module: In evaluation mode; or a program.
        names: Names of the inputs in the ONNX file, positional ones first.
        keywords: For the inputs at the end that `forward` takes by keyword: their names there.
    """

    def __init__(self, module: nn.Module | ExportedProgram, names: Sequence[str], keywords: Sequence[str] = ()) -> None:
        self._module = _unflatten(module) if isinstance(module, ExportedProgram) else module
        self._names, self._keywords = list(names), list(keywords)

    def run(self, feeds: Feeds) -> list[Array]:
        """Return the outputs, flattened in order."""
        tensors = [torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in self._names]
        split = len(tensors) - len(self._keywords)
        with torch.inference_mode():
            outputs = self._module(*tensors[:split], **dict(zip(self._keywords, tensors[split:], strict=True)))
        leaves = torch.utils._pytree.tree_leaves(outputs)
        return [leaf.detach().float().numpy() if leaf.is_floating_point() else leaf.numpy() for leaf in leaves]

    def run_layers(self, feeds: Feeds) -> dict[str, Array]:
        """Return the output of every leaf module that ran exactly once, by its dotted name."""
        seen: dict[str, list[Array]] = {}

        def record(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                if isinstance(output, Tensor):
                    # A copy: an in-place activation may follow.
                    seen.setdefault(name, []).append(output.detach().float().clone().numpy())

            return hook

        leaves = [(name, module) for name, module in self._module.named_modules() if not list(module.children())]
        handles = [module.register_forward_hook(record(name)) for name, module in leaves]
        try:
            self.run(feeds)
        finally:
            for handle in handles:
                handle.remove()
        return {name: outputs[0] for name, outputs in seen.items() if len(outputs) == 1}


def compare_runtimes(
    model: onnx.ModelProto,
    reference: TorchModel,
    trials: Sequence[Trial],
    tolerance: Tolerance,
    progress: Callable[[str], None] | None = None,
) -> ParityReport:
    """Run PyTorch and every runtime on every trial and compare.

    Args:
        model: The file's content.
        reference: The PyTorch side.
        trials: Inputs to compare on.
        tolerance: How large a difference passes.
        progress: Called with a line about what happens next.

    Returns:
        The report; its `passed` is False if any comparison exceeds the tolerance, and `divergence` then names the
        first layer that differs, where it can be found.
    """
    say = progress or (lambda _: None)
    comparisons: list[Comparison] = []
    not_run: dict[str, str] = {}
    divergence: Divergence | None = None
    expected = [_expected(reference, trial) for trial in trials]
    for name, load in _runtimes(model, not_run).items():
        try:
            run = load(model)
            for trial, want in zip(trials, expected, strict=True):
                if name == REFERENCE:
                    if not trial.slow:
                        continue
                    if (reason := _too_large(model, trial)) is not None:
                        not_run[name] = reason
                        break
                say(f"{name}: {trial.label} inputs, batch {trial.batch}")
                comparison = _compare(name, trial, want, list(run(trial.feeds).values()), tolerance)
                comparisons.append(comparison)
                if not comparison.passed and divergence is None:
                    say("Looking for the first layer that differs")
                    divergence = _first_divergence(model, load, reference, trial, tolerance)
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            if name != REFERENCE:
                raise
            # The evaluator lacks some standard operators, and pools no window of NaN alone: its limits, not the file's.
            not_run[name] = (str(error).strip() or type(error).__name__).splitlines()[0]
    if not comparisons:
        raise EdgeconvError(
            "no runtime could check the file: " + "; ".join(f"{name}: {why}" for name, why in not_run.items()),
            "Install one (pip install 'edgeconv[cpu]'), or skip the check with --no-verify.",
        )
    return ParityReport(comparisons, not_run, tolerance, divergence, count_precisions(model.graph.node))


def _too_large(model: onnx.ModelProto, trial: Trial) -> str | None:
    """Why the reference evaluator is not asked: a convolution for which it would hold gigabytes."""
    needed, node = reference_bytes(model, trial.feeds)
    if needed <= LIMIT:
        return None
    return f"it would hold {needed / 2**30:.0f} GiB for the convolution {node}"


def _expected(reference: TorchModel, trial: Trial) -> list[Array]:
    try:
        return reference.run(trial.feeds)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        shapes = ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in trial.feeds.items())
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"the PyTorch model itself fails on {trial.label} inputs that the file takes ({shapes}): {reason}",
            "Leave only those axes dynamic that the model lets change, or check that file and model belong together.",
        ) from error


def _runtimes(model: onnx.ModelProto, not_run: dict[str, str]) -> dict[str, Callable[[onnx.ModelProto], Runner]]:
    """Choose the runtimes that can open the file; say of the others why they are not run."""
    custom = any(node.domain == DOMAIN for node in model.graph.node)
    bodies = bool(model.functions)
    runtimes: dict[str, Callable[[onnx.ModelProto], Runner]] = {NATIVE: _load_native, PLAIN: _load_plain}
    runtimes[REFERENCE] = _load_reference
    if not custom:
        del runtimes[NATIVE]
        not_run[NATIVE] = "the file holds standard operators only"
    else:
        try:
            op_library()
        except MissingDependencyError as error:
            del runtimes[NATIVE]
            not_run[NATIVE] = error.message
        if not bodies:
            for name in (PLAIN, REFERENCE):
                del runtimes[name]
                not_run[name] = "the file holds no function bodies"
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        for name in (NATIVE, PLAIN):
            if runtimes.pop(name, None):
                not_run[name] = "onnxruntime is not installed (pip install 'edgeconv[cpu]')"
    return runtimes


def _load_native(model: onnx.ModelProto) -> Runner:
    return OrtSession(model.SerializeToString(), op_library=True).run


def _load_plain(model: onnx.ModelProto) -> Runner:
    return OrtSession(model.SerializeToString(), op_library=False).run


def _load_reference(model: onnx.ModelProto) -> Runner:
    evaluator = ReferenceEvaluator(model)

    def run(feeds: Feeds) -> dict[str, Array]:
        with np.errstate(all="ignore"):
            return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))

    return run


def _compare(
    runtime: str, trial: Trial, expected: Sequence[Array], actual: Sequence[Array], tolerance: Tolerance
) -> Comparison:
    if [want.shape for want in expected] != [got.shape for got in actual]:
        shapes = "; ".join(f"{want.shape} / {got.shape}" for want, got in zip(expected, actual, strict=False))
        return Comparison(
            runtime, trial.label, trial.batch, float("inf"), float("inf"), None, False, f"shapes differ: {shapes}"
        )
    errors = [tolerance.errors(want, got) for want, got in zip(expected, actual, strict=True)]
    agreements = [
        float(np.mean(want.argmax(1) == got.argmax(1)))
        for want, got in zip(expected, actual, strict=True)
        if want.ndim == 2 and want.shape[1] > 1 and want.size
    ]
    total = sum(error.count for error in errors)
    return Comparison(
        runtime,
        trial.label,
        trial.batch,
        max((error.maximum for error in errors), default=0.0),
        sum(error.mean * error.count for error in errors) / max(total, 1),
        min(agreements) if agreements else None,
        all(error.passed for error in errors),
        "" if all(np.isfinite(want).any() or not want.size for want in expected) else NOT_FINITE,
        min((error.rms for error in errors if error.rms is not None), default=None),
    )


def _first_divergence(
    model: onnx.ModelProto,
    load: Callable[[onnx.ModelProto], Runner],
    reference: TorchModel,
    trial: Trial,
    tolerance: Tolerance,
) -> Divergence | None:
    """Compare the outputs of the layers in graph order; return the first that exceeds the tolerance."""
    layers = _layer_values(model.graph.node)
    expected = reference.run_layers(trial.feeds)
    layers = {name: value for name, value in layers.items() if name in expected}
    if not layers:
        return None
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    present = {output.name for output in opened.graph.output}
    opened.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(value) for value in layers.values() if value not in present
    )
    actual = load(opened)(trial.feeds)
    previous: str | None = None
    for name, value in layers.items():
        if expected[name].shape != actual[value].shape:
            continue  # the exporter reshaped it: not comparable, and not by itself a difference
        error = tolerance.errors(expected[name], actual[value])
        if not error.passed:
            return Divergence(name, error.maximum, previous)
        previous = name
    return None


def _layer_values(nodes: Iterable[onnx.NodeProto]) -> dict[str, str]:
    """Map each module's dotted name to the value that its last node makes, in graph order."""
    values: dict[str, str] = {}
    for node in nodes:
        layer = layer_of(node)
        if layer and node.output:
            values.pop(layer, None)
            values[layer] = node.output[0]
    return values
