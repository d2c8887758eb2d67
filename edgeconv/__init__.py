"""edgeconv takes PyTorch CNNs with unusual convolutions to edge devices: one ONNX file, every runtime.

The public API; each function is what one command of the `edgeconv` program calls:

    to_onnx              any module -> a verified .onnx
    export_checkpoint    a checkpoint file -> a verified .onnx          edgeconv export
    verify_model         an .onnx against its checkpoint                edgeconv verify
    inspect_model        what is in an .onnx and which runtimes take it edgeconv inspect
    run_model            one inference, and what came out               edgeconv run
    benchmark            measured latency of .onnx files                edgeconv bench
    build_engine         an .onnx -> a TensorRT engine                  edgeconv build
    quantize_model       an .onnx and images -> an 8-bit .onnx          edgeconv quantize
    fuse_model           an 8-bit .onnx -> one of 8-bit operators       edgeconv fuse
    visualize_model      what excites a layer's features, and why       edgeconv visualize
    train_model          the training recipe                            edgeconv train
    list_models          the model registry                             edgeconv models
    scale_architecture   depth, width, resolution within budgets        edgeconv models scale
    load_checkpoint      a checkpoint file -> model and metadata
    save_checkpoint      a model and metadata -> a checkpoint file
    op_library           path for SessionOptions.register_custom_ops_library

Layers are in `edgeconv.nn`, architectures in `edgeconv.models`, errors in `edgeconv.errors`. Importing `edgeconv` needs
the base dependencies only; what a function needs beyond them is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgeconv.errors import MissingDependencyError

if TYPE_CHECKING:
    from edgeconv.bench.api import benchmark
    from edgeconv.checkpoint import load_checkpoint, save_checkpoint
    from edgeconv.export.pipeline import export_checkpoint, to_onnx
    from edgeconv.export.verification import verify_model
    from edgeconv.fusion.api import fuse_model
    from edgeconv.inspection import inspect_model
    from edgeconv.models.registry import list_models
    from edgeconv.quantize.api import quantize_model
    from edgeconv.runtime.engine_build import build_engine
    from edgeconv.runtime.op_library import op_library
    from edgeconv.runtime.run import run_model
    from edgeconv.scaling.search import scale_architecture
    from edgeconv.training.recipe import train_model
    from edgeconv.visualization.api import visualize_model

__all__ = [
    "benchmark",
    "build_engine",
    "export_checkpoint",
    "fuse_model",
    "inspect_model",
    "list_models",
    "load_checkpoint",
    "op_library",
    "quantize_model",
    "run_model",
    "save_checkpoint",
    "scale_architecture",
    "to_onnx",
    "train_model",
    "verify_model",
    "visualize_model",
]

_HOMES = {
    "benchmark": "edgeconv.bench.api",
    "build_engine": "edgeconv.runtime.engine_build",
    "export_checkpoint": "edgeconv.export.pipeline",
    "fuse_model": "edgeconv.fusion.api",
    "inspect_model": "edgeconv.inspection",
    "list_models": "edgeconv.models.registry",
    "load_checkpoint": "edgeconv.checkpoint",
    "op_library": "edgeconv.runtime.op_library",
    "quantize_model": "edgeconv.quantize.api",
    "run_model": "edgeconv.runtime.run",
    "save_checkpoint": "edgeconv.checkpoint",
    "scale_architecture": "edgeconv.scaling.search",
    "to_onnx": "edgeconv.export.pipeline",
    "train_model": "edgeconv.training.recipe",
    "verify_model": "edgeconv.export.verification",
    "visualize_model": "edgeconv.visualization.api",
}

_EXPORT_EXTRA = ("torch", "onnxscript", "onnx_ir", "safetensors")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _EXPORT_EXTRA:
            raise
        raise MissingDependencyError(
            f"edgeconv.{name} needs {error.name}, which is not installed.", "pip install 'edgeconv[export]'"
        ) from error


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
