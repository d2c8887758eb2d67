"""The latency of the float and the quantised network, in one interleaved run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from edgeconv.errors import EdgeconvError
from edgeconv.quantize.report import Latency

DURATION = 1.0
WARMUP = 0.3


def measure_latency(
    before: str | os.PathLike[str], others: Mapping[str, onnx.ModelProto], name: str, shape: Sequence[int]
) -> tuple[Latency | None, str]:
    """Measure networks with ONNX Runtime on this machine's CPU.

    Args:
        before: The float file.
        others: "int8", and "float16" if that is wanted.
        name: Of the input.
        shape: Of the input.

    Returns:
        The figures, or None and why there are none.
    """
    from edgeconv.bench.api import benchmark

    with tempfile.TemporaryDirectory(prefix="edgeconv-quantize-") as directory:
        files = {kind: Path(directory, f"{kind}.onnx") for kind in others}
        for kind, model in others.items():
            files[kind].write_bytes(model.SerializeToString())
        try:
            report = benchmark(
                [before, *files.values()], compare=True, duration=DURATION, warmup=WARMUP, shapes={name: shape},
                memory=False, percentiles=(50,),
            )  # fmt: skip
        except EdgeconvError as error:
            return None, f"latency was not measured: {error.message}"
    times = {
        os.path.abspath(variant.model.path): variant.summary.median * 1e-6
        for variant in report.variants
        if variant.kind != "functions"
    }
    took = {kind: times[os.path.abspath(file)] for kind, file in files.items()}
    float_ms = times[os.path.abspath(before)]
    return Latency(float_ms, took["int8"], took["int8"] / float_ms, "ONNX Runtime on the CPU", took.get("float16")), ""
