"""The cross build: no instruction outside its file, no symbol too many, errors with a remedy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from builds import ROOT, cmake, output, run

from .conftest import BUILD

SCRIPT = ROOT / "scripts" / "aarch64_env.sh"
DOT_PRODUCT = r"\b[us]dot\b"
# More than Armv8.0 has, and in no file.
NEWER = "|".join(
    [
        r"\b([us]s?mmla|bf(dot|mmla|mlal\w*|cvtn?2?)|fml[as]l2?)\b",  # matrix multiplication, bfloat16
        r"\bf\w+\tv\d+\.[48]h, v\d+\.[48]h",  # arithmetic in float16
        r"\b[zp]\d+\.[bhsd]\b",  # SVE
        r"\b(ldadd|cas|swp)[alh]*\b",  # atomics of Armv8.1
    ]
)


def objects() -> list[Path]:
    return sorted(path for path in BUILD.rglob("*.o") if "CompilerId" not in str(path))


def disassembly(path: Path) -> str:
    return output("aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", path)


def test_no_instruction_is_outside_its_instruction_set(library: Path) -> None:
    names = {path.name for path in objects()}
    assert {"kervolution_baseline.cc.o", "kervolution_neon.cc.o", "ort_library.cc.o"} <= names
    assert not any("avx" in name or "amx" in name for name in names)
    for path in objects():
        code = disassembly(path)
        assert re.search(r"\tret\b", code), path.name
        found = re.search(NEWER, code)
        assert not found, f"{path.name}: {found.group()}"
        assert bool(re.search(DOT_PRODUCT, code)) == ("neon_dotprod" in path.name), path.name


def test_patterns_find_what_they_look_for(tools: None, tmp_path: Path) -> None:
    lines = ["smmla v0.4s, v1.16b, v2.16b", "bfdot v0.4s, v1.8h, v2.8h", "fadd v0.8h, v1.8h, v2.8h",
             "fadd z0.s, p0/m, z0.s, z1.s", "ldaddal w0, w1, [x2]", "fmlal v0.4s, v1.4h, v2.4h"]  # fmt: skip
    for line in [*lines, "udot v0.4s, v1.16b, v2.16b", "sdot v0.4s, v1.16b, v2.4b[1]"]:
        source = tmp_path / "one.s"
        source.write_text(f".arch armv8.6-a+sve+fp16fml\n{line}\n")
        output("aarch64-linux-gnu-as", source, "-o", tmp_path / "one.o")
        assert re.search(NEWER if line in lines else DOT_PRODUCT, disassembly(tmp_path / "one.o")), line
    assert not re.search(NEWER, "\tfcvtn\tv0.4h, v1.4s\n\tfcvtl\tv0.4s, v1.4h\n\tzip1\tv1.8h, v0.8h, v2.8h")


def test_instruction_set_files_share_no_code(library: Path) -> None:
    """A weak (inline, template) symbol could replace the one of another file: only local ones, and the entry."""
    files = [path for path in objects() if re.search("_(baseline|neon|neon_dotprod).cc", path.name)]
    assert len(files) >= 2
    for path in files:
        symbols = [line.split()[-2:] for line in output("nm", "--defined-only", path).splitlines()]
        assert [name for kind, name in symbols if kind not in "tbrd"] == [f"edgeconv_{path.name.split('.')[0]}"]


def test_library_exports_and_needs_little(library: Path) -> None:
    assert "aarch64" in output("aarch64-linux-gnu-objdump", "-f", library)
    exported = {line.split()[-1] for line in output("nm", "-D", "--defined-only", library).splitlines()}
    assert "RegisterCustomOps" in exported
    assert all(name == "RegisterCustomOps" or name.startswith("edgeconv_") for name in exported), exported
    needed = set(re.findall(r"NEEDED\s+(\S+)", output("aarch64-linux-gnu-objdump", "-p", library)))
    assert all(re.match(r"(libc|libm|libpthread|ld-linux.*)\.so", name) for name in needed), needed


def test_no_cross_compiler_is_one_sentence(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "make").symlink_to(shutil.which("make") or "make")
    result = run(
        cmake(), "-S", ROOT / "custom_ops", "-B", tmp_path / "build", "-DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake",
        "-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF", PATH=str(tools),
    )  # fmt: skip
    assert result.returncode != 0
    message = " ".join(result.stderr.split())
    assert "No C++ compiler for aarch64 was found: install one (Debian, Ubuntu: apt-get install" in message


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ([], "aarch64-linux-gnu-g++ is not installed. Install it (apt-get install g++-aarch64-linux-gnu"),
        (["aarch64-linux-gnu-g++"], "qemu-aarch64-static is not installed. Install it (apt-get install"),
        (["aarch64-linux-gnu-g++", "qemu-aarch64-static"], "python3 has no onnxruntime. Set PYTHON to"),
    ],
)
def test_missing_part_of_the_environment_is_one_sentence(tmp_path: Path, present: list[str], message: str) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tmp_path / "libc").touch()
    for name in present:
        (tools / name).write_text(f"#!/bin/sh\necho {tmp_path / 'libc'}\n")
        (tools / name).chmod(0o755)
    (tools / "sh").symlink_to(str(shutil.which("sh")))
    result = subprocess.run(
        [str(SCRIPT), str(tmp_path / "made")], env={"PATH": str(tools)}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not (tmp_path / "made").exists()


def test_unknown_release_leaves_nothing(tools: None, tmp_path: Path) -> None:
    environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "ONNXRUNTIME_VERSION": "1.2.3"}
    result = run(SCRIPT, tmp_path / "made", **{**os.environ, **environment})
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "pip could not download onnxruntime 1.2.3 for aarch64. Check the network and pip's index" in result.stderr
    assert list((tmp_path / "made").iterdir()) == []
