"""The plugins before NVIDIA's own plugin registry and ONNX parser: those of TensorRT-RTX, which are TensorRT's and run
without a GPU.

TensorRT-RTX has no plugin layers and aborts when one is added to the network. Up to there its parser does what that of
TensorRT does: it finds the creator, hands over the node's attributes, and gets a plugin. Each case is a process.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deconv_kernels import make_case as make_whitening
from native_kernels import KERNELS
from onnx import helper, numpy_helper
from trt_cases import WHITENING, call_of, node, qlinear_call, qlinear_case, qlinear_node, small, whitening_call
from trt_conformance import Call
from trt_libraries import build as build_libraries

from edgeconv.ops.kervolution import PLUGIN_ATTRIBUTES

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorRT-RTX is there for x86-64 alone")

PROGRAM = """
import ctypes, sys
import tensorrt_rtx_bindings as trt
library, model, any_version = sys.argv[1:]
ctypes.CDLL(library).edgeconv_trt_set_any_version(int(any_version))
logger = trt.Logger(trt.Logger.VERBOSE)
handle = trt.get_plugin_registry().load_library(library)
network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
print("parsed", parser.parse(open(model, "rb").read()), flush=True)
"""
NOT_FOUND = re.compile(r"Attribute (\w+) not found in plugin node")


def make_model(op: str, attributes: dict[str, Any], call: Call) -> bytes:
    """A model of one node 'node' without a function body; all inputs but X are initialisers."""
    names = [f"input{i}" for i in range(len(call.inputs))]
    made = helper.make_node(op, names, [f"output{i}" for i in range(len(call.output_shapes))], name="node",
                            domain="edgeconv", **attributes)  # fmt: skip
    x = call.inputs[0]
    assert x is not None
    graph = helper.make_graph(
        [made],
        "graph",
        [helper.make_tensor_value_info(names[0], helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), None)
         for name, dtype in zip(made.output, call.output_dtypes, strict=True)],
        [numpy_helper.from_array(np.asarray(value), name)
         for name, value in zip(names[1:], call.inputs[1:], strict=True) if value is not None],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("edgeconv", 1)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return model


def parse(directory: Path, model: bytes, any_version: bool = True) -> str:
    """What parsing the model prints, the crash at its end included."""
    path = directory / "model.onnx"
    path.write_bytes(model)
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, build_libraries()[0], str(path), str(int(any_version))],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    return result.stdout + result.stderr


def nodes() -> dict[str, tuple[dict[str, Any], Call]]:
    """A node of each operator with all attributes that the exporter writes."""
    found: dict[str, tuple[dict[str, Any], Call]] = {}
    for kernel in KERNELS:
        op, attributes = node(small(kernel))
        found[op] = attributes, call_of(small(kernel))
    q = qlinear_case()
    op, attributes = qlinear_node(q)
    found[op] = attributes, qlinear_call(q)
    w = make_whitening((2, 6, 9, 8), (3, 3), 3)
    found[WHITENING] = {**w.attributes, **PLUGIN_ATTRIBUTES}, whitening_call(w)
    return found


NODES = nodes()


@pytest.mark.parametrize("op", NODES)
def test_parser_makes_the_plugin(tmp_path: Path, op: str) -> None:
    attributes, call = NODES[op]
    said = parse(tmp_path, make_model(op, attributes, call))
    assert f"Successfully created plugin: {op}" in said
    assert "edgeconv:" not in said
    # What only a node that was made for TensorRT states is a warning on others.
    assert set(NOT_FOUND.findall(said)) == ({"constant_filters"} if op != WHITENING else set())


@pytest.mark.parametrize(("changes", "message"), [
    ({"degree": 0}, "degree is 0: it must be at least 1"),
    ({"degree": 2.5}, "attribute degree is of field type 1: it must be 1 32-bit integer"),
    ({"strides": [1]}, "attribute strides is 1 value"),
    ({"pads": 1}, "attribute pads is 1 value: it must be 4"),
    ({"constant_filters": 3}, "constant_filters is 3"),
])  # fmt: skip
def test_parser_is_told_what_is_wrong(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    op = "PolynomialKervolution"
    attributes, call = NODES[op]
    said = parse(tmp_path, make_model(op, {**attributes, **changes}, call))
    assert f"edgeconv: {op} 'node': {message}" in said
    assert "Could not create the plugin" in said
    assert "parsed False" in said  # and the process goes on


def test_tensorrt_rtx_is_refused(tmp_path: Path) -> None:
    """Its version is found though nothing of it is linked, and though Python has loaded it without its symbols."""
    op = "PolynomialKervolution"
    said = parse(tmp_path, make_model(op, *NODES[op]), any_version=False)
    assert re.search(r"edgeconv: TensorRT-RTX 1\.\d+\.\d+ .* has no plugin layers: .*edgeconv export --inline", said)
    assert "Successfully created plugin" not in said
    assert "parsed False" in said
