"""The CUDA kernels of whitening against float64: executed on the host, and on a GPU where there is one."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from cuda_deconv_whitening import GROUPS_BYTES, PACKED_BYTES, CudaWhitening
from cuda_memory import DEVICES, LAYOUTS, Device, places
from deconv_kernels import Array, Case, assert_whitened, cases, make_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from whitening_oracle import covariances, whitening

# x shape, window, block, attributes
SHAPES: dict[str, tuple[tuple[int, int, int, int], tuple[int, int], int, dict[str, Any]]] = {
    "one block": ((2, 6, 23, 17), (3, 3), 6, {"pads": (1, 1, 1, 1)}),
    "interleaved": ((2, 12, 19, 13), (3, 3), 4, {"pads": (1, 1, 1, 1)}),
    "interleaved, odd": ((2, 15, 13, 16), (2, 3), 5, {"sampling_stride": 2}),
    "odd channels": ((3, 7, 12, 9), (3, 2), 7, {"sampling_stride": 1}),
    "groups": ((2, 12, 21, 14), (3, 3), 4, {"group": 3, "pads": (1, 0, 2, 1), "sampling_stride": 2}),
    "depthwise": ((2, 9, 18, 21), (3, 3), 1, {"group": 9, "pads": (1, 1, 1, 1)}),
    "stride and dilation": ((2, 5, 31, 26), (3, 2), 5, {"strides": (1, 2), "dilations": (2, 3), "sampling_stride": 2}),
    "asymmetric pads": ((3, 4, 11, 17), (3, 3), 2, {"pads": (0, 3, 2, 1), "sampling_stride": 1}),
    "window in the padding": ((2, 2, 3, 4), (3, 3), 2, {"pads": (7, 7, 7, 7), "sampling_stride": 2}),
    "flattened pixels": ((3, 10, 7, 9), (1, 1), 10, {}),
    "flattened, strided": ((3, 8, 17, 19), (1, 1), 4, {"strides": (1, 2), "sampling_stride": 2, "pads": (1, 1, 1, 1)}),
    "flattened, groups": ((3, 8, 17, 19), (1, 1), 4, {"group": 2}),
    "flattened, 64 features": ((3, 64, 11, 13), (1, 1), 64, {"sampling_stride": 2}),
    "flattened, 65 features": ((3, 65, 11, 13), (1, 1), 65, {"sampling_stride": 2}),
    "fully connected": ((40, 24, 1, 1), (1, 1), 24, {"sampling_stride": 1}),
    "one feature": ((2, 1, 9, 11), (1, 1), 1, {}),
    "one feature, blocks": ((2, 5, 9, 11), (1, 1), 1, {}),
    "one sample": ((1, 3, 3, 3), (3, 3), 3, {"sampling_stride": 4}),
    "one sample, many features": ((1, 9, 3, 3), (3, 3), 9, {"sampling_stride": 4}),
    "few samples": ((1, 9, 9, 14), (3, 3), 9, {}),
    "few samples, interleaved": ((2, 30, 8, 9), (3, 2), 15, {"pads": (1, 1, 0, 1)}),
    "few samples, groups": ((2, 44, 8, 8), (3, 3), 22, {"group": 2, "sampling_stride": 1, "n_iter": 3}),
    "few samples, two small groups": ((2, 20, 5, 6), (3, 3), 10, {"group": 2, "sampling_stride": 1}),
    "few samples, several tiles": ((1, 21, 20, 21), (3, 3), 21, {"sampling_stride": 2}),
    "few samples, not centered": ((3, 11, 6, 7), (3, 3), 11, {"centered": 0, "eps": 1e-3}),
    "stem": ((1, 3, 40, 45), (7, 7), 3, {"strides": (2, 2), "pads": (3, 3, 3, 3), "sampling_stride": 1}),
    "long rows": ((1, 2, 5, 300), (1, 5), 2, {"pads": (0, 2, 0, 2), "sampling_stride": 1}),
    "several tiles": ((2, 20, 24, 30), (3, 3), 20, {"pads": (1, 1, 1, 1), "sampling_stride": 2}),
    "large groups": ((6, 26, 9, 8), (3, 3), 13, {"group": 2, "sampling_stride": 1, "n_iter": 3}),
    "many samples": ((2, 3, 70, 62), (3, 3), 3, {"pads": (1, 1, 1, 1), "sampling_stride": 1}),
    "not centered": ((2, 6, 14, 12), (3, 3), 6, {"centered": 0, "sampling_stride": 2}),
}


def kernels() -> list[CudaWhitening]:
    """At each place, planned for each device."""
    return [CudaWhitening(place, device) for place in places() for device in place.devices]


def case_of(shape: str, dtype: str = "float32", **more: Any) -> Case:
    x_shape, window, block, attributes = SHAPES[shape]
    return make_case(x_shape, window, block, dtype, **{**attributes, **more})


def run_all(case: Case, layouts: tuple[str, ...] = ("nchw",), **changes: int) -> dict[str, tuple[Array, Array]]:
    """Results of every plan that differs from those before, at every place."""
    results, plans = {}, set()
    for whitener in kernels():
        for layout in layouts:
            plan = (whitener.place.name, bytes(whitener.prepare(case, layout)[1]))
            if plan not in plans:
                plans.add(plan)
                what = f"{whitener.place.name}, planned for {whitener.device.compute_capability}, {layout}"
                results[what] = whitener.run(case, layout, **changes)
    return results


def check(case: Case, layouts: tuple[str, ...] = ("nchw",), factor: float = 1.0, **changes: int) -> None:
    expected = whitening(case.x, case.attributes)
    for what, actual in run_all(case, layouts, **changes).items():
        assert_whitened(case, actual, what, factor=factor, expected=expected)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_loop(shape: str, dtype: str) -> None:
    check(case_of(shape, dtype), LAYOUTS)


@pytest.mark.parametrize("tile", [32, 64, 128])
@pytest.mark.parametrize(
    ("x_shape", "n_iter", "group"), [((3, 150, 11, 12), 7, 1), ((2, 180, 5, 3), 4, 1), ((3, 140, 7, 6), 6, 2)]
)
def test_tiles_of_every_size(tile: int, x_shape: tuple[int, int, int, int], n_iter: int, group: int) -> None:
    """Whatever a device would get: symmetric and whole products, those of few samples, splits, groups."""
    names = ("sample_tile", "root_tile", "whole_tile", "spread_tile", "result_tile")
    case = make_case(x_shape, (1, 1), x_shape[1] // group, n_iter=n_iter, group=group, sampling_stride=1)
    few = CudaWhitening(places()[0], DEVICES[87]).prepare(case)[1].few_samples
    assert few == (x_shape[1] == 180)
    check(case, factor=2, **dict.fromkeys(names, tile))


def test_the_shapes_take_every_way() -> None:
    """Roots in one block and by tiles; few samples and many; splits, parts and tiles of every kind."""
    plans = [whitener.prepare(case_of(shape))[1] for whitener in kernels() for shape in SHAPES]
    assert {plan.small for plan in plans} == {plan.few_samples for plan in plans} == {0, 1}
    assert not any(plan.small and plan.few_samples for plan in plans)
    for name in ("splits", "sum_parts", "group_batch", "norm_parts"):
        assert len({getattr(plan, name) for plan in plans}) > 2, name
    assert any(plan.few_samples and plan.splits > 1 for plan in plans)
    assert any(plan.few_samples and plan.group_batch > 1 for plan in plans)
    images = [np.broadcast_to(np.float32(0), (64, channels, 28, 28)) for channels in (16, 64, 128, 256)]
    large = [Case(x, (3, 3), x.shape[1]) for x in images]
    assert {whitener.prepare(case)[1].root_tile for whitener in kernels() for case in large} == {32, 64, 128}


@pytest.mark.parametrize(
    "shape", ["one block", "interleaved", "groups", "few samples, groups", "flattened, 65 features"]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_less_at_a_time(shape: str, layout: str) -> None:
    """Chunks of positions, the last one shorter; groups one by one. The workspace is as large as for all at once."""
    changes = {"group_batch": 1}
    if not shape.startswith("few"):
        changes["chunk_positions"] = 32
    check(case_of(shape, sampling_stride=1), (layout,), **changes)


@pytest.mark.parametrize("sampling_stride", [1, 2, 3, 4])
@pytest.mark.parametrize("window", [(1, 1), (3, 3), (2, 1)])
def test_sampling_strides(window: tuple[int, int], sampling_stride: int) -> None:
    for strides in ((1, 1), (2, 1)):
        options = {"strides": strides, "sampling_stride": sampling_stride, "pads": (1, 0, 0, 1)}
        check(make_case((2, 6, 23, 16), window, 3, **options), LAYOUTS)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=cases(spare=10), layout=st.sampled_from(LAYOUTS), padding=st.integers(0, 5))
def test_any_configuration(case: Case, layout: str, padding: int) -> None:
    expected = whitening(case.x, case.attributes)
    for whitener in kernels()[:: len(DEVICES)]:
        actual = whitener.run(case, layout, case.x.shape[1] + padding)
        assert_whitened(case, actual, layout, factor=3, expected=expected)


@pytest.mark.parametrize("n_iter", range(9))
def test_numbers_of_steps(n_iter: int) -> None:
    factor = 1 if n_iter < 8 else 9 / 4
    for group in (1, 2):
        check(make_case((3, 12, 14, 13), (3, 3), 12 // group, group=group, n_iter=n_iter), factor=factor)
        check(make_case((4, 16, 20, 18), (1, 1), 16 // group, group=group, n_iter=n_iter), factor=factor)
        few = make_case((1, 16, 11, 10), (3, 3), 16 // group, group=group, n_iter=n_iter, eps=1e-4)
        check(few, factor=factor)
        assert {whitener.prepare(few)[1].few_samples for whitener in kernels()} == {int(2 <= n_iter <= 5)}


@pytest.mark.parametrize("n_iter", [10, 15, 40])
def test_many_steps_converge_and_stay(n_iter: int) -> None:
    """Products of symmetric matrices that are mirrored without care lose the result soon after it has converged."""
    for window, shape in (((1, 1), (4, 64, 20, 21)), ((3, 3), (4, 8, 26, 25))):
        case = make_case(shape, window, shape[1], n_iter=n_iter, eps=1e-3, sampling_stride=1)
        matrix = covariances(case.x, case.attributes)[1][0]
        assert np.linalg.cond(matrix) > 50
        results = run_all(case)
        for what, actual in results.items():
            assert_whitened(case, actual, what, factor=5)
            if n_iter >= 15:
                np.testing.assert_allclose(actual[1][0] @ matrix @ actual[1][0], np.eye(len(matrix)), atol=2e-3)


@pytest.mark.parametrize("offset", [1e3, 1e5, -1e3])
@pytest.mark.parametrize("shape", ["one block", "interleaved", "groups", "flattened pixels", "stem", "few samples"])
def test_means_far_from_zero(shape: str, offset: float) -> None:
    """Without padding, whose zeros would lie that far from the rest."""
    check(case_of(shape, offset=offset, pads=(0, 0, 0, 0)))


def test_a_mean_between_two_floats() -> None:
    """Whole numbers around 2^21: floats lie a quarter apart there, and a mean rounded to one would be a spread."""
    noise = np.random.default_rng(4).integers(-1, 2, (1, 4, 17, 19))
    check(Case((2.0**21 - 2 + noise).astype(np.float32), (3, 3), 4, sampling_stride=1))


@pytest.mark.parametrize("channels", [3, 16])
def test_ill_conditioned_covariances(channels: int) -> None:
    """Channels that are the same but for noise; constant channels; fewer samples than features and next to no eps."""
    generator = np.random.default_rng(2)
    base = generator.standard_normal((2, 1, 25, 22))
    noise = generator.standard_normal((2, channels, 25, 22))
    for size, eps in ((1e-3, 1e-5), (1e-3, 1e-12), (0, 1e-5)):
        check(Case((base + size * noise).astype(np.float32), (3, 3), channels, eps=eps))
    x = (base + noise).astype(np.float32)
    x[:, 1] = 5
    check(Case(x, (3, 3), channels))
    check(Case(x[:1, :, :7, :7], (3, 3), channels, eps=1e-8))


def test_constant_and_zero_inputs() -> None:
    """Nothing to whiten: only eps is left."""
    for value in (0, 3, -1e4):
        check(Case(np.full((2, 4, 9, 8), value, np.float32), (3, 3), 2))
        check(Case(np.full((2, 4, 9, 8), value, np.float32), (1, 1), 4, group=1))
        check(Case(np.full((2, 8, 9, 8), value, np.float32), (3, 3), 8))


@pytest.mark.parametrize("size", [1e-30, 1e-8, 1e-3, 1e3, 2.0**20, 1e7, 1e12, 1e19, 1e25, 3e37])
def test_magnitudes(size: float) -> None:
    for shape in ("one block", "groups", "flattened pixels", "flattened, 65 features", "not centered", "few samples"):
        case = case_of(shape, scale=size, offset=0.5 * size, n_iter=4)
        assert np.isfinite(case.x).all()
        check(case)


def test_alike_and_large() -> None:
    """It is the centred samples that decide the scale: eps shows beside their spread."""
    noise = np.random.default_rng(6).integers(-2, 3, (2, 4, 13, 12))
    for base in (2.0**22, -(2.0**23)):
        check(Case((base + noise).astype(np.float32), (3, 3), 4, eps=0.5, sampling_stride=1))
    check(Case(np.full((1, 9, 9, 9), 1e20, np.float32), (3, 3), 9, eps=1e-3))


def test_largest_finite_input() -> None:
    largest = np.finfo(np.float32).max
    x = np.where(np.random.default_rng(1).random((2, 8, 12, 10)) < 0.5, largest, -largest)
    for group in (1, 2):
        case = Case(x.astype(np.float32), (3, 3), 8 // group, group=group)
        for mean, deconv in run_all(case).values():
            assert np.isfinite(mean).all()
            assert np.isfinite(deconv).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "shape",
    ["one block", "interleaved", "groups", "flattened, 65 features", "not centered", "few samples, two small groups"],
)
def test_not_finite_in_not_finite_out(shape: str, dtype: str, value: float) -> None:
    """All results of a group, and of no other."""
    for n_iter in (0, 5, 6):
        case = case_of(shape, dtype, sampling_stride=1, n_iter=n_iter)
        case.x[0, 1, 4, 4] = value
        touched = np.arange(case.group) == 0
        for mean, deconv in run_all(case).values():
            np.testing.assert_array_equal(np.isnan(mean).all(1), touched)
            np.testing.assert_array_equal(np.isnan(deconv).all((1, 2)), touched)
            assert np.isfinite(deconv[~touched]).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_between_samples_do_not_matter(layout: str) -> None:
    case = make_case((1, 3, 16, 16), (2, 2), 3, sampling_stride=4)
    expected = run_all(case, (layout,))
    sampled = np.zeros((16, 16), bool)
    for i in (0, 1):
        for j in (0, 1):
            sampled[i:15:4, j:15:4] = True
    case.x[:, :, ~sampled] = np.nan
    for what, actual in run_all(case, (layout,)).items():
        np.testing.assert_array_equal(actual[0], expected[what][0])
        np.testing.assert_array_equal(actual[1], expected[what][1])


@pytest.mark.parametrize(
    "shape", ["groups", "stem", "many samples", "few samples, groups", "few samples, several tiles", "several tiles"]
)
def test_threads_in_any_order_give_the_same_bits(shape: str) -> None:
    host = places()[0]
    assert host.is_host
    set_seed = host.c.edgeconv_simt_set_seed
    set_seed.argtypes = [ctypes.c_uint64]
    case, results = case_of(shape, n_iter=3 if shape.startswith("few") else 6), []
    try:
        for seed in (0, 1, 2):
            set_seed(seed)
            results.append(CudaWhitening(host, DEVICES[90]).run(case))
    finally:
        set_seed(1)
    for mean, deconv in results[1:]:
        np.testing.assert_array_equal(mean, results[0][0])
        np.testing.assert_array_equal(deconv, results[0][1])


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
@pytest.mark.parametrize(
    ("x_shape", "window", "block", "attributes"),
    [
        ((1, 64, 56, 56), (3, 3), 64, {}),
        ((64, 64, 56, 56), (3, 3), 64, {}),
        ((64, 64, 56, 56), (3, 3), 64, {"n_iter": 9}),
        ((256, 3, 224, 224), (7, 7), 3, {"sampling_stride": 1}),
        ((1, 2048, 7, 7), (1, 1), 64, {}),
        ((8, 512, 28, 28), (3, 3), 512, {}),
        ((1, 1024, 56, 56), (3, 3), 32, {"group": 32}),
        ((8, 1024, 56, 56), (3, 3), 1, {"group": 1024}),
        ((1, 70000, 3, 3), (3, 3), 1, {"group": 70000}),
        ((1, 3, 2000, 3000), (3, 3), 3, {"sampling_stride": 1}),
    ],
)
def test_memory_is_bounded(device: Device, x_shape: Any, window: Any, block: int, attributes: Any) -> None:
    """Seven matrices a group (ten with few samples), samples at hand, and what the mean needs."""
    case = Case(np.broadcast_to(np.float32(0), x_shape), window, block, **attributes)
    params, plan = CudaWhitening(places()[0], device).prepare(case)
    matrix = 4 * params.features * plan.feature_pitch
    per_group = (10 if plan.few_samples else 7) * matrix + 2**16
    assert 1 <= plan.group_batch <= min(case.group, 65535)
    assert plan.group_bytes * plan.group_batch == plan.workspace_bytes
    assert plan.workspace_bytes <= max(per_group, 2 * GROUPS_BYTES) + PACKED_BYTES
    if plan.group_batch < min(case.group, 65535):
        assert plan.group_batch * (per_group + 128 * params.blocks * plan.feature_pitch) > GROUPS_BYTES / 2
    if not plan.few_samples:
        packed = 4 * plan.chunk_positions * params.blocks * plan.feature_pitch * plan.group_batch
        assert packed <= PACKED_BYTES or plan.chunk_positions <= 32
        assert plan.chunk_positions % 32 == 0 or plan.chunk_positions == params.positions


def test_what_is_too_large_is_one_clear_error() -> None:
    whitener = CudaWhitening(places()[0], DEVICES[87])
    for x_shape, options, message in (
        ((2, 1024, 1024, 1024), {}, "X has 2 x 1024 x 1024 x 1024. Cut the batch or the image into parts"),
        ((1, 2, 5, 5), {"pads": (2**30, 0, 2**30, 0)}, "the CUDA kernels count in 32 bits"),
    ):
        case = Case(np.broadcast_to(np.float32(0), x_shape), (3, 3), x_shape[1], **options)
        case.block = 2
        with pytest.raises(ValueError, match=message):
            whitener.prepare(case)
    case = make_case((1, 6, 9, 9), (3, 3), 6)
    with pytest.raises(ValueError, match="a pixel of 6 channels has a pitch of 5"):
        whitener.prepare(case, "nhwc", 5)
