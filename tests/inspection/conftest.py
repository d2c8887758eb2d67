"""Files to inspect: standard graphs as ONNX text, and the exported forms of one kervolution."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.inliner import inline_local_functions

from edgeconv.inspection import ModelReport, inspect_model
from edgeconv.ops.kervolution import DOMAIN, OPERATORS, PLUGIN_ATTRIBUTES, VERSION
from edgeconv.ops.kervolution_function import FUNCTIONS, OPSET
from edgeconv.ops.qlinear_manhattan import OPERATOR as QLINEAR
from edgeconv.ops.registry import onnx_functions
from edgeconv.rewrite.graph import add_function

MakeKervolution = Callable[..., onnx.ModelProto]
MakeQuantized = Callable[..., onnx.ModelProto]
InspectText = Callable[[str], ModelReport]


@pytest.fixture
def inspect_text(tmp_path: Path) -> InspectText:
    """Save a model that is written as ONNX text, and inspect it."""

    def inspect(text: str) -> ModelReport:
        path = tmp_path / "text.onnx"
        onnx.save(onnx.parser.parse_model(text), path)
        return inspect_model(path)

    return inspect


@pytest.fixture
def make_kervolution() -> MakeKervolution:
    """Make a file with one kervolution of x (1,6,9,7): 8 filters in 2 groups, window (3,2), strides (2,1).

    The form "unstrided" has functions, and no strides.
    """

    def make(
        name: str = "ManhattanKervolution", form: str = "functions", *, attributes: bool = True, exported: bool = True
    ) -> onnx.ModelProto:
        generator = np.random.default_rng(0)
        strides = [1, 1] if form == "unstrided" else [2, 1]
        weights = {
            "w": generator.standard_normal((8, 3, 3, 2), dtype=np.float32),
            **{key: np.float32(0.5) for key in OPERATORS[name].parameters},
            "b": np.zeros(8, np.float32),
        }
        node = helper.make_node(
            name, ["x", *weights], ["y"], name="kerv", domain=DOMAIN, kernel_shape=[3, 2], strides=strides,
            pads=[1, 0, 1, 1], dilations=[1, 1], group=2, **(PLUGIN_ATTRIBUTES if attributes else {}),
            **({"degree": 3} if OPERATORS[name].has_degree else {}),
        )  # fmt: skip
        graph = helper.make_graph(
            [node],
            "kervolution",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6, 9, 7])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, 5 if strides[0] == 2 else 9, 7])],
            [numpy_helper.from_array(value, key) for key, value in weights.items()],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
        functions = [] if form == "no_functions" else [FUNCTIONS[name]]
        model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8)
        if exported:
            helper.set_model_props(model, {"edgeconv.version": "0.1.0", "edgeconv.input_shape": "[4, 6, 9, 7]"})
        return inline_local_functions(model) if form == "inlined" else model

    return make


@pytest.fixture
def make_quantized() -> MakeQuantized:
    """Make a file with one 8-bit Manhattan kervolution of x (batch,6,9,7), of the geometry of `make_kervolution`.

    `zero_point` is that of x, w and y; the forms are those of `make_kervolution`.
    """

    def make(
        form: str = "functions", *, dtype: str = "uint8", zero_point: int = 3, opset: int = 19, exported: bool = False
    ) -> onnx.ModelProto:
        generator = np.random.default_rng(0)
        strides = [1, 1] if form == "unstrided" else [2, 1]
        tensors = {
            "x_scale": np.float32(0.02), "x_zero_point": np.asarray(zero_point, dtype),
            "W": generator.integers(-128, 128, (8, 3, 3, 2)).astype(np.int8),
            "w_scale": np.full(8, 0.02, np.float32), "w_zero_point": np.full(8, zero_point, np.int8),
            "y_scale": np.float32(0.3), "y_zero_point": np.asarray(zero_point, dtype), "B": np.zeros(8, np.float32),
        }  # fmt: skip
        assert tuple(tensors) == QLINEAR.inputs[1:]
        node = helper.make_node(
            QLINEAR.name, ["x", *tensors], ["y"], name="kerv", domain=DOMAIN, kernel_shape=[3, 2], strides=strides,
            pads=[1, 0, 1, 1], dilations=[1, 1], group=2, **PLUGIN_ATTRIBUTES,
        )  # fmt: skip
        element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        graph = helper.make_graph(
            [node],
            "quantized",
            [helper.make_tensor_value_info("x", element, ["batch", 6, 9, 7])],
            [helper.make_tensor_value_info("y", element, ["batch", 8, 5 if strides[0] == 2 else 9, 7])],
            [numpy_helper.from_array(np.asarray(value), key) for key, value in tensors.items()],
        )
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        if form != "no_functions":
            add_function(model, onnx_functions()[QLINEAR.name])
        if exported:
            helper.set_model_props(model, {"edgeconv.version": "0.1.0", "edgeconv.input_shape": "[4, 6, 9, 7]"})
        return inline_local_functions(model) if form == "inlined" else model

    return make
