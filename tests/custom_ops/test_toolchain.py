"""The CUDA and TensorRT toolchain: what the scripts fetch, what CMake makes of it, errors with a remedy."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from builds import ROOT, fetched

from .conftest import cmake

CUDA, TENSORRT = ROOT / "scripts" / "cuda_toolkit.sh", ROOT / "scripts" / "tensorrt_headers.sh"
Configure = Callable[..., tuple[int, str]]
NOWHERE = ("-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF", "-DCMAKE_FIND_USE_SYSTEM_ENVIRONMENT_PATH=OFF")
# Two libraries that share device code, through the project's own modules.
PROJECT = """
cmake_minimum_required(VERSION 3.22)
project(probe LANGUAGES CXX)
include("${CMAKE}/CudaToolkit.cmake")
include("${CMAKE}/TensorRtHeaders.cmake")
include("${CMAKE}/EdgeconvCuda.cmake")
edgeconv_cuda_sources(have_cuda scale_cuda.cu absent_cuda.cu)
foreach(name one two)
  add_library(${name} SHARED glue.cc)
  edgeconv_link_cuda(${name})
endforeach()
message(STATUS "backend: ${EDGECONV_CUDA_BACKEND}, TensorRT: ${EDGECONV_HAVE_TENSORRT}")
"""
KERNEL = """
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#ifdef EDGECONV_SIMT
extern "C" __attribute__((visibility("default"))) int launch() { return -1; }
#else
__global__ void scale(__half* x) { if (x != nullptr) x[threadIdx.x] = __hmul(x[threadIdx.x], __float2half(2.f)); }
extern "C" __attribute__((visibility("default"))) int launch() {
  scale<<<1, 32>>>(nullptr);
  return cudaGetLastError();
}
#endif
"""


def run(script: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(script), *map(str, arguments)], env={**os.environ, "PYTHON": sys.executable, **environment},
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip


@pytest.fixture(scope="module")
def toolkit() -> Path:
    """nvcc and CUDA's headers, fetched once."""
    return fetched("cuda_toolkit.sh", "cuda")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(PROJECT)
    (source / "scale_cuda.cu").write_text(KERNEL)
    (source / "glue.cc").touch()
    return source


@pytest.fixture
def configure(project: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Configure the project, with no CUDA_HOME and the like but those given."""

    def run_cmake(*options: str, **environment: str) -> tuple[int, str]:
        for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH", "CUDAHOSTCXX", "TENSORRT_ROOT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        result = cmake("-S", str(project), "-B", str(project / "build"), "-G", "Unix Makefiles",
                       f"-DCMAKE_MAKE_PROGRAM={shutil.which('make')}", f"-DCMAKE_CXX_COMPILER={shutil.which('c++')}",
                       f"-DCMAKE={ROOT / 'custom_ops' / 'cmake'}", *options)  # fmt: skip
        return result.returncode, " ".join((result.stdout + result.stderr).split())

    return run_cmake


def fake_nvcc(directory: Path, version: str) -> Path:
    """A program that answers as nvcc does, and compiles nothing."""
    (directory / "bin").mkdir(parents=True)
    for name in ("include/cuda_runtime.h", "lib64/libcudart_static.a"):
        (directory / name).parent.mkdir()
        (directory / name).touch()
    program = directory / "bin" / "nvcc"
    program.write_text(f"""#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release {version}, V{version}.1" ;;
  --list-gpu-arch) echo compute_80; echo compute_87; echo compute_90 ;;
  --dryrun) echo '#$ TOP={directory}' >&2 ;;
  *) echo "unsupported host compiler" >&2; exit 1 ;;
esac
""")
    program.chmod(0o755)
    return directory


def test_device_code_is_compiled_once_and_loads_without_a_driver(
    toolkit: Path, configure: Configure, project: Path
) -> None:
    status, said = configure(CUDA_HOME=str(toolkit))
    assert status == 0, said
    assert f"CUDA 13.0: {toolkit}/bin/nvcc, for sm_87, sm_90, sm_110, PTX 80" in said
    assert "backend: nvcc" in said
    built = cmake("--build", str(project / "build"), "--parallel", "2")
    assert built.returncode == 0, built.stdout + built.stderr
    assert built.stdout.count("Compiling scale_cuda.cu") == 1
    assert "ptxas" not in built.stdout + built.stderr
    report = (project / "build" / "cuda" / "scale_cuda.ptxas.txt").read_text()
    compiled = re.findall(r"entry function '(\w+)' for '(sm_\d+)'", report)
    assert sorted(architecture for _, architecture in compiled) == ["sm_110", "sm_87", "sm_90"]
    assert len(re.findall(r"0 bytes spill stores.*\n.*Used \d+ registers", report)) == 3
    for name in ("libone.so", "libtwo.so"):
        ctypes.CDLL(str(project / "build" / name)).launch()
    needed = subprocess.run(
        ["objdump", "-p", project / "build" / "libone.so"], capture_output=True, text=True, check=True
    )
    assert "cuda" not in " ".join(re.findall(r"NEEDED\s+(\S+)", needed.stdout))


def test_error_in_device_code_stops_the_build(toolkit: Path, configure: Configure, project: Path) -> None:
    (project / "scale_cuda.cu").write_text("__global__ void broken() { undeclared = 1; }\n")
    assert configure("-DEDGECONV_CUDA_ARCHITECTURES=90", CUDA_HOME=str(toolkit))[0] == 0
    built = cmake("--build", str(project / "build"))
    assert built.returncode != 0
    assert 'identifier "undeclared" is undefined' in built.stdout + built.stderr


def test_host_execution_needs_only_headers(toolkit: Path, configure: Configure, project: Path) -> None:
    status, said = configure("-DEDGECONV_SIMT=ON", *NOWHERE, CUDA_HOME=str(toolkit))
    assert (status, "backend: simt" in said) == (0, True), said
    assert cmake("--build", str(project / "build")).returncode == 0
    assert ctypes.CDLL(str(project / "build" / "libtwo.so")).launch() == -1


@pytest.mark.parametrize(
    ("version", "options", "message"),
    [
        ("11.4", (), "nvcc is of CUDA 11.4"),
        ("12.6", (), "compiles nothing (see"),
        ("", NOWHERE, "No nvcc was found"),
    ],
)
def test_without_a_compiler_that_works(
    configure: Configure, tmp_path: Path, version: str, options: tuple[str, ...], message: str
) -> None:
    environment = {"CUDA_HOME": str(fake_nvcc(tmp_path / "cuda", version))} if version else {}
    status, said = configure(*options, **environment)
    assert status == 0, said
    assert message in said
    assert ": the CPU operators are built without it. The CUDA kernels need CUDA 12.6 or later" in said
    status, said = configure("-DEDGECONV_CUDA=ON", *options, **environment)
    assert status != 0
    assert message in said
    assert "Install CUDA 12.6 or later, or get it with scripts/cuda_toolkit.sh" in said


def test_unknown_architecture_is_refused(configure: Configure, tmp_path: Path) -> None:
    status, said = configure(
        "-DEDGECONV_CUDA_ARCHITECTURES=90;110", CUDA_HOME=str(fake_nvcc(tmp_path / "cuda", "12.6"))
    )
    assert status != 0
    assert "knows no compute capability 110: set EDGECONV_CUDA_ARCHITECTURES to some of 80, 87, 90." in said


def test_off_looks_for_nothing(configure: Configure) -> None:
    status, said = configure("-DEDGECONV_CUDA=OFF")
    assert (status, "backend: , TensorRT: FALSE" in said, "nvcc" in said) == (0, True, False), said


@pytest.mark.parametrize(
    ("header", "option", "message"),
    [
        (None, "", "where there is no include/NvInferRuntime.h: install libnvinfer-headers-dev"),
        (
            "#define NV_TENSORRT_MAJOR 8\n#define NV_TENSORRT_MINOR 6 //!< minor\n",
            "ON",
            "are of TensorRT 8.6, and 10.3",
        ),
        ("#define NV_TENSORRT_MAJOR 8\n#define NV_TENSORRT_MINOR 6\n", "AUTO", "the TensorRT plugins are not built."),
        ("#define TRT_MAJOR_ENTERPRISE 10\n#define TRT_MINOR_ENTERPRISE 14\n", "ON", "(10.14)"),
    ],
)
def test_tensorrt_headers_are_checked(
    toolkit: Path, configure: Configure, tmp_path: Path, header: str | None, option: str, message: str
) -> None:
    (tmp_path / "include").mkdir()
    if header is not None:
        (tmp_path / "include" / "NvInferRuntime.h").touch()
        (tmp_path / "include" / "NvInferVersion.h").write_text(header)
    options = [f"-DEDGECONV_TENSORRT={option}"] if option else []
    status, said = configure("-DEDGECONV_SIMT=ON", *options, CUDA_HOME=str(toolkit), TENSORRT_ROOT=str(tmp_path))
    assert message in said
    assert (status == 0) == (option == "AUTO" or message == "(10.14)")


def test_tensorrt_without_cuda_is_refused(configure: Configure) -> None:
    status, said = configure("-DEDGECONV_TENSORRT=ON", "-DEDGECONV_CUDA=OFF")
    assert status != 0
    assert "they need the CUDA kernels. Set EDGECONV_CUDA=ON to see what is missing." in said


@pytest.mark.parametrize("script", [CUDA, TENSORRT])
def test_failing_script_says_one_sentence_and_leaves_nothing(script: Path, tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "index")}
    for environment, message in (
        (nowhere, "Check the network and pip's index"),
        ({"PYTHON": "/bin/false"}, "has no pip"),
    ):
        result = run(script, tmp_path / "made", **environment)
        assert result.returncode == 1
        assert (result.stdout, result.stderr.count("\n")) == ("", 1)
        assert message in result.stderr
        assert not list(tmp_path.glob("made*/*"))
    assert run(script, "one", "two", "three").returncode == 2


def test_toolkit_replaces_nothing_of_others(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    result = run(CUDA, tmp_path)
    assert result.returncode == 1
    assert "is not empty and was not made by this script" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_fetched_headers_are_kept(tmp_path: Path) -> None:
    """From a wheel made here, once; then the index may be empty."""
    files = {"NvInferVersion.h": "#define TRT_MAJOR_ENTERPRISE 10\n", "NvInferRuntime.h": "", "NvInferPlugin.h": ""}
    info = "kernel_lens-2.0.1.dist-info"
    with zipfile.ZipFile(tmp_path / "kernel_lens-2.0.1-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(f"kernel_lens/include/tensorrt/{name}", text)
        wheel.writestr(f"{info}/licenses/LICENSE", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: kernel-lens\nVersion: 2.0.1\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    for links in (tmp_path, tmp_path / "made"):
        result = run(TENSORRT, tmp_path / "made", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(links))
        assert result.returncode == 0, result.stderr
        assert Path(result.stdout.strip()) == tmp_path / "made" / "include"
    kept = sorted(path.name for path in (tmp_path / "made" / "include").iterdir())
    assert kept == ["NvInferRuntime.h", "NvInferVersion.h", "licenses", "wheel"]
