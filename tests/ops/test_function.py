"""The ONNX functions as documents: self-contained, explicit, and at home in files of every opset from 18 on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
import pytest
from kervolution_cases import WINDOWS, Case
from onnx import helper, numpy_helper
from onnxscript import opset18 as op
from onnxscript import script, values

from edgeconv.ops.function import build_function
from edgeconv.ops.kervolution import DOMAIN, OPERATOR_OF_KERNEL, VERSION
from edgeconv.ops.kervolution_function import FUNCTIONS, OPSET


def all_nodes(nodes: list[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those of their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from all_nodes(list(attribute.g.node))


def model_of(case: Case, opset: int) -> onnx.ModelProto:
    """One operator whose function, as the file, imports the given version of the standard operators."""
    operator = OPERATOR_OF_KERNEL[case.kernel]
    function = onnx.FunctionProto()
    function.CopyFrom(FUNCTIONS[operator.name])
    next(imported for imported in function.opset_import if not imported.domain).version = opset
    x, weights, bias, parameters = case.tensors()
    constants = {"W": weights, **parameters, **({} if bias is None else {"B": bias})}
    attributes = {**case.attributes, **({"degree": case.degree} if operator.has_degree else {})}
    graph = helper.make_graph(
        [helper.make_node(operator.name, ["X", *constants], ["Y"], domain=DOMAIN, **attributes)],
        "one",
        [helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, list(x.shape))],
        [helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, list("nmhw"))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[function])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_self_contained(name: str) -> None:
    function = FUNCTIONS[name]
    assert (function.name, function.domain) == (name, DOMAIN)
    assert {imported.domain: imported.version for imported in function.opset_import} == {"": OPSET}
    assert {node.domain for node in all_nodes(list(function.node))} == {""}
    context = onnx.checker.C.CheckerContext()
    context.ir_version, context.opset_imports = 9, {"": OPSET}
    onnx.checker.check_function(function, context)


def test_functions_say_what_they_compute() -> None:
    assert {name for name, function in FUNCTIONS.items() if not function.doc_string} == set()


@pytest.mark.parametrize("name", ["ManhattanKervolution", "ChebyshevKervolution"])
def test_loops_have_explicit_conditions(name: str) -> None:
    """TensorRT's parser takes no other."""
    loops = [node for node in all_nodes(list(FUNCTIONS[name].node)) if node.op_type == "Loop"]
    assert len(loops) == 2
    for loop in loops:
        body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
        producers = {output: node for node in all_nodes(list(FUNCTIONS[name].node)) for output in node.output}
        for condition in (loop.input[1], body.output[0].name):
            producer = producers[condition]
            assert producer.op_type == "Constant"
            assert bool(numpy_helper.to_array(producer.attribute[0].t))


@pytest.mark.parametrize("opset", range(OPSET, 24))
@pytest.mark.parametrize("kernel", OPERATOR_OF_KERNEL)
def test_functions_fit_every_later_opset(kernel: str, opset: int) -> None:
    window = next(window for window in WINDOWS if window.name == "everything")
    case = Case(kernel, window, bias=True, per_channel=True, dtype="float32")
    results = []
    for version in (OPSET, opset):
        model = model_of(case, version)
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        results.append(np.asarray(session.run(None, {"X": case.tensors()[0]})[0]))
    assert np.array_equal(*results)


def test_build_function_inlines_parts_and_completes_nested_loops() -> None:
    domain, part_domain = values.Opset("test.build", 1), values.Opset("test.build.parts", 1)

    @script(part_domain)
    def double(x):  # type: ignore[no-untyped-def]
        return op.Add(x, x)

    @script(domain)
    def Repeat(X, times: int = 2):  # type: ignore[no-untyped-def]
        """Doubled, times squared times."""
        rounds = op.Constant(value_int=times)
        total = op.Identity(X)
        for _ in range(rounds):
            for _ in range(rounds):
                total = double(total)
        return total

    function = build_function("Renamed", Repeat, (double,), 18, "doubles")
    assert function.name == "Renamed"
    assert function.doc_string == "doubles"
    nodes = list(all_nodes(list(function.node)))
    assert {node.domain for node in nodes} == {""}
    assert [bool(node.input[1]) for node in nodes if node.op_type == "Loop"] == [True, True]
    graph = helper.make_graph(
        [helper.make_node("Renamed", ["x"], ["y"], domain="test.build", times=3)],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("test.build", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=[function])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.array([1, -3], np.float32)})[0].tolist() == [512, -1536]
