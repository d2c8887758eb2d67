"""The candidates as a picture: measured latency against MACs, with the Pareto front and the budgets."""

from __future__ import annotations

import os

from edgeconv.files import atomic_output
from edgeconv.scaling.report import ScalingReport


def plot_scaling(report: ScalingReport, path: str | os.PathLike[str]) -> None:
    """Draw the candidates, coloured by φ, the front as a line, the budgets as dashes.

    Raises:
        InputError: The file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    candidates, front = report.candidates, report.front
    figure, axis = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    macs = [candidate.macs / 1e6 for candidate in candidates]
    points = axis.scatter(macs, [1e3 * (c.latency or 0) for c in candidates], c=[c.phi for c in candidates], zorder=3)
    axis.plot(
        [c.macs / 1e6 for c in front], [1e3 * (c.latency or 0) for c in front], color="#D55E00", label="Pareto front"
    )
    for candidate in front:
        at = candidate.multipliers
        axis.annotate(
            f"{at.depth:.2g} · {at.width:.2g} · {at.resolution:.2g}",
            (candidate.macs / 1e6, 1e3 * (candidate.latency or 0)),
            xytext=(4, -9),
            textcoords="offset points",
            fontsize=7,
        )
    axis.axvline(report.budget_macs / 1e6, color="grey", linestyle="--", linewidth=0.8)
    if report.budget_latency is not None:
        axis.axhline(1e3 * report.budget_latency, color="grey", linestyle="--", linewidth=0.8, label="budgets")
    axis.set_xlabel("MACs, millions")
    axis.set_ylabel(f"median latency, ms ({report.provider}, batch 1)")
    axis.set_title(f"{report.architecture} by compound scaling; at the front: depth · width · resolution", fontsize=10)
    figure.colorbar(points, label="φ")
    axis.legend(loc="upper left")
    axis.grid(alpha=0.3)
    try:
        with atomic_output(path) as temporary:
            figure.savefig(temporary, format=os.path.splitext(os.fspath(path))[1][1:], dpi=150)
    finally:
        plt.close(figure)
