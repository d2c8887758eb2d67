"""What each layer costs in 8 bits, what leaving it in float buys, and the smallest set to leave for a target."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeconv.quantize.compare import sqnr
from edgeconv.quantize.parameters import Parameters
from edgeconv.quantize.pipeline import Progress, Result
from edgeconv.quantize.placement import Placement, place
from edgeconv.quantize.quantized_graph import write_graph
from edgeconv.quantize.running import ModelRunner

Array = NDArray[Any]

IMAGES = 16
TARGET_DB = 22.0


@dataclass(frozen=True)
class LayerSensitivity:
    """Signal-to-quantisation-noise ratios of the network's output, in dB.

    Attributes:
        layer: Its node.
        without: With all layers in 8 bits but this one.
        alone: With this layer alone in 8 bits.
        gain: What leaving it in float buys: `without` less that of the whole network in 8 bits.
    """

    layer: str
    without: float
    alone: float
    gain: float


@dataclass(frozen=True)
class Proposal:
    """Layers to leave in float for a target.

    Attributes:
        target_db: What is wanted.
        reached_db: What leaving them gives.
        layers: The fewest of the ranking, from its top, that reach the target; all of it if none do.
        option: As an option of the command.
    """

    target_db: float
    reached_db: float
    layers: tuple[str, ...]
    option: str

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.reached_db >= self.target_db


@dataclass(frozen=True)
class SensitivityReport:
    """The layers, most gain first, and the proposal.

    Attributes:
        quantized_db: With every layer in 8 bits.
        images: How many it was measured on.
        layers: Each layer.
        proposal: What to leave in float.
    """

    quantized_db: float
    images: int
    layers: tuple[LayerSensitivity, ...]
    proposal: Proposal


def measure_sensitivity(
    result: Result, images: Array, *, batch: int, target_db: float = TARGET_DB, tell: Progress
) -> SensitivityReport:
    """Measure every layer with weights.

    Args:
        result: A quantised network.
        images: To measure on, (N, C, H, W).
        batch: Images at a time.
        target_db: Signal-to-noise ratio that the proposal is for.
        tell: Called with what is done and how much of it.
    """
    network = _Network(result, images, batch)
    names = list(result.placement.layers)
    whole = network.measure(())
    found = []
    for index, name in enumerate(names):
        tell(f"sensitivity of {name}", index / len(names))
        without = network.measure((name,))
        alone = network.measure([other for other in names if other != name], operators=False)
        found.append(LayerSensitivity(name, without, alone, without - whole))
    ranking = sorted(found, key=lambda layer: -layer.gain)
    proposal = _propose(network, [layer.layer for layer in ranking], target_db, whole, tell)
    return SensitivityReport(whole, len(images), tuple(ranking), proposal)


class _Network:
    def __init__(self, result: Result, images: Array, batch: int) -> None:
        self.result, self.images, self.batch = result, images, batch
        self.left = [name for name, reason in result.placement.left.items() if reason == "excluded"]
        self.expected = self._run(result.prepared.model)
        self.known: dict[tuple[str, ...], float] = {}

    def measure(self, in_float: Sequence[str], *, operators: bool = True) -> float:
        """Return the ratio with these layers in float, and the operators without weights too if asked for."""
        key = (*in_float, str(operators))
        if key not in self.known:
            self.known[key] = self._measure(in_float, operators)
        return self.known[key]

    def _measure(self, in_float: Sequence[str], operators: bool) -> float:
        result = self.result
        kept_out = [*self.left, *in_float, *([] if operators else result.placement.operators)]
        placement = place(result.prepared, result.target, kept_out, exact=True)
        if not operators:
            _keep_layers_only(placement)
        grids = result.parameters.activations
        placement.bounds = {name: bounds for name, bounds in placement.bounds.items() if name in grids}
        layers = {name: numbers for name, numbers in result.parameters.layers.items() if name in placement.layers}
        graph = write_graph(result.prepared, placement, Parameters(grids, layers), result.target)
        actual = self._run(graph.model)
        return sqnr(float(np.sum(self.expected**2)), float(np.sum((actual - self.expected) ** 2)))

    def _run(self, model: Any) -> Array:
        runner = ModelRunner(model, self.batch)
        parts = [
            next(iter(runner.run(self.images[start : start + runner.batch]).values()))
            for start in range(0, len(self.images), runner.batch)
        ]
        return np.concatenate(parts).astype(np.float64)


def _keep_layers_only(placement: Placement) -> None:
    """Quantise no tensor but those that the layers read or give."""
    wanted = {name for layer in placement.layers.values() for name in (layer.x, layer.output)}
    placement.bounds = {name: bounds for name, bounds in placement.bounds.items() if name in wanted}
    placement.operators = []


def _propose(network: _Network, ranking: list[str], target: float, whole: float, tell: Progress) -> Proposal:
    """Search the number of layers from the top of the ranking by halving, and verify each by a run."""
    if whole >= target or not ranking:
        return Proposal(target, whole, (), "")
    low, high = 0, len(ranking)  # `low` is known not to be enough
    if network.measure(ranking) < target:
        low = high - 1
    while high - low > 1:
        tell("searching the smallest set", 1 - (high - low) / len(ranking))
        middle = (low + high) // 2
        low, high = (low, middle) if network.measure(ranking[:middle]) >= target else (middle, high)
    chosen = tuple(ranking[:high])
    option = f"--exclude '^({'|'.join(re.escape(name) for name in chosen)})$'"
    return Proposal(target, network.measure(chosen), chosen, option)
