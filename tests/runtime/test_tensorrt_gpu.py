"""Engines on a real GPU: TensorRT and TensorRT-RTX compute what ONNX Runtime does. Skipped where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tolerances import assert_close

from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.runtime.engine_backend import PROVIDERS, load_backend
from edgeconv.runtime.engine_cache import cached_engine
from edgeconv.runtime.ort import OrtSession
from edgeconv.runtime.session import open_session


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    """A provider that this machine has a GPU for."""
    try:
        load_backend(request.param).resolve_target(())
    except (MissingDependencyError, InputError) as error:
        pytest.skip(error.message)
    return str(request.param)


@pytest.mark.parametrize("form", ["functions", "inlined", "half"])
@pytest.mark.parametrize("cuda_graph", [False, True], ids=["stream", "graph"])
@pytest.mark.parametrize("copies", [False, True], ids=["resident", "copies"])
def test_results(
    provider: str, form: str, cuda_graph: bool, copies: bool, small: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("EDGECONV_ENGINE_CACHE", str(tmp_path))
    generator = np.random.default_rng(5)
    reference = OrtSession(small["functions"])
    low, high = {"": (1, 3, 10, 13)}, {"": (4, 3, 10, 13)}
    engine = cached_engine(small[form], provider=provider, min_shapes=low, max_shapes=high).engine
    session = open_session(engine, provider=provider, cuda_graph=cuda_graph)
    dtype = np.float16 if form == "half" else np.float32
    for batch in (3, 1, 4):
        feeds = {"image": generator.standard_normal((batch, 3, 10, 13)).astype(np.float32)}
        expected = reference.run(feeds)
        run = session.bind(feeds, copies=copies)
        run()
        assert run.device_seconds is not None
        assert 0 < run.device_seconds < 1
        for actual in (session.run(feeds), run.results()):
            for name, value in expected.items():
                assert_close(actual[name].astype(np.float32), value, dtype, "gaussian")
