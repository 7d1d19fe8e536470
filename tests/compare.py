"""How far a result may be from the oracle's."""

import numpy as np

# Rounding units of the largest value.
UNITS = 4


def unit(dtype):
    """Half the distance from 1 to the next number: 2**-24 or 2**-53."""
    return np.finfo(dtype).eps / 2


def close(got, exact, dtype, units=UNITS, size=None):
    """Assert that got is of dtype and no more than `units` roundings of the largest exact value (or of size) away."""
    got = np.asarray(got)
    assert got.dtype == dtype
    assert got.shape == exact.shape
    if not got.size:
        return
    size = np.abs(exact).max() if size is None else size
    error = np.abs(got - exact).max()
    assert error <= units * unit(dtype) * size, f"{float(error / (unit(dtype) * size)):.2f} units, at most {units}"


def same_bits(a, b):
    """Assert that two arrays are the same to the bit, the sign of zero and NaN included."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()
