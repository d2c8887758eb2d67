"""The adapter of full TensorRT against a stand-in that records calls: forms, plugins, flags, caches, failures."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_tensorrt import FakeCuda, FakeTensorRt, install

from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.ops.kervolution import DOMAIN
from edgeconv.runtime.engine_build import build_engine, parse_workspace
from edgeconv.runtime.engine_log import Log
from edgeconv.runtime.engine_report import EngineReport
from edgeconv.runtime.engine_stamp import read_stamp
from edgeconv.runtime.op_library import op_library
from edgeconv.runtime.plugin_library import plugin_library
from edgeconv.runtime.tensorrt import TensorRt

GAUSSIAN = "GaussianKervolution"
NO_PLUGINS = "edgeconv.runtime.op_library.installed_files"


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRt:
    """TensorRT 10.14 on a GPU, and a plugin library."""
    cuda = FakeCuda()
    fake = FakeTensorRt(cuda)
    install(monkeypatch, cuda, fake)
    library = tmp_path / "plugins.so"
    library.write_bytes(b"plugins 1")
    monkeypatch.setenv("EDGECONV_TRT_PLUGINS", str(library))
    return fake


@pytest.fixture
def no_plugins(trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the plugin library."""
    monkeypatch.delenv("EDGECONV_TRT_PLUGINS", raising=False)
    monkeypatch.setattr(NO_PLUGINS, lambda name: iter(()))


def build(model: Path, tmp_path: Path, **options: Any) -> EngineReport:
    return build_engine(model, tmp_path / "net.engine", **options)


def parsed(trt: FakeTensorRt) -> tuple[list[str], list[str], int]:
    """Operators of edgeconv's domain, domains, and functions of what the parser got last."""
    model = trt.parsed[-1]
    ours = [node.op_type for node in model.graph.node if node.domain == DOMAIN]
    return ours, [entry.domain for entry in model.opset_import], len(model.functions)


@pytest.mark.parametrize("version", ["10.3.0", "10.14.1.48", "11.0.0"])
@pytest.mark.parametrize("form", ["functions", "nodes"])
def test_with_plugins_no_body_shadows_them(
    form: str, version: str, small: dict[str, Path], trt: FakeTensorRt, tmp_path: Path
) -> None:
    trt.__version__ = version
    report = build(small[form], tmp_path)
    assert parsed(trt) == ([GAUSSIAN] * 2, ["", DOMAIN], 0)
    assert trt.libraries == [os.environ["EDGECONV_TRT_PLUGINS"]]
    assert (report.plugins, report.inlined, report.version) == ({GAUSSIAN: 2}, {}, version)
    assert report.target == ("Fake Orin (compute capability 8.7)",)


def test_a_library_without_one_of_the_plugins(small: dict[str, Path], trt: FakeTensorRt, tmp_path: Path) -> None:
    trt.offered = ("PolynomialKervolution",)
    report = build(small["functions"], tmp_path)
    assert parsed(trt) == ([], [""], 0)
    assert (report.plugins, report.inlined) == ({}, {GAUSSIAN: 2})
    stamp = read_stamp(report.engine)
    assert stamp is not None
    assert stamp.key.plugins_sha256 is None  # another library does not make this engine stale


@pytest.mark.usefixtures("no_plugins")
def test_without_plugins_the_file_is_inlined(small: dict[str, Path], trt: FakeTensorRt, tmp_path: Path) -> None:
    report = build(small["functions"], tmp_path)
    assert parsed(trt) == ([], [""], 0)
    assert trt.libraries == []
    assert "more slowly than edgeconv's plugins would" in report.warnings[0]
    assert "libedgeconv_trt.so" in report.warnings[0]


def test_plugins_that_are_not_wanted(small: dict[str, Path], trt: FakeTensorRt, tmp_path: Path) -> None:
    report = build(small["functions"], tmp_path, plugins=False)
    assert trt.libraries == []
    assert report.inlined == {GAUSSIAN: 2}
    assert not any("plugins" in warning for warning in report.warnings)


def test_a_library_that_does_not_load(small: dict[str, Path], trt: FakeTensorRt, tmp_path: Path) -> None:
    trt.library_failure = "undefined symbol: getLogger"
    with pytest.raises(InputError, match=r"does not load the plugin library .*plugins\.so: undefined symbol") as caught:
        build(small["functions"], tmp_path)
    assert "--no-plugins" in caught.value.remedy
    trt.library_failure, trt.offered = "", ()
    with pytest.raises(InputError, match="it holds none of edgeconv's plugins"):
        build(small["functions"], tmp_path)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorRT-RTX's wheels are for x86-64")
def test_a_real_plugin_registry_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """TensorRT-RTX's registry, which is TensorRT's, in the place of the stand-in's."""
    import tensorrt_rtx_bindings

    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_rtx_bindings)
    monkeypatch.setattr("edgeconv.runtime.tensorrt.LEAST_VERSION", (1, 0))
    monkeypatch.setenv("EDGECONV_TRT_PLUGINS", op_library())
    with pytest.raises(InputError, match=r"libedgeconv_ort\.so: .*getCreators could not be loaded"):
        TensorRt(Log())
    (tmp_path / "text.so").write_text("no library")
    monkeypatch.setenv("EDGECONV_TRT_PLUGINS", str(tmp_path / "text.so"))
    with pytest.raises(InputError, match=r"text\.so: .*(invalid ELF header|file too short)"):
        TensorRt(Log())


def test_the_plugin_library_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = tmp_path / "mine.so"
    library.write_bytes(b"")
    monkeypatch.setenv("EDGECONV_TRT_PLUGINS", str(library))
    assert plugin_library() == str(library)
    monkeypatch.setenv("EDGECONV_TRT_PLUGINS", str(tmp_path / "none.so"))
    with pytest.raises(MissingDependencyError, match="which is not a file"):
        plugin_library()
    monkeypatch.delenv("EDGECONV_TRT_PLUGINS")
    monkeypatch.setattr(NO_PLUGINS, lambda name: iter([tmp_path / name]))
    with pytest.raises(MissingDependencyError, match="not installed"):
        plugin_library()
    (tmp_path / "libedgeconv_trt.so").write_bytes(b"")
    assert plugin_library() == str(tmp_path / "libedgeconv_trt.so")


def test_a_named_library_that_is_missing_is_an_error(
    small: dict[str, Path], trt: FakeTensorRt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECONV_TRT_PLUGINS", str(tmp_path / "none.so"))
    with pytest.raises(MissingDependencyError, match="EDGECONV_TRT_PLUGINS is"):
        build(small["functions"], tmp_path)


def test_what_the_builder_is_told(small: dict[str, Path], trt: FakeTensorRt, tmp_path: Path) -> None:
    build(small["functions"], tmp_path, min_shapes={"": (1, 3, 10, 13)}, max_shapes={"": (8, 3, 10, 13)})
    assert trt.networks[-1].flags == 2  # strongly typed
    config = trt.configs[-1]
    assert config.flags == set()  # no TF32
    assert config.pools == {}
    low, best, high = (1, 3, 10, 13), (8, 3, 10, 13), (8, 3, 10, 13)
    assert [profile.shapes for profile in config.profiles] == [{"image": (low, best, high)}]
    build(small["functions"], tmp_path, tf32=True, workspace=parse_workspace("512"))
    assert trt.configs[-1].flags == {"TF32"}
    assert trt.configs[-1].pools == {"WORKSPACE": 512 << 20}


def test_a_tensorrt_whose_networks_are_all_strongly_typed(
    small: dict[str, Path], trt: FakeTensorRt, tmp_path: Path
) -> None:
    del trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    build(small["functions"], tmp_path)
    assert trt.networks[-1].flags == 0


def test_float16(small: dict[str, Path], trt: FakeTensorRt, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="computes in float32, and the engine is strongly typed"):
        build(small["functions"], tmp_path, fp16=True)
    assert trt.parsed == []
    assert build(small["half"], tmp_path, fp16=True).precisions == {"float16": 3}


@pytest.mark.parametrize(
    ("text", "size"),
    [("512", 512 << 20), ("512M", 512 << 20), ("2G", 2 << 30), ("2GiB", 2 << 30), ("1.5GB", 3 << 29),
     ("64KiB", 1 << 16), ("100B", 100), ("workspace:1G", 1 << 30)],
)  # fmt: skip
def test_workspace_sizes(text: str, size: int) -> None:
    assert parse_workspace(text) == size


@pytest.mark.parametrize("text", ["", "-1", "0", "much", "1T", "1e9", "0.1B"])
def test_what_is_no_workspace(text: str) -> None:
    with pytest.raises(InputError, match="is not a size"):
        parse_workspace(text)


def test_the_timing_cache_is_read_and_brought_up_to_date(
    small: dict[str, Path], trt: FakeTensorRt, tmp_path: Path
) -> None:
    cache = tmp_path / "timing"
    build(small["functions"], tmp_path, timing_cache=cache)
    assert cache.read_bytes() == b"+"
    build(small["functions"], tmp_path, timing_cache=cache, force=True)
    assert cache.read_bytes() == b"++"
    cache.write_bytes(b"of another GPU")
    with pytest.raises(InputError, match="does not take the timing cache"):
        build(small["functions"], tmp_path, timing_cache=cache, force=True)
    assert cache.read_bytes() == b"of another GPU"


def test_each_part_of_the_key_makes_an_engine_stale(small: dict[str, Path], trt: FakeTensorRt, tmp_path: Path) -> None:
    assert build(small["functions"], tmp_path).built
    assert not build(small["functions"], tmp_path).built
    assert build(small["functions"], tmp_path, force=True).built

    def stale(expected: str, model: str = "functions", **options: Any) -> None:
        with pytest.raises(InputError) as caught:
            build(small[model], tmp_path, rebuild=False, **options)
        assert caught.value.message == f"{tmp_path / 'net.engine'} is stale: {expected}."
        report = build(small[model], tmp_path, **options)
        assert (report.built, report.stale) == (True, (expected,))
        assert not build(small[model], tmp_path, rebuild=False, **options).built

    trt.__version__ = "10.15.0"
    stale("built with TensorRT 10.14.1.48, this is 10.15.0")
    trt.cuda.gpu = "Thor"
    stale("built for Fake Orin (compute capability 8.7), wanted is Thor (compute capability 8.7)")
    Path(os.environ["EDGECONV_TRT_PLUGINS"]).write_bytes(b"plugins 2")
    with pytest.raises(InputError, match=r"another version of edgeconv's plugins \(\w{12}, this is \w{12}\)"):
        build(small["functions"], tmp_path, rebuild=False)
    assert build(small["functions"], tmp_path).built
    stale("built with edgeconv's plugins, which are not here", plugins=False)
    stale("built from functions.onnx, not nodes.onnx", "nodes", plugins=False)
    stale("built with workspace unlimited, wanted is 64 MiB", "nodes", plugins=False, workspace=64 << 20)
    stale(
        "built with shapes of image 1x3x10x13, wanted is 2x3x10x13", "nodes", plugins=False, workspace=64 << 20,
        shapes={"": (2, 3, 10, 13)},
    )  # fmt: skip


def test_compute_capabilities_are_not_for_tensorrt(small: dict[str, Path], trt: FakeTensorRt, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="builds for the GPU that it runs on"):
        build(small["functions"], tmp_path, compute_capabilities=["8.9"])


def test_failures_leave_nothing(small: dict[str, Path], trt: FakeTensorRt, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    trt.failure = (
        "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation for node "
        "features.0/GaussianKervolution. In computeCosts at /_src/optimizer/tactic/optimizer.cpp:4099)"
    )
    with pytest.raises(InputError) as caught:
        build(small["functions"], tmp_path, workspace=1 << 20)
    assert caught.value.message == (
        "TensorRT cannot build an engine of functions.onnx: Internal Error (Could not find any implementation for node "
        "features.0/GaussianKervolution)."
    )
    assert "Raise --workspace" in caught.value.remedy
    trt.failure = ""
    text = "[8] Assertion failed: axis >= 0 && axis < nbDims: The axis is outside. In importFoo at /_src/x.cpp:77"
    trt.refuses = ("INVALID_NODE", text, "layer/Foo", "Foo")
    with pytest.raises(InputError, match=r"the node 'layer/Foo' \(Foo\) of functions\.onnx: .*The axis is outside"):
        build(small["functions"], tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_several_nodes_that_fail(small: dict[str, Path], trt: FakeTensorRt, tmp_path: Path) -> None:
    """An engine without plugins whose operators nobody inlined: every node is counted, one is named."""
    trt.get_creator = lambda *_: object() if not trt.parsed else None  # type: ignore[method-assign]
    with pytest.raises(InputError) as caught:
        build(small["functions"], tmp_path)
    assert "the node 'features.0/GaussianKervolution' (GaussianKervolution)" in caught.value.message
    assert "(1 more node fails too)" in caught.value.message


@pytest.mark.parametrize("missing", ["gpu", "cuda", "tensorrt", "old", "shell"])
def test_what_is_missing(missing: str, small: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cuda = FakeCuda(gpu=None if missing == "gpu" else "Fake Orin")
    trt: FakeTensorRt | None = FakeTensorRt(cuda, version="8.6.1" if missing == "old" else "10.3.0")
    if missing == "shell":
        del trt.Builder  # type: ignore[union-attr]
    install(monkeypatch, None if missing == "cuda" else cuda, None if missing == "tensorrt" else trt)
    message = {
        "gpu": "no NVIDIA GPU can be used here",
        "cuda": "the CUDA runtime's Python bindings cannot be imported",
        "tensorrt": "TensorRT cannot be imported",
        "old": r"TensorRT 8\.6\.1 is too old: edgeconv needs 10\.3 or later",
        "shell": "empty shell",
    }[missing]
    with pytest.raises(MissingDependencyError, match=message) as caught:
        build(small["functions"], tmp_path)
    assert caught.value.exit_code == 3
    assert caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_builder_that_finds_no_gpu(
    small: dict[str, Path], trt: FakeTensorRt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CUDA bindings find one, TensorRT does not: a driver between the two versions."""
    trt.cuda = FakeCuda(gpu=None)
    with pytest.raises(MissingDependencyError, match=r"cannot make a (builder|runtime): CUDA initialization failure"):
        build(small["functions"], tmp_path)


def test_interruption(small: dict[str, Path], trt: FakeTensorRt, tmp_path: Path) -> None:
    def stop(what: str, done: float) -> None:
        if what == "building engine":
            raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        build(small["functions"], tmp_path, progress=stop)
    assert sorted(tmp_path.iterdir()) == before
