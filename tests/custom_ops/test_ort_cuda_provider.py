"""The CUDA kernels' glue against a played CUDA provider (tests/native/ort_cuda_provider.cc)."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from cuda_memory import ROOT, simt_library


def test_the_glue_does_its_part_with_a_cuda_provider(tmp_path: Path) -> None:
    library = Path(simt_library())
    cache = (library.parent / "CMakeCache.txt").read_text()
    found = re.search(r"^EDGECONV_ORT_INCLUDE_DIR:\w+=(.+)$", cache, re.MULTILINE)
    assert found is not None
    source, program = ROOT / "tests/native/ort_cuda_provider.cc", tmp_path / "ort_cuda_provider"
    compiler = [os.environ.get("CXX", "c++"), "-std=c++17", "-g", "-Wall", "-Wextra", f"-I{found.group(1)}"]
    done = subprocess.run([*compiler, source, "-o", program, "-ldl"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    environment = {key: value for key, value in os.environ.items() if key != "EDGECONV_SIMT_ORT"}
    run = subprocess.run([program, library], capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert (run.returncode, run.stdout) == (0, "conforms\n"), run.stderr
