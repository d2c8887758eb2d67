"""Running engines, on stand-ins for TensorRT and CUDA that compute: results, memory, graphs, refusals."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import MAGIC, FakeCuda, FakeTensorRt, install
from tolerances import assert_close

from edgeconv.errors import EdgeconvError, InputError, MissingDependencyError
from edgeconv.runtime.engine_build import build_engine
from edgeconv.runtime.engine_cache import cache_directory, cached_engine
from edgeconv.runtime.ort import Array, OrtSession
from edgeconv.runtime.session import open_session
from edgeconv.runtime.tensorrt import TensorRtSession

Feeds = dict[str, Array]


@pytest.fixture
def cuda() -> FakeCuda:
    """A GPU."""
    return FakeCuda()


@pytest.fixture
def trt(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRt:
    """TensorRT on it, and a plugin library."""
    fake = FakeTensorRt(cuda)
    install(monkeypatch, cuda, fake)
    (tmp_path / "plugins.so").write_bytes(b"plugins 1")
    monkeypatch.setenv("EDGECONV_TRT_PLUGINS", str(tmp_path / "plugins.so"))
    return fake


@pytest.fixture
def engine(trt: FakeTensorRt, small: dict[str, Path], tmp_path: Path) -> Path:
    """An engine for batches of 1 to 4."""
    low, high = {"": (1, 3, 10, 13)}, {"": (4, 3, 10, 13)}
    return Path(build_engine(small["functions"], tmp_path / "net.engine", min_shapes=low, max_shapes=high).engine)


def images(batch: int, seed: int = 0) -> Feeds:
    return {"image": np.random.default_rng(seed).standard_normal((batch, 3, 10, 13)).astype(np.float32)}


@pytest.fixture
def check(small: dict[str, Path]) -> Callable[[dict[str, Array], Feeds], None]:
    """Compares results with ONNX Runtime's."""
    reference = OrtSession(small["functions"])

    def compare(actual: dict[str, Array], feeds: Feeds) -> None:
        expected = reference.run(feeds)
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            assert actual[name].shape == value.shape
            assert_close(actual[name], value, np.float32, "gaussian")

    return compare


def test_the_interface_of_an_onnx_runtime_session(engine: Path, small: dict[str, Path], check: Any) -> None:
    session, ort = TensorRtSession(engine), OrtSession(small["functions"])
    assert session.inputs == ort.inputs
    assert [(info.name, info.type) for info in session.outputs] == [(info.name, info.type) for info in ort.outputs]
    assert session.metadata == ort.metadata
    assert (session.provider, session.name, session.native) == ("tensorrt", str(engine), True)
    assert session.op_library_path is not None
    assert session.missing_library == ""
    assert session.creation_seconds > 0
    assert (session.gpu.name, session.gpu.compute_capability) == ("Fake Orin", "8.7")
    members = ("run", "bind", "profile_events", *(name for name in vars(ort) if not name.startswith("_")))
    assert [name for name in members if not hasattr(session, name)] == []


def test_runs_of_several_shapes(engine: Path, check: Any) -> None:
    session = TensorRtSession(engine)
    kept = session.run(images(2, 9))[session.outputs[0].name]
    first = kept.copy()
    for batch, seed in ((2, 0), (2, 1), (4, 2), (1, 3), (2, 4)):
        feeds = images(batch, seed)
        check(session.run(feeds), feeds)
    np.testing.assert_array_equal(kept, first)  # results are the caller's own


def test_strided_inputs(engine: Path, check: Any) -> None:
    feeds = {"image": np.moveaxis(np.ascontiguousarray(np.moveaxis(images(2)["image"], 1, 3)), 3, 1)}
    assert not feeds["image"].flags.c_contiguous
    check(TensorRtSession(engine).run(feeds), feeds)


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["stream", "graph"])
@pytest.mark.parametrize("copies", [False, True], ids=["resident", "copies"])
def test_bound_runs(copies: bool, cuda_graph: bool, engine: Path, cuda: FakeCuda, check: Any) -> None:
    session = TensorRtSession(engine, cuda_graph=cuda_graph)
    feeds = images(3)
    run = session.bind(feeds, copies=copies)
    assert (run.copies, run.cuda_graph, run.host_bound) == (copies, cuda_graph, False)
    assert run.device_seconds is None
    launched, begin = cuda.launches, cuda.clock
    run()
    assert cuda.launches - launched == cuda_graph
    # One inference of the stand-in takes 1 ms, a copy 1 µs: what the events enclose is what the call does.
    expected = 1e-3 + (2e-6 if copies else 0)
    assert cuda.clock - begin == pytest.approx(expected)
    assert run.device_seconds == pytest.approx(expected)
    check(run.results(), feeds)
    other = images(1, 5)
    check(session.run(other), other)
    check(session.run(images(3, 6)), images(3, 6))
    run()
    check(run.results(), feeds)  # what was bound is bound still


def test_two_sessions_hear_of_their_own_failures(engine: Path, trt: FakeTensorRt) -> None:
    first, second = TensorRtSession(engine), TensorRtSession(engine)
    assert first.backend.logger is second.backend.logger  # the library keeps to the first that it saw
    for session in (first, second):
        session.backend.log.forget()
        session.backend.logger.log(type("Severity", (), {"name": "ERROR"}), "out of tactics")
        assert session.backend.log.cause() == "out of tactics"


def test_memory_goes_back(engine: Path, cuda: FakeCuda) -> None:
    session = TensorRtSession(engine)
    session.run(images(2))
    held = len(cuda.memory)
    assert held == 4  # input and output, on the GPU and on the host
    for batch in (1, 3, 4, 2):
        session.run(images(batch))
        gc.collect()
        assert len(cuda.memory) == held
    run = session.bind(images(2))
    del session, run
    gc.collect()
    assert cuda.memory == {}


def test_a_gpu_without_room(engine: Path, cuda: FakeCuda, check: Any) -> None:
    session = TensorRtSession(engine)
    cuda.room = 5000
    with pytest.raises(EdgeconvError, match="out of memory") as caught:
        session.run(images(2))
    assert "allocating" in caught.value.message
    assert "smaller shapes" in caught.value.remedy
    cuda.room = 1 << 20
    check(session.run(images(2)), images(2))


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "has the inputs image; got none"),
        ({"picture": np.zeros(1)}, "has the inputs image; got picture"),
        ({"image": np.zeros((1, 3, 10, 13))}, "takes float32, got float64"),
        ({"image": np.zeros((5, 3, 10, 13), np.float32)}, "takes 1x3x10x13 to 4x3x10x13, got 5x3x10x13"),
        ({"image": np.zeros((1, 3, 13, 10), np.float32)}, "got 1x3x13x10"),
        ({"image": np.zeros((3, 10, 13), np.float32)}, "got 3x10x13"),
    ],
)
def test_wrong_inputs(feeds: Feeds, message: str, engine: Path, cuda: FakeCuda) -> None:
    session = TensorRtSession(engine)
    for call in (session.run, session.bind):
        with pytest.raises(InputError, match=message):
            call(feeds)
    assert cuda.memory == {}


def test_a_strangers_engine_is_refused(engine: Path, trt: FakeTensorRt, check: Any) -> None:
    stamp = engine.with_name("net.engine.json")
    text = stamp.read_text()
    stamp.unlink()
    with pytest.raises(InputError, match="has no stamp") as caught:
        TensorRtSession(engine)
    assert "--trust-engine" in caught.value.remedy
    session = TensorRtSession(engine, trust_engine=True)
    assert session.stamp is None
    assert [(info.name, info.type, info.shape) for info in session.inputs] == [
        ("image", "tensor(float)", (None, 3, 10, 13))
    ]
    check(session.run(images(2)), images(2))
    stamp.write_text(text)
    engine.write_bytes(engine.read_bytes() + b"\0")
    with pytest.raises(InputError, match="the stamp of another engine"):
        TensorRtSession(engine)


def test_engines_that_do_not_fit(engine: Path, trt: FakeTensorRt, cuda: FakeCuda, tmp_path: Path) -> None:
    trt.__version__ = "10.3.0"
    with pytest.raises(InputError) as caught:
        TensorRtSession(engine)
    assert caught.value.message == f"{engine} is stale: built with TensorRT 10.14.1.48, this is 10.3.0."
    assert "edgeconv build functions.onnx --provider tensorrt" in caught.value.remedy
    trt.__version__ = "10.14.1.48"
    cuda.capability = (11, 0)
    with pytest.raises(InputError, match=r"is stale: built for Fake Orin \(compute capability 8\.7\), wanted is"):
        TensorRtSession(engine)
    cuda.capability = (8, 7)
    (tmp_path / "plugins.so").write_bytes(b"plugins 2")
    with pytest.raises(InputError, match="another version of edgeconv's plugins"):
        TensorRtSession(engine)
    with pytest.raises(InputError, match="plugins, which are not here"):
        TensorRtSession(engine, plugins=False)


def test_an_engine_that_tensorrt_does_not_take(engine: Path, trt: FakeTensorRt) -> None:
    engine.write_bytes(engine.read_bytes().replace(MAGIC, b"!"))
    with pytest.raises(InputError, match=r"cannot load .*magicTag is wrong"):
        TensorRtSession(engine, trust_engine=True)
    for trusted in (True, False):
        with pytest.raises(InputError, match="does not exist"):
            TensorRtSession(engine.with_name("none.engine"), trust_engine=trusted)


def test_no_gpu_and_no_bindings(engine: Path, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeCuda(gpu=None), trt)
    with pytest.raises(MissingDependencyError, match="no NVIDIA GPU can be used here"):
        TensorRtSession(engine)
    install(monkeypatch, None, trt)
    with pytest.raises(MissingDependencyError, match="cuda-bindings") as caught:
        TensorRtSession(engine)
    assert caught.value.exit_code == 3


def test_models_are_built_once_and_kept(
    trt: FakeTensorRt, small: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Any
) -> None:
    monkeypatch.setenv("EDGECONV_ENGINE_CACHE", str(tmp_path / "cache"))
    shapes = {"image": (2, 3, 10, 13)}
    for _ in range(2):
        session = open_session(small["functions"], provider="tensorrt", shapes=shapes)
        check(session.run(images(2)), images(2))
        assert len(trt.parsed) == 1
    cached_engine(small["functions"], provider="tensorrt", shapes={"image": (1, 3, 10, 13)})
    assert len(trt.parsed) == 2
    assert len(list((tmp_path / "cache").iterdir())) == 4  # two engines, each with its stamp
    trt.__version__ = "10.15.0"
    report = cached_engine(small["functions"], provider="tensorrt", shapes=shapes)
    assert report.stale == ("built with TensorRT 10.14.1.48, this is 10.15.0",)
    assert len(list((tmp_path / "cache").iterdir())) == 4
    engine = Path(report.engine)
    assert open_session(engine, provider="tensorrt").inputs == session.inputs


def test_where_engines_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGECONV_ENGINE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "edgeconv" / "engines"
    monkeypatch.setenv("EDGECONV_ENGINE_CACHE", str(tmp_path / "here"))
    assert cache_directory() == tmp_path / "here"
    (tmp_path / "here").write_bytes(b"")
    with pytest.raises(InputError, match="cannot make the directory"):
        cached_engine("net.onnx", provider="tensorrt")
