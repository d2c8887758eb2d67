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
    """Of the float and the quantised file in one interleaved run.

    Attributes:
        float_ms: Median.
        int8_ms: Median.
        ratio: int8 / float; below 1 the quantised file is faster.
        runtime: What ran them.
    """

    float_ms: float
    int8_ms: float
    ratio: float
    runtime: str


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
    measured_on: str
    layers: tuple[LayerReport, ...]
    sensitivity: SensitivityReport | None
    latency: Latency | None
    warnings: tuple[str, ...]

    def verdict(self) -> str:
        """One sentence: what 8 bits cost in accuracy, and what they bring in size and latency."""
        agreement = self.agreement
        if agreement.accuracy is not None:
            lost = 100 * (agreement.accuracy[0] - agreement.accuracy[1])
            cost = (
                f"accuracy {agreement.accuracy[1]:.1%}, {abs(lost):.1f} points {'below' if lost > 0 else 'above'} float"
            )
        elif agreement.same_class is not None:
            cost = f"{agreement.same_class:.1%} of the images keep their class, at {agreement.sqnr_db:.1f} dB"
        else:
            cost = f"{agreement.sqnr_db:.1f} dB of signal to quantisation noise"
        gain = f"{self.bytes_before / max(self.bytes_after, 1):.1f} times smaller"
        if self.latency is None:
            return f"{cost}; {gain}"
        ratio = self.latency.ratio
        pays = "INT8 pays" if ratio < 1 else "INT8 does not pay"
        return f"{pays} in {self.latency.runtime} here: {ratio:.2f} of the float latency; {cost}; {gain}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; infinite ratios (no noise at all) are null."""
        found: dict[str, Any] = _plain({**asdict(self), "verdict": self.verdict()})
        return found

    def render(self, console: Console) -> None:
        """Print it as tables."""
        from edgeconv.quantize.render import render_report

        render_report(self, console)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
