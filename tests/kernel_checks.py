"""What the kernels must hold to, whichever algorithm, instruction set and precision: bodies of tests.

`make` makes a new case each time, with the options of `native_kernels.make_case`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from native_kernels import Case, Library, make_case, oracle
from tolerances import assert_close

OUTLIERS = (300.0, 1e5, 1e12, 1e20)
SIZES = (1e-40, 1e-20, 1e15)

# x shape, filters, window, attributes
LARGE_SHAPES: list[tuple[tuple[int, int, int, int], int, tuple[int, int], dict[str, Any]]] = [
    ((1, 64, 56, 56), 64, (3, 3), {"pads": (1, 1, 1, 1)}),
    ((1, 512, 7, 7), 512, (3, 3), {"pads": (1, 1, 1, 1)}),
    ((1, 64, 1500, 1500), 512, (3, 3), {}),
    ((1, 2048, 30, 300), 32, (3, 3), {}),
    ((1, 64, 1500, 1500), 64, (7, 5), {"strides": (2, 3), "group": 64}),
    ((1, 2, 3000, 3000), 2, (3, 3), {"dilations": (900, 900), "group": 2}),
    ((1, 3, 2000, 2000), 64, (7, 7), {"strides": (2, 2)}),
    ((1, 8, 300, 300), 2048, (3, 3), {"dilations": (90, 90)}),
    ((1, 2, 300, 300), 16, (299, 280), {}),
    ((1, 4096, 9, 300), 4096, (1, 1), {}),
    ((1, 1, 4, 100000), 8, (1, 5000), {}),
]


def large_case(
    x_shape: tuple[int, int, int, int], filters: int, window: tuple[int, int], attributes: dict[str, Any], **more: Any
) -> Case:
    """A case of that shape in no memory, to plan with."""
    w_shape = (filters, x_shape[1] // attributes.get("group", 1), *window)
    zero = np.broadcast_to(np.float32(0), (1,))
    return Case("euclidean", np.broadcast_to(zero, x_shape), np.broadcast_to(zero, w_shape), **attributes, **more)


@st.composite
def cases(
    draw: st.DrawFn,
    kernels: Sequence[str],
    channels: st.SearchStrategy[int],
    filters: st.SearchStrategy[int],
    **more: Any,
) -> Case:
    """Any configuration; `channels` and `filters` are those of a group."""
    group = draw(st.integers(1, 3))
    window = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    dilations = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = draw(st.tuples(*[st.integers(0, 4)] * 4))
    reach = [dilations[a] * (window[a] - 1) + 1 for a in range(2)]
    sizes = [draw(st.integers(max(1, reach[a] - pads[a] - pads[2 + a]), 14 + reach[a])) for a in range(2)]
    return make_case(
        draw(st.sampled_from(kernels)), draw(st.sampled_from(["float32", "float16"])),
        (draw(st.integers(1, 2)), group * draw(channels), sizes[0], sizes[1]), group * draw(filters), window,
        bias=draw(st.booleans()), per_channel=draw(st.booleans()),
        strides=draw(st.tuples(st.integers(1, 4), st.integers(1, 4))), pads=pads, dilations=dilations, group=group,
        **more,
    )  # fmt: skip


def check(library: Library, case: Case, isas: Sequence[str] = ()) -> None:
    """Compare with the float64 loop on `isas`, all that there are by default."""
    expected = oracle(case)
    for isa in isas or library.isas:
        assert_close(library.run(case, isa), expected, case.x.dtype, isa, precision=case.precision)


def check_nan(library: Library, isas: Sequence[str], make: Callable[..., Case], where: str) -> None:
    """One NaN in x, w or the bias reaches the outputs that it takes part in, and no other."""
    for position in (0, 17, -1):
        case = make()
        array = getattr(case, where)
        array.reshape(-1)[position if where != "bias" else 3] = np.nan
        expected = np.isnan(oracle(case))
        assert 0 < expected.sum() < expected.size
        for isa in isas:
            np.testing.assert_array_equal(np.isnan(library.run(case, isa)), expected, isa)


def check_infinity(library: Library, isas: Sequence[str], make: Callable[..., Case], infinity: float) -> None:
    """An infinity in x or w gives what the formula gives in float64."""
    for where in ("x", "w"):
        case = make(bias=False)
        getattr(case, where).reshape(-1)[23] = infinity
        if where == "w":
            case.x += np.float32(np.sign(case.x) * 1e-3)  # no 0 * infinity
            case.pads = (0, 0, 0, 0)
        with np.errstate(over="ignore", invalid="ignore"):
            expected = oracle(case)
        infinite, finite = np.isinf(expected), np.isfinite(expected)
        for isa in isas:
            actual = library.run(case, isa)
            np.testing.assert_array_equal(np.where(infinite, actual, 0), np.where(infinite, expected, 0), isa)
            assert_close(actual[finite], expected[finite], np.float32, isa, precision=case.precision)


def check_outlier(library: Library, isas: Sequence[str], make: Callable[..., Case], outlier: float) -> None:
    """Every output that does not depend on a huge input is as exact as without it."""
    case = make(bias=False)
    case.x[0, 1, 2, 3] = outlier
    with np.errstate(over="ignore"):
        expected = oracle(case)
    near = np.zeros(expected.shape, bool)
    near[:, :, 1:4, 2:5] = True
    for isa in isas:
        actual = library.run(case, isa)
        assert_close(actual[~near], expected[~near], np.float32, isa, precision=case.precision)


def check_offsets(library: Library, isas: Sequence[str], make: Callable[..., Case]) -> None:
    """Inputs and filters near 100, a distance near 1: |x|^2 + |w|^2 - 2 x.w would have no digit left."""
    case = make(bias=False)
    case.pads = (0, 0, 0, 0)
    case.x += np.float32(100)
    case.w = (case.w + np.float32(100)).astype(np.float32)
    expected = oracle(case)
    for isa in isas:  # as exact as float32, in every precision
        assert_close(library.run(case, isa), expected, np.float32, isa)


def check_magnitudes(library: Library, isas: Sequence[str], make: Callable[..., Case], size: float) -> None:
    """Denormal, small and large inputs and filters; squares of the largest stay finite."""
    case = make(bias=False)
    case.x = (case.x.astype(np.float64) * size).astype(np.float32)
    case.w = (case.w.astype(np.float64) * size).astype(np.float32)
    case.degree = 2 if size < 1 else 1
    case.scale = np.float32([0.5 if size < 1 else 1e-30])
    check(library, case, isas)


def check_order_of_tasks(library: Library, isas: Sequence[str], case: Case) -> None:
    """Tasks in any order give the same bits."""
    for isa in isas:
        tiling = library.prepare(case, isa)[1].tiling
        assert tiling.tasks > 4
        forward = library.run(case, isa)
        backward = library.run(case, isa, list(reversed(range(tiling.tasks))))
        np.testing.assert_array_equal(forward, backward, isa)
