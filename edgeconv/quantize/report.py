"""What quantisation did, what it cost, and whether it pays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from edgeconv.quantize.compare import Agreement
from edgeconv.quantize.sensitivity import SensitivityReport


@dataclass(frozen=True)
class LayerReport:
    """A layer in 8 bits.

    Attributes:
        layer: Its node.
        sqnr_db: Of what it gives, after its activation, in the network of quantised layers.
        weights: Least and greatest float weight.
        weight_steps: Least and greatest step of a channel.
        activations: Least and greatest value of what it gives on the calibration images.
        step: Of what it gives; None if that stays in float.
        covered: The range that the steps of what it gives span; None likewise.
    """

    layer: str
    sqnr_db: float
    weights: tuple[float, float]
    weight_steps: tuple[float, float]
    activations: tuple[float, float]
    step: float | None
    covered: tuple[float, float] | None


@dataclass(frozen=True)
class Latency:
    """Of the float and the quantised network in one interleaved run.

    Attributes:
        float_ms: Median.
        int8_ms: Median.
        ratio: int8 / float; below 1 the quantised network is faster.
        runtime: What ran them.
        half_ms: Median of the network in float16; None if it cannot be converted.
    """

    float_ms: float
    int8_ms: float
    ratio: float
    runtime: str
    half_ms: float | None = None


@dataclass(frozen=True)
class QuantizationReport:
    """The whole.

    Attributes:
        source: The float file.
        path: The quantised file.
        target: What it is for.
        settings: As they were used.
        calibration: The images' place, how many were used, and how many skipped.
        bytes_before: Size of the float file.
        bytes_after: Size of the quantised file.
        quantized: How many layers with weights, other operators, and tensors are in 8 bits.
        absorbed: How many activations the quantisers took over.
        equalized: How many families of channels were equalised.
        left: Nodes that stay in float, and why.
        agreement: With the float network.
        half: That of the same network in float16, on the same images; None if it cannot be converted.
        measured_on: Where the agreement's images are from.
        layers: Each layer in 8 bits, worst first.
        sensitivity: What each layer costs, if asked for.
        latency: If it was measured.
        warnings: What the user should know.
    """

    source: str
    path: str
    target: str
    settings: Mapping[str, Any]
    calibration: Mapping[str, Any]
    bytes_before: int
    bytes_after: int
    quantized: Mapping[str, int]
    absorbed: int
    equalized: int
    left: Mapping[str, str]
    agreement: Agreement
    half: Agreement | None
    measured_on: str
    layers: tuple[LayerReport, ...]
    sensitivity: SensitivityReport | None
    latency: Latency | None
    warnings: tuple[str, ...]

    def verdict(self) -> str:
        """One sentence: what 8 bits cost in accuracy, and what they bring in size and latency, next to float16."""
        cost = _cost(self.agreement)
        gain = f"{self.bytes_before / max(self.bytes_after, 1):.1f} times smaller"
        if self.latency is None:
            half = "" if self.half is None else f" (float16: {_cost(self.half)}; 2 times smaller)"
            return f"{cost}; {gain}{half}"
        took = self.latency
        pays = "INT8 pays" if took.int8_ms < min(took.float_ms, took.half_ms or took.float_ms) else "INT8 does not pay"
        half = ""
        if self.half is not None and took.half_ms is not None:
            half = f" (float16: {took.half_ms / took.float_ms:.2f}; {_cost(self.half)}; 2 times smaller)"
        return f"{pays} in {took.runtime} here: {took.ratio:.2f} of the float latency; {cost}; {gain}{half}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; infinite ratios (no noise at all) are null."""
        found: dict[str, Any] = _plain({**asdict(self), "verdict": self.verdict()})
        return found

    def render(self, console: Console) -> None:
        """Print it as tables."""
        from edgeconv.quantize.render import render_report

        render_report(self, console)


def _cost(agreement: Agreement) -> str:
    if agreement.accuracy is not None:
        lost = 100 * (agreement.accuracy[0] - agreement.accuracy[1])
        return f"accuracy {agreement.accuracy[1]:.1%}, {abs(lost):.1f} points {'below' if lost > 0 else 'above'} float"
    if agreement.same_class is not None:
        return f"{agreement.same_class:.1%} of the images keep their class, at {agreement.sqnr_db:.1f} dB"
    return f"{agreement.sqnr_db:.1f} dB of signal to quantisation noise"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
