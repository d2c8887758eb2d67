"""What a training run reports: an epoch's figures, the run's, and a table of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class EpochResult:
    """Figures of one epoch. Accuracies are fractions.

    Args:
        epoch: From 1.
        train_loss: Mean over the epoch's batches, each measured before its own update, as they were augmented.
        train_top1: Likewise.
        test_loss: Cross-entropy on the whole test set after the epoch.
        test_top1: Likewise.
        learning_rate: Of the epoch's last update.
        seconds: Wall-clock time of the epoch, evaluation included.
    """

    epoch: int
    train_loss: float
    train_top1: float
    test_loss: float
    test_top1: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class TrainingReport:
    """The whole run.

    Args:
        architecture: Registered name.
        config: The architecture's whole configuration.
        settings: Every setting of the recipe that the result depends on, data set and seed included.
        parameters: Number of trainable values.
        epochs: Figures of each epoch.
        checkpoint: The file written, if one was asked for.
        environment: torch's version, number of threads and device; results are bit-identical only among equals.
    """

    architecture: str
    config: dict[str, Any]
    settings: dict[str, Any]
    parameters: int
    epochs: list[EpochResult]
    checkpoint: str | None
    environment: dict[str, Any]

    @property
    def top1(self) -> float:
        """Test accuracy after the last epoch: that of the weights that are kept."""
        return self.epochs[-1].test_top1

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able copy."""
        return {**asdict(self), "top1": self.top1}

    def table(self) -> Table:
        """Draw the epochs as a table."""
        table = Table(title=f"{self.architecture} on {self.settings['data']}, seed {self.settings['seed']}")
        for column in ("epoch", "train loss", "train top-1", "test loss", "test top-1", "seconds"):
            table.add_column(column, justify="right")
        for row in self.epochs:
            table.add_row(
                str(row.epoch),
                f"{row.train_loss:.4f}",
                f"{row.train_top1:.2%}",
                f"{row.test_loss:.4f}",
                f"{row.test_top1:.2%}",
                f"{row.seconds:.1f}",
            )
        return table

    def render(self, console: Console) -> None:
        """Print the epochs, and where the weights of the last one went."""
        console.print(self.table())
        if self.checkpoint is not None:
            console.print(
                f"{self.checkpoint}: {self.parameters:,} parameters, top-1 {self.top1:.2%} on the test images "
                "(the last epoch's weights, not the best one's)",
                highlight=False,
            )
