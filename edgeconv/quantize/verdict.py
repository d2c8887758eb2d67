"""The latency of the float and the quantised file, in one interleaved run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from edgeconv.errors import EdgeconvError
from edgeconv.quantize.report import Latency

DURATION = 1.0
WARMUP = 0.3


def measure_latency(
    before: str | os.PathLike[str], after: Path, name: str, shape: Sequence[int], *, int8_io: bool
) -> tuple[Latency | None, str]:
    """Measure both files with ONNX Runtime on this machine's CPU.

    Args:
        before: The float file.
        after: The quantised file.
        name: Of the input.
        shape: Of the input.
        int8_io: Whether the quantised file takes 8-bit inputs.

    Returns:
        The figures, or None and why there are none.
    """
    from edgeconv.bench.api import benchmark

    # The benchmark tells files apart by their names, and a temporary one's says nothing.
    linked = after.with_name(f"{after.name}.onnx")
    os.link(after, linked)
    try:
        report = benchmark(
            [before, linked],
            compare=True,
            duration=DURATION,
            warmup=WARMUP,
            shapes={name: shape},
            memory=False,
            percentiles=(50,),
        )
    except EdgeconvError as error:
        return None, f"latency was not measured: {error.message}"
    finally:
        with contextlib.suppress(OSError):
            linked.unlink()
    of = {os.path.abspath(variant.model.path): variant for variant in report.variants if variant.kind != "functions"}
    first, second = of[os.path.abspath(before)], of[os.path.abspath(linked)]
    times = (first.summary.median * 1e-6, second.summary.median * 1e-6)
    return Latency(*times, times[1] / times[0], "ONNX Runtime on the CPU"), ""
