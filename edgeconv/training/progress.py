"""Progress of a training run on the terminal: a bar for the epoch, a line for each epoch that is done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from edgeconv.training.report import EpochResult


class TrainingDisplay:
    """What a run shows while it works; without a progress bar it shows nothing.

    Args:
        bar: The bar, or none.
        epochs: Epochs of the run.
        images: Images of an epoch.
    """

    def __init__(self, bar: Progress | None, epochs: int, images: int) -> None:
        self._bar, self._epochs, self._images = bar, epochs, images
        self._task: TaskID | None = None

    def begin(self, epoch: int) -> None:
        """Start an epoch's bar."""
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(f"epoch {epoch}/{self._epochs}", total=self._images, loss="")

    def batch(self, done: int, loss: float) -> None:
        """Move the bar: images done and the epoch's mean loss so far."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, loss=f"loss {loss:.4f}")

    def finished(self, result: EpochResult, resumed: bool = False) -> None:
        """Print an epoch's line."""
        if self._bar is not None:
            self._bar.console.print(
                f"epoch {result.epoch}/{self._epochs}  train loss {result.train_loss:.4f}  "
                f"test loss {result.test_loss:.4f}  test top-1 {result.test_top1:.2%}  {result.seconds:.0f} s"
                + ("  (resumed)" if resumed else ""),
                highlight=False,
            )


@contextlib.contextmanager
def training_progress(show: bool, epochs: int, images: int) -> Iterator[TrainingDisplay]:
    """Show a run's progress on the standard error stream while the block runs."""
    if not show:
        yield TrainingDisplay(None, epochs, images)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield TrainingDisplay(bar, epochs, images)
