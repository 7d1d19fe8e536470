"""Minimum and maximum of channels in any layout, against NumPy."""

import ml_dtypes
import numpy as np
import pytest

from fastbn.statistics.extrema import WIDTH, extrema

# Rows below, at and above the length of the joined vectors, and channels at and above half of it.
SHAPES = [(1, 1), (5, 3), (WIDTH, 1), (WIDTH + 1, 1), (WIDTH // 4, 4), (WIDTH // 4 + 1, 4), (3 * WIDTH - 1, 3),
          (9, 512), (9, 513), (2, 5000), (50, 3, 1, 1), (6, 4, 7), (3, 8, 5, 2), (1, 2, 3000)]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_extrema(shape, dtype):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, shape).astype(dtype) if dtype == "uint8" else (
        rng.standard_normal(shape) * 1000).astype(dtype)
    arrays = {"C": x, "F": np.asfortranarray(x), "reversed": x[::-1], "every second": np.repeat(x, 2, axis=0)[::2]}
    for name, array in arrays.items():
        for axis in range(x.ndim):
            others = tuple(k for k in range(x.ndim) if k != axis)
            low, high = extrema(array, axis)
            assert low.dtype == high.dtype == np.float64
            np.testing.assert_array_equal(low, array.min(axis=others), name)
            np.testing.assert_array_equal(high, array.max(axis=others), name)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64],
                         ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("row", [0, 700, 1023, 1024, 1025])
def test_nan_and_inf(row, dtype):
    x = np.zeros((1026, 3), dtype)
    x[row] = np.nan, np.inf, -np.inf
    low, high = extrema(x, 1)
    np.testing.assert_array_equal(low, [np.nan, 0, -np.inf])
    np.testing.assert_array_equal(high, [np.nan, np.inf, 0])
