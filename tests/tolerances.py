"""How closely results must agree with the float64 oracle: one place, by dtype.

Errors are taken relative to the root mean square of the expected output (`rtol`), and `atol` covers outputs that are
all (near) zero. float32 sums of a few thousand products keep 5 digits; float16 outputs are rounded once, to 11 bits,
and their inputs are exact in the oracle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

TOLERANCES: dict[np.dtype, tuple[float, float]] = {
    np.dtype(np.float64): (1e-10, 1e-12),
    np.dtype(np.float32): (2e-5, 1e-6),
    np.dtype(np.float16): (4e-3, 1e-4),
}

BF16X3_RTOL = 1e-4
"""Of outputs in the precision bf16x3, where the dtype's is smaller: 3e-5 of x·w, and what the kernel makes of it (the
degree of the polynomial above all)."""

TF32_RTOL = 5e-3
"""Of outputs whose float32 factors may be rounded to TF32's 11 bits: 3e-4 of x·w in root mean square, the largest of
many, and what the kernel makes of it (the degree of the polynomial above all)."""

DISTANCE_SHARE = 3e-4
"""Of what x adds to ‖x - w‖² in float32, where ‖w‖² is a few hundred times as much."""

BF16X3_PRODUCT_RTOL = 3e-5
"""Of x·w itself in bf16x3."""


def assert_close(
    actual: ArrayLike, expected: ArrayLike, dtype: DTypeLike, what: str = "", *, precision: str = "float32"
) -> None:
    """Fail unless every element of `actual` is within tolerance of the oracle `expected`.

    The tolerance is that of the dtype, or of the precision where that is wider.
    The bound of an element is rtol·max(|expected element|, rms of expected) + atol.
    """
    rtol, atol = TOLERANCES[np.dtype(dtype)]
    rtol = max(rtol, {"float32": 0.0, "bf16x3": BF16X3_RTOL, "tf32": TF32_RTOL}[precision])
    got, want = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    if not want.size:
        return
    rms = float(np.sqrt(np.mean(want**2)))
    bound = rtol * np.maximum(np.abs(want), rms) + atol
    error = np.abs(got - want)
    assert np.all(error <= bound), f"{what}: error {np.nanmax(error / bound):.3g} times the bound, rms {rms:.3g}"


WHITENING_RTOL = 2e-5
"""Of DeconvWhitening's results, relative to the largest, for few steps. Each later one amplifies what rounding has done
to small eigenvalues, by up to 9/4."""
