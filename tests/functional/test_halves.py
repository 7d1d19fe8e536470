"""float16 and bfloat16: computed in float32 from statistics at least that exact, rounded once at the end."""

import ml_dtypes
import numpy as np
import pytest

from fastbn import BatchNorm, ChannelAffine, ChannelStats
from fastbn.functional import batch_norm_backward, batch_norm_inference, batch_norm_training
from tests import oracle
from tests.cases import (
    EMPTY_CASES,
    LANES,
    LARGE_CASES,
    LARGE_PLANES,
    LARGE_ROWS,
    PLANES,
    SAMPLE_CASES,
    SIZES,
    around,
    array,
    axis_of,
    cases,
    inputs,
)
from tests.compare import same_bits
from tests.grid import over

HALVES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
IDENTITY = ChannelAffine([0.0], [1.0], [0.0])
# Among them the elements that are converted at a time, and rows longer than LONG_ROW bytes.
CASES = SAMPLE_CASES + cases(*((2, 3, s) for size in (LANES, SIZES["stage"]) for s in around(size)),
                             *((9, c) for c in around(SIZES["stage"])), (5, SIZES["long_row"] // 2 + 1))


@pytest.fixture(params=HALVES)
def half(request):
    return HALVES[request.param]


def every(half):
    """All 65,536 bit patterns, one channel."""
    return np.arange(1 << 16, dtype=np.uint16).view(half).reshape(-1, 1)


def float32(x):
    """The values as float32. On ARM NumPy warns of signalling NaN, which are among all patterns."""
    with np.errstate(invalid="ignore"):
        return x.astype(np.float32)


def spacing(exact, half):
    """Half the distance between neighbours, where the exact value lies."""
    info = ml_dtypes.finfo(half)
    size = np.maximum(np.abs(exact), info.smallest_normal)
    return np.exp2(np.floor(np.log2(size.astype(np.float64)))) * float(info.eps) / 2


def rounded_once(got, exact, half, float_units=4.0, size=None):
    """Assert that got is the exact value rounded, but for what float32 lost before, of the largest value or of size."""
    assert got.dtype == half
    lost = float_units * 2.0**-24 * (np.abs(exact).max(initial=0) if size is None else size)
    assert (np.abs(got.astype(np.float64) - exact) <= spacing(exact, half) * (1 + 1e-6) + lost).all()


def test_every_value_comes_back(half):
    x = every(half)
    y = IDENTITY(x)
    nan = np.isnan(float32(x))
    assert np.isnan(float32(y))[nan].all()
    # -0 + 0 is 0; every other value is the same to the bit
    zero = float32(x) == 0
    same_bits(y[~nan & ~zero], x[~nan & ~zero])
    assert (y[zero] == 0).all()
    assert nan.sum() == {"float16": 2046, "bfloat16": 254}[half.name]


@pytest.mark.parametrize(("scale", "shift"), [(1.1, 0.3), (1e-3, 1e-7), (3e4, 1.0), (1e-6, 0.0), (-0.7, 65504.0)])
def test_rounding_is_to_nearest_even(half, scale, shift):
    # ml_dtypes and NumPy round single values, by code of their own.
    x = every(half)
    x = x[np.isfinite(float32(x))].reshape(-1, 1)
    y = ChannelAffine([0.25], [scale], [shift])(x)
    with np.errstate(over="ignore"):
        single = (x.astype(np.float32) - np.float32(0.25)) * np.float32(scale) + np.float32(shift)
        same_bits(y, single.astype(half))


def test_overflow_is_infinite(half):
    most = float(ml_dtypes.finfo(half).max)
    x = np.array([[most], [-most]], half)
    double = ChannelAffine([0.0], [2.0], [0.0])(x).astype(np.float32)
    np.testing.assert_array_equal(double, [[np.inf], [-np.inf]])


@over((*CASES, LARGE_PLANES))
def test_training_and_backward(case, layout, half, activation, with_residual):
    i = inputs(case, layout, half)
    gamma, beta = i.gamma.astype(np.float32), i.beta.astype(np.float32)
    residual = i.residual if with_residual else None
    relu = activation is not None
    y, saved = batch_norm_training(i.x, gamma, beta, axis=i.axis, residual=residual, activation=activation)
    exact = oracle.forward(i.x, gamma, beta, axis=i.axis, residual=residual, relu=relu)
    rounded_once(y, exact.y, half)
    assert np.abs((saved.mean - exact.mean) * exact.rstd).max() <= 2.0**-23
    assert np.abs(saved.var / exact.var - 1).max() <= 5e-7
    dx, dgamma, dbeta, *dresidual = batch_norm_backward(i.dy, i.x, saved, gamma, axis=i.axis)
    # What is next to zero may fall on either side of it, so the side is that of the forward pass without a ReLU.
    linear, _ = batch_norm_training(i.x, gamma, beta, axis=i.axis, residual=residual)
    exact = exact._replace(z=linear.astype(np.float64))
    want = oracle.backward(i.dy, i.x, exact, gamma, axis=i.axis, relu=relu)
    # Its three terms may cancel: with two values a channel they do so entirely.
    rounded_once(dx, want.dx, half, 8.0, size=np.abs(gamma * exact.rstd).max() * np.abs(i.dy.astype(np.float32)).max())
    for got, right in ((dgamma, want.dgamma), (dbeta, want.dbeta)):
        np.testing.assert_allclose(got, right.astype(np.float64), rtol=2e-5, atol=2e-6 * np.sqrt(case.count))
    if with_residual:
        rounded_once(dresidual[0], want.dresidual, half, 0)


@over((*CASES, LARGE_PLANES, LARGE_ROWS))
def test_inference(case, layout, half, activation, with_residual):
    i = inputs(case, layout, half)
    vectors = [v.astype(np.float32) for v in (i.mean, i.var, i.gamma, i.beta)]
    residual = i.residual if with_residual else None
    y = batch_norm_inference(i.x, *vectors, axis=i.axis, residual=residual, activation=activation)
    exact = oracle.forward(i.x, vectors[2], vectors[3], axis=i.axis, residual=residual, relu=activation is not None,
                           mean=vectors[0], var=vectors[1])
    rounded_once(y, exact.y, half)


@over(LARGE_CASES)
def test_threads_and_strides_change_no_bit(case, layout, half):
    i = inputs(case, layout, half)
    gamma, beta = i.gamma.astype(np.float32), i.beta.astype(np.float32)
    one = batch_norm_training(i.x, gamma, beta, axis=i.axis, num_threads=1)
    dx = batch_norm_backward(i.dy, i.x, one[1], gamma, axis=i.axis, num_threads=1)[0]
    wide = np.zeros((2 * i.x.shape[0], *i.x.shape[1:]), half)[::-2]
    wide[...] = i.x
    for x in (i.x, wide):
        for threads in (2, 3, 5):
            y, saved = batch_norm_training(x, gamma, beta, axis=i.axis, num_threads=threads)
            same_bits(y, one[0])
            same_bits(saved.var, one[1].var)
            same_bits(batch_norm_backward(i.dy, x, saved, gamma, axis=i.axis, num_threads=threads)[0], dx)


def test_in_place(layout, half, with_residual):
    i = inputs(PLANES, layout, half)
    residual = i.residual if with_residual else None
    y, saved = batch_norm_training(i.x, axis=i.axis, residual=residual)
    dx = batch_norm_backward(i.dy, i.x, saved, axis=i.axis)[0]
    x, dy = i.x.copy(), i.dy.copy()
    assert batch_norm_training(x, axis=i.axis, residual=residual, out=x)[0] is x
    same_bits(x, y)
    assert batch_norm_backward(dy, i.x, saved, axis=i.axis, out=dy)[0] is dy
    same_bits(dy, dx)


@pytest.mark.parametrize("case", EMPTY_CASES, ids=lambda c: c.name)
def test_empty(case, layout, half):
    x = array(case, layout, half)
    y, _ = batch_norm_training(x, axis=axis_of(layout))
    assert (y.shape, y.dtype) == (x.shape, half)


def test_layer_and_statistics(layout, half):
    i = inputs(PLANES, layout, half)
    bn = BatchNorm(PLANES.channels, axis=i.axis)
    y = bn(i.x)
    dx = bn.backward(i.dy)
    assert (y.dtype, dx.dtype, bn.running_var.dtype, bn.grad_gamma.dtype) == (half, half, np.float32, np.float32)
    exact = oracle.forward(i.x, axis=i.axis)
    n = PLANES.count
    np.testing.assert_allclose(bn.running_mean, 0.1 * exact.mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(bn.running_var, 0.9 + 0.1 * exact.var * n / (n - 1), rtol=1e-5)
    same_bits(bn.eval()(i.x), bn.frozen()(i.x))
    stats = ChannelStats(PLANES.channels, axis=i.axis).update(i.x)
    np.testing.assert_allclose(stats.var(), exact.var.astype(float), rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_values_stay_in_their_channel(layout, half, bad):
    i = inputs(PLANES, layout, half)
    clean, _ = batch_norm_training(i.x, axis=i.axis)
    np.moveaxis(i.x, i.axis, 0)[2].flat[5] = bad
    y, _ = batch_norm_training(i.x, axis=i.axis)
    y, clean = (np.moveaxis(a.astype(np.float32), i.axis, 0) for a in (y, clean))
    assert np.isnan(y[2]).all()
    same_bits(np.delete(y, 2, 0), np.delete(clean, 2, 0))


def test_dtypes_are_not_mixed(half):
    x = np.zeros((4, 3), half)
    for other in (np.float32, *(h for h in HALVES.values() if h != half)):
        with pytest.raises(TypeError, match=f"residual has dtype {np.dtype(other)}; expected that of x, {half}"):
            batch_norm_training(x, residual=x.astype(other))
        with pytest.raises(TypeError, match=f"out has dtype {np.dtype(other)}; expected that of x, {half}"):
            batch_norm_training(x, out=x.astype(other))
