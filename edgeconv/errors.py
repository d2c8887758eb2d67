"""The errors edgeconv raises on purpose: each says what went wrong and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeconv.export.report import ParityReport


class EdgeconvError(Exception):
    """An expected failure with a cause and, where there is one, a remedy.

    The command line prints both without a traceback and exits with `exit_code`.

    Args:
        message: What went wrong, in one sentence that names the file, layer or option concerned.
        remedy: What the user can do about it.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class InputError(EdgeconvError):
    """A file, shape or option that the user gave cannot be used."""


class CheckpointError(InputError):
    """A checkpoint is damaged, foreign, unsafe to load, or does not fit its architecture."""


class ParityError(EdgeconvError):
    """A runtime disagrees with PyTorch by more than the tolerance.

    Attributes:
        report: Every comparison that was made.
    """

    def __init__(self, report: ParityReport, remedy: str) -> None:
        super().__init__(f"{report.verdict()}.", remedy)
        self.report = report


class MissingDependencyError(EdgeconvError):
    """A package, driver or device that the request needs is not there."""

    exit_code = 3
