"""`run_model`: one inference of a model or an engine, on given or made-up inputs, with what came out of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeconv.errors import EdgeconvError, InputError
from edgeconv.files import atomic_output, check_output
from edgeconv.runtime.engine_model import read_interface
from edgeconv.runtime.engine_stamp import is_engine
from edgeconv.runtime.feeds import read_feeds
from edgeconv.runtime.ort import Array
from edgeconv.runtime.placement import Placement, check_placement, read_placement
from edgeconv.runtime.session import ENGINE_PROVIDERS, check_options, open_session, require_runtime, runtime_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

StrPath = str | os.PathLike[str]

TOP = 5
"""Classes that the report names for each item of an output (N, classes)."""
_ITEMS = 8  # of which they are named


@dataclass(frozen=True)
class OutputSummary:
    """An output of a run.

    Attributes:
        name: Its name.
        dtype: numpy's name of its type.
        shape: Its shape.
        least: The smallest finite value, None if there is none.
        mean: The mean of the finite values.
        largest: The largest of them.
        not_finite: Elements that are NaN or infinite.
        top: Of an output (N, classes): for each of the first items the classes of the largest values, with these.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    least: float | None
    mean: float | None
    largest: float | None
    not_finite: int
    top: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True)
class RunReport:
    """What ran, where, and what came out.

    Attributes:
        model: Path of the model, or of the engine that was built of it.
        provider: The provider.
        runtime: Name and version of its runtime.
        native: Whether edgeconv's op library or plugins took part.
        inputs: Shapes of the inputs.
        synthetic: Whether the inputs were made up.
        outputs: The outputs.
        placement: Which of ONNX Runtime's providers ran which node; None on the CPU and for engines.
        output: The file that the outputs were written to.
    """

    model: str
    provider: str
    runtime: str
    native: bool
    inputs: dict[str, tuple[int, ...]]
    synthetic: bool
    outputs: tuple[OutputSummary, ...]
    placement: Placement | None = None
    output: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        placement = None if self.placement is None else self.placement.to_dict()
        return {**asdict(self), "placement": placement}

    def render(self, console: Console) -> None:
        """Print the outputs' figures and classes."""
        from rich.markup import escape
        from rich.table import Table

        values = "made-up values" if self.synthetic else "given values"
        shapes = ", ".join(f"{name} {_text(shape)}" for name, shape in self.inputs.items())
        operators = "native operators" if self.native else "operators of the runtime"
        console.print(f"{escape(self.model)}: {self.provider}, {self.runtime}, {operators}", highlight=False)
        console.print(f"{escape(shapes)}, {values}", highlight=False)
        if self.placement is not None:
            counts = ", ".join(f"{provider} {count}" for provider, count in self.placement.counts.items())
            console.print(f"nodes on {counts}", highlight=False)
        table = Table()
        for heading in ("output", "type", "shape", "min", "mean", "max", "not finite"):
            table.add_column(heading, justify="left" if heading in ("output", "type", "shape") else "right")
        for each in self.outputs:
            figures = ["—" if value is None else f"{value:.5g}" for value in (each.least, each.mean, each.largest)]
            table.add_row(escape(each.name), each.dtype, _text(each.shape), *figures, str(each.not_finite))
        console.print(table)
        for each in self.outputs:
            for item, classes in enumerate(each.top):
                named = ", ".join(f"{index} ({value:.4g})" for index, value in classes)
                console.print(f"{escape(each.name)}[{item}]: classes {named}", highlight=False)
        if self.output is not None:
            console.print(f"wrote {escape(self.output)}", highlight=False)


def run_model(
    model: StrPath,
    inputs: StrPath | None = None,
    *,
    output: StrPath | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    batch: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
    op_library: bool | StrPath = True,
    seed: int = 0,
    device: int = 0,
    tf32: bool = False,
    allow_cpu_fallback: bool = False,
    trust_engine: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> RunReport:
    """Run a model once: `edgeconv run`.

    Args:
        model: An ``.onnx`` file, or an engine (TensorRT, TensorRT-RTX). Of a model these build and keep an engine
            (`edgeconv.runtime.engine_cache`).
        inputs: ``.npz`` with an array for each input by its name; or, for a model of one input, ``.npy`` or ``.npz``
            with ``images``. uint8 images are prepared as the file's metadata says, other values are taken as they are.
            By default values are made up (`edgeconv.bench.inputs.synthetic_feeds`).
        output: ``.npz`` to write the outputs to, by their names; whole or not at all.
        provider: One of `edgeconv.runtime.session.PROVIDERS`.
        threads: Threads that an operator may use, by default one a physical core (cpu, cuda).
        batch: Size of dynamic batch dimensions of made-up inputs.
        shapes: Shapes of made-up inputs by name, where neither the file nor its metadata says them.
        op_library: True uses the installed op library, False none, a path that one. TensorRT: the plugins likewise.
        seed: Of made-up inputs.
        device: Number of the GPU.
        tf32: On a GPU, let products of float32 values drop to TF32.
        allow_cpu_fallback: Run although nodes other than those that compute shapes run on the CPU (cuda).
        trust_engine: Load an engine without a stamp, or one whose stamp does not fit.
        progress: Called with what happens while an engine is built, and the done share.

    Returns:
        Figures of the outputs, and their values in the file if one was asked for.

    Raises:
        InputError: A file, a shape or an option cannot be used, or nodes run on the CPU although a GPU was asked for.
        MissingDependencyError: The provider's runtime, a GPU or its driver is missing.
    """
    given = {
        "threads": threads, "device": device, "tf32": tf32, "allow_cpu_fallback": allow_cpu_fallback,
        "trust_engine": trust_engine,
    }  # fmt: skip
    check_options(provider, given, [model])
    if inputs is not None and (shapes or batch != 1):
        raise InputError("the inputs are given, and so are their shapes.", "Leave --shapes and --batch out.")
    if output is not None:
        check_output("--output", output, [model] if inputs is None else [model, inputs])
    require_runtime(provider, device)
    build_for: dict[str, tuple[int, ...]] | None = None
    if provider in ENGINE_PROVIDERS and not is_engine(model):
        declared, metadata = read_interface(model)
        feeds = read_feeds(inputs, declared, metadata, batch, shapes, seed, model)
        build_for = {name: array.shape for name, array in feeds.items()}
    session = open_session(
        model, provider=provider, shapes=build_for, threads=threads, op_library=op_library, device=device, tf32=tf32,
        trust_engine=trust_engine, profile=provider == "cuda", progress=progress,
    )  # fmt: skip
    feeds = read_feeds(inputs, session.inputs, session.metadata, batch, shapes, seed, model)
    results = session.run(feeds)
    placement: Placement | None = None
    if provider == "cuda":
        placement = read_placement(session.profile_events())
        if not allow_cpu_fallback:
            check_placement(Path(model).name, placement, provider.upper())
    if output is not None:
        with atomic_output(output) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, **results)  # type: ignore[arg-type]
    return RunReport(
        model=session.name,
        provider=provider,
        runtime=runtime_version(provider),
        native=session.native,
        inputs={name: array.shape for name, array in feeds.items()},
        synthetic=inputs is None,
        outputs=tuple(_summarize(name, value) for name, value in results.items()),
        placement=placement,
        output=None if output is None else os.fspath(output),
    )


def _summarize(name: str, value: Array) -> OutputSummary:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        raise EdgeconvError(f"output {name} is no tensor of numbers.")
    wide = value.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    top: tuple[tuple[tuple[int, float], ...], ...] = ()
    if value.dtype.kind == "f" and value.ndim == 2 and value.shape[1] > 1:
        top = tuple(
            tuple((int(k), float(row[k])) for k in np.argsort(-row, kind="stable")[:TOP] if np.isfinite(row[k]))
            for row in wide[:_ITEMS]
        )
    some = bool(finite.size)
    return OutputSummary(
        name=name,
        dtype=value.dtype.name,
        shape=value.shape,
        least=float(finite.min()) if some else None,
        mean=float(finite.mean()) if some else None,
        largest=float(finite.max()) if some else None,
        not_finite=int(wide.size - finite.size),
        top=top,
    )


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
