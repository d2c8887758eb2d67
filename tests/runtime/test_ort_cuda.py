"""Sessions with provider cuda, on a GPU that is played (tests/fake_gpu.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from fake_gpu import FakeGpu, FakeRuntime, install
from onnx import numpy_helper

from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.runtime.ort import OrtSession, require_provider
from edgeconv.runtime.ort_cuda import CudaRun
from edgeconv.runtime.placement import Placement, check_placement, read_placement
from edgeconv.runtime.providers import require_cuda_kernels

MODEL = """
<ir_version: 9, opset_import: ["" : 17]>
tiny (float[N, 3, 9, 7] x) => (float[N, M] y, int64[4] s) {
  c = Sub (x, w)
  s = Shape (c)
  f = Flatten (c)
  y = Relu (f)
}
"""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return install(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    proto = onnx.parser.parse_model(MODEL)
    values = np.random.default_rng(3).standard_normal((1, 3, 1, 1)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(values, "w"))
    onnx.save(proto, tmp_path / "tiny.onnx")
    return tmp_path / "tiny.onnx"


@pytest.fixture
def feeds() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(4).standard_normal((2, 3, 9, 7)).astype(np.float32)}


def test_float32_means_float32(gpu: FakeGpu, path: Path) -> None:
    session = OrtSession(path, provider="cuda", op_library=False)
    (options,) = gpu.sessions
    assert (options["device_id"], options["use_tf32"], options["enable_cuda_graph"]) == ("0", "0", "0")
    assert int(options["user_compute_stream"]) > 0
    assert session.gpu is not None
    assert (session.gpu.name, session.gpu.compute_capability, session.gpu.cuda) == ("NVIDIA Fake", "8.7", "12.6")


def test_what_is_asked_for_reaches_the_provider(gpu: FakeGpu, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.runtime.names = ("NVIDIA Fake", "NVIDIA Other")
    entries: dict[str, str] = {}
    real = onnxruntime.SessionOptions

    class Options(real):  # type: ignore[misc, valid-type]
        def add_session_config_entry(self, key: str, value: str) -> None:
            entries[key] = value
            super().add_session_config_entry(key, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    session = OrtSession(path, provider="cuda", op_library=False, device=1, tf32=True, cuda_graph=True)
    (options,) = gpu.sessions
    assert (options["device_id"], options["use_tf32"], options["enable_cuda_graph"]) == ("1", "1", "1")
    assert entries["edgeconv.tf32"] == "1"
    assert gpu.runtime.device == 1
    assert session.gpu is not None
    assert session.gpu.name == "NVIDIA Other"


def test_what_onnxruntime_says_while_it_loads_is_not_shown(
    gpu: FakeGpu, path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    OrtSession(path, provider="cuda", op_library=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("copies", [False, True])
def test_bound_runs(gpu: FakeGpu, path: Path, feeds: dict[str, np.ndarray], copies: bool) -> None:
    session = OrtSession(path, provider="cuda", op_library=False)
    expected = OrtSession(path, op_library=False).run(feeds)
    run = session.bind(feeds, copies=copies)
    assert isinstance(run, CudaRun)
    assert run.host_bound  # this stream is always empty
    gpu.runtime.copied = 0
    for _ in range(3):
        run()
    assert gpu.runtime.copied == (3 * (feeds["x"].nbytes + sum(a.nbytes for a in expected.values())) if copies else 0)
    assert run.device_seconds is not None
    assert 0 < run.device_seconds < 1
    for name, value in run.results().items():
        np.testing.assert_array_equal(value, expected[name])
        assert value.dtype == expected[name].dtype
    assert gpu.run_entries[-1] == {"disable_synchronize_execution_providers": "1"}
    other = {"x": -feeds["x"]}
    run.stage(other)
    run()
    np.testing.assert_array_equal(run.results()["y"], OrtSession(path, op_library=False).run(other)["y"])


def test_a_gpu_that_is_still_busy_is_not_bound_by_the_host(
    gpu: FakeGpu, path: Path, feeds: dict[str, np.ndarray]
) -> None:
    gpu.runtime.busy = True
    run = OrtSession(path, provider="cuda", op_library=False).bind(feeds)
    assert isinstance(run, CudaRun)
    assert not run.host_bound


def test_runs_that_are_not_bound_are_no_part_of_a_graph(gpu: FakeGpu, path: Path, feeds: dict[str, np.ndarray]) -> None:
    session = OrtSession(path, provider="cuda", op_library=False, cuda_graph=True)
    session.run(feeds)
    assert gpu.run_entries == [{"gpu_graph_id": "-1"}]
    session.bind(feeds)
    # The first gives the shapes; ONNX Runtime captures one of the next three.
    assert gpu.run_entries[1] == {"gpu_graph_id": "-1"}
    assert gpu.run_entries[2:5] == [{"disable_synchronize_execution_providers": "1"}] * 3


def test_memory_goes_with_the_run(gpu: FakeGpu, path: Path, feeds: dict[str, np.ndarray]) -> None:
    run = OrtSession(path, provider="cuda", op_library=False).bind(feeds)
    assert gpu.runtime._memory
    del run
    assert not gpu.runtime._memory


def test_a_provider_that_does_not_load_is_not_taken_for_the_gpu(gpu: FakeGpu, path: Path) -> None:
    """ONNX Runtime runs the model on the CPU then, without a word."""
    gpu.loads = False
    with pytest.raises(MissingDependencyError) as caught:
        OrtSession(path, provider="cuda", op_library=False)
    assert f"cannot load its CUDA provider and would run {path} on the CPU" in caught.value.message
    assert "onnxruntime-gpu[cuda,cudnn]" in caught.value.remedy


@pytest.mark.parametrize(
    ("cause", "error", "message"),
    [
        ("CUDA failure 35: CUDA driver version is insufficient", MissingDependencyError, "driver is too old"),
        ("CUDA failure 100: no CUDA-capable device is detected", MissingDependencyError, "finds no GPU"),
        ("This session cannot use the graph capture feature as requested", InputError, "launched as a CUDA graph"),
        ("CUDA failure 209: no kernel image is available", MissingDependencyError, "no code for this GPU"),
        ("Failed to allocate memory for requested buffer of size 7", InputError, "cannot load .*requested buffer"),
    ],
)
def test_failures_of_the_machine_are_told_from_those_of_the_model(
    gpu: FakeGpu, path: Path, cause: str, error: type[Exception], message: str
) -> None:
    gpu.creation_error = cause
    with pytest.raises(error, match=message):
        OrtSession(path, provider="cuda", op_library=False)


def test_everything_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeRuntime(error=100))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingDependencyError) as caught:
        require_provider("cuda")
    assert caught.value.exit_code == 3
    assert "provider cuda is not in the installed ONNX Runtime, which has: CPUExecutionProvider" in caught.value.message
    assert "no CUDA-capable device is detected" in caught.value.message
    assert "edgeconv[gpu]" in caught.value.remedy
    assert "nvidia-smi" in caught.value.remedy


def test_without_the_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MissingDependencyError, match="Python bindings cannot be imported") as caught:
        require_provider("cuda")
    assert "cuda-bindings" in caught.value.remedy


@pytest.mark.parametrize("device", [1, -1])
def test_a_gpu_that_is_not_there(gpu: FakeGpu, device: int) -> None:
    with pytest.raises(InputError, match=f"there is no GPU {device}: 1 is visible") as caught:
        require_provider("cuda", device)
    assert "CUDA_VISIBLE_DEVICES" in caught.value.remedy


def test_an_op_library_without_cuda(tmp_path: Path) -> None:
    for name, symbols in (
        ("cpu", ""),
        ("host", "int edgeconv_cuda_device, edgeconv_simt_last_error;"),
        ("cuda", "int edgeconv_cuda_device;"),
    ):
        (tmp_path / f"{name}.c").write_text(symbols)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / f"{name}.so", tmp_path / f"{name}.c"], check=True)
    with pytest.raises(MissingDependencyError, match=r"cpu\.so was built without CUDA") as caught:
        require_cuda_kernels(str(tmp_path / "cpu.so"))
    assert "CUDA_HOME" in caught.value.remedy
    with pytest.raises(MissingDependencyError, match=r"host\.so executes its CUDA kernels on the host"):
        require_cuda_kernels(str(tmp_path / "host.so"))
    require_cuda_kernels(str(tmp_path / "cuda.so"))


def placement_of(path: Path, feeds: dict[str, np.ndarray]) -> Placement:
    session = OrtSession(path, provider="cuda", op_library=False, profile=True)
    session.run(feeds)
    return read_placement(session.profile_events())


def test_placement_is_read_from_the_record_of_a_run(gpu: FakeGpu, path: Path, feeds: dict[str, np.ndarray]) -> None:
    placement = placement_of(path, feeds)
    assert placement.counts == {"CUDA": 4}
    check_placement("tiny.onnx", placement, "CUDA")
    assert Placement.from_dict(placement.to_dict()) == placement


def test_nodes_on_the_cpu_are_named(gpu: FakeGpu, path: Path, feeds: dict[str, np.ndarray]) -> None:
    gpu.cpu_operators = ("Relu",)
    placement = placement_of(path, feeds)
    assert placement.counts == {"CUDA": 3, "CPU": 1}
    with pytest.raises(InputError) as caught:
        check_placement("tiny.onnx", placement, "CUDA")
    assert "1 of 4 nodes of tiny.onnx do not run on CUDA" in caught.value.message
    assert "Relu '" in caught.value.message
    assert "--allow-cpu-fallback" in caught.value.remedy


def test_nodes_that_compute_shapes_belong_on_the_cpu(gpu: FakeGpu, path: Path, feeds: dict[str, np.ndarray]) -> None:
    gpu.cpu_operators = ("Shape",)
    placement = placement_of(path, feeds)
    assert placement.counts == {"CUDA": 3, "CPU": 1}
    assert placement.elsewhere("CUDA") == ()


def event(operator: str, provider: str, given: list[object], taken: list[object], ts: int = 0) -> dict[str, object]:
    arguments = {"op_name": operator, "provider": f"{provider}ExecutionProvider"}
    shapes = {"input_type_shape": given, "output_type_shape": taken}
    return {"cat": "Node", "name": f"{operator}_1_kernel_time", "ts": ts, "args": {**arguments, **shapes}}


def test_only_a_few_integers_are_shapes() -> None:
    few, many, real = {"int64": [4]}, {"int64": [100, 100]}, {"float": [1]}
    events = [
        event("Gather", "CPU", [few, few], [few], 5),
        event("Add", "CPU", [many, many], [many], 6),
        event("Cast", "CPU", [real], [few], 7),
        event("MemcpyToHost", "CUDA", [real], [real], 1),
        {**event("Conv", "CUDA", [real], [real], 0), "name": "Conv_1_fence_before"},
    ]
    placement = read_placement(events)
    assert [node.operator for node in placement.nodes] == ["MemcpyToHost", "Gather", "Add", "Cast"]
    assert [node.operator for node in placement.elsewhere("CUDA")] == ["Add", "Cast"]
    assert [node.operator for node in placement.copies] == ["MemcpyToHost"]


def test_a_long_list_is_cut() -> None:
    events = [
        {**event("Add", "CPU", [{"float": [1]}], [{"float": [1]}]), "name": f"a{k}_kernel_time"} for k in range(20)
    ]
    with pytest.raises(InputError, match="20 of 20 nodes of m do not run on CUDA") as caught:
        check_placement("m", read_placement(events), "CUDA")
    assert caught.value.message.count("Add 'a") == 8
    assert "and 12 more" in caught.value.message
