"""The wheel: what is in it, and that it works in an environment with nothing but the base dependencies."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import onnx
import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, code: int = 0) -> str:
    """Run a command, check its exit code, return what it printed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as a user's pip would build it, where there is no CUDA: its kernels take minutes."""
    directory = tmp_path_factory.mktemp("wheel")
    build = directory / "build"
    settings = (f"--config-settings=build-dir={build}", "--config-settings=cmake.define.EDGECONV_CUDA=OFF")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", directory, *settings, ROOT)
    (path,) = directory.glob("*.whl")
    return path


def test_contents(wheel: Path) -> None:
    assert wheel.name.startswith("edgeconv-")
    assert "-py3-none-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert all(top.startswith("edgeconv") for top in tops), tops
    wanted = {"cli.py", "models/resnet.py", "ops/kervolution.py", "lib/libedgeconv_ort.so", "py.typed", "__init__.py"}
    assert wanted <= {name.removeprefix("edgeconv/") for name in names}
    assert not [name for name in names if "test" in name or name.endswith((".cc", ".h", ".pt"))]


def test_the_base_installation(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    program = python.parent / "edgeconv"
    run(python, "-m", "pip", "install", "--quiet", wheel)
    installed = run(python, "-m", "pip", "list").lower()
    assert "torch" not in installed
    assert "onnxruntime" not in installed
    assert run(python, "-c", "import edgeconv; print(edgeconv.op_library())").strip().endswith("libedgeconv_ort.so")
    graph = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 18]> g (float[1,2] x) => (float[1,2] y) { y = Relu (x) }'
    )
    onnx.save(graph, tmp_path / "relu.onnx")
    assert "Relu" in run(program, "inspect", tmp_path / "relu.onnx")
    missing = run(program, "export", tmp_path / "net.pt", code=3)
    assert "pip install 'edgeconv[export]'" in missing
    assert "Traceback" not in missing
    assert "pip install 'edgeconv[cpu]'" in run(program, "bench", tmp_path / "relu.onnx", code=3)
