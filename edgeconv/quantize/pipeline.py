"""The steps of quantisation in order, each on what the ones before it left."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.quantize.absorb import absorb_biases
from edgeconv.quantize.bias_correction import IMAGES, correct_layers
from edgeconv.quantize.channels import find_families
from edgeconv.quantize.equalize import Equalization, equalize, tensors_to_observe
from edgeconv.quantize.histogram import Histogram
from edgeconv.quantize.images import ImageSource
from edgeconv.quantize.layerwise import image_limit
from edgeconv.quantize.observe import Observation, observe
from edgeconv.quantize.parameters import Parameters, initial_parameters
from edgeconv.quantize.placement import Placement, place
from edgeconv.quantize.prepare import PreparedModel
from edgeconv.quantize.quantized_graph import QuantizedGraph, write_graph
from edgeconv.quantize.ranges import choose_grid
from edgeconv.quantize.settings import Settings
from edgeconv.quantize.targets import Target, target_named
from edgeconv.rewrite.qdq import Quantization

Array = NDArray[Any]
Progress = Callable[[str, float], None]


@dataclass
class Result:
    """A quantised network, and what led to it.

    Attributes:
        original: The float network as it was prepared.
        prepared: The float network after equalisation: the same function.
        target: The rules.
        placement: Where it is quantised.
        parameters: The numbers.
        graph: The QDQ model.
        observations: What its tensors did, by name.
        images: Calibration images that were seen.
        equalized: What equalisation did.
        not_learned: Layers that learned rounding could not improve on.
    """

    original: PreparedModel
    prepared: PreparedModel
    target: Target
    placement: Placement
    parameters: Parameters
    graph: QuantizedGraph
    observations: dict[str, Observation]
    images: int
    equalized: list[Equalization] = field(default_factory=list)
    not_learned: list[str] = field(default_factory=list)


def run_pipeline(
    original: PreparedModel, source: ImageSource, settings: Settings, *, state: Path | None, tell: Progress
) -> Result:
    """Quantise a prepared network.

    Args:
        original: The network.
        source: The calibration images.
        settings: What is asked for.
        state: Keeps what was observed, so that an interrupted run goes on.
        tell: Called with what is done and how much of it.

    Raises:
        InputError: Nothing can be quantised, or the images do not fit.
        MissingDependencyError: Learned rounding needs torch.
    """
    learn = _learned_rounding() if settings.rounding == "learned" else None
    target = target_named(settings.target)
    placement = place(original, target, settings.exclude, match_adds=target.everywhere)
    if not placement.layers and not placement.operators:
        why = next(iter(placement.left.values()), "it has no convolution, matrix product or the like")
        raise InputError(f"nothing in the model can be quantised: {why}.")
    prepared, equalized = original, list[Equalization]()
    if settings.equalize:
        prepared, equalized = _equalize(original, source, settings, _first(state), tell)
        placement = place(prepared, target, settings.exclude, match_adds=target.everywhere)
    producers = {name: node.name for node in prepared.model.graph.node for name in node.output}
    tensors = [*placement.bounds]
    seen, images = observe(
        prepared, tensors, source, batch=settings.batch, producers=producers, state=state, progress=tell
    )
    if (first := _first(state)) is not None:
        first.unlink(missing_ok=True)
    parameters = initial_parameters(prepared.model, placement, choose_grids(placement, seen, target, settings))

    def write(numbers: Parameters) -> QuantizedGraph:
        return write_graph(prepared, placement, numbers, target)

    result = Result(original, prepared, target, placement, parameters, write(parameters), seen, images, equalized)
    if settings.bias_correction or settings.rounding != "nearest":
        subset = sample_images(source, images, image_limit(prepared, IMAGES))
        network = (prepared, placement, parameters, write, subset)
        size, biases = settings.batch, settings.bias_correction
        correct_layers(*network, batch=size, biases=biases, rounding=settings.rounding != "nearest", progress=tell)
        if learn is not None:
            result.not_learned = learn(*network, batch=size, biases=biases, progress=tell)
        result.graph = write(parameters)
    return result


def _first(state: Path | None) -> Path | None:
    """Return where the first of two passes over the images keeps what it saw, until the second is done."""
    return None if state is None else state.with_suffix(f".equalize{state.suffix}")


def _equalize(
    original: PreparedModel, source: ImageSource, settings: Settings, state: Path | None, tell: Progress
) -> tuple[PreparedModel, list[Equalization]]:
    families = [family for family in find_families(original) if settings.relax_relu6 or np.isinf(family.limit)]
    if not families:
        return original, []
    producers = {name: node.name for node in original.model.graph.node for name in node.output}
    seen, _ = observe(
        original,
        tensors_to_observe(families),
        source,
        batch=settings.batch,
        producers=producers,
        state=state,
        keep=True,
        progress=tell,
    )
    return equalize(absorb_biases(original, families, seen), families, seen)


def choose_grids(
    placement: Placement, seen: dict[str, Observation], target: Target, settings: Settings
) -> dict[str, Quantization]:
    """Choose the grid of each tensor; those of a group get one from all of their values."""
    together: dict[str, Histogram] = {}
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    for name, group in placement.groups.items():
        together.setdefault(group, Histogram()).merge(seen[name].histogram)
        bounds = placement.bounds[name]
        low[group], high[group] = min(low.get(group, np.inf), bounds[0]), max(high.get(group, -np.inf), bounds[1])
    grids = {
        group: choose_grid(
            histogram,
            (low[group], high[group]),
            settings.method,
            target.dtype,
            symmetric=target.symmetric,
            percentile=settings.percentile,
        )
        for group, histogram in together.items()
    }
    return {name: grids[group] for name, group in placement.groups.items()}


def sample_images(source: ImageSource, seen: int, most: int) -> Array:
    """Return at most so many images, evenly spread over the source."""
    wanted = set(np.linspace(0, seen - 1, min(seen, most)).astype(int).tolist())
    return np.stack([array for index, (_, array) in enumerate(source.images()) if index in wanted])


def _learned_rounding() -> Callable[..., list[str]]:
    try:
        module = importlib.import_module("edgeconv.quantize.learned_rounding")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"learned rounding needs {error.name}, which is not installed.",
            "pip install 'edgeconv[export]', or take --round covariance, which needs no torch.",
        ) from error
    learn: Callable[..., list[str]] = module.learn_rounding
    return learn
