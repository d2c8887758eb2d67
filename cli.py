"""The `edgeconv` program: parse, call one function of the public API, print. No logic lives here."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

import edgeconv
from edgeconv.bench.environment import edgeconv_version
from edgeconv.bench.inputs import parse_shapes
from edgeconv.bench.progress import show_progress
from edgeconv.errors import EdgeconvError, InputError, ParityError
from edgeconv.files import check_output
from edgeconv.json_text import json_text
from edgeconv.models.registry import ModelTable
from edgeconv.quantize.settings import parse_numbers, parse_size

out = Console()
err = Console(stderr=True)


class _Commands(TyperGroup):
    """Ends an expected error with one message and its exit code, never with a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeconvError as error:
            err.print(f"[bold red]error:[/] {escape(error.message)}", highlight=False, soft_wrap=True)
            if error.remedy:
                err.print(escape(error.remedy), highlight=False, soft_wrap=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            err.print("interrupted; no half-written file is left")
            raise typer.Exit(130) from interrupt


app = typer.Typer(
    name="edgeconv",
    cls=_Commands,
    help="Take PyTorch CNNs with unusual convolutions to edge devices: one ONNX file, every runtime.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgeconv {edgeconv_version()}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


CheckpointArgument = Annotated[
    Path,
    typer.Argument(help="A .pt, .pth or .safetensors checkpoint, or a .pt2 ExportedProgram.", show_default=False),
]
ArchOption = Annotated[
    str | None, typer.Option("--arch", help="Architecture of a bare state dict; `edgeconv models` lists the names.")
]
ConfigOption = Annotated[
    list[str],
    typer.Option("--config", help="KEY=VALUE of the architecture, VALUE in JSON or plain text; repeatable."),
]
TrustOption = Annotated[
    bool,
    typer.Option("--trust-pickle", help="Load pickled modules. This runs code from the file: only if you trust it."),
]
AtolOption = Annotated[float | None, typer.Option(help="Absolute tolerance of the check (default by precision).")]
RtolOption = Annotated[
    float | None, typer.Option(help="Tolerance relative to the rms of PyTorch's output (default by precision).")
]
InputsOption = Annotated[
    Path | None,
    typer.Option(help="Real inputs for the check: .npz with `images`, or .npy; uint8 is normalised, float is not."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
ShapesOption = Annotated[
    list[str],
    typer.Option(help="[NAME:]1x3x224x224; a word is a dynamic axis (Nx3xH=64xW=64). Repeatable, one an input."),
]
ProviderOption = Annotated[
    str,
    typer.Option(help="Where to run: cpu, cuda (ONNX Runtime on an NVIDIA GPU), tensorrt or tensorrt-rtx (engines)."),
]
ThreadsOption = Annotated[
    int | None, typer.Option(help="cpu, cuda: threads an operator may use (default: one a core).")
]
BatchOption = Annotated[int, typer.Option(help="Size of a dynamic batch axis.")]
SizesOption = Annotated[list[str], typer.Option(help="[NAME:]1x3x224x224; repeatable.")]
OpLibraryOption = Annotated[
    bool, typer.Option("--op-library/--no-op-library", help="Use the native operators (plugins), or the functions.")
]
DeviceOption = Annotated[int, typer.Option(help="GPU: its number, among those that are visible.")]
Tf32Option = Annotated[bool, typer.Option("--tf32", help="GPU: let float32 products drop to TF32 (default: float32).")]
FallbackOption = Annotated[
    bool, typer.Option("--allow-cpu-fallback", help="cuda: go on although some nodes run on the CPU (default: error).")
]
TrustEngineOption = Annotated[
    bool,
    typer.Option("--trust-engine", help="Load an engine without its stamp. An engine is code: only if you trust it."),
]


@app.command()
def export(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="A .pt, .pth or .safetensors checkpoint, or a .pt2 ExportedProgram.", show_default=False),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Of --arch, in the checkpoint's place: a state dict, .pth or .safetensors; also torchvision's, timm's."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The .onnx file; by default beside the checkpoint.")
    ] = None,
    arch: ArchOption = None,
    config: ConfigOption = [],
    opset: Annotated[int, typer.Option(help="Standard opset, 18 to 23.")] = 18,
    batch: Annotated[int, typer.Option(help="Batch size of a --static file.")] = 1,
    shapes: ShapesOption = [],
    dynamic: Annotated[bool, typer.Option("--dynamic/--static", help="Leave the batch size open, or fix it.")] = True,
    inline: Annotated[
        bool, typer.Option("--inline", help="Standard operators only, for OpenVINO, TensorRT and TensorRT-RTX.")
    ] = False,
    no_functions: Annotated[
        bool, typer.Option("--no-functions", help="No function bodies, for TensorRT before 10.7 with the plugin.")
    ] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Compute in float16; inputs and outputs stay float32.")] = False,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Of every kervolution on x·w: float32, or bf16x3 for CPUs with AMX (default: as the layers have it)."
        ),
    ] = None,
    deconv_stats: Annotated[
        str | None,
        typer.Option(
            metavar="frozen|batch|blend=α",
            help="What deconvolutions whiten with: running statistics, folded into plain weights; the batch's, on the "
            "device; or a blend, α being the batch's share (default: frozen).",
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Check against PyTorch; a file that fails is not kept.")
    ] = True,
    atol: AtolOption = None,
    rtol: RtolOption = None,
    inputs: InputsOption = None,
    trust_pickle: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a checkpoint into one .onnx file and prove that every runtime computes what PyTorch does."""
    source = checkpoint or weights
    if source is None or (checkpoint is not None and weights is not None):
        raise typer.BadParameter("give a checkpoint, or --arch and --weights: one of the two.")
    if inline and no_functions:
        raise typer.BadParameter("--inline and --no-functions exclude each other.")
    with _status() as say, _failing_report(as_json):
        report = edgeconv.export_checkpoint(
            source,
            output,
            architecture=arch,
            config=_config(config),
            opset=opset,
            batch=batch,
            shapes=shapes,
            dynamic=dynamic,
            form="inlined" if inline else "nodes" if no_functions else "functions",
            fp16=fp16,
            precision=precision,
            deconv_stats=deconv_stats,
            verify=verify,
            atol=atol,
            rtol=rtol,
            inputs=inputs,
            trust_pickle=trust_pickle,
            progress=say,
        )
    _show(report, as_json)


@app.command()
def verify(
    model: Annotated[Path, typer.Argument(help="The .onnx file.", show_default=False)],
    against: Annotated[Path, typer.Option(help="The checkpoint it was exported from.", show_default=False)],
    arch: ArchOption = None,
    config: ConfigOption = [],
    atol: AtolOption = None,
    rtol: RtolOption = None,
    inputs: InputsOption = None,
    trust_pickle: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check an exported file against its checkpoint again; exit with 1 if a runtime disagrees."""
    with _status() as say:
        report = edgeconv.verify_model(
            model,
            against,
            architecture=arch,
            config=_config(config),
            atol=atol,
            rtol=rtol,
            inputs=inputs,
            trust_pickle=trust_pickle,
            progress=say,
        )
    _show(report, as_json)
    if not report.passed:
        raise typer.Exit(1)


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="Any .onnx file.", show_default=False)],
    shapes: Annotated[list[str], typer.Option(help="[NAME:]1x3x224x224 to assume for an input; repeatable.")] = [],
    all_layers: Annotated[
        bool, typer.Option("--all-layers", help="Also list nodes without parameters or counted operations.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show operators, shapes, parameters, MACs and size of a file, and which runtimes take which path."""
    report = edgeconv.inspect_model(model, shapes=parse_shapes(shapes))
    _show(report, as_json, **({} if as_json else {"all_layers": all_layers}))


@app.command()
def run(
    model: Annotated[Path, typer.Argument(help="An .onnx file, or an engine of TensorRT.", show_default=False)],
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--input", "-i", help=".npy or .npz (arrays by input name, or images); uint8 is normalised. Default: noise."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the outputs to this .npz.")] = None,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    batch: BatchOption = 1,
    shapes: SizesOption = [],
    op_library: OpLibraryOption = True,
    seed: Annotated[int, typer.Option(help="Of made-up inputs.")] = 0,
    device: DeviceOption = 0,
    tf32: Tf32Option = False,
    allow_cpu_fallback: FallbackOption = False,
    trust_engine: TrustEngineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a model or an engine once, and show or write what comes out."""
    with show_progress(err) as tick:
        report = edgeconv.run_model(
            model,
            inputs,
            output=output,
            provider=provider,
            threads=threads,
            batch=batch,
            shapes=parse_shapes(shapes),
            op_library=op_library,
            seed=seed,
            device=device,
            tf32=tf32,
            allow_cpu_fallback=allow_cpu_fallback,
            trust_engine=trust_engine,
            progress=tick,
        )
    _show(report, as_json)


@app.command()
def bench(
    models: Annotated[
        list[Path], typer.Argument(help="One or more .onnx files, or engines of TensorRT.", show_default=False)
    ],
    provider: ProviderOption = "cpu",
    iterations: Annotated[int | None, typer.Option(help="Least number of samples (default 64; p99 takes 662).")] = None,
    duration: Annotated[float, typer.Option(help="Least time of measurement of each variant, in seconds.")] = 3.0,
    warmup: Annotated[float, typer.Option(help="Least warm-up in seconds; it goes on until stable. 0: none.")] = 0.5,
    threads: ThreadsOption = None,
    batch: BatchOption = 1,
    shapes: SizesOption = [],
    percentile: Annotated[
        list[float], typer.Option(help="Percentile to report; repeatable.", show_default="50, 90, 99")
    ] = [50, 90, 99],
    profile: Annotated[bool, typer.Option("--profile", help="Add a table of time by operator.")] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Interleave all models, with and without the op library, with ratios.")
    ] = False,
    op_library: OpLibraryOption = True,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Measure memory, in a process of its own.")
    ] = True,
    baseline: Annotated[
        Path | None, typer.Option(help="JSON of an earlier run to compare with; an unlike one is refused.")
    ] = None,
    allow_unlike: Annotated[
        bool, typer.Option("--allow-unlike", help="Compare with an unlike baseline all the same, and mark it.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of inputs, order of turns and resampling.")] = 0,
    device: DeviceOption = 0,
    tf32: Tf32Option = False,
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph/--no-cuda-graph", help="GPU: launch an inference as one CUDA graph.")
    ] = False,
    copies: Annotated[
        bool, typer.Option("--copies/--no-copies", help="GPU: copy inputs there and outputs back, and count it.")
    ] = False,
    allow_cpu_fallback: FallbackOption = False,
    trust_engine: TrustEngineOption = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the JSON report here too.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure latency, throughput, memory and loading time of models; on a GPU its own time apart."""
    if output is not None:
        check_output("--output", output, models)
    with show_progress(err) as tick:
        report = edgeconv.benchmark(
            models,
            provider=provider,
            iterations=iterations,
            duration=duration,
            warmup=warmup,
            threads=threads,
            batch=batch,
            shapes=parse_shapes(shapes),
            percentiles=percentile,
            profile=profile,
            compare=compare,
            op_library=op_library,
            memory=memory,
            baseline=baseline,
            allow_unlike=allow_unlike,
            seed=seed,
            device=device,
            tf32=tf32,
            cuda_graph=cuda_graph,
            copies=copies,
            allow_cpu_fallback=allow_cpu_fallback,
            trust_engine=trust_engine,
            progress=tick,
        )
    if output is not None:
        report.write_json(output)
    _show(report, as_json)


@app.command()
def build(
    model: Annotated[Path, typer.Argument(help="The .onnx file.", show_default=False)],
    provider: Annotated[str, typer.Option(help="What to build for: tensorrt or tensorrt-rtx.")] = "tensorrt",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The engine; by default beside the model, as .engine.")
    ] = None,
    min_shapes: Annotated[
        list[str], typer.Option("--min-shapes", "--minShapes", help="Least shapes: x:1x3x224x224,y:1x10.")
    ] = [],
    opt_shapes: Annotated[
        list[str], typer.Option("--opt-shapes", "--optShapes", help="Shapes to tune for (default: the largest).")
    ] = [],
    max_shapes: Annotated[list[str], typer.Option("--max-shapes", "--maxShapes", help="Largest shapes.")] = [],
    shapes: Annotated[list[str], typer.Option("--shapes", help="The only shapes: least, best and largest.")] = [],
    compute_capability: Annotated[
        list[str],
        typer.Option(help="Of tensorrt-rtx: 8.6,8.9,12.0, sm_89, ada, current; repeatable (default: this machine's)."),
    ] = [],
    fp16: Annotated[bool, typer.Option("--fp16", help="Refuse a file that does not compute in float16.")] = False,
    tf32: Annotated[bool, typer.Option("--tf32", help="Let float32 products drop to TF32.")] = False,
    workspace: Annotated[
        str | None, typer.Option(help="GPU memory a layer may use for itself: MiB, or 512M, 2G (default: all).")
    ] = None,
    plugins: Annotated[
        bool, typer.Option("--plugins/--no-plugins", help="Use edgeconv's TensorRT plugins, if they are installed.")
    ] = True,
    timing_cache: Annotated[
        Path | None,
        typer.Option("--timing-cache", "--timingCacheFile", help="File of measured kernels, read and brought up."),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild/--no-rebuild", help="Build a stored engine that does not fit again, or fail.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Build even if the stored engine fits.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show everything that the builder says.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Build a TensorRT or TensorRT-RTX engine of an .onnx file; keep the stored one if it fits."""
    from edgeconv.runtime.engine_build import parse_workspace
    from edgeconv.runtime.engine_shapes import parse_shape_lists

    with show_progress(err) as tick:
        report = edgeconv.build_engine(
            model,
            output,
            provider=provider,
            shapes=parse_shape_lists(shapes),
            min_shapes=parse_shape_lists(min_shapes),
            opt_shapes=parse_shape_lists(opt_shapes),
            max_shapes=parse_shape_lists(max_shapes),
            compute_capabilities=compute_capability,
            fp16=fp16,
            tf32=tf32,
            workspace=None if workspace is None else parse_workspace(workspace),
            plugins=plugins,
            timing_cache=timing_cache,
            rebuild=rebuild,
            force=force,
            verbose=verbose,
            tell=lambda line: err.print(escape(line), highlight=False, soft_wrap=True) if verbose else None,
            progress=tick,
        )
    _show(report, as_json)


@app.command()
def quantize(
    model: Annotated[Path, typer.Argument(help="A float32 .onnx file, or a checkpoint.", show_default=False)],
    calib: Annotated[
        Path, typer.Option("--calib", help="Calibration images: a directory, .npz or .npy.", show_default=False)
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The 8-bit .onnx; by default MODEL.int8.onnx beside it.")
    ] = None,
    target: Annotated[str, typer.Option(help="ort, tensorrt or portable.")] = "ort",
    method: Annotated[str, typer.Option(help="Ranges of activations: minmax, percentile, mse or entropy.")] = "minmax",
    percentile: Annotated[float, typer.Option(help="Share of the values that a percentile range holds.")] = 99.99,
    equalize: Annotated[
        bool, typer.Option("--equalize/--no-equalize", help="Cross-layer equalisation of channels.")
    ] = True,
    relax_relu6: Annotated[
        bool, typer.Option("--relax-relu6", help="Equalise ReLU6's outputs too; bounds follow the calibration images.")
    ] = False,
    bias_correction: Annotated[
        bool, typer.Option("--bias-correction/--no-bias-correction", help="Empirical bias correction.")
    ] = True,
    rounding: Annotated[
        str, typer.Option("--round", help="Of weights: nearest, covariance, or learned (needs torch).")
    ] = "covariance",
    exclude: Annotated[
        list[str], typer.Option(metavar="REGEX", help="Leave nodes of such names in float; repeatable.")
    ] = [],
    int8_io: Annotated[bool, typer.Option("--int8-io", help="8-bit inputs and outputs.")] = False,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Rank layers by what leaving each in float buys.")
    ] = False,
    target_sqnr: Annotated[float, typer.Option(help="In dB: --sensitivity proposes layers for it.")] = 22.0,
    accuracy: Annotated[Path | None, typer.Option(help="Labelled images: a directory a class, or labels.csv.")] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Images to measure the agreement on (default: those of the calibration).")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Subtracted from pixels in [0, 1]: 0.485,0.456,0.406 (default: the file's).")
    ] = None,
    std: Annotated[str | None, typer.Option(help="They are then divided by: 0.229,0.224,0.225.")] = None,
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH where the file leaves it open.")] = None,
    calib_limit: Annotated[int | None, typer.Option(help="Use the first so many calibration images.")] = None,
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 16,
    plot: Annotated[
        Path | None, typer.Option(help="Draw ranges of weights and activations: .png, .svg or .pdf.")
    ] = None,
    latency: Annotated[
        bool, typer.Option("--latency/--no-latency", help="Measure both files in ONNX Runtime here.")
    ] = True,
    arch: ArchOption = None,
    config: ConfigOption = [],
    trust_pickle: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Quantise a network to 8 bits, and show what that costs and brings."""
    with show_progress(err) as tick:
        report = edgeconv.quantize_model(
            model,
            calib,
            output=output,
            target=target,
            method=method,
            percentile=percentile,
            equalize=equalize,
            relax_relu6=relax_relu6,
            bias_correction=bias_correction,
            rounding=rounding,
            exclude=exclude,
            int8_io=int8_io,
            sensitivity=sensitivity,
            target_sqnr=target_sqnr,
            accuracy=accuracy,
            compare=compare,
            mean=None if mean is None else parse_numbers("--mean", mean),
            std=None if std is None else parse_numbers("--std", std),
            size=None if size is None else parse_size(size),
            limit=calib_limit,
            batch=batch,
            plot=plot,
            latency=latency,
            architecture=arch,
            config=_config(config),
            trust_pickle=trust_pickle,
            progress=tick,
        )
    _show(report, as_json)


@app.command()
def visualize(
    checkpoint: CheckpointArgument,
    layer: Annotated[
        str | None, typer.Option(help="The layer to show; a wrong name prints those that can be shown.")
    ] = None,
    image: Annotated[
        list[Path], typer.Option("--image", "-i", help="A picture, a directory of them, .npz or .npy; repeatable.")
    ] = [],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The picture to draw: .png, .svg or .pdf.")
    ] = None,
    feature: Annotated[
        list[int], typer.Option(help="A feature to show; repeatable (default: those that are strongest).")
    ] = [],
    top: Annotated[int, typer.Option(help="Patches of a feature, each of another image.")] = 9,
    count: Annotated[int, typer.Option(help="How many features, where none is named.")] = 9,
    filters: Annotated[Path | None, typer.Option(help="Draw the first layer's filters: .png, .svg or .pdf.")] = None,
    export_onnx: Annotated[
        Path | None, typer.Option("--export-onnx", help="Write the projection of one feature as an .onnx, checked.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Subtracted from pixels in [0, 1]: 0.485,0.456,0.406 (default: the file's).")
    ] = None,
    std: Annotated[str | None, typer.Option(help="They are then divided by: 0.229,0.224,0.225.")] = None,
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of the input (default: the checkpoint's).")] = None,
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 16,
    arch: ArchOption = None,
    config: ConfigOption = [],
    trust_pickle: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show which image patches excite a layer's features, and what in them does (deconvnet)."""
    with show_progress(err) as tick, _failing_report(as_json):
        report = edgeconv.visualize_model(
            checkpoint,
            layer,
            image,
            output=output,
            features=feature,
            top=top,
            count=count,
            filters=filters,
            export_onnx=export_onnx,
            mean=None if mean is None else parse_numbers("--mean", mean),
            std=None if std is None else parse_numbers("--std", std),
            size=None if size is None else parse_size(size),
            batch=batch,
            architecture=arch,
            config=_config(config),
            trust_pickle=trust_pickle,
            progress=tick,
        )
    _show(report, as_json)


@app.command()
def fuse(
    model: Annotated[Path, typer.Argument(help="A QDQ .onnx file, of `edgeconv quantize` or another tool.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The fused .onnx; by default MODEL.fused.onnx beside it.")
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option(help="What values are compared on: .npy, or .npz with `images` (default: random).")
    ] = None,
    shapes: SizesOption = [],
    no_functions: Annotated[
        bool, typer.Option("--no-functions", help="No function bodies: the file then needs the op library.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Count the values that differ from the QDQ file.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of random inputs.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Turn the layers of a QDQ file into 8-bit operators for ONNX Runtime on the CPU."""
    with show_progress(err) as tick:
        report = edgeconv.fuse_model(
            model,
            output,
            inputs=inputs,
            shapes=parse_shapes(shapes),
            functions=not no_functions,
            check=check,
            seed=seed,
            progress=tick,
        )
    _show(report, as_json)


@app.command()
def train(
    arch: Annotated[str, typer.Option("--arch", help="Architecture; `edgeconv models` lists the names.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The checkpoint (.pt) to write.", show_default=False)],
    data: Annotated[str, typer.Option(help="Data set: mnist.")] = "mnist",
    data_dir: Annotated[Path, typer.Option(help="Directory of its IDX files.")] = Path("data/mnist"),
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 10,
    seed: Annotated[int, typer.Option(help="Of weights, order and shifts.")] = 0,
    config: ConfigOption = [],
    batch_size: Annotated[int, typer.Option(help="Images an update.")] = 64,
    optimizer: Annotated[str, typer.Option(help="adamw or sgd.")] = "adamw",
    lr: Annotated[float | None, typer.Option(help="Peak learning rate (default by optimizer).")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay (default by optimizer).")] = None,
    schedule: Annotated[str, typer.Option(help="one-cycle, cosine or constant.")] = "one-cycle",
    shift: Annotated[int, typer.Option(help="Move training images by up to this many pixels.")] = 2,
    label_smoothing: Annotated[float, typer.Option(help="Share of the label spread over all classes.")] = 0.0,
    clip_norm: Annotated[float | None, typer.Option(help="Largest norm of the gradient (default: no limit).")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of PyTorch (default: its own choice).")] = None,
    history: Annotated[Path | None, typer.Option(help="Write the curves as JSON here.")] = None,
    resume: Annotated[
        bool | None, typer.Option("--resume/--no-resume", help="Go on from OUTPUT.resume (default: if it is there).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train an architecture on MNIST with a small recipe and write a checkpoint."""
    report = edgeconv.train_model(
        arch,
        data=data,
        data_dir=data_dir,
        epochs=epochs,
        seed=seed,
        config=_config(config),
        output=output,
        history=history,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        schedule=schedule,
        shift=shift,
        label_smoothing=label_smoothing,
        clip_norm=clip_norm,
        threads=threads,
        resume=resume,
        progress=not as_json,
    )
    _show(report, as_json)


models_app = typer.Typer(help="List the architectures, or scale one.")
app.add_typer(models_app, name="models", invoke_without_command=True)


@models_app.callback()
def models(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the architectures with their papers, input shapes and configuration keys."""
    if context.invoked_subcommand is None:
        _show(ModelTable(edgeconv.list_models()), as_json)


@models_app.command()
def scale(
    arch: Annotated[str, typer.Argument(help="Architecture; `edgeconv models` lists the names.", show_default=False)],
    budget_macs: Annotated[
        str, typer.Option(help="Most multiply-accumulates of an inference: 300M, 1G.", show_default=False)
    ],
    budget_latency: Annotated[str | None, typer.Option(help="Longest median latency: 20ms, 0.5s.")] = None,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    config: ConfigOption = [],
    grid: Annotated[
        list[str],
        typer.Option(help="Coefficients of an axis: depth=1,1.2,1.4; width=…, resolution=…; repeatable."),
    ] = [],
    steps: Annotated[int, typer.Option(help="Steps of the exponent φ up to the budget.")] = 3,
    limit: Annotated[int, typer.Option(help="Most candidates to measure.")] = 20,
    seed: Annotated[int, typer.Option(help="Of weights, inputs and order of turns.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Draw it: .png, .svg or .pdf.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Scale depth, width and resolution together (EfficientNet), and measure what fits a budget. Nothing is trained."""
    from edgeconv.scaling.grid import parse_grid, parse_latency, parse_macs

    with show_progress(err) as tick:
        report = edgeconv.scale_architecture(
            arch,
            budget_macs=parse_macs(budget_macs),
            budget_latency=None if budget_latency is None else parse_latency(budget_latency),
            provider=provider,
            threads=threads,
            config=_config(config),
            grid=parse_grid(grid),
            phi_steps=steps,
            limit=limit,
            seed=seed,
            output=output,
            progress=tick,
        )
    _show(report, as_json)


def main() -> None:
    """Run the program."""
    app()


def _show(report: Any, as_json: bool, **options: bool) -> None:
    if as_json:
        out.file.write(json_text(report.to_dict()) + "\n")
    else:
        report.render(out, **options)


@contextlib.contextmanager
def _failing_report(as_json: bool) -> Iterator[None]:
    """Show the parity report that a failed check carries before the error goes on."""
    try:
        yield
    except ParityError as error:
        _show(error.report, as_json)
        raise


@contextlib.contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    with err.status("Starting") as status:
        yield lambda text: status.update(escape(text))


def _config(pairs: list[str]) -> dict[str, Any]:
    config = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"--config {pair} is not KEY=VALUE.", "Write, for example, --config kernel=gaussian.")
        try:
            config[key] = json.loads(value)
        except ValueError:
            config[key] = value
    return config


if __name__ == "__main__":
    main()
