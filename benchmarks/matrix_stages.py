"""What is done with one cell, each stage in a process of its own: `python matrix_stages.py STAGE FOLDER THREADS`.

The folder holds `cell.json` and what earlier stages left. A stage writes its figures to `result.json`, or what failed
to `error.txt`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Feeds = dict[str, Array]

EXPORT, NATIVE, FUNCTIONS, REFERENCE, OPENVINO, TENSORRT = (
    "export", "ORT + library", "ORT", "ONNX reference", "OpenVINO", "TensorRT-RTX",
)  # fmt: skip
OPENING = (NATIVE, FUNCTIONS, REFERENCE, OPENVINO, TENSORRT)
"""What opens the file that was exported; all but TensorRT-RTX run it, too, and are compared with PyTorch."""

COMPUTE_CAPABILITY = "8.9"
MODEL, INLINED, TRIALS = "model.onnx", "inlined.onnx", "trials.npz"


def export(folder: Path, threads: int) -> dict[str, Any]:
    """Build the network, export it in both forms, and keep what PyTorch computes on noise (batches of 1 and 3)."""
    import torch
    from matrix_prepare import COMPARED, build, outputs_of

    import edgeconv
    from edgeconv.inspection.api import inspect_model

    torch.set_num_threads(threads)
    cell = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    shape = cell["input_shape"]
    model, noise, how = build(cell["architecture"], cell["config"], shape, cell["first"])
    start = time.perf_counter()
    report = edgeconv.to_onnx(model, torch.zeros(2, *shape), folder / MODEL, verify=False)
    seconds = time.perf_counter() - start
    peak = _peak()
    _inline(folder)
    name, arrays = next(iter(report.inputs)), {}
    for batch in (COMPARED, 1):
        arrays[f"{batch}/in/{name}"] = noise[:batch].numpy()
        outputs = outputs_of(model, noise[:batch])
        arrays.update({f"{batch}/out/{index}": output.numpy() for index, output in enumerate(outputs)})
    np.savez(folder / TRIALS, **arrays)
    costs = inspect_model(folder / MODEL, shapes={name: (1, *shape)})
    return {
        "export_s": round(seconds, 1),
        "export_peak_mib": peak,
        "file_mib": round(report.bytes / 2**20, 2),
        "parameters": costs.parameters,
        "macs": costs.macs,
        "opset": report.opset,
        **how,
    }


def _inline(folder: Path) -> None:
    import onnx
    from onnx.inliner import inline_local_functions

    onnx.save(inline_local_functions(onnx.load(folder / MODEL)), folder / INLINED)


def run_onnxruntime(folder: Path, threads: int, *, op_library: bool) -> dict[str, Any]:
    """ONNX Runtime on the file with functions."""
    from edgeconv.runtime.ort import OrtSession

    session = OrtSession(folder / MODEL, threads=threads, op_library=op_library)
    if session.native != op_library:
        raise RuntimeError(session.missing_library or "the op library was registered unasked")
    return _compare(folder, lambda feeds: list(session.run(feeds).values()), (1, 3))


def run_reference(folder: Path, threads: int) -> dict[str, Any]:
    """The reference evaluator of onnx on the file with functions; one sample."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.load(folder / MODEL))
    with np.errstate(all="ignore"):
        return _compare(folder, lambda feeds: list(evaluator.run(None, feeds)), (1,))


def run_openvino(folder: Path, threads: int) -> dict[str, Any]:
    """OpenVINO on the inlined file, in float32."""
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(core.read_model(folder / INLINED), "CPU", options)
    return _compare(folder, lambda feeds: [np.asarray(value) for value in compiled(feeds).values()], (1, 3))


def build_tensorrt(folder: Path, threads: int) -> dict[str, Any]:
    """TensorRT-RTX's builder on the inlined file, for a batch of 1 to 3, for a GPU that need not be here."""
    import edgeconv

    feeds = _trials(folder, 3)[0]
    ends = {
        f"{end}_shapes": {name: (batch, *x.shape[1:]) for name, x in feeds.items()}
        for end, batch in (("min", 1), ("opt", 1), ("max", 3))
    }
    report = edgeconv.build_engine(
        folder / INLINED, folder / "model.engine", provider="tensorrt-rtx", force=True,
        compute_capabilities=[COMPUTE_CAPABILITY], **ends,  # type: ignore[arg-type]
    )  # fmt: skip
    return {"engine_mib": round(report.bytes / 2**20, 1)}


def _trials(folder: Path, batch: int) -> tuple[Feeds, list[Array]]:
    with np.load(folder / TRIALS) as arrays:
        feeds = {key.split("/in/")[1]: arrays[key] for key in arrays if key.startswith(f"{batch}/in/")}
        count = sum(key.startswith(f"{batch}/out/") for key in arrays)
        return feeds, [arrays[f"{batch}/out/{index}"] for index in range(count)]


def _compare(folder: Path, run: Callable[[Feeds], list[Array]], batches: tuple[int, ...]) -> dict[str, Any]:
    """Run every batch; raise where a value is outside the tolerance of an export's own check."""
    from edgeconv.export.report import Tolerance

    tolerance, worst, seconds = Tolerance(1e-5, 1e-3), 0.0, 0.0
    for batch in batches:
        feeds, expected = _trials(folder, batch)
        start = time.perf_counter()
        actual = run(feeds)
        seconds = time.perf_counter() - start
        if [want.shape for want in expected] != [got.shape for got in actual]:
            shapes = " / ".join(str([value.shape for value in values]) for values in (expected, actual))
            raise RuntimeError(f"batch {batch}: shapes differ: {shapes}")
        for want, got in zip(expected, actual, strict=True):
            errors = tolerance.errors(want, got)
            relative = errors.maximum / float(np.sqrt(np.mean(np.square(want, dtype=np.float64))))
            worst = max(worst, relative)
            if not errors.passed:
                raise RuntimeError(f"batch {batch}: differs from PyTorch by {relative:.1e} of the output's rms")
    return {"error": float(f"{worst:.2e}"), "run_s": round(seconds, 3)}


def _peak() -> float:
    """Most memory that this process has held, in MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


STAGES: Mapping[str, Callable[[Path, int], dict[str, Any]]] = {
    EXPORT: export,
    NATIVE: lambda folder, threads: run_onnxruntime(folder, threads, op_library=True),
    FUNCTIONS: lambda folder, threads: run_onnxruntime(folder, threads, op_library=False),
    REFERENCE: run_reference,
    OPENVINO: run_openvino,
    TENSORRT: build_tensorrt,
}


def main() -> None:
    """Run one stage."""
    stage, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    try:
        result = STAGES[stage](folder, threads)
    except Exception as error:
        message = getattr(error, "message", None) or str(error).strip() or type(error).__name__
        (folder / "error.txt").write_text(message, encoding="utf-8")
        sys.stderr.flush()
        os._exit(1)
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    os._exit(0)  # what a library does at its end is not the stage's matter


if __name__ == "__main__":
    main()
