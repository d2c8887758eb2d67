"""The TensorRT plugin library with host execution, and the harness that plays TensorRT, built or found.

EDGECONV_TRT_LIBRARY and EDGECONV_CONFORMANCE_LIBRARY name other builds of the two than those that are made here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from cuda_memory import simt_library

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "tests" / "conformance"
HARNESS = Path(__file__).parent / "native" / "conformance"


def build(sanitize: str = "") -> tuple[str, str]:
    """Build the plugin library and the harness, and return their paths; `sanitize` is "address" or nothing."""
    if not sanitize and (library := os.environ.get("EDGECONV_TRT_LIBRARY")):
        return library, os.environ["EDGECONV_CONFORMANCE_LIBRARY"]
    return _build(sanitize)


@lru_cache
def _build(sanitize: str) -> tuple[str, str]:
    cmake = shutil.which("cmake", path=str(Path(sys.executable).parent)) or shutil.which("cmake")
    assert cmake, "cmake is not installed: pip install cmake"
    root = f"-DTENSORRT_ROOT={tensorrt_headers()}"
    # What host execution has built already is built once.
    simt, harness = Path(simt_library(sanitize)).parent, BUILD / (sanitize or "plain")
    for command in (
        [cmake, "-S", ROOT / "custom_ops", "-B", simt, root, "-DEDGECONV_TENSORRT=ON"],
        [cmake, "--build", simt, "--parallel", "2", "--target", "edgeconv_trt"],
        [cmake, "-S", HARNESS, "-B", harness, root, f"-DEDGECONV_SANITIZE={sanitize}"],
        [cmake, "--build", harness, "--parallel", "2"],
    ):
        _run(*command)
    return str(simt / "libedgeconv_trt.so"), str(harness / "libconformance.so")


@lru_cache
def tensorrt_headers() -> str:
    """The directory of NvInferRuntime.h: TENSORRT_ROOT, or what scripts/tensorrt_headers.sh fetches."""
    if root := os.environ.get("TENSORRT_ROOT"):
        return root if (Path(root) / "NvInferRuntime.h").exists() else str(Path(root) / "include")
    return _run(ROOT / "scripts" / "tensorrt_headers.sh", ROOT / "build" / "tensorrt", PYTHON=sys.executable).strip()


def _run(*command: str | Path, **environment: str) -> str:
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-6000:]
    return result.stdout
