"""The program as a user meets it: what it prints, what it exits with, and what it leaves on the disk."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from fake_gpu import FakeRuntime, install
from networks import Plain, Small
from torch import nn
from typer.testing import CliRunner, Result

import edgeconv
from edgeconv.cli import app
from edgeconv.models.registry import create

SHAPE = (1, 28, 28)


def edgeconv_program(
    *arguments: str | Path, cwd: Path, code: int = 0, environment: dict[str, str] | None = None
) -> Result:
    """Run the program in this process; check its exit code and that no exception gets out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "100", **(environment or {})})
    assert result.exit_code == code, f"exit code {result.exit_code}\n{result.stdout}\n{result.stderr}"
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_version(tmp_path: Path) -> None:
    assert edgeconv_program("--version", cwd=tmp_path).stdout == f"edgeconv {metadata.version('edgeconv')}\n"
    assert "Take PyTorch CNNs" in edgeconv_program("--help", cwd=tmp_path).stdout


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small kervolutional LeNet-5, untrained, with four samples."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "lenet.pt"
    config = {"kernel": "gaussian", "gamma": 0.05}
    edgeconv.save_checkpoint(
        path,
        create("lenet5", **config),
        architecture="lenet5",
        config=config,
        input_shape=SHAPE,
        normalization={"mean": [0.1307], "std": [0.3081]},
        class_names=[str(digit) for digit in range(10)],
        samples={
            "images": torch.randint(0, 256, (4, *SHAPE), dtype=torch.uint8),
            "labels": torch.arange(4),
        },
    )
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    """The checkpoint, exported by the program with its defaults."""
    edgeconv_program("export", checkpoint, cwd=checkpoint.parent)
    return checkpoint.with_suffix(".onnx")


def test_export_says_what_it_wrote_and_what_comes_next(checkpoint: Path, tmp_path: Path) -> None:
    done = edgeconv_program("export", checkpoint, "-o", "net.onnx", cwd=tmp_path)
    for text in ("ORT + op library", "ONNX reference", "real", "100.0%", "parity holds"):
        assert text in done.stdout, text
    for command in ("edgeconv inspect net.onnx", "edgeconv bench net.onnx", "edgeconv verify net.onnx --against"):
        assert command in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert metadata["edgeconv.architecture"] == "lenet5"
    assert json.loads(metadata["edgeconv.class_names"]) == [str(digit) for digit in range(10)]
    assert json.loads(metadata["edgeconv.normalization"]) == {"mean": [0.1307], "std": [0.3081]}
    assert json.loads(metadata["edgeconv.input_shape"]) == [1, 1, 28, 28]
    assert len(metadata["edgeconv.source_sha256"]) == 64


def test_the_commands_that_it_prints_run(exported: Path, checkpoint: Path, tmp_path: Path) -> None:
    edgeconv_program("verify", exported, "--against", checkpoint, cwd=tmp_path)
    inspected = edgeconv_program("inspect", exported, cwd=tmp_path)
    assert "GaussianKervolution" in inspected.stdout
    quick = ("--duration", "0.1", "--warmup", "0.1")
    measured = edgeconv_program("bench", exported, "--compare", "-o", "bench.json", *quick, cwd=tmp_path)
    assert "p50" in measured.stdout
    assert json.loads((tmp_path / "bench.json").read_text())["schema_version"] >= 1


def test_precision_is_set_for_every_layer_that_takes_it(checkpoint: Path, tmp_path: Path) -> None:
    done = edgeconv_program("export", checkpoint, "-o", "net.onnx", "--precision", "bf16x3", cwd=tmp_path)
    assert "3 in bf16x3" in done.stdout
    assert "3 in bf16x3" in edgeconv_program("inspect", "net.onnx", cwd=tmp_path).stdout
    verified = edgeconv_program("verify", "net.onnx", "--against", checkpoint, "--json", cwd=tmp_path)
    assert json.loads(verified.stdout)["kervolution_precisions"] == {"bf16x3": 3}
    plain = edgeconv_program("export", checkpoint, "-o", "n.onnx", "--precision", "float32", "--json", cwd=tmp_path)
    assert json.loads(plain.stdout)["parity"]["kervolution_precisions"] == {"float32": 3}
    unchecked = edgeconv_program("export", checkpoint, "-o", "n.onnx", "--no-verify", cwd=tmp_path)
    assert "3 in float32" in unchecked.stdout


def test_every_table_comes_as_json(exported: Path, checkpoint: Path, tmp_path: Path) -> None:
    quick = ("--duration", "0.05", "--warmup", "0", "--no-memory")
    for arguments in (
        ("export", checkpoint, "-o", tmp_path / "net.onnx", "--json"),
        ("verify", exported, "--against", checkpoint, "--json"),
        ("inspect", exported, "--json"),
        ("bench", exported, "--json", *quick),
        ("models", "--json"),
    ):
        assert json.loads(edgeconv_program(*arguments, cwd=tmp_path).stdout), arguments[0]


def test_real_inputs_from_a_file(checkpoint: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    done = edgeconv_program("export", checkpoint, "-o", "n.onnx", "--inputs", "images.npz", "--json", cwd=tmp_path)
    comparisons = json.loads(done.stdout)["parity"]["comparisons"]
    assert {c["batch"] for c in comparisons if c["inputs"] == "real"} == {4, 5}


def test_a_bare_state_dict_needs_its_architecture(tmp_path: Path) -> None:
    torch.save(create("lenet5", kernel="sigmoid").state_dict(), tmp_path / "weights.pth")
    refused = edgeconv_program("export", "weights.pth", cwd=tmp_path, code=1)
    assert "--arch" in refused.stderr
    wrong = edgeconv_program("export", "weights.pth", "--arch", "resnet20", cwd=tmp_path, code=1)
    assert "does not fit resnet20" in wrong.stderr
    unknown = edgeconv_program("export", "weights.pth", "--arch", "lenet6", cwd=tmp_path, code=1)
    assert "lenet5" in unknown.stderr
    edgeconv_program("export", "weights.pth", "--arch", "lenet5", "--config", "kernel=sigmoid", cwd=tmp_path)


def test_an_exported_program(tmp_path: Path) -> None:
    program = torch.export.export(
        Small("manhattan").eval(), (torch.randn(2, 3, 8, 7),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program, tmp_path / "net.pt2")
    edgeconv_program("export", "net.pt2", cwd=tmp_path)
    edgeconv_program("verify", "net.onnx", "--against", "net.pt2", cwd=tmp_path)


def test_a_pickled_module_only_if_trusted(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), tmp_path / "module.pt")
    refused = edgeconv_program("export", "module.pt", "--shapes", "1x1x8x8", cwd=tmp_path, code=1)
    assert "--trust-pickle" in refused.stderr
    no_shape = edgeconv_program("export", "module.pt", "--trust-pickle", cwd=tmp_path, code=1)
    assert "--shapes" in no_shape.stderr
    edgeconv_program("export", "module.pt", "--trust-pickle", "--shapes", "Nx1xH=8xW=9", cwd=tmp_path)
    shape = onnx.load(tmp_path / "module.onnx").graph.input[0].type.tensor_type.shape
    assert [dim.dim_param or dim.dim_value for dim in shape.dim] == ["N", 1, "H", "W"]


class Bomb:
    """Unpickling it makes a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


def test_a_pickle_bomb_does_not_go_off(tmp_path: Path) -> None:
    torch.save({"format": "edgeconv.checkpoint", "state_dict": Bomb()}, tmp_path / "bomb.pt")
    done = edgeconv_program("export", "bomb.pt", cwd=tmp_path, code=1)
    assert "would run code" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.pt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"hello", "not a PyTorch file"), (b"PK\x03\x04 cut", "truncated or damaged")],
    ids=["empty", "foreign", "cut"],
)
def test_a_file_that_is_no_checkpoint(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(content)
    assert message in edgeconv_program("export", "bad.pt", cwd=tmp_path, code=1).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pt"]


def test_a_truncated_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    whole = checkpoint.read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) * 2 // 3])
    assert "truncated" in edgeconv_program("export", "cut.pt", cwd=tmp_path, code=1).stderr


def test_options_that_do_not_fit(checkpoint: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (("--shapes", "1x3x28x28"), "1"),
        (("--shapes", "1x1x28"), "1x1x28"),
        (("--shapes", "1x1xax?"), "is not a shape"),
        (("--shapes", "other:1x1x28x28"), "no input 'other'"),
        (("--batch", "0"), "--batch"),
        (("--batch", "4"), "Add --static"),
        (("--opset", "12"), "--opset 18"),
        (("--config", "kernel"), "KEY=VALUE"),
        (("--precision", "bf16"), "--precision bf16x3"),
        (("--precision", "bf16x3", "--inline"), "Drop --inline"),
        (("--output", "missing/net.onnx"), "cannot write"),
        (("--output", "."), "directory"),
        (("--inputs", "missing.npz"), "missing.npz"),
    ):
        output = () if "--output" in arguments else ("--output", "net.onnx")
        done = edgeconv_program("export", checkpoint, *arguments, *output, cwd=tmp_path, code=1)
        assert message in done.stderr, (arguments, done.stderr)
        assert list(tmp_path.iterdir()) == [], arguments
    edgeconv_program("export", checkpoint, "--inline", "--no-functions", cwd=tmp_path, code=2)


def test_a_full_disk(checkpoint: Path, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        done = edgeconv_program("export", checkpoint, "-o", "net.onnx", "--no-verify", cwd=tmp_path, code=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot write" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_device_is_not_replaced_by_a_file(checkpoint: Path, tmp_path: Path) -> None:
    done = edgeconv_program("export", checkpoint, "-o", os.devnull, "--no-verify", cwd=tmp_path, code=1)
    assert "not a regular file" in done.stderr


def test_parity_that_fails_exits_with_1_and_keeps_nothing(checkpoint: Path, tmp_path: Path) -> None:
    strict = ("--atol", "0", "--rtol", "0")
    done = edgeconv_program("export", checkpoint, "-o", "net.onnx", *strict, cwd=tmp_path, code=1)
    assert "FAIL" in done.stdout
    assert "first layer concerned" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_verify_tells_two_models_apart(exported: Path, checkpoint: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    edgeconv.save_checkpoint(
        tmp_path / "other.pt",
        create("lenet5", kernel="gaussian", gamma=0.05),
        architecture="lenet5",
        config={"kernel": "gaussian", "gamma": 0.05},
        input_shape=SHAPE,
    )
    done = edgeconv_program("verify", exported, "--against", "other.pt", cwd=tmp_path, code=1)
    assert "FAIL" in done.stdout
    (tmp_path / "cut.onnx").write_bytes(exported.read_bytes()[:5000])
    assert "damaged" in edgeconv_program("verify", "cut.onnx", "--against", checkpoint, cwd=tmp_path, code=1).stderr
    edgeconv.to_onnx(Plain(), torch.randn(1, 4, 6, 7), tmp_path / "plain.onnx")
    edgeconv_program("verify", "plain.onnx", "--against", checkpoint, cwd=tmp_path, code=1)


def test_an_op_library_that_cannot_be_loaded(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.so").write_bytes(b"not a library")
    done = edgeconv_program(
        "bench", exported, cwd=tmp_path, code=1, environment={"EDGECONV_OP_LIBRARY": str(tmp_path / "broken.so")}
    )
    assert "broken.so" in done.stderr
    assert "EDGECONV_OP_LIBRARY" in done.stderr


QUICK_CUDA = ("--provider", "cuda", "--no-op-library", "--no-memory", "--duration", "0.05", "--warmup", "0.05")


def test_without_a_gpu_the_program_says_what_is_missing(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, FakeRuntime(error=100))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    done = edgeconv_program("bench", exported, *QUICK_CUDA, cwd=tmp_path, code=3)
    assert "not in the installed ONNX Runtime" in done.stderr
    assert "edgeconv[gpu]" in done.stderr
    assert "no CUDA-capable device is detected" in done.stderr
    assert "--gpus all" in done.stderr
    assert done.stdout == ""


def test_bench_on_a_gpu(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = install(monkeypatch)  # one that is played on the CPU
    gpu.cpu_operators = ("Exp",)
    refused = edgeconv_program("bench", exported, *QUICK_CUDA, cwd=tmp_path, code=1)
    assert "do not run on CUDA" in refused.stderr
    assert "Exp '" in refused.stderr
    options = ("--allow-cpu-fallback", "--cuda-graph", "--copies", "--tf32", "--device", "0")
    done = edgeconv_program("bench", exported, *QUICK_CUDA, *options, cwd=tmp_path)
    assert "Time on the device in ms" in done.stdout
    assert "run on the CPU" in " ".join(done.stdout.split())
    report = json.loads(edgeconv_program("bench", exported, *QUICK_CUDA, *options, "--json", cwd=tmp_path).stdout)
    settings = report["settings"]
    assert all(settings[name] is True for name in ("cuda_graph", "copies", "tf32", "allow_cpu_fallback"))
    assert report["variants"][0]["placement"]["counts"]["CPU"] >= 1
    missing = edgeconv_program("bench", exported, *QUICK_CUDA, "--device", "3", cwd=tmp_path, code=1)
    assert "there is no GPU 3" in missing.stderr


def test_options_of_gpus_on_the_cpu(exported: Path, tmp_path: Path) -> None:
    done = edgeconv_program("bench", exported, "--cuda-graph", cwd=tmp_path, code=1)
    assert "--cuda-graph is for provider cuda or tensorrt or tensorrt-rtx" in done.stderr


NEWER_LIBRARY = """
struct Base { void *(*get_api)(unsigned); const char *(*version)(void); };
typedef void *(*CreateStatus)(int, const char *);  /* the first function of every version of the API */
void *RegisterCustomOps(void *options, const struct Base *base) {
  if (base->get_api(9999)) return 0;
  return (*(CreateStatus *)base->get_api(1))(1, "built for API 9999");
}
"""


def test_an_op_library_built_for_an_api_that_the_runtime_does_not_know(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "newer.c").write_text(NEWER_LIBRARY)
    library = tmp_path / "newer.so"
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "newer.c"], check=True)
    chosen = {"EDGECONV_OP_LIBRARY": str(library)}
    done = edgeconv_program("bench", exported, cwd=tmp_path, code=1, environment=chosen)
    assert "built for API 9999" in done.stderr
    assert "EDGECONV_OP_LIBRARY" in done.stderr
    # The functions in the file run without it.
    edgeconv_program("bench", exported, "--no-op-library", "--duration", "0.05", cwd=tmp_path, environment=chosen)


def test_an_interrupt_leaves_no_half_written_file(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "edgeconv"
    examples = Path(__file__).parent.parent / "examples"
    real = ("--inputs", examples / "mnist_test_200.npz")  # so that the check takes seconds
    process = subprocess.Popen(
        [program, "export", examples / "resnet_kerv.pt", "-o", tmp_path / "net.onnx", *real],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite that runs in the background inherits an ignored SIGINT, and so would the program.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".net.onnx.*.tmp")):  # from here on the export writes and checks
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, (output, errors)
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_running_a_model(exported: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8))
    shown = edgeconv_program("run", exported, "--input", "images.npy", "--output", "out.npz", cwd=tmp_path)
    assert "3x10" in shown.stdout
    done = edgeconv_program("run", exported, "--input", "images.npy", "--json", cwd=tmp_path)
    (output,) = json.loads(done.stdout)["outputs"]
    with np.load(tmp_path / "out.npz") as written:
        values = written[output["name"]]
    assert [item[0][0] for item in output["top"]] == values.argmax(1).tolist()
    done = edgeconv_program("run", exported, "--trust-engine", cwd=tmp_path, code=1)
    assert "--trust-engine is for provider tensorrt or tensorrt-rtx" in done.stderr


def test_weights_in_the_checkpoints_place(tmp_path: Path) -> None:
    torch.manual_seed(0)
    safetensors.torch.save_file(create("lenet5").state_dict(), tmp_path / "weights.safetensors")
    options = ("--arch", "lenet5", "--weights", "weights.safetensors", "--json")
    done = edgeconv_program("export", *options, cwd=tmp_path)
    assert json.loads(done.stdout)["parity"]["passed"]
    assert (tmp_path / "weights.onnx").is_file()
    for arguments in (("weights.safetensors", *options), ("--arch", "lenet5")):
        done = edgeconv_program("export", *arguments, cwd=tmp_path, code=2)
        assert "one of the two" in done.stderr
