"""The search: candidates within a budget of MACs, exported and measured. Nothing is trained: accuracy is not known."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgeconv.bench.api import benchmark
from edgeconv.errors import InputError
from edgeconv.export.pipeline import to_onnx
from edgeconv.inspection import inspect_model
from edgeconv.models.registry import create, model_info, resolve_config
from edgeconv.pictures import check_picture
from edgeconv.runtime.providers import check_threads
from edgeconv.runtime.session import check_options, require_runtime
from edgeconv.scaling.axes import Axes, find_axes
from edgeconv.scaling.grid import Coefficients, coefficients, steps
from edgeconv.scaling.plot import plot_scaling
from edgeconv.scaling.report import Candidate, ScalingReport

Progress = Callable[[str, float], None]

PHI_STEPS = 3
LIMIT = 20
ITERATIONS, DURATION, WARMUP = 16, 0.5, 0.2
"""Of each candidate's measurement: short, for there are many."""

_HALVINGS = 4
"""Of the step of φ in which a point meets the budget."""

_EXPORTING = 0.7
"""Share of the work that is exporting, for the progress bar."""


def scale_architecture(
    architecture: str,
    *,
    budget_macs: float,
    budget_latency: float | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    config: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[float]] | None = None,
    phi_steps: int = PHI_STEPS,
    limit: int = LIMIT,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> ScalingReport:
    """Scale an architecture by the rule of EfficientNet, and measure what comes of it: `edgeconv models scale`.

    The multiply-accumulates of every candidate are counted without building its weights. Those within the budget are
    built with random weights, exported, and measured interleaved, with a batch of one.

    Args:
        architecture: As `edgeconv models` lists it.
        budget_macs: Most multiply-accumulates of one inference.
        budget_latency: Longest median latency, in seconds; None for any.
        provider: As in `edgeconv.benchmark`.
        threads: As in `edgeconv.benchmark`.
        config: Configuration of the architecture, before scaling.
        grid: Coefficients by axis, over `edgeconv.scaling.grid.DEFAULT_GRID`.
        phi_steps: How many φ above 0 are tried, up to the budget.
        limit: Most candidates that are measured, besides the architecture as it is; the rest are left out evenly over
            their MACs.
        seed: Of weights, inputs and order of turns.
        output: Picture of the candidates: .png, .svg or .pdf.
        progress: Called with what happens, and the done share of it.

    Raises:
        InputError: No such architecture, key, provider or number of threads, it scales nothing, nothing is within the
            budget, or the picture cannot be written.
        MissingDependencyError: The provider's runtime is missing, or matplotlib.
    """
    if output is not None:
        check_picture("--output", output)
    if limit < 1 or phi_steps < 1:
        raise InputError(f"--limit and --steps must be at least 1; got {limit} and {phi_steps}.")
    say: Progress = progress or (lambda _what, _done: None)
    if not 0 < budget_macs < math.inf:
        raise InputError(f"the budget of MACs must be positive and finite, got {budget_macs:g}.")
    check_threads(threads)
    if seed < 0:
        raise InputError(f"seed must be 0 or more, got {seed}.")
    check_options(provider, {"threads": threads})
    require_runtime(provider)
    axes = find_axes(model_info(architecture), resolve_config(architecture, config))
    with torch.device("meta"):
        create(architecture, **axes.base)  # MACs are counted without the keys of unusual layers, which may be wrong
    base = count_macs(axes, 1.0, 1.0, 1.0)
    found = find_candidates(axes, base, budget_macs, coefficients(axes.names, grid), phi_steps, say)
    within = [candidate for candidate in found if candidate.macs <= budget_macs]
    if not within:
        raise InputError(
            f"no candidate keeps to {budget_macs / 1e6:,.1f} M MACs; {architecture} as it is has {base / 1e6:,.1f} M.",
            "Raise --budget-macs.",
        )
    chosen = thin_out(within, limit)
    with tempfile.TemporaryDirectory(prefix="edgeconv_scale_") as folder:
        measured, environment, warnings = _measure(axes, chosen, Path(folder), provider, threads, seed, say)
    report = ScalingReport(
        architecture, tuple(axes.names), base, budget_macs, budget_latency, provider, tuple(measured),
        len(found) - len(within), len(within) - len(chosen), axes.info.config, environment, warnings,
    )  # fmt: skip
    if output is not None:
        plot_scaling(report, output)
    return report


def count_macs(axes: Axes, depth: float, width: float, resolution: float) -> int:
    """Count the multiply-accumulates of convolutions and matrix products at multipliers, without weights or inputs.

    Kervolutions and deconvolutions count as the convolutions of their shapes.

    Raises:
        InputError: The architecture cannot be built at these multipliers, or does not take the input.
    """
    plain = {key: value for key, value in axes.config(depth, width).items() if key not in ("kernel", "deconv_block")}
    shape = axes.input_shape(resolution)
    with torch.device("meta"):
        model = create(axes.info.name, **plain).eval()
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            _run(model, torch.empty(1, *shape), axes.info.name)
    return int(counter.get_total_flops()) // 2


def thin_out(candidates: Sequence[Candidate], limit: int) -> list[Candidate]:
    """Return `limit` candidates, evenly by rank of their MACs, the first and the last among them.

    The architecture as it is (φ = 0) is kept besides.
    """
    ranked = sorted(candidates, key=lambda candidate: (candidate.macs, candidate.phi))
    if len(ranked) <= limit:
        return ranked
    last = len(ranked) - 1
    kept = {round(index * last / max(limit - 1, 1)) for index in range(limit)}
    return [candidate for rank, candidate in enumerate(ranked) if rank in kept or candidate.phi == 0]


def find_candidates(
    axes: Axes, base: int, budget: float, points: Sequence[Coefficients], count: int, say: Progress
) -> list[Candidate]:
    """Return every point at every φ, and at the largest φ within the budget, each network once.

    Args:
        axes: What scales.
        base: MACs of the architecture as it is.
        budget: MACs that are allowed; candidates over it are among those returned.
        points: Coefficients of φ = 1.
        count: φ of a point, besides 0 and the largest.
        say: Called with what happens, and the done share of the whole search.
    """
    found: dict[str, Candidate] = {}

    def macs_at(point: Coefficients, phi: float) -> int:
        at = point.raised(phi)
        config, shape = axes.config(at.depth, at.width), axes.input_shape(at.resolution)
        key = f"{config} {shape}"
        if key not in found:
            found[key] = Candidate(phi, point, at, config, shape, count_macs(axes, at.depth, at.width, at.resolution))
        return found[key].macs

    for done, point in enumerate(points):
        say("counting MACs", (1 - _EXPORTING) / 2 * done / len(points))
        tried = steps(base, budget, point.growth, count)
        within = [phi for phi in tried if macs_at(point, phi) <= budget]
        if not within:
            continue
        # Blocks, channels and rows are whole numbers: the budget's edge is not where the coefficients foresee it.
        low, high = max(within), min((phi for phi in tried if phi > max(within)), default=max(within) + 1)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if macs_at(point, middle) <= budget else (low, middle)
    return list(found.values())


def _measure(
    axes: Axes, chosen: Sequence[Candidate], folder: Path, provider: str, threads: int | None, seed: int, say: Progress
) -> tuple[list[Candidate], dict[str, Any], tuple[str, ...]]:
    start = (1 - _EXPORTING) / 2
    paths: list[Path] = []
    filled: list[Candidate] = []
    for index, candidate in enumerate(chosen):
        say(f"exporting {index + 1} of {len(chosen)}", start + _EXPORTING * index / len(chosen))
        torch.manual_seed(seed)
        model = create(axes.info.name, **candidate.config)
        at = candidate.multipliers
        name = f"d{at.depth:.2f}-w{at.width:.2f}-{'x'.join(map(str, candidate.input_shape[1:]))}-{index}.onnx"
        paths.append(folder / name)
        to_onnx(model, torch.zeros(1, *candidate.input_shape), paths[-1], dynamic=False, verify=False)
        costs = inspect_model(paths[-1])
        filled.append(candidate.counted(costs.macs, costs.parameters))

    def tell(what: str, done: float) -> None:
        say(f"measuring: {what}", start + _EXPORTING + start * done)

    report = benchmark(
        paths, provider=provider, threads=threads, iterations=ITERATIONS, duration=DURATION, warmup=WARMUP,
        compare=len(paths) > 1, percentiles=(50.0,), memory=False, seed=seed, progress=tell,
    )  # fmt: skip
    best: dict[str, float] = {}
    for variant in report.variants:  # with edgeconv's operators: native, and the functions in the file
        name = Path(variant.model.path).name
        best[name] = min(best.get(name, float("inf")), variant.summary.median / 1e9)
    timed = [candidate.timed(best[path.name]) for candidate, path in zip(filled, paths, strict=True)]
    return timed, report.environment.to_dict(), tuple(report.warnings)


def _run(model: nn.Module, x: torch.Tensor, name: str) -> None:
    try:
        model(x)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{name} does not take an input of {'x'.join(map(str, x.shape))}: {reason}", "Change --grid or --config."
        ) from error
