"""Kernels of layer norm and RMS norm over rows: the gradients, against the definition in extended precision."""

import numpy as np
import pytest

from tests.compare import same_bits
from tests.row_norms import DTYPES, LONG, ROWS, WIDTHS, backward, exact, exact_gradients, forward, units, values

MOST = 5        # rounding units: of the largest term of dx in a row, and of the sum of the terms of dgamma and dbeta


@pytest.fixture(params=DTYPES, ids=lambda d: np.dtype(d).name)
def dtype(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["layer norm", "rms norm"])
def about_zero(request):
    return request.param


def check(dy, x, gamma=None, *, eps=1e-5, about_zero=False):
    """Assert the errors of the gradients."""
    statistics = forward(x, gamma, eps=eps, about_zero=about_zero).statistics
    got = backward(dy, x, statistics, gamma)
    of = exact(x, gamma, eps=eps, about_zero=about_zero)
    want = exact_gradients(dy, of, gamma, about_zero=about_zero)
    # dx may be much less than its terms.
    v = dy.astype(np.longdouble) * (1 if gamma is None else gamma)
    size = (np.abs(v) * of.rstd).max(1, keepdims=True)
    assert got.dx.dtype == x.dtype
    assert units(got.dx / size, want.dx / size, x.dtype, 1.0) <= MOST
    if gamma is None:
        assert got.dgamma is None
        assert got.dbeta is None
        return got
    kind = np.float64 if x.dtype == np.float64 else np.float32
    terms = np.abs(dy.astype(np.longdouble))
    # An error of x_hat is relative to the largest of its row.
    of_dgamma = (terms * np.abs(of.x_hat).max(1, keepdims=True)).sum(0).max()
    for sums, right, size in ((got.dgamma, want.dgamma, of_dgamma), (got.dbeta, want.dbeta, terms.sum(0).max())):
        assert sums.dtype == np.float64
        assert units(sums, right, kind, size) <= MOST
    return got


@pytest.mark.parametrize("width", [*WIDTHS[1:], LONG])
def test_widths(width, dtype, about_zero):
    for rows in ROWS if width < LONG else (2,):
        x, dy, gamma, _ = values(rows, width, dtype)
        check(dy, x, None, about_zero=about_zero)
        check(dy, x, gamma, about_zero=about_zero)


def test_many_units(about_zero):
    for rows, width in ((5000, 65), (300, 1024), (70, 8193)):
        x, dy, gamma, _ = values(rows, width, np.float32)
        check(dy, x, gamma, about_zero=about_zero)


@pytest.mark.parametrize("mean", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("width", [17, 64, 129, 768, 8193])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mean_far_from_zero(width, mean, dtype, about_zero):
    x, dy, gamma, _ = values(33, width, dtype, mean=mean)
    check(dy, x, gamma, about_zero=about_zero)


@pytest.mark.parametrize("width", [3, 64, 129, 1000])
@pytest.mark.parametrize(("scale", "of_dy"), [      # dx is a normal number of float32
    (1e-30, 1e-25), (1e-20, 1e-25), (1e-20, 1.0), (1e-5, 1e25), (1e15, 1e-15), (1e15, 1e25), (1e30, 1.0), (1e30, 1e25)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tiny_and_huge_values(width, scale, of_dy, dtype, about_zero):
    # Products of x and dy overflow or underflow, and are added again in double.
    x, dy, gamma, _ = values(5, width, dtype)
    check((dy * of_dy).astype(dtype), (x * scale).astype(dtype), gamma, eps=0.0, about_zero=about_zero)


@pytest.mark.parametrize("width", [3, 64, 1000, 1030])
@pytest.mark.parametrize("over", [None, "dy", "x"])
def test_sums_over_rows_that_overflow_float32(width, over, about_zero):
    x, dy, gamma, _ = values(40, width, np.float32)
    dy[:, ::2] = np.abs(dy[:, ::2]) * np.float32(4e37)
    dy[:, 1] = 1e-3
    statistics = forward(x, about_zero=about_zero).statistics
    of = exact(x, gamma, about_zero=about_zero)
    want = exact_gradients(dy, of, gamma, about_zero=about_zero)
    terms = np.abs(dy.astype(np.longdouble))
    got = backward(dy, x, statistics, gamma * np.float32(1e-3), out={"dy": dy, "x": x}.get(over))
    assert want.dbeta.max() > np.finfo(np.float32).max
    assert (np.abs(got.dbeta - want.dbeta) <= 1e-6 * terms.sum(0)).all()
    # An error of x_hat is relative to the largest of its row.
    assert (np.abs(got.dgamma - want.dgamma) <= 1e-6 * (terms * np.abs(of.x_hat).max(1, keepdims=True)).sum(0)).all()


@pytest.mark.parametrize("width", [16, 64, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_outlier(width, dtype, about_zero):
    x, dy, gamma, _ = values(5, width, dtype)
    x[2, 7] = 1e7
    dy[3, 1] = 1e7
    check(dy, x, gamma, about_zero=about_zero)


def test_a_constant_row_passes_the_differences_of_dy(about_zero):
    x, dy, _, _ = values(4, 100, np.float32)
    x[2] = 0.0
    statistics = forward(x, about_zero=about_zero).statistics
    want = dy[2].astype(float) - (0 if about_zero else dy[2].astype(float).mean())
    np.testing.assert_allclose(backward(dy, x, statistics).dx[2], want / np.sqrt(1e-5), rtol=2e-5)


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("width", [17, 64, 1000])
@pytest.mark.parametrize("spoiled", ["x", "dy"])
def test_a_spoiled_row_leaves_the_others(width, value, spoiled, dtype, about_zero):
    x, dy, gamma, _ = values(33, width, dtype)
    want = backward(dy, x, forward(x, about_zero=about_zero).statistics, gamma).dx
    (x if spoiled == "x" else dy)[[0, 7, 32], 1] = value
    got = backward(dy, x, forward(x, about_zero=about_zero).statistics, gamma)
    bad = np.isin(np.arange(33), [0, 7, 32])
    assert not np.isfinite(got.dx[bad].astype(float)).any()
    same_bits(got.dx[~bad], want[~bad])
    assert not np.isfinite(got.dgamma[1])


@pytest.mark.parametrize("width", [3, 64, 1030])
@pytest.mark.parametrize("over", ["dy", "x"])
def test_in_place(width, over, dtype, about_zero):
    x, dy, gamma, _ = values(33, width, dtype)
    statistics = forward(x, about_zero=about_zero).statistics
    want = backward(dy, x, statistics, gamma)
    got = backward(dy, x, statistics, gamma, out=dy if over == "dy" else x)
    assert got.dx is (dy if over == "dy" else x)
    for a, b in zip(got, want, strict=True):
        same_bits(a, b)


def test_finite_differences(about_zero):
    x, dy, gamma, beta = values(3, 20, np.float64)
    statistics = forward(x, about_zero=about_zero).statistics
    dx = backward(dy, x, statistics, gamma).dx
    h = 1e-6
    for place in ((0, 0), (1, 7), (2, 19)):
        up, down = x.copy(), x.copy()
        up[place] += h
        down[place] -= h
        high, low = (forward(a, gamma, beta, about_zero=about_zero).y for a in (up, down))
        np.testing.assert_allclose(((high - low) * dy).sum() / (2 * h), dx[place], rtol=1e-6, atol=1e-8)
