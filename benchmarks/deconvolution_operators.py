"""`DeconvWhitening` of one layer's input: the op library, the function body in ONNX Runtime, and PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from competitors import AGREEMENT, Form, onnxruntime_form, torch_form
from deconvolution_rows import ALONE, COMPILE, EAGER, FUNCTION, LIBRARY, OPERATOR, Case, Part
from interleave import Contender
from whitening_layers import Whitening, operator, reference

COMPETITORS = (FUNCTION, EAGER, COMPILE)

TOLERANCE = 10 * AGREEMENT
"""The largest difference, in units of the rms, which a matrix near the identity has far below its diagonal: of 576
features the diagonal is 24 times the rms. Rounding errors grow with each Newton-Schulz step."""


def operator_case(whitening: Whitening, competitors: Sequence[str]) -> Case:
    """Put a case together.

    Args:
        whitening: What is computed.
        competitors: Those of `COMPETITORS` that shall take part beside the library.
    """
    expected = reference(whitening)
    feeds = {"X": whitening.input()}

    def onnxruntime(name: str, native: bool) -> list[Form]:
        return [onnxruntime_form(name, operator(whitening, functions=not native), feeds, native=native)]

    known = {
        LIBRARY: lambda: onnxruntime("op library", True),
        FUNCTION: lambda: onnxruntime("function in the file", False),
        EAGER: lambda: torch_forms(whitening, compiled=False),
        COMPILE: lambda: torch_forms(whitening, compiled=True),
    }
    contenders = tuple(
        Contender(name, forms, expected, TOLERANCE)
        for name, forms in known.items()
        if name == LIBRARY or name in competitors
    )
    names = {name: name for name in (*known, ALONE)}
    part = Part(whitening.block, {"covariance and roots": whitening.macs}, names)
    return Case(OPERATOR, whitening.layer.name, contenders, (part,))


def torch_forms(whitening: Whitening, *, compiled: bool) -> list[Form]:
    """PyTorch's forms."""
    import torch
    from whitening_forms import whitening_modules

    def load(module: Any) -> Any:
        return torch.compile(module.eval(), dynamic=False) if compiled else module.eval()

    return [
        torch_form(
            name, lambda threads, module=module: load(module), lambda: torch.from_numpy(whitening.input().copy())
        )
        for name, module in whitening_modules(whitening)
    ]
