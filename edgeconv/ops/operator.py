"""What every edgeconv operator says of itself, whatever its family. Needs nothing but the standard library."""

from __future__ import annotations

from typing import Protocol


class Operator(Protocol):
    """An operator's description; what one family has besides is in its own class."""

    @property
    def name(self) -> str:
        """The operator's name, the same in ONNX, in torch, in the native libraries and as a TensorRT plugin."""

    @property
    def formula(self) -> str:
        """What it computes, in one line."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs in order."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs in order."""

    @property
    def is_quantized(self) -> bool:
        """Whether its inputs and outputs are 8-bit integers with a scale and a zero-point."""
