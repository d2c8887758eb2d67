"""Which statistics a file's deconvolutions whiten with, as users write and read it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.export import ExportedProgram

from edgeconv.errors import InputError
from edgeconv.nn.whitening import DeconvStats, Whitening, set_deconv_stats

_BLEND = "blend="


@dataclass(frozen=True)
class DeconvSummary:
    """What an exported file does about its deconvolutions.

    Attributes:
        layers: How many there are.
        measured: How many of them measure their input on the device.
        stats: "frozen", "batch", "blend=0.3" (the input's share), or "mixed" where the measuring ones differ.
        folded: Weights and biases that were computed at export, so that the layers are plain convolutions.
    """

    layers: int
    measured: int
    stats: str
    folded: int

    def describe(self) -> str:
        """Return the line that the export report prints."""
        if self.measured == 0:
            return f"deconvolution: {self.layers} layers with frozen statistics, folded into plain weights"
        return (
            f"deconvolution: {self.layers} layers, of which {self.measured} whiten with {self.stats} statistics on the "
            "device: results depend on what is in the batch"
        )


def parse_deconv_stats(text: str) -> DeconvStats:
    """Return the statistics that `--deconv-stats` names: "frozen", "batch" or "blend=α" with α from 0 to 1.

    Raises:
        InputError: It names none.
    """
    if text == "frozen":
        return "frozen"
    if text == "batch":
        return "batch"
    try:
        share = float(text.removeprefix(_BLEND)) if text.startswith(_BLEND) else -1.0
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise InputError(
            f"--deconv-stats {text} is not known.",
            "Use frozen, batch, or blend=0.3 (the share of the input's statistics, from 0 to 1).",
        )
    return share


def stats_text(stats: DeconvStats) -> str:
    """Return statistics as `--deconv-stats` takes them."""
    return stats if isinstance(stats, str) else f"{_BLEND}{stats:g}"


def request_deconv_stats(module: nn.Module | ExportedProgram, stats: DeconvStats | str | None) -> None:
    """Give every deconvolution of a model the statistics that are asked for, in place.

    Args:
        module: The model.
        stats: As `Whitening.set_deconv_stats` takes them or as text; None leaves each layer its own.

    Raises:
        InputError: They are not known, or the model has no layer that could use them.
    """
    if stats is None:
        return
    if isinstance(stats, str):
        stats = parse_deconv_stats(stats)
    if isinstance(module, ExportedProgram):
        raise InputError(
            "a .pt2 program has its statistics fixed.", "Choose them before torch.export: edgeconv.nn.set_deconv_stats."
        )
    try:
        set_deconv_stats(module, stats)
    except ValueError as error:
        raise InputError(
            f"--deconv-stats {stats_text(stats)} cannot be done: {error}.", "Drop --deconv-stats, or correct it."
        ) from error


def summarize(module: nn.Module | ExportedProgram, folded: int) -> DeconvSummary | None:
    """Return what becomes of a model's deconvolutions; None if it has none, or is a program, which does not say."""
    modules = module.modules() if isinstance(module, nn.Module) else ()
    layers = [layer for layer in modules if isinstance(layer, Whitening)]
    if not layers:
        return None
    measured = [stats_text(layer.deconv_stats) for layer in layers if layer.deconv_stats != "frozen"]
    stats = "frozen" if not measured else measured[0] if len(set(measured)) == 1 else "mixed"
    return DeconvSummary(len(layers), len(measured), stats, folded)
