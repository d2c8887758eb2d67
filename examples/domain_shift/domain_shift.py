"""How well networks trained on clean digits read changed ones, from exported files in ONNX Runtime.

    python examples/domain_shift/domain_shift.py            # table, domain_shift.json and domain_shift.svg
    python examples/domain_shift/domain_shift.py --json     # the figures as JSON instead of the table

Exports LeNet-5 with batch normalisation, and LeNet-5 with deconvolutions once for each kind of statistics: frozen
(those of the training), batch (of what is fed) and blends of both. Then feeds all of them the same changed test images,
in batches of several sizes where the statistics depend on the batch.

Needs the `export`, `cpu` and `plot` extras and MNIST in data/mnist (scripts/fetch_mnist.sh data/mnist).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from shifts import SHIFTS, Images

import edgeconv
from edgeconv.errors import EdgeconvError
from edgeconv.files import atomic_output, write_text
from edgeconv.runtime.ort import OrtSession
from edgeconv.training import DATASETS, load_dataset

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MNIST = DATASETS["mnist"]
IMAGES = 2048
"""The first so many test images; the batch sizes divide it."""
SIZES = (1, 32, 256)
BLENDS = (0.1, 0.5)


@dataclass(frozen=True)
class Reader:
    """A way to read images.

    Attributes:
        name: For the table.
        checkpoint: File beside this program.
        stats: Of the deconvolutions, as `edgeconv export --deconv-stats` takes them; None for a network without.
        batch: Images at a time.
        standardized: Whether each image gets the training images' mean and deviation before it is fed.
        sorted: Whether the images come in the order of their classes, so that most batches hold one class alone.
    """

    name: str
    checkpoint: str
    stats: str | None
    batch: int
    standardized: bool = False
    sorted: bool = False


def readers() -> list[Reader]:
    """Return all ways, in the table's order."""
    found = [
        Reader("batch norm", "lenet_bn.pt", None, 256),
        Reader("batch norm, standardised input", "lenet_bn.pt", None, 256, True),
        Reader("frozen", "lenet_deconv.pt", "frozen", 256),
    ]
    for stats in ("batch", *(f"blend={share:g}" for share in BLENDS)):
        found += [Reader(f"{stats}, {size} at a time", "lenet_deconv.pt", stats, size) for size in SIZES]
        if stats == "batch":
            found.append(Reader("batch, 32 at a time sorted", "lenet_deconv.pt", stats, 32, sorted=True))
    return found


def main(arguments: list[str]) -> None:
    """Export, read, tabulate, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default=ROOT / "data" / "mnist", type=Path, help="directory of MNIST's IDX files")
    parser.add_argument("--images", default=IMAGES, type=int, help="how many test images")
    parser.add_argument(
        "--output", default=HERE, type=Path, help="directory for domain_shift.json and domain_shift.svg"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table, and no progress")
    options = parser.parse_args(arguments)
    if not 1 <= options.images <= MNIST.test_count:
        parser.error(f"--images must be from 1 to {MNIST.test_count}")
    dataset = load_dataset(MNIST, options.data_dir)
    images, labels = dataset.test_images[: options.images, 0], dataset.test_labels[: options.images]
    with tempfile.TemporaryDirectory() as directory:
        results = {
            "images": options.images,
            "rows": measure(images, labels, Path(directory), quiet=options.json),
        }
    write_text(options.output / "domain_shift.json", json.dumps(results, indent=1) + "\n")
    draw(results["rows"], options.output / "domain_shift.svg")
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        names = [way.name for way in readers()]
        for part in (names[:7], names[7:]):
            Console().print(table(results, part))


def measure(images: Images, labels: NDArray[np.int64], directory: Path, *, quiet: bool) -> list[dict[str, Any]]:
    """Return a row for each kind and strength of change: the accuracy of each reader."""
    cases = list(changed(images))
    with Progress(console=Console(stderr=True), disable=quiet) as progress:
        ways = readers()
        exports = progress.add_task("exporting and checking", total=len(ways))
        sessions: dict[tuple[str, str | None], OrtSession] = {}
        for way in ways:
            key = way.checkpoint, way.stats
            if key not in sessions:
                path = directory / f"{way.checkpoint}-{way.stats}.onnx"
                edgeconv.export_checkpoint(HERE / way.checkpoint, path, deconv_stats=way.stats)
                sessions[key] = OrtSession(path, threads=1)
            progress.advance(exports)
        task = progress.add_task("reading", total=len(cases) * len(ways))
        rows = []
        for kind, strength, seen in cases:
            accuracy = {}
            for way in ways:
                order = np.argsort(labels, kind="stable") if way.sorted else slice(None)
                found = read(sessions[way.checkpoint, way.stats], seen[order], way)
                accuracy[way.name] = float((found == labels[order]).mean())
                progress.advance(task)
            rows.append({"change": kind, "strength": strength, "top1": accuracy})
    return rows


def changed(images: Images) -> Iterator[tuple[str, float | None, Images]]:
    """Yield kind, strength and images; the clean ones first."""
    yield "none", None, images
    for shift in SHIFTS:
        for strength in shift.strengths:
            yield shift.name, strength, shift.change(images, strength)


def read(session: OrtSession, images: Images, way: Reader) -> NDArray[np.int64]:
    """Return the classes that a session sees, batch by batch in the order given."""
    x = (images[:, None].astype(np.float32) / 255 - MNIST.mean[0]) / MNIST.std[0]
    if way.standardized:
        # Over each image alone; one without contrast stays a constant. The training images have mean 0, deviation 1.
        deviation = x.std(axis=(1, 2, 3), keepdims=True)
        x = (x - x.mean(axis=(1, 2, 3), keepdims=True)) / np.maximum(deviation, 1e-6)
    name, out = session.inputs[0].name, session.outputs[0].name
    batches = [x[start : start + way.batch] for start in range(0, len(x), way.batch)]
    logits = np.concatenate([session.run({name: batch})[out] for batch in batches])
    classes: NDArray[np.int64] = logits.argmax(1)
    return classes


def table(results: dict[str, Any], names: list[str]) -> Table:
    """Draw the accuracies of some readers: changes down, readers across; the best of all readers in bold."""
    drawn = Table(title=f"top-1 in % on {results['images']:,} test images", box=box.SIMPLE_HEAD)
    drawn.add_column("change", no_wrap=True)
    for name in names:
        drawn.add_column(heading(name), justify="right", no_wrap=True)
    for row in results["rows"]:
        what = row["change"] if row["strength"] is None else f"{row['change']} {row['strength']:g}"
        best = max(row["top1"].values())
        cells = ((f"{100 * row['top1'][name]:.1f}", row["top1"][name] == best) for name in names)
        drawn.add_row(what, *(f"[bold]{text}[/]" if bold else text for text, bold in cells))
    return drawn


def heading(name: str) -> str:
    """Return a reader's name over several short lines."""
    for long, short in ((" at a time", ""), (" input", ""), ("standardised", "stand."), (",", ""), ("=", " ")):
        name = name.replace(long, short)
    return name.replace(" ", "\n")


# Okabe and Ito's palette, which people with colour blindness tell apart.
LINES = {
    "batch norm": ("#000000", "s", "-"),
    "batch norm, standardised input": ("#000000", "s", ":"),
    "frozen": ("#0072B2", "o", "-"),
    "batch, 256 at a time": ("#D55E00", "^", "-"),
    "batch, 32 at a time": ("#D55E00", "^", "--"),
    "batch, 1 at a time": ("#D55E00", "^", ":"),
    "blend=0.5, 256 at a time": ("#009E73", "D", "-"),
    "blend=0.1, 256 at a time": ("#009E73", "D", "--"),
}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw one panel a kind of change: accuracy against strength."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "edgeconv", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(8, 6.6), sharey=True, layout="constrained")
    clean = rows[0]["top1"]
    for axis, shift in zip(axes.flat, SHIFTS, strict=True):
        mine = [row for row in rows if row["change"] == shift.name]
        for name, (colour, marker, style) in LINES.items():
            values = [100 * clean[name], *(100 * row["top1"][name] for row in mine)]
            axis.plot(
                range(len(values)), values, color=colour, marker=marker, markersize=3, linewidth=1.2, linestyle=style,
                label=name,
            )  # fmt: skip
        axis.set(title=shift.name, xlabel=shift.symbol, ylim=(0, 101))
        axis.set_xticks(range(len(shift.strengths) + 1), [f"{s:g}" for s in (shift.clean, *shift.strengths)])
        axis.grid(True, linewidth=0.4, alpha=0.5)
    for axis in axes[:, 0]:
        axis.set(ylabel="top-1, %")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    with atomic_output(path) as temporary:
        pyplot.savefig(temporary, format=path.suffix[1:], metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except EdgeconvError as error:
        sys.exit(f"{error.message} {error.remedy}")
