"""The state of one training run: model, optimiser and results; saved after each epoch, resumed exactly."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeconv.errors import InputError
from edgeconv.files import atomic_output
from edgeconv.models import create
from edgeconv.training import loop
from edgeconv.training.data import Dataset
from edgeconv.training.report import EpochResult, TrainingReport

FORMAT = "edgeconv.training-state"
FORMAT_VERSION = 1
SAMPLES = 16
"""Test images that a checkpoint carries, so that what is exported from it can be checked on real inputs."""


class Run:
    """A model in training.

    Args:
        arch: Registered name.
        config: The architecture's whole configuration.
        settings: The recipe's, as `train_model` collects them.
        dataset: In memory.
        output: The checkpoint to be; the state lies beside it as `<output>.resume`.
        device: torch's name of it.

    Raises:
        InputError: The configuration or the device cannot be used.
    """

    def __init__(
        self,
        arch: str,
        config: dict[str, Any],
        settings: dict[str, Any],
        dataset: Dataset,
        output: str | os.PathLike[str] | None,
        device: str,
    ) -> None:
        self.arch, self.config, self.settings, self.dataset = arch, config, settings, dataset
        self.output = None if output is None else Path(output)
        self.state_path = None if output is None else Path(f"{os.fspath(output)}.resume")
        self.device = _device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings["seed"])
            self.model = create(arch, **config)
        # oneDNN and cuDNN convolve channels-last tensors faster; values and shapes are the same.
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = _optimizer(self.model, settings)
        self.results: list[EpochResult] = []
        self.last_rate = 0.0
        self._train = self._on_device(dataset.train_images), self._on_device(dataset.train_labels)
        self._test = self._on_device(dataset.test_images), self._on_device(dataset.test_labels)

    def start(self, resume: bool | None) -> None:
        """Take up an interrupted run, or leave things as they are for a new one; see `train_model`."""
        path = self.state_path
        if resume is False or (resume is None and (path is None or not path.exists())):
            return
        if path is None or not path.exists():
            raise InputError(
                f"there is no interrupted run to resume: {path or 'no --output, so no state'} does not exist.",
                "Start one without --resume.",
            )
        state = _read_state(path)
        mine = self._identity()
        changed = [key for key in mine if state["identity"].get(key) != mine[key]]
        if changed:
            pairs = ", ".join(f"{key} {state['identity'].get(key)!r} (now {mine[key]!r})" for key in changed)
            raise InputError(
                f"the interrupted run in {path} had other settings: {pairs}.",
                "Give the same settings to resume it, or --no-resume to start anew.",
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.results = [EpochResult(**row) for row in state["results"]]

    def train_epoch(self, epoch: int, on_batch: Callable[[int, float], None]) -> tuple[float, float]:
        """Train for one epoch, counted from 1. Returns mean loss and accuracy."""
        s = self.settings
        generator = torch.Generator().manual_seed(s["seed"] * 100_003 + epoch)

        def rate(progress: float) -> float:
            self.last_rate = loop.learning_rate(s["schedule"], s["lr"], (epoch - 1 + progress) / s["epochs"])
            return self.last_rate

        with torch.random.fork_rng(devices=[]):
            # For layers that draw random numbers themselves (dropout).
            torch.manual_seed(s["seed"] * 100_003 + epoch)
            return loop.run_epoch(
                self.model,
                self.optimizer,
                *self._train,
                self.dataset.spec,
                generator=generator,
                batch_size=s["batch_size"],
                rate=rate,
                shift=s["shift"],
                label_smoothing=s["label_smoothing"],
                clip_norm=s["clip_norm"],
                on_batch=on_batch,
            )

    def evaluate(self) -> tuple[float, float]:
        """Return loss and accuracy on the test images."""
        return loop.evaluate(self.model, *self._test, self.dataset.spec)

    def save(self) -> None:
        """Write the state, whole or not at all."""
        if self.state_path is None:
            return
        state = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "identity": self._identity(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "results": [asdict(row) for row in self.results],
        }
        with atomic_output(self.state_path) as temporary:
            torch.save(state, temporary)

    def report(self) -> TrainingReport:
        """Return the report of the epochs so far."""
        return TrainingReport(
            architecture=self.arch,
            config=self.config,
            settings=self.settings,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            epochs=list(self.results),
            checkpoint=None if self.output is None else str(self.output),
            environment={
                "torch": str(torch.__version__),
                "threads": torch.get_num_threads(),
                "device": str(self.device),
            },
        )

    def write_checkpoint(self, report: TrainingReport) -> None:
        """Write the checkpoint to `output`, with the report in its `training` entry."""
        from edgeconv.checkpoint import save_checkpoint

        assert self.output is not None
        spec = self.dataset.spec
        training = {key: value for key, value in report.to_dict().items() if key not in ("checkpoint", "config")}
        self.model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        save_checkpoint(
            self.output,
            self.model.eval(),
            architecture=self.arch,
            config=self.config,
            input_shape=spec.input_shape,
            normalization=spec.normalization,
            class_names=list(spec.class_names),
            training=training,
            # Cloned: torch.save writes the whole storage behind a slice.
            samples={"images": self._test[0][:SAMPLES].clone(), "labels": self._test[1][:SAMPLES].clone()},
        )

    def forget(self) -> None:
        """Remove the state of the run, which is over."""
        if self.state_path is not None:
            self.state_path.unlink(missing_ok=True)

    def _on_device(self, array: NDArray[Any]) -> Tensor:
        # Copied, because torch warns of NumPy arrays that are read-only views of a file's bytes.
        return torch.from_numpy(array.copy()).to(self.device)

    def _identity(self) -> dict[str, Any]:
        return {"architecture": self.arch, **self.config, **self.settings}


def _optimizer(model: nn.Module, settings: dict[str, Any]) -> torch.optim.Optimizer:
    groups = _parameter_groups(model, settings["weight_decay"])
    if settings["optimizer"] == "adamw":
        return torch.optim.AdamW(groups, lr=settings["lr"])
    momentum = settings["momentum"]
    return torch.optim.SGD(groups, lr=settings["lr"], momentum=momentum, nesterov=momentum > 0)


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay is for weights of two dimensions or more."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"the device {name!r} cannot be used: {str(error).splitlines()[0]}", "Use --device cpu."
        ) from error
    return device


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types on damaged files
        raise InputError(
            f"the state of the interrupted run in {path} cannot be read.", "Delete it, or start anew with --no-resume."
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or state.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} is not a training state of this version.", "Delete it, or start anew with --no-resume."
        )
    return state
