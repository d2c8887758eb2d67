"""The glue of the CUDA kernels to ONNX Runtime.

Without a GPU: a host-executed build (tests/cuda_memory.py) puts the CUDA kernels and their glue in the place of those
for the CPU. A session on the CPU runs them, and its memory is the device's. What only a GPU's session does (a stream,
and memory that the host cannot read) is in test_ort_cuda_provider.py.

Where ONNX Runtime has its CUDA provider and EDGECONV_CUDA_LIBRARY names an op library (`make test-gpu` sets it), the
same tests run on the GPU, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from cuda_memory import simt_library
from deconv_kernels import assert_whitened
from deconv_kernels import make_case as whitening_case
from deconv_kernels import make_model as whitening_model
from native_kernels import KERNELS, Case, make_case, oracle
from native_models import make_model
from qlinear_kernels import make_case as qlinear_case
from qlinear_models import make_model as qlinear_model
from tolerances import assert_close

from edgeconv.runtime.ort import OrtSession
from edgeconv.runtime.ort_cuda import CudaRun

from .test_versions import OLD, ROOT, installed

Array = npt.NDArray[Any]
Session = Callable[..., ort.InferenceSession]


GPU_LIBRARY = os.environ.get("EDGECONV_CUDA_LIBRARY", "")
ON_GPU = [GPU_LIBRARY] if GPU_LIBRARY and "CUDAExecutionProvider" in ort.get_available_providers() else []
FLOAT32 = ("CUDAExecutionProvider", {"use_tf32": "0"})


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    """Make sessions that run the CUDA kernels on the host."""
    monkeypatch.setenv("EDGECONV_SIMT_ORT", "1")
    return sessions(simt_library(), "CPUExecutionProvider")


@pytest.fixture(params=["host", *ON_GPU], ids=["host", *("gpu" for _ in ON_GPU)])
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Session:
    """Make sessions that run the CUDA kernels, on the host and on a GPU."""
    if request.param != "host":
        return sessions(request.param, FLOAT32)
    monkeypatch.setenv("EDGECONV_SIMT_ORT", "1")
    return sessions(simt_library(), "CPUExecutionProvider")


def sessions(library: str, provider: Any) -> Session:
    def create(
        model: bytes | onnx.ModelProto,
        entries: dict[str, str] | None = None,
        shared: dict[str, ort.OrtValue] | None = None,
    ) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        for key, value in (entries or {}).items():
            options.add_session_config_entry(key, value)
        options.register_custom_ops_library(library)
        for name, initializer in (shared or {}).items():
            options.add_initializer(name, initializer)
        serialized = model if isinstance(model, bytes) else model.SerializeToString()
        created = ort.InferenceSession(serialized, options, providers=[provider])
        assert created.get_providers()[0] == (provider if isinstance(provider, str) else provider[0])
        return created

    return create


def small_case(kernel: str, dtype: str = "float32", **options: Any) -> Case:
    defaults = {"strides": (2, 1), "pads": (1, 0, 1, 2), "group": 2}
    return make_case(kernel, dtype, (2, 6, 9, 7), 8, (3, 2), **{**defaults, **options})


def run(session: Session, case: Case, **options: Any) -> Array:
    serialized, feeds = make_model(case, **options)
    (result,) = session(serialized).run(None, feeds)
    assert result.dtype == case.x.dtype
    return np.asarray(result)


def message_of(call: Callable[[], Any]) -> str:
    with pytest.raises(Exception) as error:  # noqa: PT011 - the message is compared
        call()
    return str(error.value)


@pytest.mark.parametrize("bias", ["given", "absent", "empty name"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_kervolution_matches_loop(anywhere: Session, kernel: str, dtype: str, bias: str) -> None:
    case = small_case(kernel, dtype, bias=bias == "given", per_channel=bias != "absent")
    assert_close(run(anywhere, case, empty_bias=bias == "empty name"), oracle(case), dtype)


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_needs_to_be_constant(anywhere: Session, kernel: str) -> None:
    case = small_case(kernel)
    names = {"polynomial": ["balance"], "gaussian": ["gamma"], "sigmoid": ["scale", "balance"]}.get(kernel, [])
    assert_close(run(anywhere, case, inputs=("X", "W", *names, "B")), oracle(case), np.float32)


def test_a_permission_for_cpus_is_no_error(anywhere: Session) -> None:
    case = small_case("polynomial")
    assert_close(run(anywhere, case, precision="bf16x3"), oracle(case), np.float32)


def test_one_session_takes_any_size_and_batch(anywhere: Session) -> None:
    case = small_case("manhattan")
    serialized, _ = make_model(case, x_shape=["N", 6, None, None])
    dynamic = anywhere(serialized)
    for shape in ((1, 6, 9, 7), (3, 6, 4, 20), (0, 6, 9, 7), (1, 6, 30, 41)):
        x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        sized = Case(**{**vars(case), "x": x})
        assert_close(dynamic.run(None, {"X": x})[0], oracle(sized), np.float32)


def test_weights_are_packed_when_the_session_is_created(session: Session) -> None:
    """An initialiser that the caller owns is overwritten afterwards: packed filters do not change.

    In the 8-bit operator, of which kernels get nothing but the packed filters.
    """
    case = qlinear_case((2, 6, 9, 7), 8, (3, 2), group=2)
    weights = ort.OrtValue.ortvalue_from_numpy(case.w.copy())
    model, feeds = qlinear_model(case)
    created = session(model, shared={"W": weights})
    weights.update_inplace(np.zeros_like(case.w))
    np.testing.assert_array_equal(created.run(None, feeds)[0], case.loop())


@pytest.mark.parametrize("types", list(product(("uint8", "int8"), repeat=3)), ids="-".join)
def test_qlinear_matches_loop(anywhere: Session, types: tuple[str, str, str]) -> None:
    for per_channel, bias in ((False, True), (True, False)):
        case = qlinear_case(
            (2, 6, 9, 7), 8, (3, 2), types=types, bias=bias, per_channel=per_channel,
            strides=(2, 1), pads=(1, 0, 1, 2), group=2,
        )  # fmt: skip
        model, feeds = qlinear_model(case, empty_bias=True)
        np.testing.assert_array_equal(anywhere(model).run(None, feeds)[0], case.loop())


def test_nothing_quantised_needs_to_be_constant(anywhere: Session) -> None:
    names = ("X", "x_scale", "x_zero_point", "W", "w_scale", "w_zero_point", "y_scale", "y_zero_point")
    for inputs in (("X", "W"), ("X", "x_scale"), ("X", "w_scale"), (*names, "B")):
        case = qlinear_case((2, 6, 9, 7), 8, (3, 2), per_channel=True)
        model, feeds = qlinear_model(case, inputs=inputs)
        np.testing.assert_array_equal(anywhere(model).run(None, feeds)[0], case.loop(), err_msg=str(inputs))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_whitening_matches_float64(anywhere: Session, dtype: str) -> None:
    for group in (1, 2):
        case = whitening_case((2, 6, 19, 17), (3, 2), 3, dtype, group=group, strides=(2, 1), sampling_stride=2)
        mean, deconv = anywhere(whitening_model(case)).run(None, {"X": case.x})
        assert_whitened(case, (mean, deconv))


def test_threads_share_a_session(anywhere: Session) -> None:
    case = make_case("euclidean", "float32", (1, 8, 12, 11), 16, (3, 3))
    serialized, feeds = make_model(case)
    created = anywhere(serialized)
    results: list[Array] = []

    def work() -> None:
        results.extend(created.run(None, feeds)[0] for _ in range(3))

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 9
    for result in results:
        assert_close(result, oracle(case), np.float32)


def test_tf32_only_where_the_session_says_so(anywhere: Session) -> None:
    # Products of these need more digits than TF32 has.
    case = make_case("polynomial", "float32", (1, 32, 12, 13), 32, (3, 3), degree=1, pads=(1, 1, 1, 1))
    serialized, feeds = make_model(case)
    plain = anywhere(serialized).run(None, feeds)[0]
    assert_close(plain, oracle(case), np.float32)
    np.testing.assert_array_equal(anywhere(serialized, {"edgeconv.tf32": "0"}).run(None, feeds)[0], plain)
    permitted = anywhere(serialized, {"edgeconv.tf32": "1"}).run(None, feeds)[0]
    error = np.abs(permitted - oracle(case)).max() / np.sqrt(np.mean(oracle(case) ** 2))
    assert 2e-5 < error < 5e-3
    said = message_of(lambda: anywhere(serialized, {"edgeconv.tf32": "yes"}))
    assert "session configuration entry edgeconv.tf32 is 'yes': it must be 0 or 1" in said


@pytest.mark.parametrize(
    ("kernel", "attributes", "message"),
    [
        ("polynomial", {"degree": 0}, "PolynomialKervolution 'node': degree is 0: it must be at least 1"),
        ("gaussian", {"strides": [1, 0]}, "GaussianKervolution 'node': strides are [1, 0]: both must be positive"),
        ("chebyshev", {"kernel_shape": [3, 3]}, "kernel_shape is [3, 3], W has shape (8, 3, 3, 2): they must agree"),
    ],
)
def test_bad_attributes_fail_when_the_session_is_created(
    session: Session, kernel: str, attributes: dict[str, Any], message: str
) -> None:
    serialized, _ = make_model(small_case(kernel), **attributes)
    assert message in message_of(lambda: session(serialized))


def test_input_that_does_not_fit_names_node_and_shapes(anywhere: Session) -> None:
    case = small_case("manhattan")
    serialized, _ = make_model(case, x_shape=["N", "C", "H", "W"])
    created = anywhere(serialized)
    said = message_of(lambda: created.run(None, {"X": np.zeros((1, 8, 9, 9), np.float32)}))
    assert "ManhattanKervolution 'node': W has 3 channels per group, X has 8 and group is 2: expected 4" in said
    # The session stays usable.
    assert_close(created.run(None, {"X": case.x})[0], oracle(case), np.float32)


def test_memory_that_kernels_cannot_take_is_an_error(session: Session) -> None:
    """Also the proof that this is the CUDA kernels' glue: the CPU's takes any address."""
    case = small_case("euclidean")
    serialized, _ = make_model(case)
    created = session(serialized)
    whole = np.zeros(case.x.size + 8, np.float32)
    offset = next(k for k in range(1, 5) if (whole.ctypes.data + 4 * k) % 16)
    unaligned = whole[offset : offset + case.x.size].reshape(case.x.shape)
    unaligned[:] = case.x
    said = message_of(lambda: created.run(None, {"X": unaligned}))
    assert "EuclideanKervolution 'node': X, with shape (2, 6, 9, 7), lies at an address" in said
    assert_close(created.run(None, {"X": case.x})[0], oracle(case), np.float32)


def test_without_the_switch_the_cpu_kernels_run(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECONV_SIMT_ORT", "0")
    case = small_case("euclidean")
    serialized, _ = make_model(case)
    whole = np.zeros(case.x.size + 8, np.float32)
    offset = next(k for k in range(1, 5) if (whole.ctypes.data + 4 * k) % 16)
    unaligned = whole[offset : offset + case.x.size].reshape(case.x.shape)
    unaligned[:] = case.x
    assert_close(session(serialized).run(None, {"X": unaligned})[0], oracle(case), np.float32)


@pytest.mark.parametrize("library", ON_GPU)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_cuda_graph_holds_the_operators(library: str, kernel: str) -> None:
    """Replays see inputs that changed since the capture."""
    case = small_case(kernel)
    serialized, _ = make_model(case)
    graph = OrtSession(serialized, provider="cuda", op_library=library, cuda_graph=True)
    run = graph.bind({"X": case.x})
    assert isinstance(run, CudaRun)
    run()
    assert_close(run.results()["Z"], oracle(case), np.float32)
    other = np.float32(case.x * 3)
    run.stage({"X": other})
    run()
    assert_close(run.results()["Z"], oracle(Case(**{**vars(case), "x": other})), np.float32)


@pytest.mark.parametrize("version", [*OLD, "1.20.1", "1.23.2"])
def test_version(version: str) -> None:
    """The same glue in other versions of ONNX Runtime, each in a process of its own."""
    code = f"""
import os, sys
os.environ["EDGECONV_SIMT_ORT"] = "1"
sys.path[:0] = {[str(installed(version)), str(ROOT / "tests")]}
import numpy as np, onnxruntime as ort
assert ort.__version__ == "{version}"
from deconv_kernels import assert_whitened, make_case as whitening_case, make_model as whitening_model
from native_kernels import KERNELS, make_case, oracle
from native_models import make_model
from qlinear_kernels import make_case as qlinear_case
from qlinear_models import make_model as qlinear_model
from tolerances import assert_close

from edgeconv.runtime.ort import OrtSession
from edgeconv.runtime.ort_cuda import CudaRun

def run(model, feeds):
    settings = ort.SessionOptions()
    settings.add_session_config_entry("edgeconv.tf32", "0")
    settings.register_custom_ops_library({simt_library()!r})
    return ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"]).run(None, feeds)

for kernel in KERNELS:
    for dtype in ("float32", "float16"):
        case = make_case(kernel, dtype, (2, 6, 9, 7), 8, (3, 2), group=2, bias=dtype == "float32")
        for options in ({{}}, {{"inputs": ("X", "W")}}, {{"x_shape": ["N", "C", None, None]}}):
            assert_close(run(*make_model(case, empty_bias=True, **options))[0], oracle(case), dtype, kernel)
for types in (("uint8", "int8", "uint8"), ("int8", "int8", "int8")):
    case = qlinear_case((2, 6, 9, 7), 8, (3, 2), types=types, per_channel=True)
    for options in ({{}}, {{"inputs": ("X", "w_scale")}}):
        model, feeds = qlinear_model(case, **options)
        np.testing.assert_array_equal(run(model.SerializeToString(), feeds)[0], case.loop())
case = whitening_case((2, 6, 19, 17), (3, 3), 3, "float16", group=2)
assert_whitened(case, run(whitening_model(case).SerializeToString(), {{"X": case.x}}))
print("right answers")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == "right answers\n"
    assert "Warning" not in result.stderr
