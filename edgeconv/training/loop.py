"""One epoch of stochastic gradient descent, its augmentation and schedule, and evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.errors import EdgeconvError
from edgeconv.training.data import DatasetSpec

EVALUATION_BATCH = 500
_WARMUP = 0.2
_ONE_CYCLE_START = 0.1


def learning_rate(schedule: str, peak: float, progress: float) -> float:
    """Learning rate at a point of the run.

    Args:
        schedule: "constant"; "cosine", from peak to 0 along half a cosine (Loshchilov and Hutter, "SGDR", ICLR 2017,
            without restarts); "one-cycle", linearly from a tenth of the peak to the peak over the first fifth, then
            along half a cosine to 0 (after Smith and Topin, "Super-convergence", 2018).
        peak: The highest rate.
        progress: Fraction of the updates done, in [0, 1).
    """
    if schedule == "constant":
        return peak
    if schedule == "one-cycle":
        if progress < _WARMUP:
            return peak * (_ONE_CYCLE_START + (1 - _ONE_CYCLE_START) * progress / _WARMUP)
        progress = (progress - _WARMUP) / (1 - _WARMUP)
    return peak * (1 + math.cos(math.pi * progress)) / 2


def normalize(images: Tensor, spec: DatasetSpec) -> Tensor:
    """Turn uint8 images (N, C, H, W) into a network's input: float32, (pixel / 255 - mean) / std."""
    mean = torch.tensor(spec.mean, device=images.device).view(-1, 1, 1)
    std = torch.tensor(spec.std, device=images.device).view(-1, 1, 1)
    return (images.float() / 255 - mean) / std


def random_shift(images: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Move every image by a random number of pixels in [-reach, reach] each way; 0 comes in at the borders.

    Args:
        images: (N, C, H, W).
        reach: At most this far; 0 returns the images as they are.
        generator: On the CPU.
    """
    if reach == 0:
        return images
    count, _, height, width = images.shape
    offsets = torch.randint(0, 2 * reach + 1, (2, count), generator=generator).to(images.device)
    padded = F.pad(images, (reach,) * 4)
    rows = offsets[0, :, None, None, None] + torch.arange(height, device=images.device)[:, None]
    columns = offsets[1, :, None, None, None] + torch.arange(width, device=images.device)
    sample = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[:, None, None]
    return padded[sample, channel, rows, columns]


def run_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    spec: DatasetSpec,
    *,
    generator: torch.Generator,
    batch_size: int,
    rate: Callable[[float], float],
    shift: int,
    label_smoothing: float,
    clip_norm: float | None,
    on_batch: Callable[[int, float], None],
) -> tuple[float, float]:
    """Train on every image once, in random order.

    Args:
        model: In place.
        optimizer: Of the model's parameters.
        images: uint8 (N, C, H, W).
        labels: int64 (N).
        spec: For the normalisation.
        generator: Source of order and shifts.
        batch_size: The last batch may be smaller.
        rate: Learning rate as a function of the fraction of this epoch's batches done.
        shift: See `random_shift`.
        label_smoothing: Of the cross-entropy, in [0, 1).
        clip_norm: Bound on the gradient's Euclidean norm, or none.
        on_batch: Called after each batch with the number of images done and the loss.

    Returns:
        Mean loss and accuracy over the epoch, each batch measured before its update.

    Raises:
        EdgeconvError: The loss is no longer finite.
    """
    model.train()
    order = torch.randperm(len(images), generator=generator)
    total_loss, correct, done = 0.0, 0, 0
    batches = torch.split(order, batch_size)
    for index, chosen in enumerate(batches):
        chosen = chosen.to(images.device)
        batch = normalize(random_shift(images[chosen], shift, generator), spec)
        target = labels[chosen]
        for group in optimizer.param_groups:
            group["lr"] = rate(index / len(batches))
        optimizer.zero_grad()
        outputs = model(batch)
        # Some networks give their auxiliary classifiers' logits too, in training (GoogLeNet).
        logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = F.cross_entropy(logits, target, label_smoothing=label_smoothing)
        for head in auxiliary:
            weight = float(getattr(model, "auxiliary_weight", 1.0))
            loss = loss + weight * F.cross_entropy(head, target, label_smoothing=label_smoothing)
        value = loss.item()
        if not math.isfinite(value):
            raise EdgeconvError(
                f"training diverged: the loss is {value} at batch {index + 1} of {len(batches)}.",
                "Lower --lr or --clip-norm, or choose a smaller degree or balance.",
            )
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        total_loss += value * len(chosen)
        correct += int((logits.argmax(1) == target).sum())
        done += len(chosen)
        on_batch(done, total_loss / done)
    return total_loss / done, correct / done


def evaluate(model: nn.Module, images: Tensor, labels: Tensor, spec: DatasetSpec) -> tuple[float, float]:
    """Return cross-entropy and top-1 accuracy over all images (uint8, (N, C, H, W)); the model's mode is kept."""
    training = model.training
    model.eval()
    loss, correct = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(images), EVALUATION_BATCH):
            target = labels[start : start + EVALUATION_BATCH]
            logits = model(normalize(images[start : start + EVALUATION_BATCH], spec))
            loss += F.cross_entropy(logits, target, reduction="sum").item()
            correct += int((logits.argmax(1) == target).sum())
    model.train(training)
    return loss / len(images), correct / len(images)
