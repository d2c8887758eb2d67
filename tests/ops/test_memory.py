"""The function bodies' memory stays at the input, the output and one block, however large the im2col would be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeconv.ops.kervolution import DOMAIN
from edgeconv.ops.kervolution_function import FUNCTIONS

# 64 -> 64 channels, 3x3, 56x56: every difference at once would be 64·576·3136 floats, 462 MB; the columns alone 7 MB.
CHANNELS, SIZE = 64, 56

SCRIPT = """
import re, sys
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
x = np.ones((1, int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[3])), np.float32)
def status(field):
    return int(re.search(field + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1])
open("/proc/self/clear_refs", "w").write("5")  # the peak starts again at what is held now
before = status("VmRSS")
session.run(None, {"X": x})
print((status("VmHWM") - before) / 1024)
"""


@pytest.mark.parametrize("name", ["ManhattanKervolution", "ChebyshevKervolution"])
def test_a_distance_kernel_holds_a_few_blocks(name: str, tmp_path: Path) -> None:
    weights = np.zeros((CHANNELS, CHANNELS, 3, 3), np.float32)
    attributes = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "group": 1}
    graph = helper.make_graph(
        [helper.make_node(name, ["X", "W"], ["Y"], domain=DOMAIN, **attributes)],
        "layer",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [1, CHANNELS, SIZE, SIZE])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [1, CHANNELS, SIZE, SIZE])],
        [numpy_helper.from_array(weights, "W")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=[FUNCTIONS[name]])
    onnx.save(model, tmp_path / "layer.onnx")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "layer.onnx"), str(CHANNELS), str(SIZE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # Two blocks of 6 MiB, the input, the output and their copies. Without blocks it would take 98 MiB for one tap.
    assert 1 < float(done.stdout) < 48, f"{done.stdout} MiB"
