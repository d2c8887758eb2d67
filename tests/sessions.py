"""ONNX Runtime's sessions on the CPU, as tests want them."""

from __future__ import annotations

import onnx
import onnxruntime as ort

from edgeconv.runtime.op_library import op_library


def session(
    model: onnx.ModelProto | bytes,
    threads: int = 1,
    *,
    native: bool = True,
    library: str | None = None,
    shared: dict[str, ort.OrtValue] | None = None,
    optimized: bool = True,
) -> ort.InferenceSession:
    """A session that prints nothing, of a model.

    Its memory is that of malloc, a block a tensor, and not of ONNX Runtime's arena: the address sanitizer sees the ends
    of every tensor.

    Args:
        model: The model, or its bytes.
        threads: Number of threads within an operator.
        native: Whether the op library's kernels run, and not the functions in the file.
        library: Path of the op library, the installed one by default.
        shared: Values of initialisers by their names.
        optimized: Whether ONNX Runtime rewrites the graph.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if native:
        options.register_custom_ops_library(library or op_library())
    for name, value in (shared or {}).items():
        options.add_initializer(name, value)
    serialized = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
