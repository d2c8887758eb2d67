"""The training recipe: AdamW or SGD with a learning-rate schedule on a small data set, reproducible and resumable.

Everything random (initial weights, order of the images, their shifts) is a function of the seed and the epoch alone, so
a run that was interrupted and resumed ends with the bits of one that was not, given the same torch, device and number
of threads. The weights kept are those of the last epoch: none is chosen by its test accuracy.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeconv.errors import InputError, MissingDependencyError
from edgeconv.training.data import DATASETS, Dataset, DatasetSpec, load_dataset
from edgeconv.training.report import EpochResult, TrainingReport

if TYPE_CHECKING:
    from edgeconv.training.run import Run

SCHEDULES = ("one-cycle", "cosine", "constant")
OPTIMIZERS: dict[str, dict[str, float]] = {
    "adamw": {"lr": 2e-3, "weight_decay": 0.02},
    "sgd": {"lr": 0.05, "weight_decay": 5e-4},
}
"""The optimisers and the settings each takes by default."""


def train_model(
    arch: str,
    *,
    data: str | Dataset = "mnist",
    data_dir: str | os.PathLike[str] = "data/mnist",
    epochs: int = 10,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    output: str | os.PathLike[str] | None = None,
    history: str | os.PathLike[str] | None = None,
    batch_size: int = 64,
    optimizer: str = "adamw",
    lr: float | None = None,
    momentum: float = 0.9,
    weight_decay: float | None = None,
    schedule: str = "one-cycle",
    shift: int = 2,
    label_smoothing: float = 0.0,
    clip_norm: float | None = None,
    threads: int | None = None,
    device: str = "cpu",
    resume: bool | None = None,
    progress: bool = True,
) -> TrainingReport:
    """Train a registered architecture and write a checkpoint of its last epoch's weights.

    After every epoch the run's state goes to `<output>.resume`; it is removed once the checkpoint is written.

    Args:
        arch: A name from `edgeconv.list_models()`.
        data: A name in `edgeconv.training.DATASETS`, or a data set in memory.
        data_dir: Directory of the data set's IDX files, plain or gzip-compressed; not read for one in memory.
        epochs: Passes over the training images.
        seed: Of weights, order and shifts.
        config: The architecture's configuration. `num_classes`, `in_channels` and `first_padding` default to what the
            data needs.
        output: The checkpoint (.pt) to write; without one nothing is written and nothing can be resumed.
        history: A JSON file for the report, written after the last epoch.
        batch_size: Images an update.
        optimizer: "adamw" (Loshchilov and Hutter, ICLR 2019), whose steps do not depend on the gradient's scale, which
            grows with a polynomial kernel's degree; or "sgd" with Nesterov momentum (Sutskever et al., ICML 2013).
        lr: Peak learning rate; by default 0.002 for adamw, 0.05 for sgd.
        momentum: Of sgd.
        weight_decay: Of weights of two dimensions or more (biases, normalisation and the kernels' own parameters have
            none): decoupled in adamw, by default 0.02; an L2 penalty in sgd, by default 0.0005.
        schedule: "one-cycle", "cosine" or "constant"; see `edgeconv.training.loop.learning_rate`.
        shift: Training images are moved by up to this many pixels each way.
        label_smoothing: Of the training loss (Szegedy et al., CVPR 2016), in [0, 1).
        clip_norm: Bound on the gradient's Euclidean norm (Pascanu et al., ICML 2013), or none.
        threads: torch's threads for this run; as torch is set by default.
        device: "cpu", or another that torch knows ("cuda"), on which results may vary from run to run.
        resume: None continues an interrupted run if there is one; True insists on one; False starts anew.
        progress: Whether to draw progress on the standard error stream, and a line an epoch.

    Returns:
        Losses, accuracies and times of every epoch, and everything they depend on.

    Raises:
        InputError: An argument is out of range, the data is missing or damaged, the interrupted run had other settings,
            or a file cannot be written.
        EdgeconvError: The training diverged.
        MissingDependencyError: torch is not installed.
    """
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "training needs PyTorch, which is not installed.", "Install it: pip install 'edgeconv[export]'."
        ) from error
    from edgeconv.models import resolve_config
    from edgeconv.training.run import Run

    if optimizer not in OPTIMIZERS:
        raise InputError(f"no optimiser is named {optimizer!r}.", f"Optimisers: {', '.join(OPTIMIZERS)}.")
    usual = OPTIMIZERS[optimizer]
    settings: dict[str, Any] = {
        "data": data if isinstance(data, str) else data.spec.name,
        "epochs": epochs,
        "seed": seed,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "lr": usual["lr"] if lr is None else lr,
        "momentum": momentum,
        "weight_decay": usual["weight_decay"] if weight_decay is None else weight_decay,
        "schedule": schedule,
        "shift": shift,
        "label_smoothing": label_smoothing,
        "clip_norm": clip_norm,
    }
    _check(settings, threads)
    for path in (output, history):
        if path is not None:
            _check_writable(Path(path))
    spec = _spec(data)
    whole = resolve_config(arch, _with_data_defaults(arch, spec, config or {}))
    dataset = load_dataset(spec, data_dir) if isinstance(data, str) else data
    with _threads(threads):
        run = Run(arch, whole, settings, dataset, output, device)
        run.start(resume)
        _train(run, epochs, progress)
        report = run.report()
        if output is not None:
            run.write_checkpoint(report)
        if history is not None:
            _write_history(history, report)
        run.forget()
    return report


def _train(run: Run, epochs: int, progress: bool) -> None:
    from edgeconv.training.progress import training_progress

    with training_progress(progress, epochs, len(run.dataset.train_images)) as display:
        for result in run.results:
            display.finished(result, resumed=True)
        for epoch in range(len(run.results) + 1, epochs + 1):
            started = time.perf_counter()
            display.begin(epoch)
            train_loss, train_top1 = run.train_epoch(epoch, display.batch)
            test_loss, test_top1 = run.evaluate()
            seconds = time.perf_counter() - started
            result = EpochResult(epoch, train_loss, train_top1, test_loss, test_top1, run.last_rate, seconds)
            run.results.append(result)
            run.save()
            display.finished(result)


def _check(settings: dict[str, Any], threads: int | None) -> None:
    def require(condition: bool, name: str, what: str) -> None:
        if not condition:
            raise InputError(f"{name} must be {what}; got {settings.get(name, threads)!r}.", "Correct the option.")

    for name in ("epochs", "batch_size"):
        require(settings[name] >= 1, name, "at least 1")
    require(0 <= settings["seed"] < 2**32, "seed", "in [0, 2**32)")
    require(settings["lr"] > 0, "lr", "positive")
    require(0 <= settings["momentum"] < 1, "momentum", "in [0, 1)")
    require(settings["weight_decay"] >= 0, "weight_decay", "at least 0")
    require(settings["schedule"] in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}")
    require(settings["shift"] >= 0, "shift", "at least 0")
    require(0 <= settings["label_smoothing"] < 1, "label_smoothing", "in [0, 1)")
    require(settings["clip_norm"] is None or settings["clip_norm"] > 0, "clip_norm", "positive, or none")
    require(threads is None or threads >= 1, "threads", "at least 1")


def _check_writable(path: Path) -> None:
    """Find out before the training, not after it."""
    directory = path.absolute().parent
    if not directory.is_dir():
        raise InputError(f"the directory of {path} does not exist.", "Create it, or choose another path.")
    if path.is_dir():
        raise InputError(f"{path} is a directory.", "Name a file in it.")
    if not os.access(directory, os.W_OK):
        raise InputError(f"the directory of {path} is not writable.", "Check its permissions, or choose another path.")


def _spec(data: str | Dataset) -> DatasetSpec:
    if not isinstance(data, str):
        return data.spec
    if data not in DATASETS:
        raise InputError(f"no data set is named {data!r}.", f"Data sets: {', '.join(DATASETS)}.")
    return DATASETS[data]


_LEAST_ROWS = 32
"""Rows and columns that VGG's five poolings need, the padding included."""


def _with_data_defaults(arch: str, spec: DatasetSpec, config: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what the data fixes, and form and padding for small images; refuse what contradicts."""
    from edgeconv.models.registry import model_info

    info = model_info(arch)
    known = info.config
    filled = dict(config)
    for key, value in (("num_classes", len(spec.class_names)), ("in_channels", spec.input_shape[0])):
        if key not in known:
            continue
        if filled.setdefault(key, value) != value:
            raise InputError(
                f"{key}={json.dumps(filled[key])} does not fit the data set {spec.name!r}, which has {value}.",
                f"Leave {key} out: it is taken from the data.",
            )
    if "form" in known and min(spec.input_shape[1:]) < min(info.input_shape[1:]):
        filled.setdefault("form", "cifar")
    if "first_padding" in known:
        lacking = _LEAST_ROWS - min(spec.input_shape[1:])
        filled.setdefault("first_padding", known["first_padding"] + max(0, (lacking + 1) // 2))
    return filled


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write_history(path: str | os.PathLike[str], report: TrainingReport) -> None:
    from edgeconv.files import write_text

    write_text(path, json.dumps(report.to_dict(), indent=1) + "\n")
