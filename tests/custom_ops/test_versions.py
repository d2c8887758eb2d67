"""The one library in other versions of ONNX Runtime, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from builds import ALONE, ROOT, output

from edgeconv.runtime.op_library import op_library

# 1.18.1 was built for numpy 1, which has no wheels for Python 3.13.
OLD = ["1.18.1"] if sys.version_info < (3, 13) else []


def installed(version: str) -> Path:
    """ONNX Runtime `version` in build/onnxruntime-<version>, downloaded once."""
    directory = ROOT / "build" / f"onnxruntime-{version}-py{sys.version_info.major}{sys.version_info.minor}"
    with ALONE:
        if not (directory / "onnxruntime").is_dir():
            extra = ["numpy<2"] if version in OLD else []
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", directory]
            output(*command, f"onnxruntime=={version}", *extra)
    return directory


@pytest.mark.parametrize("version", [*OLD, "1.20.1", "1.23.2"])
def test_version(version: str) -> None:
    code = f"""
import sys
sys.path[:0] = {[str(installed(version)), str(ROOT / "tests")]}
import numpy as np, onnxruntime as ort
assert ort.__version__ == "{version}"
from native_kernels import KERNELS, make_case, oracle
from native_models import make_model
from tolerances import assert_close
for kernel in KERNELS:
    for dtype in ("float32", "float16"):
        for bias in ("given", "absent", "empty name"):
            case = make_case(kernel, dtype, (2, 6, 9, 7), 8, (3, 2), strides=(2, 1), group=2, bias=bias == "given")
            for options in ({{}}, {{"inputs": ("X", "W")}}, {{"x_shape": ["N", "C", None, None]}}):
                model, feeds = make_model(case, empty_bias=bias == "empty name", **options)
                settings = ort.SessionOptions()
                settings.intra_op_num_threads = 2
                settings.register_custom_ops_library({op_library()!r})
                session = ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
                result = session.run(None, feeds)[0]
                assert result.dtype == dtype
                assert_close(result, oracle(case), dtype, f"{{kernel}} {{dtype}} {{bias}}")
print("right answers")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == "right answers\n"
    assert "Warning" not in result.stderr
