"""One case of the benchmark: a kernel on a layer in one precision, with everything that takes part in it, timed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from ceilings import Rate
from competitors import (
    Output,
    conv_forms,
    library_forms,
    onnxruntime_form,
    openvino_forms,
    standard_forms,
    torch_compile_forms,
    torch_eager_forms,
)
from interleave import Chosen, Contender, compare
from layers import Layer, parameters
from program import clock_name
from quantized_graphs import dequantized, expected_output, quantized_operator, quantized_tensors
from rows import (
    ALONE,
    COMPILE,
    CONV,
    EAGER,
    LIBRARY,
    OPENVINO,
    OPENVINO_DEFAULT,
    PLAIN,
    STANDARD,
    Row,
)

from edgeconv.bench.measure import Plan, Progress

DEFAULT_PRECISION_AGREEMENT = 0.5
"""For OpenVINO's own choice of precision, whose error is shown and not judged."""


@dataclass(frozen=True)
class Case:
    """What is timed together.

    Attributes:
        kernel: The kernel.
        precision: As in `Row`.
        layer: Name of the layer or network.
        macs: As in `Row`.
        bytes: As in `Row`.
        accumulation: Whose ceiling is the limit, as `ceilings.limit` takes it.
        contenders: Everything that takes part.
    """

    kernel: str
    precision: str
    layer: str
    macs: int
    bytes: int
    accumulation: str
    contenders: Sequence[Contender]


def accumulation_of(kernel: str, precision: str) -> str:
    """Which ceiling bounds a kernel, as `ceilings.limit` takes it."""
    if precision.startswith("uint8"):
        return "manhattan u8"
    base = kernel if kernel in ("manhattan", "chebyshev") else "dot"
    return f"{base} {precision}" if precision != "float32" else base


def reference(kernel: str, layer: Layer) -> Output:
    """The result in float64, by edgeconv's torch operator ("linear" is the convolution)."""
    import torch

    from edgeconv.ops.kervolution_torch import kervolution

    x, w = (torch.from_numpy(tensor.astype(np.float64)) for tensor in layer.tensors())
    with torch.no_grad():
        y = kervolution(
            x, w, kernel=kernel, stride=(layer.stride,) * 2, pads=(layer.pad,) * 4, groups=layer.group,
            **{name: float(np.float32(value)) for name, value in parameters(kernel, layer).items()},  # type: ignore[arg-type]
        )  # fmt: skip
    result: Output = y.numpy()
    return result


def layer_case(kernel: str, layer: Layer, precision: str, competitors: Sequence[str]) -> Case:
    """Put a case together.

    Args:
        kernel: The kernel.
        layer: The layer.
        precision: As in `Row`.
        competitors: Those of `rows.COMPETITORS` that shall take part; with bf16x3 and 8 bits only Conv and the library.
    """
    found = [Contender(CONV, lambda: conv_forms(layer), reference("linear", layer))]
    if precision.startswith("uint8"):
        conversions = precision != "uint8"
        x = layer.tensors()[0] if conversions else quantized_tensors(layer)[0]
        model = quantized_operator(layer, conversions=conversions)
        y = expected_output(layer)
        forms = [onnxruntime_form("op library", model, {"X": x}, native=True)]
        exact = 0.0  # integers: every kernel agrees with the definition in every bit
        found.append(Contender(LIBRARY, lambda: forms, dequantized(y, layer) if conversions else y, exact))
    else:
        y = reference(kernel, layer)
        attributes = {} if precision == "float32" else {"precision": precision}
        found.append(Contender(LIBRARY, lambda: library_forms(kernel, layer, **attributes), y))
        if precision == "float32":
            found += [
                Contender(STANDARD, lambda: standard_forms(kernel, layer), y),
                Contender(EAGER, lambda: torch_eager_forms(kernel, layer), y),
                Contender(COMPILE, lambda: torch_compile_forms(kernel, layer), y),
                Contender(OPENVINO, lambda: openvino_forms(kernel, layer), y),
                Contender(OPENVINO_DEFAULT, lambda: openvino_forms(kernel, layer, {}), y, DEFAULT_PRECISION_AGREEMENT),
            ]
    element = 1 if precision == "uint8" else 4
    chosen = [contender for contender in found if contender.name in {*competitors, CONV, LIBRARY}]
    accumulation = accumulation_of(kernel, precision)
    return Case(kernel, precision, layer.name, layer.macs, layer.bytes(element), accumulation, chosen)


def measure_case(
    case: Case,
    *,
    threads: int,
    plan: Plan,
    limit: Rate | None,
    chosen: Chosen,
    notes: list[str],
    progress: Progress | None = None,
) -> Row | None:
    """Load, check and warm up everything that takes part, then time it interleaved.

    With several threads the library takes part with one as well, and each competitor in its best form with one.

    Args:
        case: The case.
        threads: Threads of every competitor.
        plan: How long to warm up and to measure.
        limit: Ceiling of the accumulation.
        chosen: Forms known to be best; with one thread they are added to it.
        notes: Told which forms could not take part and why.
        progress: Told what is going on.

    Returns:
        The row, or None where the library, or what it is compared with, could not take part.
    """
    comparison = compare(
        case.contenders, threads=threads, plan=plan, key=(case.kernel, case.precision, case.layer), chosen=chosen,
        notes=notes, name=f"{case.kernel} {case.layer}", note_name=f"{case.kernel} ({case.precision}) on {case.layer}",
        alone={LIBRARY: ALONE}, enough=lambda names: LIBRARY in names and _base(names) in names, progress=progress,
    )  # fmt: skip
    if comparison is None:
        return None
    return Row(
        case.kernel, case.precision, case.layer, threads, clock_name(threads), case.macs, case.bytes,
        limit.rate if limit else None, f"{limit.form} ({limit.isa})" if limit else None, comparison.measured,
        comparison.interval(LIBRARY, _base(comparison.measured)),
    )  # fmt: skip


def _base(names: Collection[str]) -> str:
    """What the library is compared with."""
    return PLAIN if PLAIN in names else CONV
