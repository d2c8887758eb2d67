"""One engine from one prepared model: the calls of the builder, with progress, interruption and clear errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeconv.errors import InputError
from edgeconv.runtime.engine_backend import EngineBackend
from edgeconv.runtime.engine_log import build_failure, parser_failure
from edgeconv.runtime.engine_model import EngineModel
from edgeconv.runtime.engine_shapes import ShapeRange

Progress = Callable[[str, float], None]
"""Is called with what happens, and the done share of it, 0 to 1."""


@dataclass(frozen=True)
class BuildOptions:
    """What changes the engine that is built.

    Attributes:
        workspace: Bytes of GPU memory that one layer may use for itself; None for all there is.
        tf32: Let products of float32 numbers drop to TF32 (10 bits after the point).
    """

    workspace: int | None = None
    tf32: bool = False

    def flags(self, profile: Mapping[str, ShapeRange]) -> dict[str, str]:
        """Return the options and the shapes as they stand in an engine's key."""
        workspace = "unlimited" if self.workspace is None else f"{self.workspace / 2**20:g} MiB"
        shapes = {f"shapes of {name}": str(ends) for name, ends in profile.items()}
        return {"workspace": workspace, "TF32": "on" if self.tf32 else "off", **shapes}


def build_serialized(
    backend: EngineBackend,
    model: EngineModel,
    target: Sequence[str],
    profile: Mapping[str, ShapeRange],
    options: BuildOptions,
    *,
    timing_cache: bytes | None = None,
    progress: Progress | None = None,
) -> tuple[bytes, bytes | None]:
    """Build an engine.

    Args:
        backend: The library.
        model: The model, prepared for it.
        target: What to build for, from the backend's `resolve_target`.
        profile: The shapes of the inputs; empty if all are fixed.
        options: See `BuildOptions`.
        timing_cache: What an earlier build measured; empty to begin one, None for none.
        progress: Called between the builder's steps.

    Returns:
        The serialised engine, and the timing cache as it is now (None if none was asked for).

    Raises:
        InputError: The parser or the builder does not take the model; the message names the node.
        MissingDependencyError: The library finds no GPU, and needs one.
        KeyboardInterrupt: The build was interrupted.
    """
    trt, log = backend.trt, backend.log
    log.forget()
    builder = backend.make("Builder")
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # TensorRT 11 has only these
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = trt.OnnxParser(network, backend.logger)
    log.forget()
    if not parser.parse(model.content, str(model.path)):
        raise parser_failure(trt, parser, log, model.name, backend.title)
    _refuse_shape_inputs(network, model.name)

    config = builder.create_builder_config()
    backend.configure(config, target)
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    (config.set_flag if options.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    if profile:
        config.add_optimization_profile(_profile(builder, profile))
    cache = None
    if timing_cache is not None:
        cache = config.create_timing_cache(timing_cache)
        if cache is None or not config.set_timing_cache(cache, False):
            raise InputError(
                f"{backend.title} does not take the timing cache: {log.cause() or 'it is of another version or GPU'}.",
                "Delete the file, or name another one.",
            )
    monitor = make_monitor(trt, progress)
    config.progress_monitor = monitor
    log.forget()
    engine = builder.build_serialized_network(network, config)
    if monitor.stopped_by is not None:
        raise monitor.stopped_by
    if engine is None:
        raise build_failure(log, model.name, backend.title, options.workspace is not None)
    return bytes(engine), None if cache is None else bytes(config.get_timing_cache().serialize())


def make_monitor(trt: Any, progress: Progress | None) -> Any:
    """Return a progress monitor of TensorRT's kind; its `stopped_by` is the exception that ended the build, or None.

    A builder runs in C++, where no exception may get to: what is raised in here (Ctrl-C above all) is kept, and the
    builder is asked to stop.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped_by: BaseException | None = None
            self._phases: dict[str, list[Any]] = {}  # name -> parent, number of steps, steps done

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            try:
                self._phases[phase_name] = [parent_phase, max(1, num_steps), 0]
            except BaseException as error:
                self.stopped_by = error

        def phase_finish(self, phase_name: str) -> None:
            try:
                self._phases.pop(phase_name, None)
            except BaseException as error:
                self.stopped_by = error

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                if phase_name in self._phases:
                    self._phases[phase_name][2] = step + 1
                if progress is not None and self.stopped_by is None:
                    progress(phase_name[:1].lower() + phase_name[1:], self._share(None))
            except BaseException as error:
                self.stopped_by = error
            return self.stopped_by is None

        def _share(self, parent: str | None) -> float:
            shares = [
                min(1.0, (done + self._share(name)) / steps)
                for name, (above, steps, done) in list(self._phases.items())
                if above == parent
            ]
            return max(shares, default=0.0)

    return Monitor()


def _refuse_shape_inputs(network: Any, model: str) -> None:
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:
            raise InputError(
                f"input {tensor.name} of {model} holds sizes that other shapes depend on, which engines here do not "
                "take.",
                "Export the model with these sizes fixed.",
            )


def _profile(builder: Any, shapes: Mapping[str, ShapeRange]) -> Any:
    profile = builder.create_optimization_profile()
    for name, ends in shapes.items():
        profile.set_shape(name, ends.min, ends.opt, ends.max)
    return profile
