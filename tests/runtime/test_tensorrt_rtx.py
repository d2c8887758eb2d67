"""TensorRT-RTX's own parser and builder, without a GPU: every operator, for three generations of GPUs; and failures."""

from __future__ import annotations

import json
import platform
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from kervolution_cases import WINDOWS
from networks import Quantized
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import edgeconv
from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.models.registry import create
from edgeconv.nn import Deconv2d, Kerv2d
from edgeconv.ops.kervolution import OPERATOR_OF_KERNEL
from edgeconv.ops.registry import LAYER_OPERATORS
from edgeconv.runtime.engine_build import build_engine
from edgeconv.runtime.engine_log import Log
from edgeconv.runtime.engine_report import EngineReport
from edgeconv.runtime.engine_stamp import read_stamp
from edgeconv.runtime.tensorrt_rtx import TensorRtRtx, TensorRtRtxSession

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorRT-RTX's wheels are for x86-64")

TARGETS = ("8.6", "8.9", "12.0")
EVERYTHING = next(window for window in WINDOWS if window.name == "everything")


def build(path: Path, *targets: str, **options: Any) -> EngineReport:
    """Build for the targets, and check the files: the engine, its stamp, and nothing else that was not there."""
    directory = Path(options.get("output", path)).parent
    before = {file.name for file in directory.iterdir()}
    report = build_engine(path, provider="tensorrt-rtx", compute_capabilities=targets or TARGETS, **options)
    engine = Path(report.engine)
    assert engine.stat().st_size == report.bytes > 5000
    assert {file.name for file in directory.iterdir()} == before | {engine.name, f"{engine.name}.json"}
    assert read_stamp(engine) is not None
    return report


def failure(path: Path, error: type[Exception] = InputError, **options: Any) -> Any:
    """Build something that fails, and check that nothing is left behind."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(error) as caught:
        build_engine(path, provider="tensorrt-rtx", **{"compute_capabilities": TARGETS, **options})
    assert sorted(path.parent.iterdir()) == before
    assert "\n" not in caught.value.message  # type: ignore[attr-defined]
    return caught.value


def symmetric() -> Quantized:
    """An 8-bit Manhattan kervolution as TensorRT takes it: int8, zero-points of 0."""
    network = Quantized(torch.int8).eval()
    for point in (network.x_zero_point, network.w_zero_point, network.y_zero_point):
        point.zero_()
    return network


OPERATOR_FILES: dict[str, Any] = {
    **{
        operator.name: lambda path, kernel=kernel: edgeconv.to_onnx(
            Kerv2d(
                EVERYTHING.channels, EVERYTHING.filters, EVERYTHING.window, EVERYTHING.strides, EVERYTHING.pads[:2],
                EVERYTHING.dilations, EVERYTHING.group, kernel=kernel, gamma=0.1, learnable="channel",
            ),
            torch.randn(EVERYTHING.batch, EVERYTHING.channels, *EVERYTHING.size),
            path, verify=False,
        )
        for kernel, operator in OPERATOR_OF_KERNEL.items()
    },
    "QLinearManhattanKervolution": lambda path: edgeconv.to_onnx(
        symmetric(), torch.randn(2, 4, 7, 9), path, opset=19, verify=False
    ),
    "DeconvWhitening": lambda path: edgeconv.to_onnx(
        nn.Sequential(Deconv2d(6, 5, (3, 2), stride=(2, 1), padding=1, n_iter=3)).eval(),
        torch.randn(2, 6, 9, 12), path, deconv_stats="batch", verify=False,
    ),
}  # fmt: skip


def test_every_operator_is_here() -> None:
    assert set(OPERATOR_FILES) == set(LAYER_OPERATORS)


@pytest.mark.parametrize("operator", OPERATOR_FILES)
def test_every_operator_builds_for_three_generations(operator: str, tmp_path: Path) -> None:
    """From the file as it is exported: strided, dilated, grouped, lopsided; the batch from 1 to 5."""
    torch.manual_seed(4)
    path = tmp_path / "layer.onnx"
    OPERATOR_FILES[operator](path)
    shape = edgeconv.inspect_model(path).inputs[0].shape
    assert shape is not None
    low, high = ({"": (size, *shape[1:])} for size in (1, 5))
    report = build(path, min_shapes=low, max_shapes=high)
    assert report.inlined == {operator: 1}
    assert report.plugins == {}
    assert report.target == TARGETS
    stamp = read_stamp(report.engine)
    assert stamp is not None
    assert (stamp.key.provider, stamp.key.target, stamp.key.plugins_sha256) == ("tensorrt-rtx", TARGETS, None)
    assert next(iter(stamp.profile.values())).max[0] == 5


@pytest.mark.parametrize("form", ["functions", "inlined", "nodes", "half"])
def test_every_form_builds(form: str, small: dict[str, Path], tmp_path: Path) -> None:
    report = build(small[form], "8.9", output=tmp_path / "net.engine", fp16=form == "half")
    assert report.profile["image"].fixed
    assert any("one shape" in warning for warning in report.warnings)


def test_folded_deconvolution(tmp_path: Path) -> None:
    network = nn.Sequential(Deconv2d(3, 4, 3, padding=1), nn.ReLU(), Deconv2d(4, 5, (3, 2), stride=2)).eval()
    edgeconv.to_onnx(network, torch.randn(2, 3, 9, 12), tmp_path / "net.onnx", verify=False, deconv_stats="frozen")
    report = build(tmp_path / "net.onnx")
    assert report.inlined == {}


def test_a_residual_network(tmp_path: Path) -> None:
    network = create("resnet20", kernel="polynomial", degree=2, in_channels=1).eval()
    edgeconv.to_onnx(network, torch.randn(2, 1, 28, 28), tmp_path / "net.onnx", verify=False)
    report = build(tmp_path / "net.onnx", shapes={"": (2, 1, 28, 28)})
    assert report.inlined["PolynomialKervolution"] > 5


def test_distances_of_a_range_of_batches(tmp_path: Path) -> None:
    """Into how many blocks a distance cuts its channels depends on the batch, here 1, 2 and 3."""
    network = nn.Sequential(Kerv2d(3, 64, 3, padding=1, kernel="manhattan")).eval()
    edgeconv.to_onnx(network, torch.randn(2, 3, 64, 72), tmp_path / "net.onnx", verify=False)
    ends = {f"{end}_shapes": {"": (batch, 3, 64, 72)} for end, batch in (("min", 1), ("opt", 1), ("max", 8))}
    report = build(tmp_path / "net.onnx", "8.9", **ends)
    assert not next(iter(report.profile.values())).fixed


def test_int8_from_the_file(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    constants = {
        "s": np.float32(0.02), "z": np.int8(0), "w": generator.integers(-127, 128, (5, 3, 3, 3)).astype(np.int8),
        "ws": np.full(5, 0.01, np.float32), "wz": np.zeros(5, np.int8),
    }  # fmt: skip
    text = """<ir_version: 10, opset_import: ["": 19]> net (float[N, 3, 8, 9] x) => (float[N, 5, 6, 7] y) {
        q = QuantizeLinear (x, s, z)
        d = DequantizeLinear (q, s, z)
        v = DequantizeLinear <axis = 0> (w, ws, wz)
        [conv] y = Conv (d, v)
    }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    onnx.save(model, tmp_path / "net.onnx")
    assert build(tmp_path / "net.onnx", shapes={"x": (1, 3, 8, 9)}).precisions == {"int8": 1}


def test_compute_capabilities() -> None:
    backend = TensorRtRtx(Log())
    assert {"7.5", *TARGETS} <= set(backend.compute_capabilities)
    assert backend.resolve_target(["12.0,8.6", "sm_89", "8.6"]) == TARGETS
    assert backend.resolve_target(["ADA", "SM86"]) == ("8.6", "8.9")
    assert backend.resolve_target(["ampere"]) == ("8.0", "8.6")
    for text in ("8.7", "11.0"):
        with pytest.raises(InputError, match=f"no compute capability {text}") as caught:
            backend.resolve_target([text])
        assert "--provider tensorrt" in caught.value.remedy
    for text in ("hopper", "", "8", "8.9.1", "8,9"):
        with pytest.raises(InputError, match="builds for no compute capability"):
            backend.resolve_target([text])


def test_nobody_says_what_to_build_for(small: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from fake_tensorrt import FakeCuda, install

    install(monkeypatch, FakeCuda(gpu=None), None)
    error = failure(small["functions"], MissingDependencyError, compute_capabilities=())
    assert "no NVIDIA GPU can be used here: CUDA driver version is insufficient" in error.message
    assert "--compute-capability 8.6,8.9,12.0" in error.remedy
    install(monkeypatch, None, None)
    assert "cannot be imported" in failure(small["functions"], MissingDependencyError, compute_capabilities=()).message


def test_this_machines_gpu(small: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fake_tensorrt import FakeCuda, install

    install(monkeypatch, FakeCuda("GeForce RTX 4090", (8, 9)), None)
    report = build_engine(small["functions"], tmp_path / "net.engine", provider="tensorrt-rtx")
    assert report.target == ("8.9",)
    install(monkeypatch, FakeCuda("Orin", (8, 7)), None)
    error = failure(small["functions"], compute_capabilities=())
    assert "does not run on this GPU, Orin (compute capability 8.7)" in error.message


def graph(path: Path, *made: onnx.NodeProto, dtype: int = TensorProto.FLOAT) -> Path:
    """Write a model x (1, 3, 8, 9) -> y of these nodes, after a convolution."""
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Conv", ["x", "w"], ["a"], name="conv"), *made],
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 9])],
            [helper.make_tensor_value_info("y", dtype, None)],
            [numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w")],
        ),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)],
        ir_version=10,
    )
    onnx.save(model, path)
    return path


def test_an_operator_that_it_does_not_have(tmp_path: Path) -> None:
    path = graph(tmp_path / "net.onnx", helper.make_node("Det", ["a"], ["y"], name="the determinant"))
    error = failure(path)
    assert error.message == (
        "TensorRT-RTX cannot take the node 'the determinant' (Det) of net.onnx: it does not support the operator with "
        "these types and attributes."
    )


def test_an_operator_of_nobody(tmp_path: Path) -> None:
    path = graph(tmp_path / "net.onnx", helper.make_node("Mine", ["a"], ["y"], name="mine", domain="mine"))
    assert "the node 'mine' (Mine) of net.onnx: it has no layer for the operator, and there is no plugin" in (
        failure(path).message
    )


def test_an_asymmetric_8_bit_operator(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    edgeconv.to_onnx(Quantized(torch.int8).eval(), torch.randn(2, 4, 7, 9), path, opset=19, verify=False)
    error = failure(path, shapes={"": (2, 4, 7, 9)})
    assert "'QLinearManhattanKervolution/DequantizeLinear_" in error.message
    assert "zero point" in error.message
    assert "zero-points of 0" in error.remedy


def test_what_the_builder_refuses(small: dict[str, Path]) -> None:
    """Turing has no product of float32 matrices here: the builder says it, after the parser was content."""
    error = failure(small["functions"], compute_capabilities=["7.5"])
    assert "cannot build an engine of functions.onnx" in error.message
    assert "'head/Gemm'" in error.message
    for noise in ("cudaError", ".cpp", "::", "Error Code", "/_src"):
        assert noise not in error.message
    assert "--fp16" in error.remedy


def test_sizes_as_an_input(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]> net (float[2, 6] x, int64[2] sizes) => (float[A, B] y) '
        "{ y = Reshape (x, sizes) }"
    )
    onnx.save(model, tmp_path / "net.onnx")
    assert "input sizes of net.onnx holds sizes" in failure(tmp_path / "net.onnx").message


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"max_shapes": {"image": (4, 3, 10, 14)}}, "does not fit input image"),
        ({"min_shapes": {"image": (4, 3, 10, 13)}, "max_shapes": {"image": (2, 3, 10, 13)}}, "out of order"),
        ({"max_shapes": {"picture": (4, 3, 10, 13)}}, "no input called picture"),
    ],
)
def test_bad_profiles(shapes: dict[str, Any], message: str, small: dict[str, Path]) -> None:
    assert message in failure(small["functions"], **shapes).message


def test_float16_is_the_files_affair(small: dict[str, Path]) -> None:
    error = failure(small["functions"], fp16=True)
    assert "computes in float32, and the engine is strongly typed" in error.message
    assert "edgeconv export CHECKPOINT --fp16" in error.remedy


def test_other_refusals(small: dict[str, Path], tmp_path: Path) -> None:
    assert "measures nothing" in failure(small["functions"], timing_cache=tmp_path / "cache").message
    assert "is a file that is read" in failure(small["functions"], output=small["functions"]).message
    assert "is a directory" in failure(small["functions"], output=tmp_path).message
    assert "cannot write" in failure(small["functions"], output=tmp_path / "none" / "net.engine").message
    with pytest.raises(InputError, match="no provider 'openvino'"):
        build_engine(small["functions"], provider="openvino")


def test_interruption(small: dict[str, Path], tmp_path: Path) -> None:
    """Ctrl-C arrives in the middle of C++: it ends the build, and nothing is left."""
    told: list[float] = []

    def progress(what: str, done: float) -> None:
        told.append(done)
        if len(told) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(
            small["functions"], tmp_path / "net.engine", provider="tensorrt-rtx", compute_capabilities=TARGETS,
            progress=progress,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    assert len(told) == 20


def test_progress_rises(small: dict[str, Path], tmp_path: Path) -> None:
    told: list[float] = []
    build(
        small["functions"], "8.9", output=tmp_path / "net.engine",
        progress=lambda _what, done: told.append(done),
    )  # fmt: skip
    assert len(told) > 50
    assert 0 <= min(told) <= max(told) <= 1
    assert max(told) > 0.8
    assert sum(later < earlier - 0.05 for earlier, later in pairwise(told)) < len(told) / 20


def test_a_stored_engine_that_fits_is_kept(small: dict[str, Path], tmp_path: Path) -> None:
    model, engine = tmp_path / "net.onnx", tmp_path / "net.engine"
    model.write_bytes(small["functions"].read_bytes())
    first = build(model, "8.9")
    assert first.built
    content, changed = engine.read_bytes(), engine.stat().st_mtime_ns
    again = build(model, "8.9", rebuild=False)
    assert (again.built, again.stale, again.bytes) == (False, (), first.bytes)
    assert engine.stat().st_mtime_ns == changed

    other = build(model, "8.6", "8.9", max_shapes={"image": (4, 3, 10, 13)}, tf32=True)
    assert other.built
    assert other.stale == (
        "built with TF32 off, wanted is on",
        "built with shapes of image 1x3x10x13, wanted is 4x3x10x13",
        "built for 8.9, wanted is 8.6, 8.9",
    )
    assert engine.read_bytes() != content

    model.write_bytes(small["nodes"].read_bytes())
    error = failure(model, compute_capabilities=["8.6", "8.9"], rebuild=False, max_shapes={"image": (4, 3, 10, 13)})
    assert "net.engine is stale: net.onnx has changed since; built with TF32 on, wanted is off" in error.message


def test_engines_of_other_versions_and_without_stamps(small: dict[str, Path], tmp_path: Path) -> None:
    model, engine, stamp = (tmp_path / name for name in ("net.onnx", "net.engine", "net.engine.json"))
    model.write_bytes(small["functions"].read_bytes())
    assert "does not exist" in failure(model, rebuild=False).message
    build(model, "8.9")
    data = json.loads(stamp.read_text())
    data["key"]["version"] = "1.2.3"
    stamp.write_text(json.dumps(data))
    version = TensorRtRtx(Log()).version
    expected = f"built with TensorRT-RTX 1.2.3, this is {version}"
    assert expected in failure(model, compute_capabilities=["8.9"], rebuild=False).message
    assert build(model, "8.9").stale == (expected,)
    engine.write_bytes(engine.read_bytes()[:-1])
    assert "stamp of another engine" in build(model, "8.9").stale[0]
    stamp.unlink()
    assert "no stamp" in build(model, "8.9").stale[0]


def test_running_takes_a_gpu(small: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fake_tensorrt import FakeCuda, install

    engine = build(small["functions"], "8.9", output=tmp_path / "net.engine").engine
    install(monkeypatch, FakeCuda(gpu=None), None)
    with pytest.raises(MissingDependencyError, match="no NVIDIA GPU can be used here"):
        TensorRtRtxSession(engine)
    Path(f"{engine}.json").unlink()
    with pytest.raises(InputError, match="has no stamp") as caught:
        TensorRtRtxSession(engine)
    assert "--trust-engine" in caught.value.remedy


def test_an_engine_for_another_gpu(small: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fake_tensorrt import FakeCuda, install

    engine = build(small["functions"], "8.9", output=tmp_path / "net.engine").engine
    install(monkeypatch, FakeCuda("GeForce RTX 3090", (8, 6)), None)
    with pytest.raises(InputError, match=r"is stale: built for 8\.9, wanted is 8\.6"):
        TensorRtRtxSession(engine)


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch, small: dict[str, Path]) -> None:
    import sys

    for name in ("tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    error = failure(small["functions"], MissingDependencyError)
    assert "TensorRT-RTX cannot be imported" in error.message
    assert "edgeconv[tensorrt-rtx]" in error.remedy
    assert error.exit_code == 3
