"""The stand-ins have no call that the real libraries lack; and the real CUDA bindings, where there is no GPU."""

from __future__ import annotations

import inspect
import platform
from typing import Any

import fake_tensorrt
import pytest
from fake_tensorrt import FakeCuda, FakeTensorRt

from edgeconv.errors import MissingDependencyError
from edgeconv.runtime.engine_device import cuda, find_gpu
from edgeconv.runtime.engine_log import Log, tidy


def public(kind: Any) -> set[str]:
    """Methods and properties that the class itself defines."""
    return {name for name, value in vars(kind).items() if not name.startswith("_") and not inspect.isclass(value)}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorRT-RTX's wheels are for x86-64")
def test_the_stand_in_for_tensorrt() -> None:
    """Against TensorRT-RTX, whose interface is TensorRT's."""
    import tensorrt_rtx_bindings as real

    fake = FakeTensorRt(FakeCuda())
    pairs = {
        "IBuilderConfig": fake_tensorrt._Config, "ICudaEngine": fake_tensorrt._Engine,
        "IExecutionContext": fake_tensorrt._Context, "INetworkDefinition": fake_tensorrt._Network,
        "IOptimizationProfile": fake_tensorrt._Profile,
        **{name: getattr(fake, name) for name in ("Builder", "OnnxParser", "Runtime", "ILogger")},
    }  # fmt: skip
    for name, stand_in in pairs.items():
        assert public(stand_in) <= set(dir(getattr(real, name))), name
    assert {"load_library", "get_creator"} <= set(dir(real.IPluginRegistry))
    assert {"code", "desc", "node_name", "node_operator"} <= set(dir(real.ParserError))
    assert {"nptype", "get_plugin_registry", "__version__"} <= set(dir(real))
    for name in ("NetworkDefinitionCreationFlag", "BuilderFlag", "MemoryPoolType", "TensorIOMode"):
        assert set(vars(getattr(fake, name))) <= set(dir(getattr(real, name))), name


def test_the_stand_in_for_the_cuda_bindings() -> None:
    real = cuda()
    for name in public(FakeCuda) - {"put"}:
        assert hasattr(real, name), name
        if name.startswith("cudaMemcpyKind") or name.endswith("CaptureMode"):
            assert set(vars(getattr(FakeCuda, name))) <= set(dir(getattr(real, name)))


def test_the_real_bindings_name_what_is_missing() -> None:
    error, count = cuda().cudaGetDeviceCount()
    if not int(error) and count:
        assert find_gpu().compute_capability
        return
    with pytest.raises(MissingDependencyError, match=r"no NVIDIA GPU can be used here: [A-Za-z]") as caught:
        find_gpu()
    assert "nvidia-smi must work" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "sense"),
    [
        (
            "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (Dimension mismatch for tensor image and "
            "profile 0. In validate at /_src/optimizer/api/network.cpp:4054)",
            "API Usage Error (Dimension mismatch for tensor image and profile 0)",
        ),
        (
            "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check_turing] Cannot compile "
            "operation 'head/Gemm' for Turing (SM75). In compileGraph at /_src/optimizer/codeGenerator.cpp:2012)",
            "Myelin (Cannot compile operation 'head/Gemm' for Turing (SM75))",
        ),
        (
            "Invalid Node - n35\nITensor::getDimensions: Error Code 4: Shape Error (broadcast dimensions must be "
            "conformable In op at /_src/optimizer/common/shape/shapeContext.cpp:2699)\n[checkMacros.cpp::catchCudaError"
            "::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/x.cpp:250 (cudaError 35: CUDA driver "
            "version is insufficient for CUDA runtime version))",
            "Invalid Node - n35 Shape Error (broadcast dimensions must be conformable)",
        ),
        (
            "Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported.",
            "Non-zero zero point is not supported.",
        ),
        (
            "Assertion failed: creator && getPluginCreatorVersion(creator) == CreatorVersion::kV3ONE: NonZero plugin "
            "creator version 1 was not found in plugin registry.",
            "NonZero plugin creator version 1 was not found in plugin registry.",
        ),
        ("plain text: with a colon", "plain text: with a colon"),
    ],
)
def test_messages_are_reduced_to_their_sense(text: str, sense: str) -> None:
    assert tidy(text) == sense


def test_the_first_error_that_explains() -> None:
    driver = "CUDA initialization failure (cudaError 35: CUDA driver version is insufficient for CUDA runtime version)"
    log = Log()
    log.take("WARNING", "a warning")
    assert log.cause() == ""
    log.take("ERROR", driver)
    assert "insufficient" in log.cause()
    log.take("INTERNAL_ERROR", "the reason")
    log.take("ERROR", "what follows from it")
    assert log.cause() == "the reason"
    log.forget()
    assert log.cause() == ""


def test_a_listener_that_fails_is_not_asked_again() -> None:
    """A C++ library calls the logger: nothing may be raised."""
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        raise BrokenPipeError

    log = Log(tell, level=3)
    log.take("VERBOSE", "one")
    log.take("ERROR", "two")
    assert told == ["verbose: one"]
    assert log.errors == ["two"]
