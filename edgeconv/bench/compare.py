"""Ratios: between variants that ran interleaved, and between two runs where their circumstances allow it."""

from __future__ import annotations

from collections.abc import Sequence

from edgeconv.bench.environment import Environment
from edgeconv.bench.report import BenchmarkReport, Comparison, RatioRow, VariantResult
from edgeconv.bench.statistics import ratio_of_medians
from edgeconv.errors import InputError

MACHINE = (
    *("cpu_model", "architecture", "board", "logical_cpus", "physical_cores", "available_cpus", "cpu_quota", "isa"),
    *("governor", "frequency_min", "frequency_max", "boost", "virtual_machine", "power_mode"),
    *("provider", "threads"),
    *("gpu.name", "gpu.compute_capability", "gpu.multiprocessors", "gpu.memory"),
    *("gpu.clock_min", "gpu.clock_max", "gpu.memory_clock_max", "gpu.power_limit"),
)
"""Fields of the stamp in which two runs must agree to be compared."""

VERSIONS = (
    *("os", "kernel", "python", "edgeconv", "runtime", "numpy", "op_library_sha256", "variables"),
    *("gpu.driver", "gpu.cuda"),
)
"""Fields of the stamp that may differ, because comparing them may be the point; each difference is shown."""


def interleaved_ratios(
    variants: Sequence[VariantResult], seed: int = 0, *, device: bool = False
) -> tuple[RatioRow, ...]:
    """Compare each further variant of one interleaved run with the first.

    Args:
        variants: The variants.
        seed: Of resampling.
        device: Compare the times on the device, of those that have them.
    """
    first, *others = variants
    rows = (_ratio(variant, first, first.name, paired=True, seed=seed, device=device) for variant in others)
    return tuple(row for row in rows if row is not None)


def unlike_machines(present: Environment, earlier: Environment) -> list[str]:
    """List the circumstances in which two runs differ, one line each."""
    return _differences(present, earlier, MACHINE)


def check_alike(present: Environment, earlier: Environment, baseline: str, *, allow_unlike: bool = False) -> None:
    """Refuse a comparison of runs on unlike machines.

    Raises:
        InputError: They are unlike, and `allow_unlike` is off.
    """
    unlike = unlike_machines(present, earlier)
    if unlike and not allow_unlike:
        raise _refusal(baseline, unlike)


def compare_reports(
    present: BenchmarkReport, earlier: BenchmarkReport, *, baseline: str = "the baseline", allow_unlike: bool = False
) -> Comparison:
    """Compare two runs, variant by variant.

    Runs on unlike machines, or with unlike threads, batch or shapes, are refused. Other versions or another content of
    the file are marked. Two runs are never interleaved: what disturbed one of them does not cancel, so a claim of a few
    per cent needs one run with ``compare=True`` instead.

    Args:
        present: This run.
        earlier: The other one.
        baseline: What to call the other one.
        allow_unlike: Mark unlike runs instead of refusing them.

    Raises:
        InputError: The runs are unlike, or have no variant in common.
    """
    unlike = unlike_machines(present.environment, earlier.environment)
    if present.settings.batch != earlier.settings.batch:
        unlike.append(f"batch: {present.settings.batch}, earlier {earlier.settings.batch}")
    marks = _differences(present.environment, earlier.environment, VERSIONS)
    for name in ("tf32", "cuda_graph", "copies", "allow_cpu_fallback"):
        now, before = getattr(present.settings, name), getattr(earlier.settings, name)
        if now != before:
            words = {True: "on", False: "off"}
            unlike.append(f"{name.replace('_', ' ')}: {words[now]}, earlier {words[before]}")
    if present.settings.compare != earlier.settings.compare:
        words = {True: "interleaved", False: "alone"}
        marks.append(f"variants ran {words[present.settings.compare]}, earlier {words[earlier.settings.compare]}")
    # The directory need not agree: the same file is often kept elsewhere, and the digest tells whether it is the same.
    by_name = {(variant.model.name, variant.kind): variant for variant in reversed(earlier.variants)}
    by_path = {variant.name: variant for variant in earlier.variants}
    rows: list[RatioRow] = []
    device_rows: list[RatioRow] = []
    for variant in present.variants:
        other = by_path.get(variant.name) or by_name.get((variant.model.name, variant.kind))
        if other is None:
            marks.append(f"{variant.name} is not in {baseline}")
            continue
        if list(other.shapes.values()) != list(variant.shapes.values()):
            unlike.append(f"input shapes of {variant.name}: {_shapes(variant)}, earlier {_shapes(other)}")
        if other.model.sha256 != variant.model.sha256:
            digests = f"{variant.model.sha256[:12]}, earlier {other.model.sha256[:12]}"
            marks.append(f"{variant.model.name} has another content: {digests}")
        for found, device in ((rows, False), (device_rows, True)):
            row = _ratio(
                variant, other, f"{other.name} in {baseline}", paired=False, seed=present.settings.seed, device=device
            )
            if row is not None:
                found.append(row)
    if unlike and not allow_unlike:
        raise _refusal(baseline, unlike)
    if not rows:
        raise InputError(
            f"{baseline} has no variant in common with this run: it has "
            f"{', '.join(variant.name for variant in earlier.variants)}."
        )
    return Comparison(
        baseline, tuple(rows), tuple(unlike + list(dict.fromkeys(marks))), bool(unlike), tuple(device_rows)
    )


def _ratio(
    variant: VariantResult, other: VariantResult, reference: str, *, paired: bool, seed: int, device: bool
) -> RatioRow | None:
    ours, theirs = (result.series.device_samples if device else result.series.samples for result in (variant, other))
    if ours is None or theirs is None:
        return None
    turns = (variant.series.turns, other.series.turns)
    return RatioRow(variant.name, reference, ratio_of_medians(ours, theirs, turns, paired=paired, seed=seed))


def _refusal(baseline: str, unlike: Sequence[str]) -> InputError:
    return InputError(
        f"{baseline} was measured under other circumstances, so a ratio would say nothing:\n  " + "\n  ".join(unlike),
        "Measure both on one machine with the same settings; --allow-unlike shows the ratio with a mark.",
    )


def _differences(present: Environment, earlier: Environment, fields: Sequence[str]) -> list[str]:
    return [
        f"{name.replace('_', ' ').replace('gpu.', 'GPU ')}: {_text(now)}, earlier {_text(before)}"
        for name in fields
        if (now := _value(present, name)) != (before := _value(earlier, name))
    ]


def _value(environment: Environment, name: str) -> object:
    value: object = environment
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def _shapes(variant: VariantResult) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in variant.shapes.values())


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return str(value)
