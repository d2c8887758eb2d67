"""RegisterCustomOps against a runtime that is played by the test: too old, nonsense, or none at all."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import onnxruntime as ort
import pytest
from native_kernels import make_case, oracle
from native_models import make_model
from tolerances import assert_close

from edgeconv.runtime.op_library import op_library

GetApi = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
GetVersionString = ctypes.CFUNCTYPE(ctypes.c_void_p)
CreateStatus = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)


class OrtApiBase(ctypes.Structure):
    _fields_ = [("get_api", GetApi), ("get_version_string", GetVersionString)]


class Runtime:
    """An OrtApiBase that reports `version`; its API, where it gives one, can do nothing but create a status."""

    def __init__(self, version: bytes | None, api_versions: tuple[int, ...]) -> None:
        self.asked: list[int] = []
        self.messages: list[bytes] = []
        # CreateStatus is the first function of the table; a call of any other would jump to 0.
        self.create_status = CreateStatus(self._create_status)
        self.api = (ctypes.c_void_p * 400)(ctypes.cast(self.create_status, ctypes.c_void_p).value)
        self.api_versions = api_versions
        self.version = ctypes.create_string_buffer(version) if version is not None else None
        self.base = OrtApiBase(GetApi(self._get_api), GetVersionString(self._get_version))

    def _get_api(self, version: int) -> int | None:
        self.asked.append(version)
        return ctypes.addressof(self.api) if version in self.api_versions else None

    def _get_version(self) -> int | None:
        return ctypes.addressof(self.version) if self.version is not None else None

    def _create_status(self, code: int, message: bytes) -> int:
        assert code != 0
        self.messages.append(message)
        return 0x5EED

    def register(self) -> int | None:
        function = ctypes.CDLL(op_library()).RegisterCustomOps
        function.restype = ctypes.c_void_p
        status: int | None = function(None, ctypes.byref(self.base))
        return status


@pytest.fixture(autouse=True)
def real_runtime_still_works() -> Iterator[None]:
    """After every attempt the same library serves the real runtime in the same process."""
    yield
    options = ort.SessionOptions()
    options.register_custom_ops_library(op_library())
    case = make_case("manhattan", "float32", (1, 2, 5, 6), 3, (3, 3))
    model, feeds = make_model(case)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    assert_close(session.run(None, feeds)[0], oracle(case), np.float32)


@pytest.mark.parametrize("version", [b"1.10.0", b"1.17.3", b"0.4", b"2.0.0", b"nonsense", b"", b"1.x", b"1.-3", None])
def test_runtime_that_is_too_old_or_unknown_gets_a_message(version: bytes | None) -> None:
    runtime = Runtime(version, api_versions=tuple(range(1, 18)))
    assert runtime.register() == 0x5EED
    shown = version.decode() if version is not None else "unknown"
    expected = f"edgeconv: its operators need ONNX Runtime 1.18 or later, and this is version '{shown}'"
    assert [message.decode() for message in runtime.messages] == [expected]
    assert runtime.asked == [1]


@pytest.mark.parametrize(("version", "asked"), [(b"1.10.0", 1), (b"nonsense", 1), (b"1.18.1", 18), (b"1.99.0", 21)])
def test_runtime_without_an_api(version: bytes, asked: int) -> None:
    """Nothing can make a status then: nothing is registered, and nothing crashes."""
    runtime = Runtime(version, api_versions=())
    assert runtime.register() is None
    assert runtime.asked == [asked]


def test_no_runtime_at_all() -> None:
    function = ctypes.CDLL(op_library()).RegisterCustomOps
    function.restype = ctypes.c_void_p
    assert function(None, None) is None
    assert function(None, ctypes.byref(OrtApiBase())) is None
