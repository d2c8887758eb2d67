"""The launch functions of the whitening kernel, called with nothing but memory."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from hypothesis import strategies as st
from native_kernels import ISAS, Attributes, Shape, Status
from onnx import helper
from tolerances import WHITENING_RTOL
from whitening_oracle import Double, whitening

Array = npt.NDArray[Any]


class WhiteningAttributes(ctypes.Structure):
    _fields_ = [
        ("window", Attributes),
        *[(name, ctypes.c_int64) for name in ("block", "n_iter", "sampling_stride", "centered")],
        ("eps", ctypes.c_float),
    ]


class Params(ctypes.Structure):
    _fields_ = [
        ("shape", Shape),
        *[(name, ctypes.c_int64) for name in ("element_type", "features", "blocks", "positions", "n_iter", "centered")],
        ("eps", ctypes.c_double),
    ]


class Matrix(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("order", "padded", "row_tiles", "column_tiles", "task_rows", "tile_tasks")
    ]  # fmt: skip


class Plan(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("tile_rows", "tile_columns", "few_samples")],
        ("full", Matrix),
        ("root", Matrix),
        *[
            (name, ctypes.c_int64)
            for name in (
                "sample_stride", "chunk_positions", "mean_positions", "mean_tasks", "keep", "block_positions",
                "sample_blocks", "operand_rows", "slices", "tap_block", "whole_groups", "group_steps", "phases",
                "scale", "partial_sums", "magnitudes", "mean", "norms", "covariance", "gathered", "samples", "left",
                "y", "z0", "z1", "z_left0", "z_left1", "t_left", "t_mirror", "d", "d_left", "factor_left",
                "features_left", "d_samples", "group_bytes", "workspace_bytes", "scratch_bytes",
            )
        ],
    ]  # fmt: skip


class Arguments(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("x", "workspace", "mean", "deconv")]


@dataclass
class Case:
    """One call of the operator: its input and its attributes."""

    x: Array
    kernel_shape: tuple[int, int]
    block: int
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1
    eps: float = 1e-5
    n_iter: int = 5
    sampling_stride: int = 3
    centered: int = 1

    @property
    def attributes(self) -> dict[str, Any]:
        """As an ONNX node states them, eps in float32."""
        return {
            **{name: value for name, value in vars(self).items() if name != "x"},
            "eps": float(np.float32(self.eps)),
        }


class Library:
    """The launch functions of one op library."""

    def __init__(self, path: str) -> None:
        self.c = ctypes.CDLL(path)
        # The whitening kernel has files up to avx512; what lies above uses that.
        self.isas = ISAS[: min(ISAS.index("avx512"), self.c.edgeconv_best_isa()) + 1]

    def attributes(self, case: Case) -> WhiteningAttributes:
        """The case's attributes as the library takes them."""
        names = ("kernel_shape", "strides", "pads", "dilations", "group")
        return WhiteningAttributes(
            Attributes(**{name: getattr(case, name) for name in names}),
            **{name: getattr(case, name) for name in ("block", "n_iter", "sampling_stride", "centered", "eps")},
        )

    def prepare(self, case: Case, isa: str) -> tuple[Params, Plan]:
        """Check the case's shapes and plan the work; a message of the library becomes a ValueError."""
        attributes, params, plan, status = self.attributes(case), Params(), Plan(), Status()
        dims = (ctypes.c_int64 * case.x.ndim)(*case.x.shape)
        element_type = {"float32": 0, "float16": 1}[case.x.dtype.name]
        if self.c.edgeconv_deconv_whitening_params(
            ctypes.byref(attributes), dims, ctypes.c_size_t(case.x.ndim), element_type, ctypes.byref(params),
            ctypes.byref(status),
        ):  # fmt: skip
            raise ValueError(status.message.decode())
        number = ISAS.index(isa) if isa in ISAS else len(ISAS)
        pointers = ctypes.byref(params), number, ctypes.byref(plan), ctypes.byref(status)
        if self.c.edgeconv_deconv_whitening_plan(*pointers):
            raise ValueError(status.message.decode())
        return params, plan

    def run(self, case: Case, isa: str, order: str = "forward") -> tuple[Array, Array]:
        """Compute mean and deconv on one instruction set, each phase's tasks one by one.

        Args:
            case: Input and attributes.
            isa: Name of the instruction set.
            order: Of the tasks: "forward", "backward" or "shuffled"; in the last two each finds NaN in its scratch.
        """
        params, plan = self.prepare(case, isa)
        x = np.ascontiguousarray(case.x)
        # Just as many bytes as asked for, so that a sanitizer sees one too many.
        workspace = np.full(plan.workspace_bytes, 0xFF, np.uint8)
        mean = np.full((case.group, params.features), -77, np.float32)
        deconv = np.full((case.group, params.features, params.features), -77, np.float32)
        arguments = Arguments(*(array.ctypes.data for array in (x, workspace, mean, deconv)))
        generator = np.random.default_rng(0)
        scratch = np.full(plan.scratch_bytes, 0xFF, np.uint8)
        for phase in range(plan.phases):
            count, per_call = self.tasks(params, plan, phase)
            assert 1 <= per_call <= count
            tasks = np.arange(count)
            if order == "backward":
                tasks = tasks[::-1]
            elif order == "shuffled":
                generator.shuffle(tasks)
            for task in tasks:
                if order != "forward":
                    scratch[:] = 0xFF
                self.c.edgeconv_deconv_whitening_run(
                    ctypes.byref(params), ISAS.index(isa), ctypes.byref(plan), ctypes.byref(arguments),
                    ctypes.c_int64(phase), ctypes.c_int64(int(task)), ctypes.c_int64(int(task) + 1),
                    scratch.ctypes.data_as(ctypes.c_void_p),
                )  # fmt: skip
        return mean, deconv

    def tasks(self, params: Params, plan: Plan, phase: int) -> tuple[int, int]:
        """Tasks of a phase, and how many of them a thread gets together."""
        tasks, per_call = ctypes.c_int64(), ctypes.c_int64()
        self.c.edgeconv_deconv_whitening_tasks(
            ctypes.byref(params), ctypes.byref(plan), ctypes.c_int64(phase), ctypes.byref(tasks), ctypes.byref(per_call)
        )
        return tasks.value, per_call.value


def make_case(
    x_shape: tuple[int, int, int, int],
    kernel_shape: tuple[int, int],
    block: int,
    dtype: str = "float32",
    *,
    offset: float = 0.5,
    scale: float = 1.0,
    **attributes: Any,
) -> Case:
    """A case with correlated random values, as images have them: smooth, and alike in neighbouring channels."""
    seed = f"{dtype}{x_shape}{kernel_shape}{block}{sorted(attributes.items())}"
    generator = np.random.default_rng(list(seed.encode()))
    x = generator.standard_normal(x_shape)
    for axis in (1, 2, 3):
        x = x + 0.7 * np.roll(x, 1, axis)
    channels = generator.uniform(0.5, 1.5, x_shape[1])[:, None, None]
    return Case((scale * channels * x + offset * channels).astype(dtype), kernel_shape, block, **attributes)


def make_model(
    case: Case, *, x_shape: list[int | str | None] | None = None, without: tuple[str, ...] = (), **attributes: Any
) -> onnx.ModelProto:
    """A model of one node 'node' without a function body.

    Args:
        case: Input and attributes.
        x_shape: Declared shape of X, its own by default.
        without: Attributes that are left out.
        **attributes: Written in place of the case's.
    """
    stated = {**case.attributes, "plugin_version": "1", "plugin_namespace": "edgeconv", **attributes}
    stated = {name: value for name, value in stated.items() if name not in without}
    node = helper.make_node("DeconvWhitening", ["X"], ["mean", "deconv"], name="node", domain="edgeconv", **stated)
    copies = [helper.make_node("Identity", [name], [f"{name}_copy"]) for name in ("mean", "deconv")]
    element = helper.np_dtype_to_tensor_dtype(case.x.dtype)
    graph = helper.make_graph(
        [node, *copies],
        "graph",
        [helper.make_tensor_value_info("X", element, case.x.shape if x_shape is None else x_shape)],
        [helper.make_tensor_value_info(f"{name}_copy", onnx.TensorProto.FLOAT, None) for name in ("mean", "deconv")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("edgeconv", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def assert_whitened(
    case: Case,
    actual: tuple[Array, Array],
    what: str = "",
    *,
    factor: float = 1.0,
    expected: tuple[Double, Double] | None = None,
) -> None:
    """Fail unless mean and deconv are within tolerance of the oracle, and deconv is symmetric to the bit."""
    mean, deconv = whitening(case.x, case.attributes) if expected is None else expected
    assert actual[0].dtype == actual[1].dtype == np.float32
    assert actual[0].shape == mean.shape
    assert actual[1].shape == deconv.shape
    np.testing.assert_array_equal(actual[1], np.swapaxes(actual[1], 1, 2), what)
    size = float(np.abs(case.x.astype(np.float64)).max())
    np.testing.assert_allclose(actual[0], mean, rtol=2e-7, atol=2e-7 * size, err_msg=what)
    for g in range(case.group):
        largest = float(np.abs(deconv[g]).max())
        error = float(np.abs(actual[1][g] - deconv[g]).max()) / largest
        assert error <= factor * WHITENING_RTOL, f"{what}: deconv is {error:.2g} of its largest element off"


@st.composite
def cases(draw: st.DrawFn, spare: int) -> Case:
    """Any configuration; sizes are up to `spare` more than the window reaches."""
    window = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilations = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    reach = [dilations[a] * (window[a] - 1) + 1 for a in range(2)]
    sizes = [draw(st.integers(max(1, reach[a] - pads[a] - pads[2 + a]), spare + reach[a])) for a in range(2)]
    block, group = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    channels = block * (group if group > 1 else draw(st.integers(1, 4)))
    return make_case(
        (draw(st.integers(1, 3)), channels, sizes[0], sizes[1]), window, block,
        draw(st.sampled_from(["float32", "float16"])),
        strides=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))), pads=pads, dilations=dilations, group=group,
        sampling_stride=draw(st.integers(1, 4)), centered=draw(st.integers(0, 1)), n_iter=draw(st.integers(0, 7)),
        eps=draw(st.sampled_from([1e-5, 1e-2, 1.0])),
    )  # fmt: skip
