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


def assert_close(actual: ArrayLike, expected: ArrayLike, dtype: DTypeLike, what: str = "") -> None:
    """Fail unless every element of `actual` is within the dtype's tolerance of the oracle `expected`.

    The bound of an element is rtol·max(|expected element|, rms of expected) + atol.
    """
    rtol, atol = TOLERANCES[np.dtype(dtype)]
    got, want = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    if not want.size:
        return
    rms = float(np.sqrt(np.mean(want**2)))
    bound = rtol * np.maximum(np.abs(want), rms) + atol
    error = np.abs(got - want)
    assert np.all(error <= bound), f"{what}: error {np.nanmax(error / bound):.3g} times the bound, rms {rms:.3g}"
