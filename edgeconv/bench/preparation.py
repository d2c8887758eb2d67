"""What a benchmark settles before it loads anything: settings, files, the runtime and its libraries, the stamp."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeconv.bench.environment import Environment, read_environment
from edgeconv.bench.model_file import ModelFile, file_sha256, read_engine_file, read_model_file
from edgeconv.bench.report import Settings
from edgeconv.bench.statistics import samples_needed
from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.runtime.engine_stamp import is_engine
from edgeconv.runtime.ort import find_op_library, require_onnxruntime
from edgeconv.runtime.plugin_library import VARIABLE as PLUGINS_VARIABLE
from edgeconv.runtime.plugin_library import plugin_library
from edgeconv.runtime.providers import check_threads
from edgeconv.runtime.session import ENGINE_PROVIDERS, check_options, find_gpu, runtime_version

if TYPE_CHECKING:
    from edgeconv.runtime.gpu import GpuInfo, Source


def check_settings(settings: Settings, models: Sequence[str | os.PathLike[str]], *, profile: bool) -> Settings:
    """Return the settings, if they make sense with each other, the provider and the models.

    Raises:
        InputError: They do not.
    """
    if settings.iterations < 1:
        raise InputError(f"iterations must be 1 or more, got {settings.iterations}.")
    for name, seconds in (("duration", settings.duration), ("warmup", settings.warmup)):
        if not 0 <= seconds < float("inf"):
            raise InputError(f"{name} must be a number of seconds, 0 or more, got {seconds}.")
    if settings.batch < 1:
        raise InputError(f"batch must be 1 or more, got {settings.batch}.")
    check_threads(settings.threads)
    for percentile in settings.percentiles:
        samples_needed(percentile)
    check_options(settings.provider, vars(settings), _listed(models))
    if profile and settings.provider != "cpu":
        raise InputError(
            f"--profile times operators on the host: with provider {settings.provider} these would be the times of "
            "launching kernels, not of the kernels.",
            "Leave it out, or use NVIDIA's profiler: nsys profile edgeconv bench ….",
        )
    return settings


def _listed(models: Sequence[str | os.PathLike[str]]) -> Sequence[str | os.PathLike[str]]:
    return [models] if isinstance(models, (str, os.PathLike)) else models


def read_files(models: Sequence[str | os.PathLike[str]], *, trust_engine: bool) -> list[ModelFile]:
    """Identify the files, each once.

    Raises:
        InputError: There are none, or one cannot be used.
    """
    if not models:
        raise InputError("no model to measure.", "Give one or more .onnx files.")
    paths = list(dict.fromkeys(os.fspath(model) for model in _listed(models)))
    return [read_engine_file(p, trusted=trust_engine) if is_engine(p) else read_model_file(p) for p in paths]


def find_library(provider: str, wanted: bool | str | os.PathLike[str]) -> tuple[str | None, str]:
    """Return the path of the op library, or of TensorRT's plugins, or None and why it is not there."""
    if provider not in ENGINE_PROVIDERS:
        return find_op_library(wanted)
    if provider == "tensorrt-rtx" or wanted is False:  # TensorRT-RTX takes no plugins
        return None, ""
    if wanted is not True:
        raise InputError("the path of TensorRT's plugins is not an argument.", f"Set {PLUGINS_VARIABLE} to it.")
    try:
        return plugin_library(), ""
    except MissingDependencyError as error:
        if os.environ.get(PLUGINS_VARIABLE):
            raise
        return None, str(error)


def check_shape_names(shapes: Mapping[str, Sequence[int]], files: Sequence[ModelFile]) -> None:
    """Refuse a shape for an input that no file has.

    Raises:
        InputError: There is one.
    """
    if any(not file.inputs for file in files):
        return  # a trusted engine without a stamp: it will say when it is loaded
    known = sorted({name for file in files for name in file.inputs})
    for name in shapes:
        if name and name not in known:
            raise InputError(f"no model has an input called {name}.", f"The inputs are: {', '.join(known)}.")


def find_gpu_source(settings: Settings) -> tuple[GpuInfo | None, Source | None]:
    """Return the GPU in use with its limits, and what tells its state."""
    gpu = find_gpu(settings.provider, settings.device)
    if gpu is None:
        return None, None
    from edgeconv.runtime.gpu import find_source

    source = find_source(gpu.uuid)
    return (gpu, None) if source is None else (replace(gpu, **source.limits(), source=source.name), source)


def stamp_environment(settings: Settings, library: str | None, gpu: GpuInfo | None) -> Environment:
    """Return the environment's stamp: the machine, the runtime, the digest of the library and the GPU."""
    try:
        onnxruntime = require_onnxruntime()
    except MissingDependencyError:  # engines run without it
        onnxruntime = None
    return read_environment(
        provider=settings.provider,
        available_providers=onnxruntime.get_available_providers() if onnxruntime else (),
        onnxruntime_version=onnxruntime.__version__ if onnxruntime else None,
        threads=settings.threads,
        op_library_sha256=None if library is None else file_sha256(library),
        gpu=gpu,
        runtime=runtime_version(settings.provider),
    )
