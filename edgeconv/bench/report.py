"""The result of a benchmark: plain data, to and from JSON. The tables are in `edgeconv.bench.render`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeconv.bench.conditions import Conditions
from edgeconv.bench.environment import Environment
from edgeconv.bench.measure import Series, Warmup
from edgeconv.bench.memory import MemoryUse
from edgeconv.bench.model_file import ModelFile
from edgeconv.bench.profile import Profile
from edgeconv.bench.statistics import Ratio, Summary, summarize
from edgeconv.errors import InputError
from edgeconv.files import write_text
from edgeconv.json_text import json_text
from edgeconv.runtime.placement import Placement

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = "edgeconv.bench"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Settings:
    """What was asked for.

    Attributes:
        provider: Execution provider.
        iterations: Least number of samples.
        duration: Least sum of the samples, seconds.
        warmup: Least time of warm-up, seconds.
        threads: Threads of an operator, None for ONNX Runtime's default.
        batch: Size of dynamic batch dimensions.
        percentiles: Percentiles asked for.
        seed: Seed of inputs, order and resampling.
        compare: Whether the variants ran interleaved.
        device: Number of the GPU.
        tf32: Whether products of float32 values may drop to TF32.
        cuda_graph: Whether an inference is launched as one CUDA graph.
        copies: Whether copies of inputs to the GPU, and of outputs from it, are a part of an inference.
        allow_cpu_fallback: Whether nodes may run on the CPU although a GPU was asked for.
        trust_engine: Whether engines without a stamp that fits were loaded.
    """

    provider: str
    iterations: int
    duration: float
    warmup: float
    threads: int | None
    batch: int
    percentiles: tuple[float, ...]
    seed: int
    compare: bool
    device: int = 0
    tf32: bool = False
    cuda_graph: bool = False
    copies: bool = False
    allow_cpu_fallback: bool = False
    trust_engine: bool = False


@dataclass(frozen=True)
class VariantResult:
    """One model, run in one way.

    Attributes:
        model: The file.
        kind: ``native`` (edgeconv's op library or plugins), ``functions`` (the functions in the file), ``standard`` (a
            file without edgeconv's operators) or ``engine`` (an engine that was given as such).
        shapes: Shape of every input.
        batch: Items of one inference.
        creation_ns: Time of each creation of the session.
        first_run_ns: Time of the first inference, which allocates.
        warmup: How it was warmed up.
        series: The raw samples.
        summary: Their figures.
        memory: Memory in a process of its own, None where it could not be measured.
        profile: Time by operator, if asked for.
        device: Figures of the times on the device, in `series.device_samples`; None on the CPU.
        host_bound: Whether the device was done as soon as the call that launched the inference returned: times on the
            device then hold waiting for the host. None on the CPU.
        placement: Which of ONNX Runtime's providers runs which node; None on the CPU and for engines.
    """

    model: ModelFile
    kind: str
    shapes: dict[str, tuple[int, ...]]
    batch: int
    creation_ns: tuple[int, ...]
    first_run_ns: int
    warmup: Warmup
    series: Series
    summary: Summary
    memory: MemoryUse | None = None
    profile: Profile | None = None
    device: Summary | None = None
    host_bound: bool | None = None
    placement: Placement | None = None

    @property
    def name(self) -> str:
        """Path and kind: unique in a report."""
        return f"{self.model.path} ({self.kind})"

    @property
    def label(self) -> str:
        """File name and kind, for people."""
        return f"{self.model.name} ({self.kind})"

    @property
    def creation_median_ns(self) -> float:
        """Median time of creating the session."""
        return float(np.median(self.creation_ns))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, raw samples included."""
        device = self.series.device_samples
        return {
            "name": self.name,
            "model": self.model.to_dict(),
            "kind": self.kind,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "batch": self.batch,
            "session_creation_ns": list(self.creation_ns),
            "first_run_ns": self.first_run_ns,
            "warmup": asdict(self.warmup),
            "samples_ns": self.series.samples.tolist(),
            "samples_per_turn": self.series.samples_per_turn,
            "summary": self.summary.to_dict(),
            "memory": None if self.memory is None else self.memory.to_dict(),
            "profile": None if self.profile is None else self.profile.to_dict(),
            "device_samples_ns": None if device is None else device.tolist(),
            "device_summary": None if self.device is None else self.device.to_dict(),
            "host_bound": self.host_bound,
            "placement": None if self.placement is None else self.placement.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], percentiles: tuple[float, ...]) -> VariantResult:
        """Read what `to_dict` wrote; the figures are computed anew from the samples."""
        samples = np.array(data["samples_ns"], dtype=np.int64)
        if samples.ndim != 1 or not len(samples) or len(samples) % data["samples_per_turn"]:
            raise ValueError("samples_ns does not fit samples_per_turn")
        memory = data["memory"]
        # Reports of versions without GPUs lack these.
        timed, placement = data.get("device_samples_ns"), data.get("placement")
        device = None if timed is None else np.array(timed, dtype=np.int64)
        if device is not None and len(device) != len(samples):
            raise ValueError("device_samples_ns does not fit samples_ns")
        return cls(
            model=ModelFile(**data["model"]),
            kind=data["kind"],
            shapes={name: tuple(shape) for name, shape in data["shapes"].items()},
            batch=data["batch"],
            creation_ns=tuple(data["session_creation_ns"]),
            first_run_ns=data["first_run_ns"],
            warmup=Warmup(**data["warmup"]),
            series=Series(samples, data["samples_per_turn"], device),
            summary=summarize(samples, percentiles, data["batch"]),
            memory=None if memory is None else MemoryUse(**{k: v for k, v in memory.items() if k != "growth"}),
            profile=None if data["profile"] is None else Profile.from_dict(data["profile"]),
            device=None if device is None else summarize(device, percentiles, data["batch"]),
            host_bound=data.get("host_bound"),
            placement=None if placement is None else Placement.from_dict(placement),
        )


@dataclass(frozen=True)
class RatioRow:
    """A ratio of medians between two variants.

    Attributes:
        variant: Name of the one in the numerator.
        reference: Name of the one in the denominator.
        ratio: The ratio; below 1 the variant is faster.
    """

    variant: str
    reference: str
    ratio: Ratio

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"variant": self.variant, "reference": self.reference, **asdict(self.ratio)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RatioRow:
        """Read what `to_dict` wrote."""
        values = dict(data)
        return cls(values.pop("variant"), values.pop("reference"), Ratio(**values))


@dataclass(frozen=True)
class Comparison:
    """This run against an earlier one (`edgeconv.bench.compare.compare_reports`).

    Attributes:
        baseline: What the earlier run is called: the path of its file.
        ratios: Present median over earlier median, by variant.
        device_ratios: The same of the times on the device, where both runs have them.
        differences: What differs between the runs besides the time, one line each.
        unlike: Whether the machines or settings differ: the ratios then say nothing about the models.
    """

    baseline: str
    ratios: tuple[RatioRow, ...]
    differences: tuple[str, ...]
    unlike: bool
    device_ratios: tuple[RatioRow, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "baseline": self.baseline,
            "ratios": [row.to_dict() for row in self.ratios],
            "device_ratios": [row.to_dict() for row in self.device_ratios],
            "differences": list(self.differences),
            "unlike": self.unlike,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Comparison:
        """Read what `to_dict` wrote."""
        return cls(
            data["baseline"],
            tuple(RatioRow.from_dict(row) for row in data["ratios"]),
            tuple(data["differences"]),
            data["unlike"],
            tuple(RatioRow.from_dict(row) for row in data.get("device_ratios", ())),
        )


@dataclass(frozen=True)
class BenchmarkReport:
    """Everything that a benchmark found out.

    Attributes:
        started: Date and time of the start, ISO 8601 in UTC.
        settings: What was asked for.
        environment: The stamp.
        conditions: The machine's state around the timed runs.
        variants: The results, in the order of the command line.
        ratios: Each further variant against the first, where they ran interleaved.
        device_ratios: The same of the times on the device.
        comparison: Against an earlier run, if asked for.
        warnings: What the reader has to know to judge the figures.
    """

    started: str
    settings: Settings
    environment: Environment
    conditions: Conditions
    variants: tuple[VariantResult, ...]
    ratios: tuple[RatioRow, ...] = ()
    device_ratios: tuple[RatioRow, ...] = ()
    comparison: Comparison | None = None
    warnings: tuple[str, ...] = field(default=())

    @cached_property
    def _by_name(self) -> dict[str, VariantResult]:
        return {variant.name: variant for variant in self.variants}

    def __getitem__(self, name: str) -> VariantResult:
        """Return the variant of that name."""
        return self._by_name[name]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; docs/bench.md describes them."""
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "started": self.started,
            "settings": {**asdict(self.settings), "percentiles": list(self.settings.percentiles)},
            "environment": self.environment.to_dict(),
            "conditions": self.conditions.to_dict(),
            "variants": [variant.to_dict() for variant in self.variants],
            "ratios": [row.to_dict() for row in self.ratios],
            "device_ratios": [row.to_dict() for row in self.device_ratios],
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BenchmarkReport:
        """Read what `to_dict` wrote.

        Raises:
            InputError: The data are not a benchmark report, or one of another schema version.
        """
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            raise InputError("not a benchmark report.", "Give a file that 'edgeconv bench --json' wrote.")
        if data.get("schema_version") != SCHEMA_VERSION:
            raise InputError(
                f"benchmark report of schema version {data.get('schema_version')}; this edgeconv reads version "
                f"{SCHEMA_VERSION}.",
                "Measure again with this version.",
            )
        try:
            percentiles = tuple(data["settings"]["percentiles"])
            comparison = data["comparison"]
            return cls(
                started=data["started"],
                settings=Settings(**{**data["settings"], "percentiles": percentiles}),
                environment=Environment.from_dict(data["environment"]),
                conditions=Conditions.from_dict(data["conditions"]),
                variants=tuple(VariantResult.from_dict(item, percentiles) for item in data["variants"]),
                ratios=tuple(RatioRow.from_dict(row) for row in data["ratios"]),
                device_ratios=tuple(RatioRow.from_dict(row) for row in data.get("device_ratios", ())),
                comparison=None if comparison is None else Comparison.from_dict(comparison),
                warnings=tuple(data["warnings"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"damaged benchmark report: {error!r}.", "Measure again.") from error

    def to_json(self) -> str:
        """Return the report as JSON text."""
        return json_text(self.to_dict(), indent=1)

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Write the report to a file, whole or not at all."""
        write_text(path, self.to_json() + "\n")

    def render(self, console: Console) -> None:
        """Print the tables."""
        from edgeconv.bench.render import render_report

        render_report(self, console)


def load_report(path: str | os.PathLike[str]) -> BenchmarkReport:
    """Read a report that `BenchmarkReport.write_json` wrote.

    Raises:
        InputError: The file is missing, not JSON, or not a report.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the benchmark report {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}.", "Give a file that 'edgeconv bench --json' wrote.") from error
    try:
        return BenchmarkReport.from_dict(data)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", error.remedy) from error
