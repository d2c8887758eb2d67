"""`benchmark`: measure models as docs/bench.md describes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone

from edgeconv.bench.compare import check_alike, compare_reports, interleaved_ratios
from edgeconv.bench.conditions import Conditions, GpuWatch, Snapshot
from edgeconv.bench.measure import Plan, Progress, Subject, clock_overhead_ns, measure, warm_up
from edgeconv.bench.memory import MemoryUse, measure_memory
from edgeconv.bench.preparation import (
    check_settings,
    check_shape_names,
    find_gpu_source,
    find_library,
    read_files,
    stamp_environment,
)
from edgeconv.bench.profile import Profile, profile_model
from edgeconv.bench.report import BenchmarkReport, Settings, VariantResult, load_report
from edgeconv.bench.statistics import summarize
from edgeconv.bench.variants import LoadedVariant, Variant, plan_variants
from edgeconv.errors import EdgeconvError, InputError
from edgeconv.runtime.providers import require_cuda_kernels
from edgeconv.runtime.session import require_runtime

DEFAULT_ITERATIONS = 64
"""Enough samples for p90."""
DEFAULT_DURATION = 3.0
DEFAULT_WARMUP = 0.5
DEFAULT_PERCENTILES = (50.0, 90.0, 99.0)

_WIDE_SPREAD = 0.1
_HEAVY_TAIL = 1.25


def benchmark(
    models: Sequence[str | os.PathLike[str]],
    *,
    provider: str = "cpu",
    iterations: int | None = None,
    duration: float = DEFAULT_DURATION,
    warmup: float = DEFAULT_WARMUP,
    threads: int | None = None,
    batch: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
    percentiles: Sequence[float] = DEFAULT_PERCENTILES,
    profile: bool = False,
    compare: bool = False,
    op_library: bool | str | os.PathLike[str] = True,
    memory: bool = True,
    baseline: str | os.PathLike[str] | None = None,
    allow_unlike: bool = False,
    seed: int = 0,
    device: int = 0,
    tf32: bool = False,
    cuda_graph: bool = False,
    copies: bool = False,
    allow_cpu_fallback: bool = False,
    trust_engine: bool = False,
    progress: Progress | None = None,
) -> BenchmarkReport:
    """Measure the latency, throughput, memory and loading time of models.

    What is timed is one inference on the host, with the inputs and the output buffers in place: nothing is copied or
    allocated for them, unless `copies` says so. On a GPU the same inferences are also timed by CUDA events, which gives
    a second number, never mixed with the first. The report is returned, not written.

    Args:
        models: Paths of ``.onnx`` files; for TensorRT and TensorRT-RTX also of engines. Of a model these run the cached
            engine (`edgeconv.runtime.engine_cache`), which is built before anything is timed, if need be.
        provider: ``"cpu"``, ``"cuda"``, ``"tensorrt"`` or ``"tensorrt-rtx"``.
        iterations: Least number of samples of each variant, by default 64 (enough for p90; p99 takes 662).
        duration: Least sum of the samples of each variant, in seconds. Iterations *and* duration are met.
        warmup: Least time of warm-up in seconds; it goes on until the latency is stable. 0 switches it off.
        threads: Threads that an operator may use, by default one a physical core (cpu, cuda).
        batch: Size of dynamic batch dimensions.
        shapes: Shapes by input name, where neither the file nor its metadata says them.
        percentiles: Percentiles to report, each only with enough samples behind it.
        profile: Add a table of the time by operator, from runs of its own.
        compare: Run all models interleaved, those with edgeconv's operators both natively and through the functions in
            the file, and report ratios to the first. Without it each model runs alone, one after the other.
        op_library: True uses the installed op library, False none, a path that one. TensorRT: the plugins likewise.
        memory: Measure memory, in a process of its own for each variant.
        baseline: A report written earlier, to compare with. Unlike circumstances are refused before anything runs.
        allow_unlike: Compare with an unlike baseline all the same, and mark it.
        seed: Seed of inputs, order of turns and resampling.
        device: Number of the GPU.
        tf32: On a GPU, let products of float32 values drop to TF32.
        cuda_graph: On a GPU, launch an inference as one CUDA graph.
        copies: On a GPU, copy the inputs there and the outputs back in every inference, through page-locked memory.
        allow_cpu_fallback: Measure although nodes other than those that compute shapes run on the CPU (cuda).
        trust_engine: Load engines without a stamp, or whose stamp does not fit: they are code, and may be anybody's.
        progress: Called between timed turns with what is going on and how much of it is done (0 to 1).

    Returns:
        The report: raw samples, figures, environment, warnings; `to_dict`, `write_json` and `render`.

    Raises:
        InputError: A file, shape or setting cannot be used, the baseline is unlike, or nodes run on the CPU although a
            GPU was asked for.
        MissingDependencyError: The provider's runtime, a GPU, its driver or the op library's CUDA half is missing.
    """
    settings = check_settings(
        Settings(
            provider=provider,
            iterations=DEFAULT_ITERATIONS if iterations is None else iterations,
            duration=duration,
            warmup=warmup,
            threads=threads,
            batch=batch,
            percentiles=tuple(sorted({float(q) for q in percentiles})),
            seed=seed,
            compare=compare,
            device=device,
            tf32=tf32,
            cuda_graph=cuda_graph,
            copies=copies,
            allow_cpu_fallback=allow_cpu_fallback,
            trust_engine=trust_engine,
        ),
        models,
        profile=profile,
    )
    plan = Plan(settings.iterations, round(duration * 1e9), round(warmup * 1e9), seed)
    tell: Progress = progress or (lambda _what, _done: None)
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    require_runtime(provider, device)
    library, missing = find_library(provider, op_library)
    files = read_files(models, trust_engine=trust_engine)
    check_shape_names(shapes or {}, files)
    if provider == "cuda" and library and any(file.operators for file in files) and not allow_cpu_fallback:
        require_cuda_kernels(library)
    gpu, source = find_gpu_source(settings)
    environment = stamp_environment(settings, library, gpu)
    earlier = None if baseline is None else load_report(baseline)
    if earlier is not None:
        check_alike(environment, earlier.environment, str(baseline), allow_unlike=allow_unlike)
    warnings: list[str] = []
    if missing and any(file.operators for file in files):
        warnings.append(f"no native operators, the functions in the file run instead: {' '.join(missing.split())}")

    variants = [variant for file in files for variant in plan_variants(file, library, both=compare)]
    results: list[VariantResult] = []
    snapshots: list[Snapshot] = []
    watch = GpuWatch(source)

    def tell_and_look(what: str, done: float) -> None:
        watch.look()
        tell(what, done)

    for group in [variants] if compare else [[variant] for variant in variants]:
        loaded = _load(group, settings, shapes or {}, warnings, tell)
        used = _measure_memory(loaded, settings, warnings, tell) if memory else [None] * len(loaded)
        subjects = [Subject(item.variant.name, item.run, item.device_seconds) for item in loaded]
        warmups = []
        for subject in subjects:
            tell(f"warming up {subject.name}", 0.0)
            warmups.append(warm_up(subject, plan.warmup_ns))
        snapshots.append(Snapshot.take())
        watch.look()
        series = measure(subjects, warmups, plan, progress=tell_and_look)
        snapshots.append(Snapshot.take())
        for item, warming, samples, use in zip(loaded, warmups, series, used, strict=True):
            item.release()
            results.append(
                VariantResult(
                    model=item.variant.file,
                    kind=item.variant.kind,
                    shapes=item.shapes,
                    batch=item.batch,
                    creation_ns=item.creation_ns,
                    first_run_ns=item.first_run_ns,
                    warmup=warming,
                    series=samples,
                    summary=summarize(samples.samples, settings.percentiles, item.batch),
                    memory=use,
                    profile=_profile(item, settings, tell) if profile else None,
                    device=(
                        None
                        if samples.device_samples is None
                        else summarize(samples.device_samples, settings.percentiles, item.batch)
                    ),
                    host_bound=item.host_bound,
                    placement=item.placement,
                )
            )

    conditions = Conditions(snapshots[0], snapshots[-1], clock_overhead_ns(), tuple(watch.states))
    warnings += conditions.warnings(environment.governor, environment.boost)
    if gpu is not None:
        warnings += conditions.gpu_warnings(gpu)
    warnings += _result_warnings(results, compare=compare, cuda_graph=cuda_graph)
    report = BenchmarkReport(
        started=started,
        settings=settings,
        environment=environment,
        conditions=conditions,
        variants=tuple(results),
        ratios=interleaved_ratios(results, seed) if compare else (),
        device_ratios=interleaved_ratios(results, seed, device=True) if compare else (),
        warnings=tuple(dict.fromkeys(warnings)),
    )
    if earlier is None:
        return report
    comparison = compare_reports(report, earlier, baseline=str(baseline), allow_unlike=allow_unlike)
    return replace(report, comparison=comparison)


def _load(
    variants: Sequence[Variant],
    settings: Settings,
    shapes: Mapping[str, Sequence[int]],
    warnings: list[str],
    tell: Progress,
) -> list[LoadedVariant]:
    loaded: list[LoadedVariant] = []
    for variant in variants:
        tell(f"loading {variant.name}", 0.0)
        names = variant.file.inputs or list(shapes)
        given = {name: shape for name, shape in shapes.items() if not name or name in names}
        try:
            loaded.append(LoadedVariant(variant, settings, given, tell))
        except InputError as error:
            # A file exported without function bodies runs natively only: the other side of a comparison falls away.
            native = any(other.variant.file == variant.file for other in loaded)
            if not (variant.kind == "functions" and native):
                raise
            warnings.append(f"{variant.name} left out: {error.message}")
    return loaded


def _measure_memory(
    loaded: Sequence[LoadedVariant], settings: Settings, warnings: list[str], tell: Progress
) -> list[MemoryUse | None]:
    used: list[MemoryUse | None] = []
    for item in loaded:
        tell(f"memory of {item.variant.name}", 0.0)
        try:
            used.append(
                measure_memory(
                    item.path,
                    item.inputs,
                    item.shapes,
                    provider=settings.provider,
                    threads=settings.threads,
                    op_library=item.variant.op_library,
                    seed=settings.seed,
                    device=settings.device,
                    tf32=settings.tf32,
                    cuda_graph=settings.cuda_graph,
                    trust_engine=settings.trust_engine,
                )
            )
        except EdgeconvError as error:
            warnings.append(error.message)
            used.append(None)
    return used


def _profile(item: LoadedVariant, settings: Settings, tell: Progress) -> Profile:
    tell(f"profiling {item.variant.name}", 0.0)
    return profile_model(
        item.variant.file.path,
        item.feeds,
        provider=settings.provider,
        threads=settings.threads,
        op_library=item.variant.op_library,
    )


def _result_warnings(results: Sequence[VariantResult], *, compare: bool, cuda_graph: bool = False) -> list[str]:
    found = []
    for result in results:
        if result.warmup.stable is False:
            found.append(f"{result.label} was not stable after {result.warmup.seconds:.1f} s of warm-up")
        if result.warmup.stable is None:
            found.append(f"{result.label} was not warmed up: its first samples are slow")
        if result.summary.spread > _WIDE_SPREAD:
            found.append(
                f"{result.label} varies: the middle half spreads over {result.summary.spread:.0%} of the median"
            )
        if result.host_bound:
            found.append(
                f"the GPU is done with {result.label} as soon as the runtime has launched it: the times on the device "
                f"hold waiting for the host{'' if cuda_graph else ' (try --cuda-graph)'}"
            )
        if result.placement is not None and (elsewhere := result.placement.elsewhere("CUDA")):
            found.append(f"{len(elsewhere)} of {len(result.placement.nodes)} nodes of {result.label} run on the CPU")
        if result.summary.mean > _HEAVY_TAIL * result.summary.median:
            factor = result.summary.mean / result.summary.median
            found.append(
                f"{result.label} has a heavy tail: the mean is {factor:.1f} times the median, so some runs are slow"
            )
    if compare and len({result.batch for result in results}) > 1:
        found.append("the models handle different batches: the ratios are of whole inferences, not of items")
    if compare and len(results) == 1:
        found.append("nothing to compare with: give several models, or one that uses edgeconv's operators")
    return found
