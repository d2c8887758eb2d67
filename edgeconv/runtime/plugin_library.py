"""Finding the installed library of TensorRT plugins."""

from __future__ import annotations

from edgeconv.errors import MissingDependencyError
from edgeconv.runtime.op_library import find_native_library

FILE_NAME = "libedgeconv_trt.so"
VARIABLE = "EDGECONV_TRT_PLUGINS"


def plugin_library() -> str:
    """Return the path of edgeconv's operators as TensorRT plugins.

    `edgeconv build` and the sessions of engines load it by themselves; elsewhere it is the argument of
    `tensorrt.get_plugin_registry().load_library` and of ``trtexec --dynamicPlugins``. Without it the same files build
    from TensorRT's own layers, inlined. `EDGECONV_TRT_PLUGINS` names another library file and wins over the installed
    one.

    Returns:
        The absolute path of `libedgeconv_trt.so`.

    Raises:
        MissingDependencyError: `EDGECONV_TRT_PLUGINS` names no file, or the library was not built with the package.
    """
    found = find_native_library(FILE_NAME, VARIABLE)
    if found is not None:
        return found
    raise MissingDependencyError(
        f"edgeconv's TensorRT plugins ({FILE_NAME}) are not installed.",
        "Install edgeconv where nvcc and TensorRT's headers are (pip install .), or build the library (cmake -S "
        f"custom_ops -B build/native -DEDGECONV_TENSORRT=ON && cmake --build build/native) and set {VARIABLE} to "
        f"build/native/{FILE_NAME}.",
    )
