"""Quantised convolutions and mobile blocks become 8-bit operators: counts, layouts, results, what is left and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from sessions import session

import edgeconv
from edgeconv.models.registry import create
from edgeconv.rewrite.fuse_qlinear_mobile import MobileFusionReport, fuse_qlinear_mobile

Array = NDArray[Any]


def run(model: onnx.ModelProto, feeds: dict[str, Array], library: bool = False, optimized: bool = False) -> list[Array]:
    return [np.asarray(value) for value in session(model, native=library, optimized=optimized).run(None, feeds)]


def fuse(model: onnx.ModelProto, **options: Any) -> tuple[onnx.ModelProto, MobileFusionReport]:
    """Run the pass; the result is valid, and the given model as it was."""
    before = model.SerializeToString(deterministic=True)
    result, report = fuse_qlinear_mobile(model, **options)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(result, full_check=True)
    made = Counter(node.op_type for node in result.graph.node if node.domain == "edgeconv")
    assert made == Counter(block.operator for block in report.rewritten)
    return result, report


def operators(report: MobileFusionReport) -> list[str]:
    return [block.operator.removeprefix("QLinear") for block in report.rewritten]


def perms(model: onnx.ModelProto) -> list[tuple[bool, bool]]:
    """Of every operator of ours whether X and Y have channels last."""
    found = []
    for node in model.graph.node:
        given = {each.name: list(each.ints) for each in node.attribute}
        if node.domain == "edgeconv":
            found.append((given["x_perm"] != [0, 1, 2, 3], given.get("y_perm", [0, 1, 2, 3]) != [0, 1, 2, 3]))
    return found


# Whole networks.


class Images:
    """Calibration data for ONNX Runtime's tool."""

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        generator = np.random.default_rng(0)
        self.left = [generator.standard_normal(shape).astype(np.float32) for _ in range(count)]

    def get_next(self) -> dict[str, Array] | None:
        return {"x": self.left.pop()} if self.left else None


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], onnx.ModelProto]:
    """A small network, quantised by ONNX Runtime's own tool: architecture and type of activations -> the QDQ model."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    directory = tmp_path_factory.mktemp("networks")
    shape = (2, 3, 65, 66)

    def floats(name: str) -> Path:
        path = directory / f"{name}.onnx"
        if not path.exists():
            torch.manual_seed(1)
            module = create(name, num_classes=10, **({"width": 0.5} if name == "mobilenet_v2" else {}))
            for norm in module.modules():
                if isinstance(norm, torch.nn.BatchNorm2d):
                    norm.momentum = None  # type: ignore[assignment]
                    norm.reset_running_stats()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                module.train()(torch.randn(4, *shape[1:]))
            edgeconv.to_onnx(module.eval(), torch.randn(shape), path, dynamic=False, verify=False)
        return path

    def make(name: str, kind: str) -> onnx.ModelProto:
        path = directory / f"{name}-{kind}.onnx"
        if not path.exists():
            quantize_static(
                floats(name), path, Images(1, shape), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type={"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}[kind], weight_type=QuantType.QInt8,
            )  # fmt: skip
        return onnx.load(path)

    return make


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize(("name", "residuals"), [("mobilenet_v2", 10), ("efficientnet_lite0", 9)])
def test_networks(network: Callable[[str, str], onnx.ModelProto], name: str, residuals: int, kind: str) -> None:
    before = network(name, kind)
    after, report = fuse(before)
    assert Counter(operators(report)) == {
        "InvertedResidual": residuals, "Bottleneck": 7, "Convolution": 1, "GlobalAveragePool": 1,
    }  # fmt: skip
    assert report.left == ()
    assert sum(len(block.convolutions) for block in report.rewritten) == sum(
        node.op_type == "Conv" for node in before.graph.node
    )
    assert not any(node.op_type == "Conv" for node in after.graph.node)
    assert perms(after) == [(False, True), *[(True, True)] * (residuals + 7), (True, False)]
    x = np.random.default_rng(9).standard_normal((2, 3, 65, 66)).astype(np.float32)
    (expected,) = run(before, {"x": x})
    step = float(np.abs(np.diff(np.unique(expected))).min())
    assert expected.std() > 5 * step
    (actual,) = run(after, {"x": x})
    assert np.abs(actual - expected).max() <= 2 * step
    # Kernels round some ties the other way, which a network of random weights amplifies: so node by node.
    values = all_values(before, {"x": x})
    for node in after.graph.node:
        if node.domain == "edgeconv":
            check_node(after, node, values)


def all_values(model: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
    """What every QuantizeLinear of a model gives."""
    names = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    whole.graph.output.extend(value for value in inferred if value.name in names)
    given = [value.name for value in whole.graph.output]
    return dict(zip(given, run(whole, feeds), strict=True))


def check_node(model: onnx.ModelProto, node: onnx.NodeProto, values: dict[str, Array]) -> None:
    """A node gives, of what the QDQ model gives it, what that makes of it: within a step or two, nearly everywhere."""
    given = {each.name: list(each.ints) for each in node.attribute}
    x, expected = values[node.input[0]], values.get(node.output[0])
    if given["x_perm"] != [0, 1, 2, 3]:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    if expected is None:
        return  # a mean, of which the QDQ model has another shape
    kind = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
    part = onnx.helper.make_graph(
        [node], "node", [onnx.helper.make_tensor_value_info(node.input[0], kind, x.shape)],
        [onnx.helper.make_tensor_value_info(node.output[0], kind, None)],
        [tensor for tensor in model.graph.initializer if tensor.name in node.input],
    )  # fmt: skip
    single = onnx.helper.make_model(part, opset_imports=model.opset_import, ir_version=10)
    (actual,) = run(single, {node.input[0]: x}, library=True)
    if given.get("y_perm", [0, 1, 2, 3]) != [0, 1, 2, 3]:
        actual = actual.transpose(0, 3, 1, 2)
    apart = np.abs(actual.astype(int) - expected.astype(int))
    assert apart.max() <= 2
    assert np.mean(apart > 0) < 1e-2


def test_without_functions_the_file_needs_the_library(network: Callable[[str, str], onnx.ModelProto]) -> None:
    after, _ = fuse(network("mobilenet_v2", "uint8"), with_function=False)
    assert len(after.functions) == 0
    with pytest.raises(Exception, match="edgeconv"):
        run(after, {})


# Graphs of a few nodes.

HEAD = '<ir_version: 10, opset_import: ["": 19]>\n'
CONV = """
    {r}x = DequantizeLinear ({x}, {s}, {z})
    {r}w = DequantizeLinear <axis = 0> ({r}W, {r}ws, {r}wz)
    {r}b = DequantizeLinear <axis = 0> ({r}B, {r}bs, {r}bz)
    [{r}conv] {r}y = Conv <{a}> ({r}x, {r}w, {r}b)
    {c}
    {r} = QuantizeLinear ({q}, {r}s, {r}z)
"""
PLAIN = "kernel_shape = [1, 1]"
DEPTHWISE = "kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 12"
CLIP = "{r}q = Clip ({r}y, zero, six)"
RELU = "{r}q = Relu ({r}y)"


def conv(r: str, x: str, a: str = PLAIN, clip: str = "") -> str:
    """A quantised convolution that makes the tensor `r` of the tensor `x`."""
    scale = "x" if x == "X" else x
    return CONV.format(r=r, x=x, s=f"{scale}s", z=f"{scale}z", a=a, c=clip.format(r=r), q=f"{r}q" if clip else f"{r}y")


ADD = """
    xr = DequantizeLinear (X, xs, xz)
    pr = DequantizeLinear (p, ps, pz)
    sum = Add (pr, xr)
    s = QuantizeLinear (sum, ss, sz)
"""
EXPAND, MIDDLE, PROJECT = conv("e", "X", clip=CLIP), conv("d", "e", DEPTHWISE, CLIP), conv("p", "d")
BLOCK = EXPAND + MIDDLE + PROJECT
SHAPES = {"e": (12, 5, 1, 1), "d": (12, 1, 3, 3), "p": (5, 12, 1, 1), "k": (7, 5, 3, 2), "h": (9, 5, 1, 1)}


def graph(
    body: str, results: str = "p", kind: str = "uint8", channels: int = 5, opset: int = 19, **changed: Any
) -> onnx.ModelProto:
    """A model of quantised nodes, with its constants; some replaced."""
    outputs = ", ".join(f"{kind} {name}" for name in results.split())
    head = HEAD.replace('"": 19', f'"": {opset}')
    model = onnx.parser.parse_model(f"{head}few ({kind}[2, {channels}, 6, 7] X) => ({outputs}) {{{body}}}")
    generator = np.random.default_rng(7)
    lowest = np.iinfo(kind).min
    values: dict[str, Any] = {
        "xs": np.float32(0.03), "xz": np.asarray(lowest + 120, kind), "ss": np.float32(0.08),
        "sz": np.asarray(lowest + 128, kind), "zero": np.float32(0), "six": np.float32(6),
    }  # fmt: skip
    source = {"e": "x", "d": "e", "p": "d", "k": "x", "h": "p" if "(p, ps, pz)" in body else "x"}
    for name, shape in SHAPES.items():
        values[f"{name}W"] = generator.integers(-127, 128, shape).astype(np.int8)
        values[f"{name}ws"] = generator.uniform(0.005, 0.02, shape[0]).astype(np.float32)
        values[f"{name}wz"] = np.zeros(shape[0], np.int8)
        values[f"{name}B"] = generator.integers(-2000, 2000, shape[0]).astype(np.int32)
        values[f"{name}s"] = np.float32(6 / 255 if name in "ed" else 0.09)
        values[f"{name}z"] = np.asarray(lowest if name in "ed" else lowest + 131, kind)
        values[f"{name}bz"] = np.zeros(shape[0], np.int32)
        values[f"{name}bs"] = (values[f"{name}ws"] * values[f"{source[name]}s"]).astype(np.float32)
    values |= changed
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in values.items() if name in used
    )
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model)
    for output, found in zip(model.graph.output, inferred.graph.output, strict=True):
        output.CopyFrom(found)
    return model


def image(kind: str = "uint8", channels: int = 5) -> dict[str, Array]:
    ends = np.iinfo(kind)
    return {"X": np.random.default_rng(1).integers(ends.min, ends.max + 1, (2, channels, 6, 7)).astype(kind)}


def check_same(before: onnx.ModelProto, after: onnx.ModelProto, feeds: dict[str, Array], most: int = 1) -> None:
    """In ONNX Runtime with and without the library and in the reference evaluator; results must be alive."""
    expected = run(before, feeds)
    results = [run(after, feeds), run(after, feeds, True), run(after, feeds, True, True)]
    results.append([np.asarray(value) for value in ReferenceEvaluator(after).run(None, feeds)])
    for actual in results:
        for old, new in zip(expected, actual, strict=True):
            assert (old.dtype, old.shape) == (new.dtype, new.shape)
            assert len(np.unique(old)) > 30
            apart = np.abs(old.astype(int) - new.astype(int))
            assert apart.max() <= most
            assert np.mean(apart > 0) < 0.04


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize(
    ("body", "results", "expected"),
    [
        (conv("k", "X", "kernel_shape = [3, 2], strides = [2, 1], pads = [1, 0, 0, 1]"), "k", ["Convolution"]),
        (BLOCK, "p", ["Bottleneck"]),
        (BLOCK + ADD, "s", ["InvertedResidual"]),
        (BLOCK + ADD.replace("Add (pr, xr)", "Add (xr, pr)"), "s", ["InvertedResidual"]),
        (BLOCK.replace("dy = Conv", "dy = Conv").replace("group = 12", "group = 12, strides = [2, 2]"), "p",
         ["Bottleneck"]),
        (EXPAND + MIDDLE + conv("p", "d", clip=RELU), "p", ["Convolution"] * 3),
        (EXPAND + MIDDLE + PROJECT + conv("h", "p"), "h", ["Bottleneck", "Convolution"]),
        (BLOCK, "p d", ["Convolution"] * 3),
        (BLOCK, "p e", ["Convolution", "SeparableConvolution"]),
        (BLOCK + conv("h", "p") + ADD, "s h", ["Bottleneck", "Convolution"]),
    ],
    ids=["convolution", "bottleneck", "residual", "residual, other way round", "strides", "activation behind",
         "head", "depthwise read twice", "expansion read twice", "projection read twice"],
)  # fmt: skip
def test_patterns(body: str, results: str, expected: list[str], kind: str) -> None:
    before = graph(body, results, kind)
    after, report = fuse(before)
    assert operators(report) == expected
    assert report.left == ()
    assert all(block.bias_moved == 0 for block in report.rewritten)
    check_same(before, after, image(kind), most=2)


def test_what_several_read_keeps_its_layout() -> None:
    after, _ = fuse(graph(BLOCK + conv("h", "p"), "h"))
    assert perms(after) == [(False, True), (True, False)]
    after, _ = fuse(graph(BLOCK + conv("h", "p"), "h p"))
    assert perms(after) == [(False, False), (False, False)]


def test_an_expansion_with_a_window_is_part_of_the_block() -> None:
    first = conv("e", "X", "kernel_shape = [3, 2], strides = [1, 2], pads = [1, 0, 1, 2]", CLIP)
    weights = np.random.default_rng(3).integers(-90, 90, (12, 5, 3, 2)).astype(np.int8)
    before = graph(first + MIDDLE + PROJECT, eW=weights)
    after, report = fuse(before)
    assert operators(report) == ["Bottleneck"]
    (node,) = after.graph.node
    given = {each.name: list(each.ints) for each in node.attribute if each.name.startswith("expand_")}
    assert given["expand_strides"] == [1, 2]
    assert given["expand_pads"] == [1, 0, 1, 2]
    check_same(before, after, image(), most=2)


@pytest.mark.parametrize("scale", [6 / 255, 6 / 127, 0.05])
def test_clips_become_limits_where_the_grid_does_not_cut(scale: float) -> None:
    """Symmetric grids: their lowest step is below 0."""
    before = graph(
        BLOCK, kind="int8", es=np.float32(scale), ez=np.int8(0), ds=np.float32(scale), dz=np.int8(0),
        dbs=np.float32(scale) * np.full(12, 0.01, np.float32), dws=np.full(12, 0.01, np.float32),
        pbs=np.float32(scale) * np.full(5, 0.01, np.float32), pws=np.full(5, 0.01, np.float32),
    )  # fmt: skip
    after, report = fuse(before)
    assert operators(report) == ["Bottleneck"]
    given = {each.name: each.f for each in after.graph.node[0].attribute if each.name.endswith(("_min", "_max"))}
    assert given == {"expand_min": 0.0, "expand_max": 6.0, "depthwise_min": 0.0, "depthwise_max": 6.0}
    check_same(before, after, image("int8"), most=2)


def test_clips_that_saturation_does_are_gone() -> None:
    for kind in ("uint8", "int8"):
        after, _ = fuse(graph(BLOCK, kind=kind))
        given = {each.name: each.f for each in after.graph.node[0].attribute if each.name.endswith("_max")}
        assert min(given.values()) > 1e38


def test_a_float_bias_is_rounded_to_steps_of_the_sum() -> None:
    body = conv("k", "X", "kernel_shape = [3, 2]").replace("kb = DequantizeLinear <axis = 0> (kB, kbs, kbz)", "")
    bias = np.random.default_rng(1).standard_normal(7).astype(np.float32)
    before = graph(body, "k", kb=bias)
    after, report = fuse(before)
    (block,) = report.rewritten
    assert 0 < block.bias_moved <= 0.5
    check_same(before, after, image())
    absent = body.replace("(kx, kw, kb)", "(kx, kw)")
    before = graph(absent, "k")
    after, report = fuse(before)
    assert report.rewritten[0].bias_moved == 0
    check_same(before, after, image())


def test_one_scale_for_all_filters() -> None:
    step = np.float32(0.03) * np.float32(0.011)
    before = graph(
        conv("k", "X", "kernel_shape = [3, 2]").replace("<axis = 0> (kW", "(kW").replace("<axis = 0> (kB", "(kB"), "k",
        kws=np.float32(0.011), kwz=np.int8(0), kbs=step, kbz=np.int32(0),
    )  # fmt: skip
    after, report = fuse(before)
    assert operators(report) == ["Convolution"]
    check_same(before, after, image())


MEANS = {
    "GlobalAveragePool": "m = GlobalAveragePool (hr)",
    "ReduceMean": "axes = Constant <value_ints = [2, 3]> ()\n m = ReduceMean (hr, axes)",
    "negative axes": "axes = Constant <value_ints = [-1, -2]> ()\n m = ReduceMean <keepdims = 1> (hr, axes)",
}


@pytest.mark.parametrize("between", ["", "Flatten", "Flatten, Identity"])
@pytest.mark.parametrize("mean", MEANS)
def test_means(mean: str, between: str) -> None:
    body = conv("h", "X") + "hr = DequantizeLinear (h, hs, hz)\n" + MEANS[mean]
    last = "m"
    for index, kind in enumerate(filter(None, between.split(", "))):
        body += f"\n m{index} = {kind} ({last})"
        last = f"m{index}"
    before = graph(f"{body}\n s = QuantizeLinear ({last}, ss, sz)", "s", ss=np.float32(0.004))
    after, report = fuse(before)
    assert operators(report) == ["Convolution", "GlobalAveragePool"]
    assert perms(after) == [(False, True), (True, False)]
    expected = run(before, image())
    for actual in (run(after, image()), run(after, image(), True)):
        assert actual[0].shape == expected[0].shape
        assert np.abs(actual[0].astype(int) - expected[0].astype(int)).max() <= 1


@pytest.mark.parametrize(
    "mean", ["m = GlobalMaxPool (hr)", "axes = Constant <value_ints = [2]> ()\n m = ReduceMean (hr, axes)",
             "axes = Constant <value_ints = [2, 3]> ()\n m = ReduceMean <keepdims = 0> (hr, axes)"],
)  # fmt: skip
def test_other_reductions_stay(mean: str) -> None:
    body = f"{conv('h', 'X')}hr = DequantizeLinear (h, hs, hz)\n{mean}\n s = QuantizeLinear (m, ss, sz)"
    _, report = fuse(graph(body, "s"))
    assert operators(report) == ["Convolution"]


K = conv("k", "X", "kernel_shape = [3, 2]")
LEFT: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "float input": (K.replace("kx = DequantizeLinear (X, xs, xz)", "kx = Cast <to = 1> (X)"), "k", {},
                    "its input does not come from DequantizeLinear"),
    "float weights": (K.replace("kw = DequantizeLinear <axis = 0> (kW, kws, kwz)", "kw = Cast <to = 1> (kW)"), "k", {},
                      "its weights are not quantised constants"),
    "asymmetric weights": (K, "k", {"kwz": np.full(7, 3, np.int8)}, "its weights are not int8 with zero-points of 0"),
    "unsigned weights": (K, "k", {"kW": np.ones((7, 5, 3, 2), np.uint8), "kwz": np.zeros(7, np.uint8)},
                         "its weights are not int8 with zero-points of 0"),
    "scales along the wrong axis": (
        K.replace("<axis = 0> (kW", "<axis = 1> (kW"), "k",
        {"kws": np.ones(5, np.float32), "kwz": np.zeros(5, np.int8)},
        "its weights have scales along another axis than that of the filters"),
    "auto_pad": (conv("k", "X", 'auto_pad = "SAME_UPPER"'), "k", {}, "its padding is written as auto_pad"),
    "float result": (K.replace("k = QuantizeLinear", "kf = Abs (ky)\n k = QuantizeLinear"), "k", {},
                     "its result goes to Abs, QuantizeLinear, not to one QuantizeLinear"),
    "sigmoid": (conv("k", "X", "kernel_shape = [3, 2]", "{r}q = Sigmoid ({r}y)"), "k", {},
                "its result goes to Sigmoid, not to QuantizeLinear"),
    "sums": (K, "k", {"kB": np.full(7, 2**31 - 5, np.int32)}, "its sums may not fit into 32 bits"),
    "scale per channel": (K, "k", {"xs": np.full(5, 0.1, np.float32), "xz": np.full(5, 120, np.uint8)},
                          "its input has a scale for each channel"),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT)
def test_left_nodes(case: str) -> None:
    body, results, changed, reason = LEFT[case]
    before = graph(body, results, **changed)
    after, report = fuse(before)
    assert [left.reason for left in report.left] == [reason]
    assert report.left[0].node == "kconv"
    assert report.rewritten == ()
    assert after == before


def test_groups_stay() -> None:
    body = conv("k", "X", "kernel_shape = [3, 2], group = 2")
    weights = np.ones((8, 3, 3, 2), np.int8)
    per = {"kws": np.ones(8, np.float32), "kwz": np.zeros(8, np.int8), "kB": np.zeros(8, np.int32),
           "kbs": np.ones(8, np.float32), "kbz": np.zeros(8, np.int32)}  # fmt: skip
    _, report = fuse(graph(body, "k", channels=6, kW=weights, **per))
    assert [left.reason for left in report.left] == ["it has 2 groups; the operator takes one, or as many as channels"]


def test_another_grid_in_between_parts_the_block() -> None:
    """The depthwise stage reads its input on another grid than it was written on."""
    before = graph(BLOCK.replace("dx = DequantizeLinear (e, es, ez)", "dx = DequantizeLinear (e, other, ez)"),
                   other=np.float32(0.05))  # fmt: skip
    after, report = fuse(before)
    assert operators(report) == ["Convolution", "SeparableConvolution"]
    check_same(before, after, image(), most=2)


def test_old_files_are_left() -> None:
    model = graph(K, "k", opset=17)
    after, report = fuse_qlinear_mobile(model)
    assert [left.reason for left in report.left] == ["the file has opset 17; function bodies need 18"]
    assert after == model
    _, report = fuse_qlinear_mobile(model, with_function=False)
    assert operators(report) == ["Convolution"]
