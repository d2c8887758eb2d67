"""What values the tensors of the float network take on the calibration images. One pass, resumable."""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeconv.errors import InputError
from edgeconv.files import atomic_output
from edgeconv.quantize.histogram import Histogram
from edgeconv.quantize.images import ImageSource
from edgeconv.quantize.prepare import PreparedModel
from edgeconv.quantize.running import ModelRunner, output_groups, with_outputs

Array = NDArray[Any]
Progress = Callable[[str, float], None]

_SAVE_SECONDS = 10.0


@dataclass
class Observation:
    """Of one tensor.

    Attributes:
        histogram: Of all values.
        low: Least value of each channel (axis 1); empty for tensors without channels.
        high: Greatest value of each channel.
        total: Sum of each channel.
        squares: Sum of squares of each channel.
        count: Values a channel.
    """

    histogram: Histogram = field(default_factory=Histogram)
    low: Array = field(default_factory=lambda: np.zeros(0))
    high: Array = field(default_factory=lambda: np.zeros(0))
    total: Array = field(default_factory=lambda: np.zeros(0))
    squares: Array = field(default_factory=lambda: np.zeros(0))
    count: int = 0

    def add(self, values: Array) -> None:
        """Take in the values of a batch, (N, C, …)."""
        self.histogram.add(values)
        if values.ndim < 2:
            return
        axes = (0, *range(2, values.ndim))
        low, high = values.min(axes).astype(np.float64), values.max(axes).astype(np.float64)
        total = values.sum(axes, dtype=np.float64)
        squares = np.einsum("ncp,ncp->c", *[values.reshape(*values.shape[:2], -1)] * 2, dtype=np.float64)
        self.count += values.size // values.shape[1]
        if not self.low.size:
            self.low, self.high, self.total, self.squares = low, high, total, squares
            return
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.total, self.squares = self.total + total, self.squares + squares

    @property
    def mean(self) -> Array:
        """Of each channel."""
        return np.asarray(self.total / max(self.count, 1))

    @property
    def std(self) -> Array:
        """Standard deviation of each channel."""
        return np.asarray(np.sqrt(np.maximum(self.squares / max(self.count, 1) - self.mean**2, 0)))


def observe(
    prepared: PreparedModel,
    tensors: Sequence[str],
    source: ImageSource,
    *,
    batch: int,
    producers: dict[str, str],
    state: Path | None = None,
    keep: bool = False,
    progress: Progress | None = None,
) -> tuple[dict[str, Observation], int]:
    """Run the float network over the images.

    Args:
        prepared: The network.
        tensors: Whose values are wanted.
        source: The images.
        batch: Images at a time.
        producers: Tensor -> the node that makes it, for messages.
        state: A file that keeps what was seen so far, if that took long; an interrupted run goes on from it.
        keep: Leave that file when all is seen, for a run that is interrupted later; if not, it is removed.
        progress: Called with what is done and how much of it.

    Returns:
        An observation for each tensor, and how many images were seen.

    Raises:
        InputError: No image can be read, or a tensor takes a value that is not finite.
    """
    key = _key(prepared, tensors, source)
    seen = _Seen({name: Observation() for name in tensors}, 0, 0)
    if state is not None:
        seen = _load(state, key, tensors) or seen
    groups = output_groups(prepared, list(tensors), batch, int(np.prod([size or 1 for size in source.spec.shape])))
    runners = [ModelRunner(with_outputs(prepared.model, group, prepared.types), batch) for group in groups]
    tell: Progress = progress or (lambda _what, _done: None)
    started = saved = time.monotonic()
    for images in source.batches(runners[0].batch, seen.position):
        for runner in runners:
            values = runner.run(images)
            for name, array in values.items():
                if not np.isfinite(array).all():
                    raise InputError(
                        f"{producers.get(name, name)} gives NaN or infinite values on the calibration images.",
                        "Check the model and how the images are prepared (--mean, --std); a layer that overflows "
                        "cannot be quantised.",
                    )
                seen.tensors[name].add(array)
        seen.images += len(images)
        seen.position = source.position
        tell(f"observing activations, {seen.images} images", source.position / len(source))
        if state is not None and time.monotonic() - saved > _SAVE_SECONDS:
            _save(state, key, seen, source)
            saved = time.monotonic()
    if state is not None and not keep:
        state.unlink(missing_ok=True)
    elif state is not None and (state.exists() or time.monotonic() - started > _SAVE_SECONDS):
        _save(state, key, seen, source)
    source.skipped.update(seen.skipped)
    return seen.tensors, seen.images


@dataclass
class _Seen:
    tensors: dict[str, Observation]
    images: int
    position: int
    skipped: dict[str, str] = field(default_factory=dict)


def _key(prepared: PreparedModel, tensors: Sequence[str], source: ImageSource) -> str:
    digest = hashlib.sha256(prepared.model.SerializeToString(deterministic=True))
    digest.update("\0".join([*tensors, source.fingerprint()]).encode())
    return digest.hexdigest()


_CHANNELS = ("low", "high", "total", "squares")


def _save(path: Path, key: str, seen: _Seen, source: ImageSource) -> None:
    about = {
        "key": key,
        "images": seen.images,
        "position": seen.position,
        "skipped": {**seen.skipped, **source.skipped},
        "tensors": [[o.histogram.limit, o.histogram.low, o.histogram.high, o.count] for o in seen.tensors.values()],
    }
    arrays: dict[str, Array] = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    for index, observation in enumerate(seen.tensors.values()):
        arrays[f"counts{index}"] = observation.histogram.counts
        arrays.update({f"{name}{index}": getattr(observation, name) for name in _CHANNELS})
    with atomic_output(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def _load(path: Path, key: str, tensors: Sequence[str]) -> _Seen | None:
    """Return what an interrupted run had seen; None if there is no such run of the same things."""
    if not os.path.exists(path):
        return None
    try:
        with np.load(path, allow_pickle=False) as content:
            about = json.loads(bytes(content["about"]))
            if about["key"] != key:
                return None
            found: dict[str, Observation] = {}
            for index, (name, numbers) in enumerate(zip(tensors, about["tensors"], strict=True)):
                limit, low, high, count = numbers
                histogram = Histogram(limit, content[f"counts{index}"], low, high)
                channels = {each: content[f"{each}{index}"] for each in _CHANNELS}
                found[name] = Observation(histogram, count=count, **channels)
            return _Seen(found, about["images"], about["position"], about["skipped"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # damaged: the work is done anew
