"""What takes part in `kervolution_cuda.py`: each competitor in every form, captured into a CUDA graph. Imports torch.

A form's graph holds several inferences, one after the other, so that a replay takes milliseconds. CUDA's events around
it give its time; `DEVICE_CLOCK` goes on by that over the number of inferences.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from competitors import Form, Output, Ready
from layers import Layer, parameters
from standard_graphs import DISTANCES
from torch import Tensor, nn
from torch_forms import Steps, compiled_forms, eager_forms

from edgeconv.errors import EdgeconvError
from edgeconv.runtime.op_library import op_library

# The launch functions' structures are the tests'.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from cuda_kervolution import CudaArguments, How, call, prepare
from cuda_memory import Device, Place
from native_kernels import Case, ChannelValues, Status

REPLAY_SECONDS = 2e-3
"""Least time of a graph."""
MOST_REPEATS = 200

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "float16": torch.float16}
"""torch's type by precision."""


def current_device() -> Device:
    """What tiles are chosen for: the current GPU."""
    device, status = Device(), Status()
    if ctypes.CDLL(str(op_library())).edgeconv_cuda_device(ctypes.byref(device), ctypes.byref(status)):
        raise EdgeconvError(status.message.decode())
    return device


def gpu_name() -> str:
    """The current GPU's."""
    return str(torch.cuda.get_device_name())


def gpu_stamp() -> dict[str, Any]:
    """What a result has to say of the GPU and of what ran on it."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": properties.name, "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count, "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "torch": str(torch.__version__),
    }  # fmt: skip


def captured(name: str, prepare_run: Callable[[], tuple[Callable[[], Any], Callable[[], Output]]]) -> Form:
    """A form whose run is the replay of a graph of inferences.

    Args:
        name: Name of the form.
        prepare_run: Gives one inference and a function that returns its output.
    """

    def load(_: int) -> Ready:
        run, result = prepare_run()
        side = torch.cuda.Stream()
        with torch.no_grad(), torch.cuda.stream(side):
            for _ in range(3):
                run()
            side.synchronize()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record(side)  # type: ignore[no-untyped-call]
            run()
            end.record(side)  # type: ignore[no-untyped-call]
            side.synchronize()
        seconds = float(start.elapsed_time(end)) * 1e-3  # type: ignore[no-untyped-call]
        repeats = max(1, min(MOST_REPEATS, math.ceil(REPLAY_SECONDS / max(seconds, 1e-6))))
        graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(graph):
            for _ in range(repeats):
                run()

        def replay() -> None:
            start.record()  # type: ignore[no-untyped-call]
            graph.replay()
            end.record()  # type: ignore[no-untyped-call]
            end.synchronize()  # type: ignore[no-untyped-call]
            DEVICE_CLOCK.ns += float(start.elapsed_time(end)) * 1e6 / repeats  # type: ignore[no-untyped-call]

        return Ready(replay, result)

    return Form(name, load)


class DeviceClock:
    """The device's time for one inference, summed over replays: a clock for `interleave.compare`."""

    def __init__(self) -> None:
        self.ns = 0.0

    def __call__(self) -> int:
        """Nanoseconds."""
        return round(self.ns)


DEVICE_CLOCK = DeviceClock()


def library_forms(kernel: str, layer: Layer, precision: str) -> Iterator[Form]:
    """The op library's kernel in both layouts."""
    device = current_device()
    place = Place(gpu_name(), op_library(), (device,))
    for layout in ("nchw", "nhwc"):
        yield captured(layout, lambda layout=layout: _library_run(kernel, layer, precision, layout, place, device))


def _library_run(
    kernel: str, layer: Layer, precision: str, layout: str, place: Place, device: Device
) -> tuple[Callable[[], Any], Callable[[], Output]]:
    dtype = np.float16 if precision == "float16" else np.float32
    x, w = (array.astype(dtype) for array in layer.tensors())
    values = parameters(kernel, layer)
    case = Case(
        kernel, x, w, None, balance=np.float32([values.get("balance", 0)]),
        scale=np.float32([values.get("gamma", values.get("scale", 1))]), strides=(layer.stride,) * 2,
        pads=(layer.pad,) * 4, group=layer.group,
    )  # fmt: skip
    how = How(layout, "tf32" if precision == "tf32" else "float32")
    params, plan = prepare(place, case, device, how)
    images = torch.from_numpy(x).cuda()
    if layout == "nhwc":
        padded = torch.zeros(*x.shape[:1], *x.shape[2:], plan.format.x_channel_pitch, dtype=images.dtype, device="cuda")
        padded[..., : x.shape[1]] = images.permute(0, 2, 3, 1)
        images = padded
    filters = torch.from_numpy(w).cuda()
    packed, workspace = (
        torch.empty(max(1, size), dtype=torch.uint8, device="cuda")
        for size in (plan.packed_bytes, plan.workspace_bytes)
    )
    pitch = plan.format.y_channel_pitch
    batch, channels, height, width = layer.y_shape
    y_shape = (batch, height, width, pitch) if layout == "nhwc" else layer.y_shape
    y = torch.empty(y_shape, dtype=images.dtype, device="cuda")
    channel_values = {name: torch.from_numpy(getattr(case, name)).cuda() for name in ("balance", "scale")}
    arguments = CudaArguments(
        x=images.data_ptr(), w=filters.data_ptr(), packed=packed.data_ptr(), workspace=workspace.data_ptr(),
        y=y.data_ptr(), **{name: ChannelValues(value.data_ptr(), 0) for name, value in channel_values.items()},
    )  # fmt: skip
    pointers = ctypes.byref(params), ctypes.byref(plan)
    addresses = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (filters, packed))
    call(place, "edgeconv_kervolution_cuda_pack", *pointers, *addresses, ctypes.c_void_p(0))
    torch.cuda.synchronize()
    keep = (images, filters, packed, workspace, channel_values)

    def run() -> object:
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        call(place, "edgeconv_kervolution_cuda_run", *pointers, ctypes.byref(arguments), stream)
        return keep

    def result() -> Output:
        run()
        torch.cuda.synchronize()
        found = y[..., :channels].permute(0, 3, 1, 2) if layout == "nhwc" else y
        output: Output = found.float().cpu().numpy()
        return output

    return run, result


def conv_forms(layer: Layer, precision: str) -> Iterator[Form]:
    """A plain convolution of the same shape in cuDNN, in both memory formats."""

    def load(last: bool) -> tuple[Callable[[], Any], Callable[[], Output]]:
        x, w = (_tensor(array, precision, last) for array in layer.tensors())
        module = _Conv(layer, w)
        return _module_run(module, x, precision)

    for last in (False, True):
        yield captured("channels last" if last else "channels first", lambda last=last: load(last))


class _Conv(nn.Module):
    def __init__(self, layer: Layer, w: Tensor) -> None:
        super().__init__()
        self.layer, self.w = layer, w

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        return torch.nn.functional.conv2d(x, self.w, None, layer.stride, layer.pad, 1, layer.group)


def torch_gpu_forms(kernel: str, layer: Layer, precision: str, *, compiled: bool) -> Iterator[Form]:
    """The kernel in PyTorch, eager or compiled; distance kernels in float16 sum as torch does."""

    def load(module: nn.Module, last: bool, frozen: bool) -> tuple[Callable[[], Any], Callable[[], Output]]:
        module = module.eval().to("cuda", DTYPES[precision])
        x = _tensor(layer.tensors()[0], precision, last)
        if compiled:
            options = {"freezing": True} if frozen else None
            if isinstance(module, Steps):
                module.second = torch.compile(module.second, dynamic=False, options=options)
            else:
                module = torch.compile(module, dynamic=False, options=options)  # type: ignore[assignment]
        return _module_run(module, x, precision)

    if compiled:
        for name, module, last, frozen in compiled_forms(kernel, layer):
            yield captured(name, lambda module=module, last=last, frozen=frozen: load(module, last, frozen))
    else:
        for name, module, last in eager_forms(kernel, layer):
            if kernel in DISTANCES and "cdist" in name and precision == "float16":
                continue  # torch has none
            yield captured(name, lambda module=module, last=last: load(module, last, False))


def cdist_form(kernel: str, layer: Layer) -> Form:
    """`torch.cdist` over unfolded columns, in float32."""
    name, module, last = next(form for form in eager_forms(kernel, layer) if "cdist" in form[0])

    def load() -> tuple[Callable[[], Any], Callable[[], Output]]:
        return _module_run(module.eval().cuda(), _tensor(layer.tensors()[0], "float32", last), "float32")

    return captured(name, load)


def expected(kernel: str, layer: Layer, precision: str) -> Output:
    """The output in float64, computed on the GPU, of inputs as the precision has them."""
    x, w = _doubles(layer, precision)
    values = parameters(kernel, layer)
    if kernel in DISTANCES:
        columns = torch.nn.functional.unfold(x, layer.window, 1, layer.pad, layer.stride).transpose(1, 2)
        p = math.inf if kernel == "chebyshev" else 1.0
        y = -torch.cdist(columns, w.reshape(1, layer.filters, -1).expand(layer.batch, -1, -1), p=p).transpose(1, 2)
        return _numpy(y.reshape(layer.y_shape))
    u = torch.nn.functional.conv2d(x, w, None, layer.stride, layer.pad, 1, layer.group)
    if kernel == "polynomial":
        return _numpy((u + values["balance"]) ** 3)
    if kernel == "sigmoid":
        return _numpy(torch.tanh(values["scale"] * u + values["balance"]))
    ones = torch.ones_like(w)
    squares = torch.nn.functional.conv2d(x.square(), ones, None, layer.stride, layer.pad, 1, layer.group)
    distance = squares + w.square().sum((1, 2, 3))[:, None, None] - 2 * u
    return _numpy(torch.exp(-values["gamma"] * distance) if kernel == "gaussian" else -distance)


def expected_conv(layer: Layer, precision: str) -> Output:
    """The plain convolution in float64."""
    x, w = _doubles(layer, precision)
    return _numpy(torch.nn.functional.conv2d(x, w, None, layer.stride, layer.pad, 1, layer.group))


def _doubles(layer: Layer, precision: str) -> tuple[Tensor, Tensor]:
    dtype = np.float16 if precision == "float16" else np.float32
    x, w = (torch.from_numpy(array.astype(dtype).astype(np.float64)).cuda() for array in layer.tensors())
    return x, w


def _numpy(tensor: Tensor) -> Output:
    output: Output = tensor.cpu().numpy()
    return output


def _tensor(array: Output, precision: str, last: bool) -> Tensor:
    tensor = torch.from_numpy(array.copy()).to("cuda", DTYPES[precision])
    return tensor.to(memory_format=torch.channels_last) if last else tensor


def _module_run(module: nn.Module, x: Tensor, precision: str) -> tuple[Callable[[], Any], Callable[[], Output]]:
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"

    def run() -> object:
        return module(x)

    def result() -> Output:
        with torch.no_grad():
            output: Output = module(x).float().cpu().numpy()
        return output

    return run, result
