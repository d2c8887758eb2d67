"""`build_engine`: from an ``.onnx`` file to an engine with its stamp, or to the stored one if that fits."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgeconv.errors import InputError
from edgeconv.files import atomic_output, check_output
from edgeconv.runtime.engine_backend import EngineBackend, load_backend
from edgeconv.runtime.engine_builder import BuildOptions, Progress, build_serialized
from edgeconv.runtime.engine_model import PREPARATION, EngineModel, prepare_model
from edgeconv.runtime.engine_report import EngineReport
from edgeconv.runtime.engine_shapes import ShapeRange, resolve_profile
from edgeconv.runtime.engine_stamp import EngineKey, EngineStamp, read_stamp, stamp_path, write_engine

StrPath = str | os.PathLike[str]
_UNITS = {"": 2**20, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def build_engine(
    model: StrPath,
    output: StrPath | None = None,
    *,
    provider: str = "tensorrt",
    shapes: Mapping[str, Sequence[int]] | None = None,
    min_shapes: Mapping[str, Sequence[int]] | None = None,
    opt_shapes: Mapping[str, Sequence[int]] | None = None,
    max_shapes: Mapping[str, Sequence[int]] | None = None,
    compute_capabilities: Sequence[str] = (),
    fp16: bool = False,
    tf32: bool = False,
    workspace: int | None = None,
    plugins: bool = True,
    device: int = 0,
    timing_cache: StrPath | None = None,
    rebuild: bool = True,
    force: bool = False,
    verbose: bool = False,
    tell: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> EngineReport:
    """Build a TensorRT or TensorRT-RTX engine of a model: `edgeconv build`.

    The network is strongly typed: every layer computes in the type that the file gives it, float32, float16, or int8
    from QuantizeLinear/DequantizeLinear pairs. An engine that is already there and fits is kept.

    Args:
        model: The ``.onnx`` file, in any form of `edgeconv.export.forms.Form`.
        output: The engine; by default beside the model, with the ending ``.engine``. Its stamp gets ``.json`` added.
        provider: ``tensorrt`` builds for this machine's GPU. ``tensorrt-rtx`` builds for `compute_capabilities`, also
            where there is no GPU.
        shapes: The only shapes of the inputs, by name (the empty name: of the only input).
        min_shapes: The least; see `edgeconv.runtime.engine_shapes.resolve_profile` for what is not given.
        opt_shapes: Those to tune for.
        max_shapes: The largest.
        compute_capabilities: For ``tensorrt-rtx``: ``8.6``, ``sm_89``, ``ada``, ``current``; by default this machine's.
        fp16: Insist on float16: a file that computes in float32 is refused.
        tf32: Let float32 products drop to TF32.
        workspace: Bytes of GPU memory that a layer may use for itself; by default all there is.
        plugins: Use edgeconv's plugins where they are installed (``tensorrt``); else TensorRT's own layers.
        device: Number of the GPU, where one is used.
        timing_cache: File of what earlier builds measured; is made if need be, and brought up to date.
        rebuild: False: a stored engine that does not fit is an error, and so is none.
        force: Build even if the stored engine fits.
        verbose: Tell everything that the library says.
        tell: Is called with the library's warnings and errors, line by line.
        progress: Called with what happens and the done share.

    Returns:
        What was built, or kept.

    Raises:
        InputError: The model, a shape or an option cannot be used, or the library does not take the model; nothing was
            written.
        MissingDependencyError: The library or the GPU is missing.
    """
    say: Progress = progress or (lambda _what, _done: None)
    engine = Path(output) if output is not None else Path(model).with_suffix(".engine")
    check_output("--output", engine, [model])
    if timing_cache is not None and provider == "tensorrt-rtx":
        raise InputError(
            "--timing-cache is for --provider tensorrt: TensorRT-RTX measures nothing when it builds.", "Leave it out."
        )
    backend = load_backend(provider, plugins=plugins, device=device, tell=tell, verbose=verbose)
    target = backend.resolve_target(compute_capabilities)
    say(f"reading {Path(model).name}", 0.0)
    prepared = prepare_model(model, backend.plugin_operators)
    if fp16 and not prepared.is_half:
        raise InputError(
            f"{prepared.name} computes in float32, and the engine is strongly typed: --fp16 cannot change that.",
            "Export it in float16, which also checks what that does to the results: edgeconv export CHECKPOINT --fp16.",
        )
    profile = resolve_profile(
        prepared.inputs, prepared.metadata, shapes=shapes, min_shapes=min_shapes, opt_shapes=opt_shapes,
        max_shapes=max_shapes, model=prepared.name,
    )  # fmt: skip
    options = BuildOptions(workspace, tf32)
    key = EngineKey(
        provider=backend.provider,
        version=backend.version,
        model_sha256=prepared.sha256,
        plugins_sha256=backend.plugins_sha256 if prepared.plugins else None,
        target=target,
        flags=options.flags(profile),
        preparation=PREPARATION,
    )
    stored, stale = _stored(engine, key, prepared.name)
    if stored is not None and not stale and not force:
        return _report(engine, prepared, stored, built=False, stale=(), warnings=_warnings(backend, prepared, profile))
    if not rebuild:
        problem = f"is stale: {'; '.join(stale)}" if stale else "does not exist"
        raise InputError(f"{engine} {problem}.", "Leave --no-rebuild out to build it.")

    start = time.perf_counter_ns()
    content, cache = build_serialized(
        backend, prepared, target, profile, options, timing_cache=_read_timing_cache(timing_cache), progress=progress
    )
    stamp = EngineStamp(
        key=key,
        model=prepared.name,
        engine_sha256=hashlib.sha256(content).hexdigest(),
        engine_bytes=len(content),
        inputs=prepared.inputs,
        outputs=prepared.outputs,
        profile=profile,
        metadata=prepared.metadata,
        seconds=(time.perf_counter_ns() - start) * 1e-9,
    )
    write_engine(engine, content, stamp)
    if timing_cache is not None and cache is not None:
        with atomic_output(timing_cache) as temporary:
            temporary.write_bytes(cache)
    return _report(
        engine, prepared, stamp, built=True, stale=tuple(stale), warnings=_warnings(backend, prepared, profile)
    )


def parse_workspace(text: str) -> int:
    """Read a size in MiB, as trtexec's --workspace, or with a unit: ``512``, ``512M``, ``2GiB``, ``workspace:1G``.

    Raises:
        InputError: It is no size.
    """
    match = re.fullmatch(r"(?:workspace:)?(\d+(?:\.\d+)?) ?([BKMG]?)(?:IB|B)?", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise InputError(f"--workspace {text} is not a size.", "Write MiB, or a unit: --workspace 512, --workspace 2G.")
    return size


def _stored(engine: Path, key: EngineKey, model: str) -> tuple[EngineStamp | None, list[str]]:
    """Return the stored engine's stamp, if it has one, and why it is not what is wanted."""
    if not engine.exists():
        return None, []
    try:
        stamp = read_stamp(engine)
    except InputError as error:
        return None, [error.message.removesuffix(".")]
    if stamp is None:
        return None, [f"it has no stamp ({stamp_path(engine).name})"]
    return stamp, stamp.key.differences(key, model, stamp.model)


def _read_timing_cache(path: StrPath | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes() if Path(path).exists() else b""
    except OSError as error:
        raise InputError(f"cannot read the timing cache {path}: {error.strerror or error}.") from error


def _warnings(backend: EngineBackend, model: EngineModel, profile: Mapping[str, ShapeRange]) -> tuple[str, ...]:
    found = []
    if backend.missing_plugins and model.inlined:
        names = ", ".join(model.inlined)
        reason = " ".join(backend.missing_plugins.split())
        found.append(f"TensorRT's own layers compute {names}, more slowly than edgeconv's plugins would: {reason}")
    if profile and all(ends.fixed for ends in profile.values()):
        found.append(
            "the model has dynamic axes, but the engine takes one shape of each input only; --min-shapes, --opt-shapes "
            "and --max-shapes open them"
        )
    return tuple(found)


def _report(
    engine: Path,
    model: EngineModel,
    stamp: EngineStamp,
    *,
    built: bool,
    stale: tuple[str, ...],
    warnings: tuple[str, ...],
) -> EngineReport:
    return EngineReport(
        engine=str(engine),
        model=str(model.path),
        provider=stamp.key.provider,
        version=stamp.key.version,
        target=stamp.key.target,
        built=built,
        stale=stale,
        bytes=stamp.engine_bytes,
        seconds=stamp.seconds,
        profile=stamp.profile,
        inputs={info.name: info.shape for info in model.inputs},
        precisions=model.precisions,
        plugins=model.plugins,
        inlined=model.inlined,
        flags=stamp.key.flags,
        warnings=warnings,
    )
