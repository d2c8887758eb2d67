"""What the build makes: no instruction outside its file, no symbol too many, no memory error, errors with a remedy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from builds import ROOT, address_sanitizer
from cuda_memory import simt_library

from edgeconv.runtime.op_library import FILE_NAME, op_library

from .conftest import cmake

AVX512 = r"%zmm|%xmm(1[6-9]|2\d|3[01])|%k[0-7]"
VNNI = r"vpdp(bu|ws)sds?\b"
TILES = r"\b(tdp\w+|tile\w+|(ld|st)tilecfg)\b"
# What an instruction set does not have; its own mark is the first thing that the one below it does not have.
LACKS = {
    "baseline": f"%ymm|{AVX512}|{VNNI}|{TILES}",
    "avx2": f"{AVX512}|{VNNI}|{TILES}",
    "avx512": f"{VNNI}|{TILES}",
    "avx512_vnni": TILES,
    "amx": "no instruction",
}
MARKS = {"baseline": "%xmm", "avx2": "%ymm", "avx512": "%zmm", "avx512_vnni": VNNI, "amx": TILES}
NOWHERE = ("-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF", "-DCMAKE_FIND_USE_SYSTEM_ENVIRONMENT_PATH=OFF")


def output(*command: str | Path) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout


def instruction_set(object_file: Path) -> str:
    return next((isa for isa in reversed(LACKS) if path_is_of(object_file, isa)), "baseline")


def path_is_of(object_file: Path, isa: str) -> bool:
    return object_file.name.split(".")[0].endswith(f"_{isa}")


def test_no_instruction_is_outside_its_instruction_set(native_build: Path) -> None:
    objects = sorted(native_build.rglob("*.o"))
    assert {instruction_set(path) for path in objects} >= {"baseline", "avx2", "avx512", "amx"}
    assert len(objects) >= 8
    for path in objects:
        isa = instruction_set(path)
        code = output("objdump", "-d", "--no-show-raw-insn", path)
        assert not (found := re.search(f".*({LACKS[isa]}).*", code)), f"{path.name}: {found and found.group()}"
        assert isa == "baseline" or re.search(MARKS[isa], code), path.name


def test_instruction_set_files_share_no_code(native_build: Path) -> None:
    """A weak (inline, template) symbol could replace the one of another file: only local ones, and the entry."""
    families = ("kervolution", "deconv_whitening", "qlinear_mobile")
    for path in sorted(path for name in families for path in native_build.rglob(f"*{name}_*.o")):
        if path_is_of(path, instruction_set(path)):
            symbols = [line.split()[-2:] for line in output("nm", "--defined-only", path).splitlines()]
            shared = [name for kind, name in symbols if kind not in "tbrd"]
            assert shared == [f"edgeconv_{path.name.split('.')[0]}"], path.name


def test_library_exports_and_needs_little(native_build: Path) -> None:
    library = native_build / FILE_NAME
    exported = {line.split()[-1] for line in output("nm", "-D", "--defined-only", library).splitlines()}
    assert "RegisterCustomOps" in exported
    assert all(name == "RegisterCustomOps" or name.startswith("edgeconv_") for name in exported), exported
    needed = set(re.findall(r"NEEDED\s+(\S+)", output("objdump", "-p", library)))
    assert all(re.match(r"(libc|libm|libpthread|ld-linux.*)\.so", name) for name in needed), needed


def test_kernels_under_address_sanitizer() -> None:
    environment = {**os.environ, **address_sanitizer(), "EDGECONV_OP_LIBRARY": simt_library("address")}
    kernels = ("kernels", "bf16x3", "qlinear_kernels", "qlinear_mobile_ort", "qlinear_kervolutions_ort", "qlinear_amx")
    tests = [str(Path(__file__).with_name(f"test_{name}.py")) for name in (*kernels, "deconv_kernels")]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-qx",
        "-p",
        "no:cacheprovider",
        *tests,
        "-k",
        "(loop or configuration) and not software",
    ]
    result = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert " passed" in result.stdout


def test_address_sanitizer_is_in_place() -> None:
    assert "__asan" in output("nm", "-D", simt_library("address"))


def test_wrong_headers_directory_is_one_sentence(tmp_path: Path) -> None:
    result = cmake("-S", str(ROOT / "custom_ops"), "-B", str(tmp_path / "build"), f"-DONNXRUNTIME_ROOT={tmp_path}")
    assert result.returncode != 0
    assert "set it to an unpacked onnxruntime release archive, or unset it." in " ".join(result.stderr.split())


def test_old_headers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "onnxruntime_c_api.h").write_text("#pragma once\n#define ORT_API_VERSION 18\n")
    result = cmake("-S", str(ROOT / "custom_ops"), "-B", str(tmp_path / "build"), f"-DONNXRUNTIME_ROOT={tmp_path}")
    assert result.returncode != 0
    message = " ".join(result.stderr.split())
    assert "have API version 18: set it to an ONNX Runtime release of version 1.21 or later." in message


def test_no_compiler_is_one_sentence(tmp_path: Path) -> None:
    result = cmake("-S", str(ROOT / "custom_ops"), "-B", str(tmp_path / "build"), *NOWHERE)
    assert result.returncode != 0
    message = " ".join(result.stderr.split())
    assert "No C++ compiler was found: install one (Debian, Ubuntu: apt-get install g++), or set CXX." in message


def test_without_nvcc_the_cpu_operators_are_built(tmp_path: Path) -> None:
    """CMake is told of a compiler and a make, and looks nowhere else."""
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "onnxruntime_c_api.h").write_text("#pragma once\n#define ORT_API_VERSION 21\n")
    make, compiler = shutil.which("make"), shutil.which("c++")
    result = cmake(
        "-S", str(ROOT / "custom_ops"), "-B", str(tmp_path / "build"), f"-DONNXRUNTIME_ROOT={tmp_path}",
        "-G", "Unix Makefiles", f"-DCMAKE_MAKE_PROGRAM={make}", f"-DCMAKE_CXX_COMPILER={compiler}", *NOWHERE,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "No nvcc was found: the CPU operators are built without it" in " ".join(result.stdout.split())
    assert (tmp_path / "build" / "Makefile").is_file()


def test_no_headers_and_no_network_is_one_sentence(tmp_path: Path) -> None:
    """With a PATH that holds neither curl nor wget nor apt-get."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "mkdir", "rm", "uname", "find", "head"):
        (tools / name).symlink_to(str(shutil.which(name)))
    script = ROOT / "scripts" / "ort_headers.sh"
    result = subprocess.run(
        [str(script), str(tmp_path / "headers")], env={"PATH": str(tools)}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "set ONNXRUNTIME_ROOT to it" in result.stderr
    assert list((tmp_path / "headers").iterdir()) == []


def test_installed_library_is_not_instrumented() -> None:
    assert "__asan" not in output("nm", "-D", op_library())
