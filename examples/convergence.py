"""Convergence on MNIST: network deconvolution against batch normalisation, same budget, same recipe, three seeds.

    python examples/convergence.py                    # trains what is missing, then draws docs/convergence.svg
    python examples/convergence.py --draw-only        # only the figure and the table, from examples/convergence.json

Needs the `export` and `plot` extras and MNIST in data/mnist (scripts/fetch_mnist.sh data/mnist). After each run its
curves go to the JSON file; the same command takes up an interrupted series at the run where it was interrupted.

The arms of an architecture start from the same seed, see the same images in the same order, each once, and take the
same steps. Every few steps the first 2,000 test images are read with the running statistics, as a deployed network
would read them. Time is that of one thread, and of whole steps; the arms take turns while it is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from edgeconv.errors import EdgeconvError
from edgeconv.files import atomic_output, write_text

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)
TEST_IMAGES = 2000
RECIPE: dict[str, Any] = {
    "optimizer": "sgd",
    "lr": 0.05,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "batch_size": 64,
    "shift": 0,
    "label_smoothing": 0.0,
    "clip_norm": None,
}
"""As `edgeconv train --optimizer sgd --schedule cosine --shift 0`: Nesterov momentum, no augmentation."""

NORMALIZED = "batch normalisation"
TIMED_STEPS = 8


@dataclass(frozen=True)
class Contest:
    """One architecture.

    Attributes:
        architecture: Registered name.
        steps: Of a run.
        every: Steps from one evaluation to the next.
        arms: Name of each contestant and its configuration.
    """

    architecture: str
    steps: int
    every: int
    arms: Mapping[str, Mapping[str, Any]]


CONTESTS = (
    Contest(
        "lenet5",
        400,
        20,
        {
            NORMALIZED: {"batch_norm": True},
            "deconvolution, block 2": {"deconv_block": 2, "deconv_block_linear": 12},
            "deconvolution, block 64": {"deconv_block": 64},
        },
    ),
    Contest(
        "resnet20",
        250,
        25,
        {NORMALIZED: {}, "deconvolution, block 4": {"deconv_block": 4, "deconv_block_linear": 8}},
    ),
    Contest(
        "vgg11",
        400,
        40,
        {
            NORMALIZED: {"form": "cifar", "first_padding": 3},
            "deconvolution, block 4": {
                "form": "cifar",
                "first_padding": 3,
                "deconv_block": 4,
                "deconv_block_linear": 8,
            },
        },
    ),
)
"""Blocks are small, so that a batch of 64 holds many samples for each feature that is whitened: 64 or more in the deep
networks, 10 in LeNet-5's C5 (512 samples of 50 features); and so that one core can do it: blocks of 64 would invert a
576x576 covariance in each 3x3 layer and step. LeNet-5 also takes part with the layers' default of 64, which is all 16
channels before C5: there are 64 samples of 400 features."""


def main(arguments: list[str]) -> None:
    """Train what is missing, measure the steps, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default=ROOT / "data" / "mnist", type=Path, help="directory of MNIST's IDX files")
    parser.add_argument("--results", default=ROOT / "examples" / "convergence.json", type=Path, help="the JSON file")
    parser.add_argument("--figure", default=ROOT / "docs" / "convergence.svg", type=Path, help="the figure")
    parser.add_argument("--steps", type=int, help="steps of every run, instead of each architecture's own (for trials)")
    parser.add_argument("--only", choices=[contest.architecture for contest in CONTESTS], help="one architecture")
    parser.add_argument("--draw-only", action="store_true", help="train nothing")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON, and no progress")
    options = parser.parse_args(arguments)
    contests = tuple(contest for contest in CONTESTS if options.only in (None, contest.architecture))
    if options.steps is not None:
        if options.steps < 1:
            parser.error("--steps must be at least 1")
        contests = tuple(replace(c, steps=options.steps, every=min(c.every, options.steps)) for c in contests)
    results = read(options.results)
    if not options.draw_only:
        train_all(results, contests, options)
    if not results["runs"]:
        raise EdgeconvError(f"{options.results} holds no run.", "Leave --draw-only out.")
    summary = summarize(results)
    if options.json:
        print(json.dumps(summary, indent=2))
    else:
        Console().print(summary_table(summary))
    draw(results, options.figure)


def read(path: Path) -> dict[str, Any]:
    """Return the results so far."""
    if not path.exists():
        return {"recipe": RECIPE, "test_images": TEST_IMAGES, "runs": [], "step_seconds": {}}
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if results["recipe"] != RECIPE or results["test_images"] != TEST_IMAGES:
        raise EdgeconvError(f"the runs in {path} had another recipe.", "Move the file away to start anew.")
    return results


def write(path: Path, results: dict[str, Any]) -> None:
    """Write the results, whole or not at all."""
    write_text(path, json.dumps(results, indent=1) + "\n")


def train_all(results: dict[str, Any], contests: tuple[Contest, ...], options: argparse.Namespace) -> None:
    """Add the runs and the times that are missing; the file is written after each."""
    import torch

    from edgeconv.training import load_dataset

    torch.set_num_threads(1)
    dataset = load_dataset("mnist", options.data_dir)
    dataset = replace(
        dataset, test_images=dataset.test_images[:TEST_IMAGES], test_labels=dataset.test_labels[:TEST_IMAGES]
    )
    results["environment"] = {"torch": str(torch.__version__), "threads": 1, "cpu": cpu_model()}
    done = {(run["architecture"], run["arm"], run["seed"], run["steps"]) for run in results["runs"]}
    work = [
        (contest, arm, seed)
        for contest in contests
        for seed in SEEDS
        for arm in contest.arms
        if (contest.architecture, arm, seed, contest.steps) not in done
    ]
    with Progress(console=Console(stderr=True), disable=options.json) as progress:
        total = progress.add_task(f"{len(work)} runs", total=len(work))
        for contest, arm, seed in work:
            name = f"{contest.architecture}, {arm}, seed {seed}"
            task = progress.add_task(name, total=contest.steps)
            points: list[dict[str, float]] = []
            run = {
                "architecture": contest.architecture, "arm": arm, "seed": seed, "steps": contest.steps,
                "config": dict(contest.arms[arm]), "points": points, "diverged": None,
            }  # fmt: skip
            try:
                for point in train(contest, arm, seed, dataset):
                    points.append(point)
                    progress.update(task, completed=point["step"])
            except EdgeconvError as error:  # a loss that is no longer finite is a result, too
                run["diverged"] = error.message
            results["runs"].append(run)
            write(options.results, results)
            progress.remove_task(task)
            progress.advance(total)
            last = f"{points[-1]['test_top1']:.2%}" if points else "no evaluation"
            progress.console.print(f"{name}: {run['diverged'] or last}", highlight=False)
        for contest in contests:
            if contest.architecture not in results["step_seconds"]:
                results["step_seconds"][contest.architecture] = time_steps(contest, dataset)
                write(options.results, results)


def start(contest: Contest, arm: str, seed: int, dataset: Any) -> Any:
    """Return a `edgeconv.training.run.Run` at its beginning."""
    from edgeconv.models import resolve_config
    from edgeconv.training.run import Run

    config = resolve_config(contest.architecture, {"in_channels": 1, **contest.arms[arm]})
    return Run(contest.architecture, config, {**RECIPE, "seed": seed}, dataset, None, "cpu")


def train(contest: Contest, arm: str, seed: int, dataset: Any) -> Iterator[dict[str, float]]:
    """Train one network; yield its figures at each evaluation.

    train_loss and train_top1 are means over the steps since the evaluation before, each measured before its update.
    """
    import torch

    from edgeconv.training import loop

    run = start(contest, arm, seed, dataset)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(dataset.train_images), generator=generator)
    images, labels = torch.from_numpy(dataset.train_images.copy()), torch.from_numpy(dataset.train_labels.copy())
    size = RECIPE["batch_size"]
    for begin in range(0, contest.steps, contest.every):
        end = min(begin + contest.every, contest.steps)
        chosen = order[begin * size : end * size]

        def rate(progress: float, begin: int = begin, end: int = end) -> float:
            done = (begin + progress * (end - begin)) / contest.steps
            return loop.learning_rate(RECIPE["schedule"], RECIPE["lr"], done)

        started = time.perf_counter()
        loss, top1 = loop.run_epoch(
            run.model, run.optimizer, images[chosen], labels[chosen], dataset.spec, generator=generator,
            batch_size=size, rate=rate, shift=RECIPE["shift"], label_smoothing=RECIPE["label_smoothing"],
            clip_norm=RECIPE["clip_norm"], on_batch=lambda done, mean: None,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        test_loss, test_top1 = run.evaluate()
        yield {
            "step": end, "train_loss": loss, "train_top1": top1, "test_loss": test_loss, "test_top1": test_top1,
            "seconds": seconds,
        }  # fmt: skip


def time_steps(contest: Contest, dataset: Any) -> dict[str, list[float]]:
    """Return seconds of single training steps of all arms, which take turns; CPU time of the process's one thread."""
    import torch

    from edgeconv.training import loop

    images, labels = (
        torch.from_numpy(dataset.train_images[:64].copy()),
        torch.from_numpy(dataset.train_labels[:64].copy()),
    )
    runs = {arm: start(contest, arm, 0, dataset) for arm in contest.arms}
    samples: dict[str, list[float]] = {arm: [] for arm in contest.arms}
    for step in range(TIMED_STEPS + 2):
        for arm, run in runs.items():
            started = time.process_time()
            loop.run_epoch(
                run.model, run.optimizer, images, labels, dataset.spec, generator=torch.Generator().manual_seed(step),
                batch_size=RECIPE["batch_size"], rate=lambda _: 1e-3, shift=0, label_smoothing=0.0, clip_norm=None,
                on_batch=lambda done, mean: None,
            )  # fmt: skip
            if step >= 2:  # the first steps choose algorithms and allocate
                samples[arm].append(time.process_time() - started)
    return samples


def summarize(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row an architecture and arm: accuracy along the run over the seeds, and seconds a step."""
    rows = []
    for architecture in dict.fromkeys(run["architecture"] for run in results["runs"]):
        for arm, runs in arms_of(results, architecture).items():
            samples = results["step_seconds"].get(architecture, {}).get(arm)
            points = [(step, [point(run, step) for run in runs]) for step in checkpoints(runs)]
            rows.append(
                {
                    "architecture": architecture,
                    "arm": arm,
                    "runs": len(runs),
                    "diverged": sum(run["diverged"] is not None for run in runs),
                    "points": [
                        {
                            "step": step,
                            **{key: spread([p[key] for p in found if p]) for key in ("train_loss", "test_top1")},
                        }
                        for step, found in points
                        if any(found)
                    ],
                    "seconds_per_step": statistics.median(samples) if samples else None,
                }
            )
    return rows


def arms_of(results: dict[str, Any], architecture: str) -> dict[str, list[dict[str, Any]]]:
    """Return an architecture's runs by arm."""
    arms: dict[str, list[dict[str, Any]]] = {}
    for run in results["runs"]:
        if run["architecture"] == architecture:
            arms.setdefault(run["arm"], []).append(run)
    return arms


def checkpoints(runs: list[dict[str, Any]]) -> list[int]:
    """Return the steps after the first evaluation, at a quarter, a half and the end of the runs."""
    steps = sorted({p["step"] for run in runs for p in run["points"]})
    if not steps:
        return []
    return sorted({min(steps, key=lambda step: abs(step - share * steps[-1])) for share in (0, 0.25, 0.5, 1)})


def point(run: dict[str, Any], step: int) -> dict[str, Any] | None:
    """Return a run's figures at a step."""
    return next((p for p in run["points"] if p["step"] == step), None)


def spread(values: list[float]) -> dict[str, float]:
    """Return mean, least and greatest."""
    return {"mean": statistics.mean(values), "min": min(values), "max": max(values)}


def summary_table(summary: list[dict[str, Any]]) -> Table:
    """Draw the summary."""
    table = Table(title="MNIST: top-1 on 2,000 test images, mean (least to greatest) over the seeds")
    for column in ("network", "", "first evaluation", "a quarter", "half", "end", "s/step"):
        table.add_column(column, justify="left" if column in ("network", "") else "right")
    for row in summary:
        cells = [
            f"{p['step']}: {p['test_top1']['mean']:.1%} ({p['test_top1']['min']:.1%} to {p['test_top1']['max']:.1%})"
            for p in row["points"]
        ]
        cells += [""] * (4 - len(cells))
        seconds = "" if row["seconds_per_step"] is None else f"{row['seconds_per_step']:.3f}"
        table.add_row(row["architecture"], row["arm"], *cells[:4], seconds)
    return table


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw test accuracy and training loss against steps: mean over the seeds, and a band from least to greatest."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "edgeconv", "font.size": 9})
    from matplotlib import pyplot

    architectures = list(dict.fromkeys(run["architecture"] for run in results["runs"]))
    figure, rows = pyplot.subplots(
        len(architectures), 2, figsize=(8, 2.7 * len(architectures)), squeeze=False, layout="constrained"
    )
    # Blue, orange and green of Okabe and Ito's palette, which people with colour blindness tell apart.
    styles = (("#0072B2", "s"), ("#D55E00", "o"), ("#009E73", "^"))
    for axes, architecture in zip(rows, architectures, strict=True):
        for (arm, runs), (colour, marker) in zip(arms_of(results, architecture).items(), styles, strict=False):
            steps = sorted({p["step"] for run in runs for p in run["points"]})
            for axis, key, factor in zip(axes, ("test_top1", "train_loss"), (100, 1), strict=True):
                values = [[factor * p[key] for run in runs if (p := point(run, step))] for step in steps]
                label = f"{arm}, {len(runs)} seeds"
                means = [statistics.mean(found) for found in values]
                axis.plot(steps, means, color=colour, marker=marker, markersize=3, linewidth=1.2, label=label)
                axis.fill_between(
                    steps, list(map(min, values)), list(map(max, values)), color=colour, alpha=0.2, linewidth=0
                )
        for axis, what in zip(axes, ("test top-1, %", "training loss"), strict=True):
            axis.set(title=f"{architecture}: {what}", xlabel="step", xlim=(0, None))
            axis.grid(True, linewidth=0.4, alpha=0.5)
        axes[0].set(ylim=(None, 100))
        axes[1].set(yscale="log")
        axes[0].legend(loc="lower right")
    with atomic_output(path) as temporary:
        pyplot.savefig(temporary, format=path.suffix[1:], metadata={"Date": None})
    pyplot.close(figure)


def cpu_model() -> str:
    """Return the processor's name, where Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except EdgeconvError as error:
        sys.exit(f"{error.message} {error.remedy}")
