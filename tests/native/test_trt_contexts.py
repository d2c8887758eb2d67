"""TensorRT plugins in engines and execution contexts: shapes that change, memory, constant filters, other GPUs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_memory import DEVICES, HostBuffer
from deconv_kernels import make_case as make_whitening
from native_kernels import oracle as expected
from tolerances import assert_close
from trt_cases import (
    WHITENING,
    call_of,
    deep,
    node,
    profile_of,
    run,
    small,
)
from trt_conformance import (
    FIELD_INT32,
    FLOAT,
    HWC8,
    LINEAR,
    PluginError,
    Plugins,
)
from trt_libraries import build as build_libraries


@pytest.fixture(scope="module")
def libraries() -> tuple[str, str]:
    return build_libraries()


@pytest.fixture(scope="module")
def plugins(libraries: tuple[str, str]) -> Plugins:
    return Plugins(*libraries)


@pytest.fixture
def device(libraries: tuple[str, str]) -> Any:
    """Choose the GPU that the host pretends to be."""
    library = ctypes.CDLL(libraries[0])
    yield library.edgeconv_simt_set_device
    library.edgeconv_simt_set_device(87)


# Shapes that change


@pytest.mark.parametrize("cc", DEVICES)
@pytest.mark.parametrize(("dtype", "form"), [("float32", LINEAR), ("float16", HWC8)])
@pytest.mark.parametrize("constant", [0, 1])
@pytest.mark.parametrize("kernel", ["polynomial", "manhattan", "euclidean"])
def test_shapes_change(
    plugins: Plugins, device: Callable[[int], int], kernel: str, constant: int, dtype: str, form: int, cc: int
) -> None:
    device(cc)
    sizes = [(1, 5, 7), (2, 8, 11), (3, 16, 17)]
    cases = [small(kernel, *size, dtype) for size in sizes]
    for case in cases:  # one network, one set of filters
        case.w, case.bias, case.scale, case.balance = (
            cases[0].w, cases[0].bias, cases[0].scale, cases[0].balance,
        )  # fmt: skip
    calls = [call_of(case, form) for case in cases]
    for call in calls:
        call.memory[1:] = calls[0].memory[1:]
    inputs, outputs, profile = profile_of(calls)
    with plugins.create(*node(cases[0], constant_filters=constant)) as network:
        unknown = [(-1, 6, -1, -1), *(call_input.shape for call_input in calls[0].input_tensors[1:])]
        found, operations = network.output_shapes(unknown, sizes)
        assert found == [call.output_shapes for call in calls]
        assert operations <= 5  # what is known is folded: two of H' and W' each, and one more where there are strides
        workspace = network.configure(inputs, outputs, profile)
        engine = network.reload()
    with engine, engine.attach() as context:
        for index in (1, 1, 0, 2, 2, 0, 1):
            context.change_shape(calls[index].input_tensors, calls[index].output_tensors)
            (y,) = calls[index].run(context, workspace)
            assert_close(y, expected(cases[index]), dtype)
        # Beyond what the engine was built for: memory of the context's own.
        beyond = small(kernel, 5, 40, 31, dtype)
        call = call_of(beyond, form)
        context.change_shape(call.input_tensors, call.output_tensors)
        (y,) = call.run(context, workspace)
        assert_close(y, expected(beyond), dtype)
        calls[0].memory[1:] = call.memory[1:]  # other filters at another address
        beyond.x = cases[0].x
        context.change_shape(calls[0].input_tensors, calls[0].output_tensors)
        (y,) = calls[0].run(context, workspace)
        assert_close(y, expected(beyond), dtype)


@pytest.mark.parametrize("kernel", ["euclidean", "manhattan"])
def test_workspace_serves_the_profile(plugins: Plugins, kernel: str) -> None:
    sizes = [(1, 1), (1, 8), (2, 24)]
    calls = [call_of(deep(kernel, *size)) for size in sizes]
    inputs, outputs, profile = profile_of(calls)
    with plugins.create(*node(deep(kernel, 1, 1))) as network:
        workspace = network.configure(inputs, outputs, profile)
        assert workspace >= max(network.clone_and_configure(call.input_tensors, call.output_tensors) for call in calls)
        engine = network.reload()
    with engine, engine.attach(-1) as context, engine.attach() as other:
        for size in sizes:  # what was looked at needs nothing else
            case = deep(kernel, *size)
            call = call_of(case)
            context.change_shape(call.input_tensors, call.output_tensors)
            assert_close(call.run(context, workspace)[0], expected(case), np.float32)
        for size in ((1, 3), (1, 14), (2, 5), (1, 16), (1, 24), (2, 1)):
            case = deep(kernel, *size)
            call = call_of(case)
            other.change_shape(call.input_tensors, call.output_tensors)
            assert_close(call.run(other, workspace)[0], expected(case), np.float32)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_several_profiles(plugins: Plugins, order: tuple[int, int]) -> None:
    """What the engine keeps of them is the workspace that there is with each: more is the context's own."""
    calls = [call_of(deep("manhattan", 1, size)) for size in (2, 9)]
    needs = [0, 0]
    with plugins.create(*node(deep("manhattan", 1, 2))) as network:
        for index in order:
            needs[index] = network.configure(calls[index].input_tensors, calls[index].output_tensors)
        assert needs[0] < needs[1]
        with network.reload() as engine, engine.attach() as context:
            for index, call in enumerate(calls):
                context.change_shape(call.input_tensors, call.output_tensors)
                assert (context.context_bytes > 0) == index
                call.run(context, needs[0])  # no more than there is with the smaller one


def test_filters_are_packed_once_only_where_they_are_constant(plugins: Plugins) -> None:
    case, other = small(), small()
    other.w = -case.w
    for constant in (0, 1):
        call = call_of(case)
        with plugins.create(*node(case, constant_filters=constant)) as network:
            workspace = network.configure(call.input_tensors, call.output_tensors)
            with network.attach() as context:
                context.change_shape(call.input_tensors, call.output_tensors)
                assert (context.context_bytes > 0) == constant
                call.run(context, workspace)
                call.rewrite(1, other.w)
                (y,) = call.run(context, workspace)
                changed = np.abs(y - expected(case)).max() > 1e-2
                assert changed != constant
                if not constant:
                    assert_close(y, expected(other), np.float32)
                # A clone of an attached plugin, and another context, know nothing of what this one has packed.
                with network.attach() as fresh:
                    fresh.change_shape(call.input_tensors, call.output_tensors)
                    assert_close(call.run(fresh, workspace)[0], expected(other), np.float32)


def test_what_is_captured_has_not_happened(plugins: Plugins, libraries: tuple[str, str]) -> None:
    """Filters that a captured call packs are packed when the graph is launched, if ever: not before."""
    library = ctypes.CDLL(libraries[0])
    case, other = small(), small()
    other.w = -case.w
    call = call_of(case)
    with plugins.create(*node(case, constant_filters=1)) as network:
        workspace = network.configure(call.input_tensors, call.output_tensors)
        with network.attach() as context:
            context.change_shape(call.input_tensors, call.output_tensors)
            library.edgeconv_trt_set_capturing(1)
            try:
                call.run(context, workspace)
            finally:
                library.edgeconv_trt_set_capturing(0)
            call.rewrite(1, other.w)  # had it happened, these would not be looked at
            assert_close(call.run(context, workspace)[0], expected(other), np.float32)
            call.rewrite(1, case.w)
            assert_close(call.run(context, workspace)[0], expected(other), np.float32)


def test_no_memory_for_packed_filters_is_no_error(plugins: Plugins) -> None:
    case = small()
    call = call_of(case)
    for limit in (0, -1):
        with plugins.create(*node(case, constant_filters=1)) as network:
            workspace = network.configure(call.input_tensors, call.output_tensors)
            with network.attach(limit) as context:
                context.change_shape(call.input_tensors, call.output_tensors)
                assert_close(call.run(context, workspace)[0], expected(case), np.float32)


def test_empty_batch(plugins: Plugins) -> None:
    call = call_of(small("gaussian", 0))
    with plugins.create(*node(small())) as network:
        workspace = network.configure(call.input_tensors, call.output_tensors)
        with network.attach() as context:
            context.change_shape(call.input_tensors, call.output_tensors)
            assert call.run(context, workspace)[0].size == 0


def test_trailing_bias_may_be_left_out(plugins: Plugins) -> None:
    """As the parser does where a node has no bias at all; an empty name gives an input without dimensions."""
    case = small()
    case.bias = None
    absent, shorter = call_of(case), call_of(case)
    del shorter.inputs[-1], shorter.arrays[-1], shorter.memory[-1]
    for call in (absent, shorter):
        assert_close(run(plugins, *node(case), call)[0], expected(case), np.float32)


def test_addresses_that_kernels_cannot_use_are_refused(plugins: Plugins) -> None:
    case = small()
    call = call_of(case)
    with plugins.create(*node(case)) as network:
        workspace = network.configure(call.input_tensors, call.output_tensors)
        with network.attach() as context:
            context.change_shape(call.input_tensors, call.output_tensors)
            for index, name in ((0, "X"), (1, "W")):
                array, proper = call.arrays[index], call.memory[index]
                assert array is not None
                moved = HostBuffer(bytes(4) + array.tobytes())
                call.memory[index] = SimpleNamespace(address=moved.address + 4)
                refusal = rf"'node': X float32 \(2, 6, 8, 11\), W .*: {name} lies at an address that is not a multiple"
                with pytest.raises(PluginError, match=refusal):
                    call.run(context, workspace)
                call.memory[index] = proper
            assert_close(call.run(context, workspace)[0], expected(case), np.float32)


# Engines


def test_an_engine_keeps_the_layer_s_name(plugins: Plugins) -> None:
    call = call_of(small())
    with plugins.create(*node(small()), layer="encoder.conv1") as network:
        network.configure(call.input_tensors, call.output_tensors)
        with network.reload("7") as engine, pytest.raises(PluginError, match=r"'encoder\.conv1': it has 1 inputs"):
            engine.output_types([FLOAT])


def test_a_plugin_that_was_never_configured_can_be_kept(plugins: Plugins) -> None:
    """With no workspace that it knows of, the context takes its own."""
    case = small()
    call = call_of(case)
    with plugins.create(*node(case)) as network, network.reload() as engine, engine.attach() as context:
        context.change_shape(call.input_tensors, call.output_tensors)
        assert_close(call.run(context, 0)[0], expected(case), np.float32)


@pytest.mark.parametrize(("built_for", "here", "refusal"), [
    (90, 87, r"built for compute capability 9\.0 and 227 KiB .* this GPU has compute capability 8\.7 .*build it"),
    (110, 90, r"built for compute capability 11\.0 .* this GPU has compute capability 9\.0 "),
])  # fmt: skip
def test_engines_of_larger_gpus_are_refused(
    plugins: Plugins, device: Callable[[int], int], built_for: int, here: int, refusal: str
) -> None:
    call = call_of(small("polynomial"))
    device(built_for)
    with plugins.create(*node(small("polynomial"))) as network:
        network.configure(call.input_tensors, call.output_tensors)
        engine = network.reload()
    device(here)
    with engine, engine.attach() as context, pytest.raises(PluginError, match=refusal):
        context.change_shape(call.input_tensors, call.output_tensors)


def test_engines_of_smaller_gpus_run(plugins: Plugins, device: Callable[[int], int]) -> None:
    case = small("polynomial")
    call = call_of(case)
    device(87)
    with plugins.create(*node(case)) as network:
        workspace = network.configure(call.input_tensors, call.output_tensors)
        engine = network.reload()
    device(90)
    with engine, engine.attach() as context:
        context.change_shape(call.input_tensors, call.output_tensors)
        assert context.context_bytes == 0
        assert_close(call.run(context, workspace)[0], expected(case), np.float32)


@pytest.mark.parametrize("fields", [
    {"planned_for": (FIELD_INT32, np.int32([87, 0, 1]))},
    {"planned_for": (FIELD_INT32, np.int32([87, 16, 1000])), "workspace_blocks": (FIELD_INT32, np.int32([-1]))},
])  # fmt: skip
def test_damaged_engines_are_refused(plugins: Plugins, fields: dict[str, Any]) -> None:
    with pytest.raises(PluginError, match="'node': the engine describes no GPU"):
        plugins.create_of_fields("EuclideanKervolution", fields, phase=1)


def test_memory_that_cannot_be_had(plugins: Plugins) -> None:
    case = deep("manhattan", 1, 2)
    call, large = call_of(case), call_of(deep("manhattan", 2, 9))
    with plugins.create(*node(case)) as network:
        needs = network.clone_and_configure(large.input_tensors, large.output_tensors)
        workspace = network.configure(call.input_tensors, call.output_tensors)
        assert needs > workspace
        with network.attach(0) as context:
            with pytest.raises(
                PluginError, match=rf"it needs {needs} bytes .* with {workspace}, and more cannot be had"
            ):
                context.change_shape(large.input_tensors, large.output_tensors)
            context.change_shape(call.input_tensors, call.output_tensors)
            assert_close(call.run(context, workspace)[0], expected(case), np.float32)


def test_timing_cache_ids_tell_attributes_apart(plugins: Plugins) -> None:
    """And nothing else: two layers that are alike share their timings."""

    def identify(layer: str = "node", **changes: Any) -> str:
        with plugins.create(*node(small(), **changes), layer=layer) as plugin:
            first = plugin.timing_cache_id
            call = call_of(small())
            if not changes:
                plugin.configure(call.input_tensors, call.output_tensors)
                with plugin.reload() as engine:
                    assert engine.timing_cache_id == first
            return first

    others = [identify(strides=(1, 1)), identify(group=1), identify(pads=(0, 0, 0, 0)), identify(constant_filters=1)]
    assert len({identify(), *others}) == 5
    assert identify("another") == identify()
    with plugins.create(WHITENING, make_whitening((2, 6, 9, 8), (3, 3), 3, eps=1e-3).attributes) as one:
        assert "eps=0.001" in one.timing_cache_id
