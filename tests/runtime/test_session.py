"""One door to every runtime: which provider takes which options, and what it lacks here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_tensorrt import FakeCuda, FakeTensorRt, install

from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.runtime.engine_build import build_engine
from edgeconv.runtime.ort import OrtSession
from edgeconv.runtime.session import (
    ENGINE_PROVIDERS,
    OPTION_PROVIDERS,
    PROVIDERS,
    check_options,
    open_session,
    require_runtime,
    runtime_version,
)
from edgeconv.runtime.tensorrt import TensorRtSession


def test_each_option_is_for_some_providers() -> None:
    refused = ("tf32", "cpu"), ("threads", "tensorrt"), ("allow_cpu_fallback", "tensorrt"), ("trust_engine", "cuda")
    for name, provider in refused:
        with pytest.raises(InputError, match=f"--{name.replace('_', '-')} is for provider") as caught:
            check_options(provider, {name: 1})
        assert f"--provider {OPTION_PROVIDERS[name][0]}" in caught.value.remedy
    for name, provider in (("tf32", "tensorrt-rtx"), ("threads", "cpu"), ("allow_cpu_fallback", "cuda")):
        check_options(provider, {name: 1})
    check_options("cpu", dict.fromkeys(OPTION_PROVIDERS))


def test_unknown_providers() -> None:
    with pytest.raises(InputError, match="unknown provider 'npu'") as caught:
        check_options("npu", {})
    assert "cpu, cuda, tensorrt, tensorrt-rtx" in caught.value.remedy


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_engines_are_not_for_onnx_runtime(provider: str) -> None:
    with pytest.raises(InputError, match=rf"net\.plan is an engine, which provider {provider} does not run") as caught:
        check_options(provider, {}, ["a.onnx", Path("net.plan")])
    assert "--provider tensorrt" in caught.value.remedy


def test_a_built_engine_has_its_precision() -> None:
    with pytest.raises(InputError, match=r"net\.engine is built: it uses TF32 or not"):
        check_options("tensorrt", {"tf32": True}, ["net.engine"])
    check_options("tensorrt", {"tf32": True}, ["net.onnx"])


def test_all_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeCuda(gpu=None), None)
    with pytest.raises(MissingDependencyError) as caught:
        require_runtime("tensorrt")
    assert "TensorRT cannot be imported" in caught.value.message
    assert "no NVIDIA GPU can be used here" in caught.value.message
    assert "JetPack" in caught.value.remedy
    assert "--provider cpu" in caught.value.remedy
    assert caught.value.exit_code == 3
    require_runtime("cpu")


def test_what_runs_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRt(FakeCuda())
    install(monkeypatch, fake.cuda, fake)
    require_runtime("tensorrt")
    assert runtime_version("tensorrt") == "TensorRT 10.14.1.48"
    assert runtime_version("cpu").startswith("ONNX Runtime 1.")
    assert runtime_version("tensorrt-rtx").startswith("TensorRT-RTX 1.")


def test_sessions_by_provider(monkeypatch: pytest.MonkeyPatch, small: dict[str, Path], tmp_path: Path) -> None:
    fake = FakeTensorRt(FakeCuda())
    install(monkeypatch, fake.cuda, fake)
    monkeypatch.setenv("EDGECONV_ENGINE_CACHE", str(tmp_path / "cache"))
    assert isinstance(open_session(small["functions"]), OrtSession)
    steps: list[str] = []
    shapes = {"image": (1, 3, 10, 13)}
    options: dict[str, Any] = {"provider": "tensorrt", "shapes": shapes, "op_library": False}
    session = open_session(small["functions"], **options, progress=lambda what, _done: steps.append(what))
    assert isinstance(session, TensorRtSession)
    assert Path(session.name).parent == tmp_path / "cache"
    assert steps
    open_session(small["functions"], **options, tf32=True)
    assert len(fake.parsed) == 2  # with TF32 it is another engine
    engine = build_engine(small["functions"], tmp_path / "own.engine", shapes=shapes, plugins=False).engine
    Path(f"{engine}.json").unlink()
    with pytest.raises(InputError, match="has no stamp"):
        open_session(engine, provider="tensorrt")
    assert open_session(engine, provider="tensorrt", trust_engine=True).name == engine
    assert set(ENGINE_PROVIDERS) < set(PROVIDERS)
