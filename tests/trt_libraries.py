"""The TensorRT plugin library with host execution, and the harness that plays TensorRT, built or found.

EDGECONV_TRT_LIBRARY and EDGECONV_CONFORMANCE_LIBRARY name other builds of the two than those that are made here.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import builds
from builds import ROOT, TESTS
from cuda_memory import simt_library

BUILD = TESTS / "conformance"
HARNESS = Path(__file__).parent / "native" / "conformance"


def build(sanitize: str = "") -> tuple[str, str]:
    """Build the plugin library and the harness, and return their paths; `sanitize` is "address" or nothing."""
    if not sanitize and (library := os.environ.get("EDGECONV_TRT_LIBRARY")):
        return library, os.environ["EDGECONV_CONFORMANCE_LIBRARY"]
    return _build(sanitize)


@lru_cache
def _build(sanitize: str) -> tuple[str, str]:
    root = f"-DTENSORRT_ROOT={tensorrt_headers()}"
    # What host execution has built already is built once.
    simt = Path(simt_library(sanitize)).parent
    builds.build(ROOT / "custom_ops", simt, root, "-DEDGECONV_TENSORRT=ON", target="edgeconv_trt")
    harness = builds.build(HARNESS, BUILD / (sanitize or "plain"), root, f"-DEDGECONV_SANITIZE={sanitize}")
    return str(simt / "libedgeconv_trt.so"), str(harness / "libconformance.so")


@lru_cache
def tensorrt_headers() -> str:
    """The directory of NvInferRuntime.h: TENSORRT_ROOT, or what scripts/tensorrt_headers.sh fetches."""
    if root := os.environ.get("TENSORRT_ROOT"):
        return root if (Path(root) / "NvInferRuntime.h").exists() else str(Path(root) / "include")
    return str(builds.fetched("tensorrt_headers.sh", "tensorrt"))
