"""What takes part in a comparison: each competitor in every form that could be its best, loaded and checked.

A competitor is a name and forms; a form is prepared for a number of threads and is then a call without arguments and
its result. Torch and OpenVINO are imported when one of their forms is prepared.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from layers import Layer
from standard_graphs import operator, plain_conv, standard_graphs

from edgeconv.bench.measure import Clock, Subject, Warmup, warm_up
from edgeconv.errors import EdgeconvError, InputError, MissingDependencyError
from edgeconv.runtime.op_library import op_library
from edgeconv.runtime.ort import STOP_SPINNING, OrtSession

Output = npt.NDArray[Any]
Outputs = Output | tuple[Output, ...]
"""What a form gives: one array, or all of them where there are several."""

AGREEMENT = 2e-4
"""Largest difference from float64, in units of the output's rms, at which a float32 form computes the same thing."""


@dataclass(frozen=True)
class Ready:
    """A form that is loaded.

    Attributes:
        run: One inference.
        result: Runs once and returns the output, or outputs.
    """

    run: Callable[[], object]
    result: Callable[[], Outputs]


@dataclass(frozen=True)
class Form:
    """One way in which a competitor may compute.

    Attributes:
        name: What it is.
        prepare: Loads it for a number of threads.
    """

    name: str
    prepare: Callable[[int], Ready]


@dataclass(frozen=True)
class Entry:
    """A competitor's best form, ready to be timed.

    Attributes:
        competitor: Name of the competitor.
        form: The form that was fastest in its warm-up.
        subject: What to time.
        warmup: How it was warmed up.
        error: Largest difference from the reference, in units of the reference's rms.
    """

    competitor: str
    form: Form
    subject: Subject
    warmup: Warmup
    error: float


def relative_error(actual: Outputs, expected: Outputs) -> float:
    """Largest difference in units of the rms of `expected`; infinite where a value is not finite.

    Of several outputs, each in units of its own rms, the worst counts.
    """
    if isinstance(actual, tuple) or isinstance(expected, tuple):
        pairs = zip(_all(actual), _all(expected), strict=True)
        return max(relative_error(one, other) for one, other in pairs)
    if actual.shape != expected.shape:
        raise ValueError(f"shape {actual.shape}, expected {expected.shape}")
    difference = np.abs(actual.astype(np.float64) - expected).max()
    error = float(difference / np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    return error if np.isfinite(error) else float("inf")


def _all(outputs: Outputs) -> tuple[Output, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def enter(
    competitor: str,
    forms: Sequence[Form],
    expected: Outputs,
    *,
    threads: int,
    warmup_ns: int,
    clock: Clock,
    tolerance: float = AGREEMENT,
) -> tuple[Entry | None, list[str]]:
    """Prepare all forms, check that each computes the same thing, and keep the one that is fastest in its warm-up.

    Args:
        competitor: Name of the competitor.
        forms: Its forms.
        expected: The result.
        threads: Threads of each form.
        warmup_ns: Least time of each warm-up.
        clock: What the warm-up reads.
        tolerance: Largest difference from `expected`, in units of its rms.

    Returns:
        The best form, None if there is none, and for each form that is out the reason.
    """
    best: Entry | None = None
    out: list[str] = []
    for form in forms:
        try:
            ready = form.prepare(threads)
            error = relative_error(ready.result(), expected)
        except Exception as problem:  # whatever a foreign runtime raises: the others go on without it
            out.append(f"{competitor} ({form.name}) does not run: {_first_line(problem)}")
            continue
        if not error <= tolerance:
            out.append(
                f"{competitor} ({form.name}) computes something else: its result is off by {error:.2g} of the rms, "
                f"{tolerance:g} is allowed"
            )
            continue
        subject = Subject(competitor, _discard(ready.run))
        warmup = warm_up(subject, warmup_ns, clock)
        if best is None or warmup.median_ns < best.warmup.median_ns:
            best = Entry(competitor, form, subject, warmup, error)
    return best, out


def _first_line(error: Exception) -> str:
    text = error.message if isinstance(error, EdgeconvError) else f"{type(error).__name__}: {error}"
    return (text.strip().splitlines() or [""])[0]


def _discard(run: Callable[[], object]) -> Callable[[], None]:
    return run  # type: ignore[return-value]  # what it returns is not looked at


def onnxruntime_form(name: str, model: bytes, feeds: Mapping[str, Output], *, native: bool = False) -> Form:
    """A model in ONNX Runtime with inputs and outputs in place.

    Args:
        name: Name of the form.
        model: The serialised model.
        feeds: Its inputs.
        native: Register edgeconv's op library.
    """

    def prepare(threads: int) -> Ready:
        library: str | bool = op_library() if native else False
        session = OrtSession(model, threads=threads, op_library=library, options=STOP_SPINNING)

        def result() -> Outputs:
            outputs = tuple(session.run(feeds).values())
            return outputs if len(outputs) > 1 else outputs[0]

        return Ready(session.bind(feeds), result)

    return Form(name, prepare)


def conv_forms(layer: Layer) -> list[Form]:
    """The plain Conv of the same shape."""
    return [onnxruntime_form("Conv", plain_conv(layer), {"X": layer.tensors()[0]})]


def library_forms(kernel: str, layer: Layer, **attributes: Any) -> list[Form]:
    """The operator in the op library; the file has no function that could run in its place."""
    model = operator(kernel, layer, functions=False, **attributes)
    return [onnxruntime_form("op library", model, {"X": layer.tensors()[0]}, native=True)]


def standard_forms(kernel: str, layer: Layer) -> list[Form]:
    """Graphs of standard operators in ONNX Runtime."""
    feeds = {"X": layer.tensors()[0]}
    return [onnxruntime_form(name, model, feeds) for name, model in standard_graphs(kernel, layer)]


def torch_eager_forms(kernel: str, layer: Layer) -> list[Form]:
    """PyTorch, eager."""
    from torch_forms import eager_forms, input_tensor

    return [
        torch_form(name, lambda threads, module=module: module.eval(), lambda last=last: input_tensor(layer, last))
        for name, module, last in eager_forms(kernel, layer)
    ]


def torch_compile_forms(kernel: str, layer: Layer) -> list[Form]:
    """torch.compile; in `Steps` the second step alone is compiled."""
    from torch_forms import Steps, compiled_forms, input_tensor

    def compiled(module: Any, frozen: bool) -> Any:
        import torch

        options = {"freezing": True} if frozen else None
        module = module.eval()
        if isinstance(module, Steps):
            return Steps(module.first, torch.compile(module.second, dynamic=False, options=options))
        return torch.compile(module, dynamic=False, options=options)

    return [
        torch_form(
            name,
            lambda threads, module=module, frozen=frozen: compiled(module, frozen),
            lambda last=last: input_tensor(layer, last),
        )
        for name, module, last, frozen in compiled_forms(kernel, layer)
    ]


def torch_form(name: str, load: Callable[[int], Any], make_input: Callable[[], Any]) -> Form:
    """A module in PyTorch.

    Args:
        name: Name of the form.
        load: The module for a number of threads.
        make_input: Its input.
    """

    def prepare(threads: int) -> Ready:
        import torch

        torch.set_num_threads(threads)
        module, x = load(threads), make_input()

        def run() -> object:
            with torch.no_grad():
                return module(x)

        def result() -> Outputs:
            with torch.no_grad():
                found = module(x)
            if isinstance(found, tuple):
                return tuple(tensor.numpy() for tensor in found)
            array: Output = found.numpy()
            return array

        return Ready(run, result)

    return Form(name, prepare)


OPENVINO_F32 = {"INFERENCE_PRECISION_HINT": "f32"}


def openvino_forms(kernel: str, layer: Layer, precision: Mapping[str, str] = OPENVINO_F32) -> list[Form]:
    """The standard graphs in OpenVINO, but for the functions of our own files, which it does not take.

    Args:
        kernel: The kernel.
        layer: The layer.
        precision: Properties that set the precision; without them OpenVINO may round to bfloat16 or float16.
    """
    graphs = list(standard_graphs(kernel, layer))[1:]
    return [openvino_form(name, model, layer.tensors()[0], precision) for name, model in graphs]


def openvino_form(name: str, model: bytes, x: Output, precision: Mapping[str, str]) -> Form:
    """A model in OpenVINO with its input in place; properties set the precision, which it must keep to."""

    def prepare(threads: int) -> Ready:
        openvino = _openvino()
        properties = {
            "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY", **precision
        }  # fmt: skip
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(model), "CPU", properties)
        wanted = precision.get("INFERENCE_PRECISION_HINT")
        if wanted and str(compiled.get_property("INFERENCE_PRECISION_HINT")) != str(getattr(openvino.Type, wanted)):
            raise EdgeconvError(f"OpenVINO does not keep to {wanted}, although it was told to.")
        request = compiled.create_infer_request()
        request.set_input_tensor(openvino.Tensor(x, shared_memory=True))

        def result() -> Output:
            request.infer()
            return np.array(request.get_output_tensor().data)

        return Ready(request.infer, result)

    return Form(name, prepare)


def openvino_default_precision() -> str:
    """The precision that OpenVINO takes on this CPU where none is asked for, such as "f32" or "bf16"."""
    openvino = _openvino()
    layer = Layer("probe", 1, 3, 3, 1, 3)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(plain_conv(layer)), "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    return str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError(
            f"OpenVINO cannot be imported: {error}.",
            "Install it (pip install openvino), or leave it out with --competitors.",
        ) from error
    return openvino


def library_has(model: bytes) -> bool:
    """Whether the op library holds the operators of `model`, which carries no functions."""
    try:
        OrtSession(model, threads=1, op_library=op_library())
    except InputError as error:
        if "neither native nor a function" in error.message:
            return False
        raise
    return True


@contextmanager
def fresh_torch_compile() -> Iterator[None]:
    """Compile anew whatever an earlier run left behind, into a directory that vanishes, and never fall back silently.

    The directory is kept for the run, because PyTorch's headers are precompiled into it (half a minute).
    """
    import torch._dynamo.config
    import torch._functorch.config
    import torch._inductor.config

    variable = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(variable)
    with (
        tempfile.TemporaryDirectory(prefix="edgeconv-benchmark-", ignore_cleanup_errors=True) as directory,
        # Code that was compiled for one thread must not be found again for two.
        torch._inductor.config.patch(fx_graph_cache=False),
        torch._functorch.config.patch(enable_autograd_cache=False),
        torch._dynamo.config.patch(recompile_limit=1000, fail_on_recompile_limit_hit=True),
    ):
        os.environ[variable] = directory
        try:
            yield
        finally:
            if before is None:
                del os.environ[variable]
            else:
                os.environ[variable] = before
