"""Draw training histories, kervolution against plain convolution: test error and training loss by epoch.

python examples/plot_training.py docs/training_curves.svg examples/training/*.json

Needs the `plot` extra. One row an architecture; several histories of one kernel (seeds) are lines of one colour.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from edgeconv.files import atomic_output

# Blue and orange of Okabe and Ito's palette, which people with colour blindness tell apart.
STYLES = {False: ("#0072B2", "s", "convolution"), True: ("#D55E00", "o", "{kernel} kervolution")}


def main(output: str, histories: list[str]) -> None:
    """Read the histories that `edgeconv train --history` wrote, and write one figure."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "edgeconv", "font.size": 9})
    from matplotlib import pyplot
    from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

    runs = [json.loads(Path(path).read_text(encoding="utf-8")) for path in sorted(histories)]
    architectures = sorted({run["architecture"] for run in runs})
    figure, rows = pyplot.subplots(
        len(architectures), 2, figsize=(8, 3 * len(architectures)), squeeze=False, layout="constrained"
    )
    for axes, architecture in zip(rows, architectures, strict=True):
        labelled: set[str] = set()
        for run in runs:
            if run["architecture"] == architecture:
                draw(axes, run, labelled)
        for axis, what in zip(axes, ("test error, %", "training loss"), strict=True):
            axis.set(title=f"{architecture}: {what}", xlabel="epoch", yscale="log")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.grid(True, linewidth=0.4, alpha=0.5)
        axes[0].legend()
    with atomic_output(output) as temporary:
        pyplot.savefig(temporary, format=Path(output).suffix[1:], metadata={"Date": None})
    pyplot.close(figure)


def draw(axes: Any, run: dict[str, Any], labelled: set[str]) -> None:
    """Draw one run's two curves."""
    colour, marker, name = STYLES[run["config"]["kernel"] != "linear"]
    name = name.format(kernel=run["config"]["kernel"])
    epochs = [row["epoch"] for row in run["epochs"]]
    label = None if name in labelled else name
    labelled.add(name)
    for axis, values in zip(
        axes,
        ([100 * (1 - row["test_top1"]) for row in run["epochs"]], [row["train_loss"] for row in run["epochs"]]),
        strict=True,
    ):
        axis.plot(epochs, values, color=colour, marker=marker, markersize=4, linewidth=1.2, label=label)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
