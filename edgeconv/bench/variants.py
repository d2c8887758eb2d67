"""The ways to run a model, and a model loaded and ready to be timed in one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgeconv.bench.inputs import resolve_shapes, synthetic_feeds
from edgeconv.bench.model_file import ModelFile
from edgeconv.bench.report import Settings
from edgeconv.runtime.ort import STOP_SPINNING, Array, OrtSession, TensorInfo
from edgeconv.runtime.placement import Placement, check_placement, read_placement

_CREATIONS = 3
_CREATION_SECONDS = 1.0


@dataclass(frozen=True)
class Variant:
    """A model and a way to run it.

    Attributes:
        file: The model.
        kind: ``native``, ``functions`` or ``standard``.
        op_library: Path of the op library to register, or None.
    """

    file: ModelFile
    kind: str
    op_library: str | None

    @property
    def name(self) -> str:
        """File name and kind, for people."""
        return f"{self.file.name} ({self.kind})"


def plan_variants(file: ModelFile, library: str | None, *, both: bool) -> list[Variant]:
    """List the ways in which to run a file.

    Args:
        file: The model.
        library: Path of the op library, None where there is none.
        both: Run a file with edgeconv's operators natively and through its functions, not only the better way.
    """
    if not file.operators:
        return [Variant(file, "standard", None)]
    functions = Variant(file, "functions", None)
    if library is None:
        return [functions]
    native = Variant(file, "native", library)
    return [native, functions] if both else [native]


class LoadedVariant:
    """A variant with a session, inputs and output buffers.

    Attributes:
        variant: What was loaded.
        inputs: The model's inputs.
        shapes: A shape for each.
        feeds: An array for each.
        batch: Items of one inference: size of the first dimension of the first input.
        creation_ns: Time of each creation of the session.
        first_run_ns: Time of the first inference.
        run: One inference.
        device_seconds: Time of the last one on the device; None on the CPU.
        host_bound: Whether the device waits for the host (`VariantResult.host_bound`).
        placement: Which provider runs which node; None on the CPU.
    """

    def __init__(self, variant: Variant, settings: Settings, shapes: Mapping[str, Sequence[int]]) -> None:
        self.variant = variant
        self.placement: Placement | None = None
        if settings.provider != "cpu":
            self.placement = self._place(settings, shapes)
            if not settings.allow_cpu_fallback:
                check_placement(variant.name, self.placement, settings.provider.upper())
        creations: list[int] = []
        begin = time.perf_counter()
        session = self._create(settings)
        creations.append(round(session.creation_seconds * 1e9))
        while len(creations) < _CREATIONS and time.perf_counter() - begin < _CREATION_SECONDS:
            del session  # never two at a time in memory
            session = self._create(settings)
            creations.append(round(session.creation_seconds * 1e9))
        self.creation_ns = tuple(creations)
        self.inputs: tuple[TensorInfo, ...] = session.inputs
        self.shapes = resolve_shapes(
            session.inputs, session.metadata, batch=settings.batch, shapes=shapes, model=variant.file.name
        )
        self.feeds: dict[str, Array] = synthetic_feeds(session.inputs, self.shapes, settings.seed)
        first = next(iter(self.shapes.values()), ())
        self.batch = first[0] if first else 1
        start = time.perf_counter_ns()
        session.run(self.feeds)
        self.first_run_ns = time.perf_counter_ns() - start
        bound = session.bind(self.feeds, copies=settings.copies)
        self.run: Callable[[], None] = bound
        self.device_seconds: Callable[[], float | None] | None = None
        self.host_bound: bool | None = getattr(bound, "host_bound", None)
        if self.host_bound is not None:
            self.device_seconds = lambda: getattr(bound, "device_seconds", None)

    def _create(self, settings: Settings, *, profile: bool = False) -> OrtSession:
        return OrtSession(
            self.variant.file.path,
            provider=settings.provider,
            threads=settings.threads,
            op_library=self.variant.op_library or False,
            profile=profile,
            options=STOP_SPINNING,
            device=settings.device,
            tf32=settings.tf32,
            cuda_graph=settings.cuda_graph and not profile,
        )

    def _place(self, settings: Settings, shapes: Mapping[str, Sequence[int]]) -> Placement:
        """Find out which provider runs which node, by a run that is recorded."""
        session = self._create(settings, profile=True)
        given = resolve_shapes(
            session.inputs, session.metadata, batch=settings.batch, shapes=shapes, model=self.variant.file.name
        )
        session.run(synthetic_feeds(session.inputs, given, settings.seed))
        return read_placement(session.profile_events())

    def release(self) -> None:
        """Give up the session and its memory; the inputs stay."""
        self.run = _released
        self.device_seconds = None


def _released() -> None:
    raise RuntimeError("the session was released")
