"""Assertions about the distance of a result from the exact one."""

import numpy as np

UNITS = 4       # rounding units of the largest value


def unit(dtype):
    """The rounding unit: half the distance from 1 to the next number, 2**-24 or 2**-53."""
    return np.finfo(dtype).eps / 2


def close(got, exact, dtype, units=UNITS, size=None):
    """Assert the dtype, and an error of at most `units` rounding units of `size`: the largest exact value."""
    got = np.asarray(got)
    assert got.dtype == dtype
    assert got.shape == exact.shape
    if not got.size:
        return
    size = np.abs(exact).max() if size is None else size
    error = np.abs(got - exact).max()
    assert error <= units * unit(dtype) * size, f"{float(error / (unit(dtype) * size)):.2f} units, at most {units}"


def same_bits(a, b):
    """Assert that two arrays have the same bits, including the sign of zero and NaN."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()
