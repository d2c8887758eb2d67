"""The ways to run a model, and a model loaded and ready to be timed in one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeconv.bench.inputs import resolve_shapes, synthetic_feeds
from edgeconv.bench.model_file import ModelFile
from edgeconv.bench.report import Settings
from edgeconv.runtime.engine_model import read_interface
from edgeconv.runtime.engine_stamp import is_engine
from edgeconv.runtime.ort import STOP_SPINNING, Array, OrtSession, TensorInfo
from edgeconv.runtime.placement import Placement, check_placement, read_placement
from edgeconv.runtime.session import ENGINE_PROVIDERS, open_session

if TYPE_CHECKING:
    from edgeconv.bench.measure import Progress
    from edgeconv.runtime.session import Session

_CREATIONS = 3
_CREATION_SECONDS = 1.0


@dataclass(frozen=True)
class Variant:
    """A model and a way to run it.

    Attributes:
        file: The model.
        kind: See `edgeconv.bench.report.VariantResult`.
        op_library: Path of the op library to register (for engines, of the plugins), or None.
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
        library: Path of the op library (for engines, of the plugins), None where there is none.
        both: Run a file with edgeconv's operators natively and through its functions, not only the better way.
    """
    if is_engine(file.path):
        return [Variant(file, "engine", library)]
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
        placement: Which of ONNX Runtime's providers runs which node; None on the CPU and for engines.
        path: What was loaded: the model, or the engine that was built of it.
    """

    def __init__(
        self,
        variant: Variant,
        settings: Settings,
        shapes: Mapping[str, Sequence[int]],
        progress: Progress | None = None,
    ) -> None:
        self.variant = variant
        self.placement: Placement | None = None
        if settings.provider == "cuda":
            self.placement = self._place(settings, shapes)
            if not settings.allow_cpu_fallback:
                check_placement(variant.name, self.placement, settings.provider.upper())
        creations: list[int] = []
        session = self._create(settings, shapes, progress)
        creations.append(round(session.creation_seconds * 1e9))
        while len(creations) < _CREATIONS and sum(creations) < _CREATION_SECONDS * 1e9:
            del session  # never two at a time in memory
            session = self._create(settings, shapes)
            creations.append(round(session.creation_seconds * 1e9))
        self.creation_ns = tuple(creations)
        self.path = session.name
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

    def _create(
        self, settings: Settings, shapes: Mapping[str, Sequence[int]], progress: Progress | None = None
    ) -> Session:
        return open_session(
            self.variant.file.path,
            provider=settings.provider,
            shapes=self._shapes_to_build(settings, shapes),
            threads=settings.threads,
            op_library=self.variant.op_library or False,
            device=settings.device,
            tf32=settings.tf32,
            cuda_graph=settings.cuda_graph,
            trust_engine=settings.trust_engine,
            options=STOP_SPINNING,
            progress=progress,
        )

    def _shapes_to_build(
        self, settings: Settings, shapes: Mapping[str, Sequence[int]]
    ) -> Mapping[str, Sequence[int]] | None:
        """Return the shapes that an engine is built for, if one has to be."""
        file = self.variant.file
        if settings.provider not in ENGINE_PROVIDERS or is_engine(file.path):
            return None
        inputs, metadata = read_interface(file.path)
        return resolve_shapes(inputs, metadata, batch=settings.batch, shapes=shapes, model=file.name)

    def _place(self, settings: Settings, shapes: Mapping[str, Sequence[int]]) -> Placement:
        """Find out which provider runs which node, by a run that is recorded."""
        session = OrtSession(
            self.variant.file.path,
            provider=settings.provider,
            threads=settings.threads,
            op_library=self.variant.op_library or False,
            profile=True,
            options=STOP_SPINNING,
            device=settings.device,
            tf32=settings.tf32,
        )
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
