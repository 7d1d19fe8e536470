"""Kernels of layer norm and RMS norm over rows: the forward, against the definition in extended precision."""

import numpy as np
import pytest

from tests import row_norms
from tests.compare import same_bits
from tests.row_norms import DTYPES, LONG, ROWS, UNITS, WIDTHS, exact, forward, inference, units, values

MOST = 4        # rounding units of the largest value that y may be off


@pytest.fixture(params=DTYPES, ids=lambda d: np.dtype(d).name)
def dtype(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["layer norm", "rms norm"])
def about_zero(request):
    return request.param


def check(x, gamma=None, beta=None, *, eps=1e-5, about_zero=False):
    """Assert the error of y, relative to the largest value before beta is added, and that inference has its bits."""
    y, (mean, low, rstd) = forward(x, gamma, beta, eps=eps, about_zero=about_zero)
    want = exact(x, gamma, beta, eps=eps, about_zero=about_zero)
    size = max(np.abs(want.y).max(), np.abs(want.x_hat).max() * (1 if gamma is None else np.abs(gamma).max()))
    assert y.dtype == x.dtype
    assert units(y, want.y, x.dtype, size) <= MOST
    same_bits(inference(x, gamma, beta, eps=eps, about_zero=about_zero), y)
    np.testing.assert_allclose(rstd, want.rstd[:, 0].astype(float), rtol=1e-6 if x.dtype != np.float64 else 1e-15)
    if about_zero:
        assert mean is None
        assert low is None
    else:
        wide = x.astype(np.longdouble)
        error = (mean.astype(np.longdouble) + low) - (wide[:, :1] + (wide - wide[:, :1]).mean(1, keepdims=True))[:, 0]
        assert np.abs(error * rstd).max() <= UNITS["float32"]
    return y


@pytest.mark.parametrize("width", [*WIDTHS, LONG])
def test_widths(width, dtype, about_zero):
    for rows in ROWS if width < LONG else (2,):
        x, _, gamma, beta = values(rows, width, dtype)
        for parameters in ((None, None), (gamma, None), (None, beta), (gamma, beta)):
            check(x, *parameters, about_zero=about_zero)


@pytest.mark.parametrize("mean", [1, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("width", [2, 17, 64, 129, 768, 1024, 8193])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mean_far_from_zero(width, mean, dtype, about_zero):
    for seed in range(3):
        x, _, gamma, beta = values(17, width, dtype, seed=seed, mean=mean)
        check(x, gamma, beta, about_zero=about_zero)


@pytest.mark.parametrize("width", [1, 3, 17, 64, 1000, LONG])
def test_a_constant_row_is_beta(width, dtype):
    _, _, gamma, beta = values(1, width, dtype)
    constants = [0.0, 1.0, 0.1, -3.3, 1e4]
    if np.dtype(dtype).itemsize > 2:
        constants += [1e6 + 0.1, 1e30, 1e-30]
    if dtype is np.float64:
        constants += [1e200, 1.7e308, 1e-300]
    x = np.repeat(np.array(constants)[:, None], width, axis=1).astype(dtype)
    y = forward(x, gamma, beta).y
    same_bits(y, np.broadcast_to(beta.astype(dtype), x.shape))


@pytest.mark.parametrize("width", [16, 64, 1000, 8193])
@pytest.mark.parametrize("place", [0, 7, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_outlier(width, place, dtype, about_zero):
    x, _, gamma, beta = values(5, width, dtype)
    x[2, place] = 1e7
    check(x, gamma, beta, about_zero=about_zero)


@pytest.mark.parametrize("width", [3, 64, 129, 1000])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e15, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tiny_and_huge_values(width, scale, dtype, about_zero):
    x, _, gamma, beta = values(5, width, dtype)
    check((x * scale).astype(dtype), gamma, beta, eps=0.0, about_zero=about_zero)


@pytest.mark.parametrize("width", [3, 64, 1000, LONG])
@pytest.mark.parametrize("scale", [1e155, 1e200, 1e307])
def test_squares_that_overflow_float64(width, scale, about_zero):
    x, _, gamma, beta = values(3, width, np.float64)
    check(np.clip(x, -10, 10) * scale, gamma, beta, about_zero=about_zero)


@pytest.mark.parametrize("width", [1, 17, 64, 1000])
def test_zero_variance_without_eps(width, dtype):
    x, _, _, _ = values(4, width, dtype)
    x[1:3] = 2.5
    y = forward(x, eps=0.0).y
    assert np.isnan(y[1:3].astype(float)).all()
    if width > 1:
        same_bits(y[[0, 3]], forward(x[[0, 3]], eps=0.0).y)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("width", [2, 17, 64, 1000])
def test_a_spoiled_row_leaves_the_others(width, value, dtype, about_zero):
    x, _, gamma, beta = values(33, width, dtype)
    want = forward(x, gamma, beta, about_zero=about_zero)
    x[[0, 7, 32], width // 2] = value
    got = forward(x, gamma, beta, about_zero=about_zero)
    bad = np.isin(np.arange(33), [0, 7, 32])
    assert np.isnan(got.y[bad].astype(float)).all()
    same_bits(got.y[~bad], want.y[~bad])
    same_bits(got.statistics[2][~bad], want.statistics[2][~bad])


def test_a_payload_of_nan_does_not_become_a_number():
    x, _, gamma, beta = values(2, 64, row_norms.DTYPES[3])
    payload = np.array([0x7FFFFFFF], np.uint32).view(np.float32)[0]
    gamma[5] = beta[6] = payload
    y = forward(x, gamma, beta).y.astype(float)
    assert np.isnan(y[:, [5, 6]]).all()
    assert np.isfinite(y[:, 7:]).all()


@pytest.mark.parametrize("width", [3, 64, 1030])
def test_in_place(width, dtype, about_zero):
    x, _, gamma, beta = values(33, width, dtype)
    want = forward(x, gamma, beta, about_zero=about_zero).y
    got = forward(x, gamma, beta, about_zero=about_zero, out=x).y
    assert got is x
    same_bits(got, want)
