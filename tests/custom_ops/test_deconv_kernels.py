"""The whitening kernel against float64, on every instruction set of this machine, with nothing but memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from deconv_kernels import Case, Library, assert_whitened, cases, make_case
from hypothesis import HealthCheck, given, settings
from whitening_oracle import covariances, inverse_root, samples, whitening

from edgeconv.runtime.op_library import op_library

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
    "fully connected": ((40, 24, 1, 1), (1, 1), 24, {"sampling_stride": 1}),
    "one feature": ((2, 1, 9, 11), (1, 1), 1, {}),
    "one feature, blocks": ((2, 5, 9, 11), (1, 1), 1, {}),
    "one sample": ((1, 3, 3, 3), (3, 3), 3, {"sampling_stride": 4}),
    "few samples": ((1, 9, 9, 14), (3, 3), 9, {}),
    "few samples, interleaved": ((2, 30, 8, 9), (3, 2), 15, {"pads": (1, 1, 0, 1)}),
    "few samples, groups": ((2, 124, 9, 8), (3, 3), 62, {"group": 2, "sampling_stride": 1, "n_iter": 3}),
    "few samples, several tasks": ((1, 62, 33, 27), (3, 3), 62, {"sampling_stride": 2}),
    "few samples, not centered": ((3, 11, 6, 7), (3, 3), 11, {"centered": 0, "eps": 1e-3}),
    "stem": ((1, 3, 60, 75), (7, 7), 3, {"strides": (2, 2), "pads": (3, 3, 3, 3), "sampling_stride": 1}),
    "long rows": ((1, 2, 5, 700), (1, 5), 2, {"pads": (0, 2, 0, 2), "sampling_stride": 1}),
    "several blocks of samples": ((2, 40, 70, 64), (3, 3), 20, {"sampling_stride": 1}),
    "several tasks": ((2, 32, 24, 30), (3, 3), 32, {"pads": (1, 1, 1, 1), "sampling_stride": 2}),
    "large groups": ((14, 124, 9, 8), (3, 3), 62, {"group": 2, "sampling_stride": 1, "n_iter": 3}),
    "many samples": ((2, 3, 150, 130), (3, 3), 3, {"pads": (1, 1, 1, 1), "sampling_stride": 1}),
    "not centered": ((2, 6, 14, 12), (3, 3), 6, {"centered": 0, "sampling_stride": 2}),
}


@pytest.fixture(scope="module")
def library() -> Library:
    """The launch functions of the installed library."""
    return Library(op_library())


def case_of(shape: str, dtype: str = "float32", **more: Any) -> Case:
    x_shape, window, block, attributes = SHAPES[shape]
    return make_case(x_shape, window, block, dtype, **{**attributes, **more})


def check(library: Library, case: Case, factor: float = 1.0) -> None:
    expected = whitening(case.x, case.attributes)
    for isa in library.isas:
        assert_whitened(case, library.run(case, isa), isa, factor=factor, expected=expected)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_loop(library: Library, shape: str, dtype: str) -> None:
    check(library, case_of(shape, dtype))


@pytest.mark.parametrize("sampling_stride", [1, 2, 3, 4])
@pytest.mark.parametrize("window", [(1, 1), (3, 3), (2, 1)])
def test_sampling_strides(library: Library, window: tuple[int, int], sampling_stride: int) -> None:
    for strides in ((1, 1), (2, 1)):
        options = {"strides": strides, "sampling_stride": sampling_stride, "pads": (1, 0, 0, 1)}
        check(library, make_case((2, 6, 33, 26), window, 3, **options))


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=cases(spare=14))
def test_any_configuration(library: Library, case: Case) -> None:
    check(library, case, factor=2)


def test_the_oracle_inverts_the_covariance() -> None:
    """With enough steps the result whitens: D Cov D = I; and the steps on eigenvalues are those on matrices."""
    case = make_case((3, 4, 20, 18), (3, 3), 2, n_iter=40)
    mean, deconv = whitening(case.x, case.attributes)
    found = samples(case.x, case.attributes)[0]
    np.testing.assert_allclose(mean[0], found.mean(0), atol=1e-12)
    matrix = covariances(case.x, case.attributes)[1][0]
    np.testing.assert_allclose(deconv[0] @ matrix @ deconv[0], np.eye(18), atol=1e-9)
    norm = np.linalg.norm(matrix)
    y, z = matrix / norm, np.eye(18)
    for _ in range(4):
        t = (3 * np.eye(18) - z @ y) / 2
        y, z = y @ t, t @ z
    np.testing.assert_allclose(inverse_root(matrix[None], 4)[0], z / np.sqrt(norm), atol=1e-10)


@pytest.mark.parametrize("n_iter", range(8))
def test_numbers_of_steps(library: Library, n_iter: int) -> None:
    for group in (1, 2):
        check(library, make_case((2, 14, 20, 18), (3, 3), 14 // group, group=group, n_iter=n_iter))
        check(library, make_case((4, 16, 20, 18), (1, 1), 16 // group, group=group, n_iter=n_iter))
        few = make_case((1, 26, 11, 10), (3, 3), 26 // group, group=group, n_iter=n_iter, eps=1e-4)
        check(library, few)
        plans = {library.prepare(few, isa)[1].few_samples for isa in library.isas}
        assert plans == {int(2 <= n_iter <= 5)}


@pytest.mark.parametrize("n_iter", [10, 15, 30, 100])
def test_many_steps_converge_and_stay(library: Library, n_iter: int) -> None:
    """Products of symmetric matrices that are mirrored without care lose the result soon after it has converged."""
    for window, shape in (((1, 1), (4, 64, 28, 31)), ((3, 3), (8, 6, 40, 50))):
        case = make_case(shape, window, shape[1], n_iter=n_iter, eps=1e-3, sampling_stride=1)
        matrix = covariances(case.x, case.attributes)[1][0]
        assert np.linalg.cond(matrix) > 50
        for isa in library.isas:
            actual = library.run(case, isa)
            assert_whitened(case, actual, isa, factor=5)
            if n_iter >= 15:
                np.testing.assert_allclose(actual[1][0] @ matrix @ actual[1][0], np.eye(len(matrix)), atol=2e-3)


@pytest.mark.parametrize("offset", [1e3, 1e5, -1e3])
@pytest.mark.parametrize(
    "shape", ["one block", "interleaved", "groups", "flattened pixels", "several tasks", "few samples"]
)
def test_means_far_from_zero(library: Library, shape: str, offset: float) -> None:
    """Without padding, whose zeros would lie that far from the rest."""
    check(library, case_of(shape, offset=offset, pads=(0, 0, 0, 0)))


def test_a_mean_between_two_floats(library: Library) -> None:
    """Whole numbers around 2^21: floats lie a quarter apart there, and a mean rounded to one would be a spread."""
    noise = np.random.default_rng(4).integers(-1, 2, (1, 4, 17, 19))
    check(library, Case((2.0**21 - 2 + noise).astype(np.float32), (3, 3), 4, sampling_stride=1))


@pytest.mark.parametrize("channels", [3, 16])
def test_ill_conditioned_covariances(library: Library, channels: int) -> None:
    """Channels that are the same but for noise; constant channels; fewer samples than features and next to no eps."""
    generator = np.random.default_rng(2)
    base = generator.standard_normal((2, 1, 25, 22))
    noise = generator.standard_normal((2, channels, 25, 22))
    for size, eps in ((1e-3, 1e-5), (1e-3, 1e-12), (0, 1e-5)):
        check(library, Case((base + size * noise).astype(np.float32), (3, 3), channels, eps=eps))
    x = (base + noise).astype(np.float32)
    x[:, 1] = 5
    check(library, Case(x, (3, 3), channels))
    check(library, Case(x[:1, :, :7, :7], (3, 3), channels, eps=1e-8))


def test_constant_and_zero_inputs(library: Library) -> None:
    """Nothing to whiten: only eps is left."""
    for value in (0, 3, -1e4):
        check(library, Case(np.full((2, 4, 9, 8), value, np.float32), (3, 3), 2))
        check(library, Case(np.full((2, 4, 9, 8), value, np.float32), (1, 1), 4, group=1))


@pytest.mark.parametrize("size", [1e-30, 1e-8, 1e-3, 1e3, 2.0**20, 1e7, 1e12, 1e19, 1e25, 3e37])
def test_magnitudes(library: Library, size: float) -> None:
    for shape in ("one block", "groups", "flattened pixels", "not centered", "few samples"):
        case = case_of(shape, scale=size, offset=0.5 * size, n_iter=4)
        assert np.isfinite(case.x).all()
        check(library, case)


def test_largest_finite_input(library: Library) -> None:
    largest = np.finfo(np.float32).max
    x = np.where(np.random.default_rng(1).random((2, 4, 12, 10)) < 0.5, largest, -largest)
    for group in (1, 2):
        case = Case(x.astype(np.float32), (3, 3), 4 // group, group=group)
        for isa in library.isas:
            mean, deconv = library.run(case, isa)
            assert np.isfinite(mean).all()
            assert np.isfinite(deconv).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "shape", ["one block", "interleaved", "groups", "several tasks", "not centered", "few samples"]
)
def test_not_finite_in_not_finite_out(library: Library, shape: str, dtype: str, value: float) -> None:
    """All results of a group, and of no other."""
    for n_iter in (0, 1, 5):
        case = case_of(shape, dtype, sampling_stride=1, n_iter=n_iter)
        case.x[0, 1, 4, 5] = value
        touched = np.arange(case.group) == 0
        for isa in library.isas:
            mean, deconv = library.run(case, isa)
            np.testing.assert_array_equal(np.isnan(mean).all(1), touched)
            np.testing.assert_array_equal(np.isnan(deconv).all((1, 2)), touched)
            assert np.isfinite(deconv[~touched]).all()


def test_values_between_samples_do_not_matter(library: Library) -> None:
    case = make_case((1, 3, 16, 16), (2, 2), 3, sampling_stride=4)
    expected = library.run(case, "baseline")
    sampled = np.zeros((16, 16), bool)
    for i in (0, 1):
        for j in (0, 1):
            sampled[i:15:4, j:15:4] = True
    case.x[:, :, ~sampled] = np.nan
    np.testing.assert_array_equal(library.run(case, "baseline")[1], expected[1])


@pytest.mark.parametrize("order", ["backward", "shuffled"])
@pytest.mark.parametrize(
    "shape",
    [
        "several blocks of samples",
        "several tasks",
        "groups",
        "large groups",
        "many samples",
        "stem",
        "few samples, groups",
        "few samples, several tasks",
    ],
)
def test_tasks_in_any_order_give_the_same_bits(library: Library, shape: str, order: str) -> None:
    case = case_of(shape, n_iter=3 if shape.startswith(("large", "few")) else 7)
    for isa in library.isas:
        params, plan = library.prepare(case, isa)
        assert max(library.tasks(params, plan, phase)[0] for phase in range(plan.phases)) > 1
        forward, other = library.run(case, isa), library.run(case, isa, order)
        np.testing.assert_array_equal(forward[0], other[0], isa)
        np.testing.assert_array_equal(forward[1], other[1], isa)


def test_the_shapes_take_every_way(library: Library) -> None:
    """One task a group and many; one block of samples and several; samples kept or gathered again; slices of them; few
    samples and many."""
    plans = [library.prepare(case_of(shape), isa)[1] for shape in SHAPES for isa in library.isas]
    for name in ("whole_groups", "keep", "few_samples"):
        assert {getattr(plan, name) for plan in plans} == {0, 1}, name
    assert {plan.whole_groups for plan in plans if plan.few_samples} == {0, 1}
    assert any(plan.sample_blocks > 1 for plan in plans)
    assert any(plan.slices > 1 for plan in plans)
    assert any(plan.phases > plan.group_steps for plan in plans)


def test_little_work_stays_on_one_thread(library: Library) -> None:
    for shape, window, block in (((1, 3, 32, 32), (3, 3), 3), ((1, 64, 14, 14), (1, 1), 16)):
        params, plan = library.prepare(make_case(shape, window, block), library.isas[-1])
        assert plan.phases == 1
        tasks, per_call = library.tasks(params, plan, 0)
        assert tasks == per_call == 1
    params, plan = library.prepare(make_case((1, 64, 56, 56), (3, 3), 64), library.isas[-1])
    counts = [library.tasks(params, plan, phase) for phase in range(plan.phases)]
    assert sum(tasks > 8 for tasks, _ in counts) > len(counts) / 2


@pytest.mark.parametrize(
    ("x_shape", "window", "block", "attributes"),
    [
        ((1, 64, 56, 56), (3, 3), 64, {}),
        ((64, 64, 56, 56), (3, 3), 64, {}),
        ((256, 3, 224, 224), (7, 7), 3, {"sampling_stride": 1}),
        ((1, 2048, 7, 7), (1, 1), 64, {}),
        ((8, 512, 28, 28), (3, 3), 64, {}),
        ((1, 1024, 56, 56), (3, 3), 32, {"group": 32}),
        ((1, 3, 2000, 3000), (3, 3), 3, {"sampling_stride": 1}),
    ],
)
def test_memory_is_bounded(library: Library, x_shape: Any, window: Any, block: int, attributes: Any) -> None:
    """Seven matrices and the samples at hand, at most 9 MiB, for all or for each group at work; else 1 MiB a thread."""
    case = Case(np.broadcast_to(np.float32(0), x_shape), window, block, **attributes)
    for isa in library.isas:
        params, plan = library.prepare(case, isa)
        side = -(-params.features // 48) * 48
        assert plan.group_bytes <= max(7 * 4 * side**2 + 2**20, 9 * 2**20), isa
        assert plan.workspace_bytes == (0 if plan.whole_groups else plan.group_bytes), isa
        assert plan.scratch_bytes - (plan.group_bytes if plan.whole_groups else 0) <= 2**20, isa


ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"kernel_shape": (0, 0)}, "kernel_shape is [0, 0]: both must be stated, and positive"),
    ({"block": 0}, "block is 0: it must be stated, and positive"),
    ({"block": 4}, "X has 6 channels and block is 4: block must divide them"),
    (
        {"group": 2, "block": 2},
        "X has 6 channels, group is 2 and block is 2: with groups a block must be a group's 3 channels",
    ),
    ({"group": 4, "block": 1}, "X has 6 channels and group is 4: group must divide them"),
    ({"group": 0}, "group is 0: it must be positive"),
    ({"strides": (1, 0)}, "strides are [1, 0]: both must be positive"),
    ({"dilations": (0, 1)}, "dilations are [0, 1]: both must be positive"),
    ({"pads": (0, -1, 0, 0)}, "pads are [0, -1, 0, 0]: none may be negative"),
    ({"sampling_stride": 0}, "sampling_stride is 0: it must be positive"),
    (
        {"sampling_stride": 2**20, "strides": (2**20, 1)},
        "sampling_stride is 1048576, strides are [1048576, 1]: too far",
    ),
    ({"n_iter": -1}, "n_iter is -1: expected 0 to 1000"),
    ({"centered": 2}, "centered is 2: expected 0 or 1"),
    ({"eps": -1.0}, "eps is -1: it must be finite and not negative"),
    ({"eps": float("nan")}, "eps is nan: it must be finite and not negative"),
    ({"block": 6, "kernel_shape": (80, 80)}, "a covariance of 38400 x 38400 is too large, at most 32768 are supported"),
    ({"kernel_shape": (10, 3)}, "too small for a 10 x 3 kernel"),
    ({"x": np.zeros((0, 6, 9, 9), np.float32)}, "X has 0 images: there is nothing to take a covariance of"),
    ({"x": np.zeros((2, 6, 0, 9), np.float32)}, "too small for a 3 x 3 kernel"),
    ({"x": np.zeros((2, 0, 9, 9), np.float32)}, "X has 0 channels: expected at least one"),
    ({"x": np.zeros((2, 6, 9), np.float32)}, "X has shape (2, 6, 9): expected rank 4 (N, C, H, W)"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_what_does_not_fit_is_one_clear_error(library: Library, options: dict[str, Any], message: str) -> None:
    case = Case(**{"x": np.zeros((2, 6, 9, 9), np.float32), "kernel_shape": (3, 3), "block": 6, **options})
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is compared
        library.prepare(case, "baseline")
    assert message in str(error.value)


def test_unknown_instruction_set(library: Library) -> None:
    with pytest.raises(ValueError, match="does not have the instruction set"):
        library.prepare(make_case((1, 2, 5, 5), (3, 3), 2), "none")
