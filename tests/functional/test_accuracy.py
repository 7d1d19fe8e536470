"""The accuracy contract: how far a result may be from the exact one for the numbers that came in.

y is at most 4 rounding units (2**-24 of the largest |y|) off, and the variance 5e-7, whatever the ratio of mean to
standard deviation. Exact is the oracle in extended precision, from the float32 input.
"""

import warnings
from fractions import Fraction

import numpy as np
import pytest

from fastbn import ChannelStats
from fastbn.functional import batch_norm_backward, batch_norm_inference, batch_norm_training
from tests import oracle
from tests.cases import arranged, array, axis_of, case
from tests.compare import close, same_bits, unit
from tests.grid import over
from tests.statistics import rational as exact

SHAPES = (case(64, 8), case(9, 64), case(3, 100), case(32, 1000), case(500, 3), case(3000, 40), case(256, 7, 7, 7),
          case(4, 3, 50, 50), case(3, 100, 2), case(2, 2, 40000), case(5, 65, 63))
RATIOS = (1.0, 1e2, 1e4, 1e6)

shapes = over(SHAPES, "shape")
ratios = pytest.mark.parametrize("ratio", RATIOS, ids="{:g}".format)


def contract(x, axis, gamma=None, beta=None):
    y, saved = batch_norm_training(x, gamma, beta, axis=axis)
    exact = oracle.forward(x, gamma, beta, axis=axis)
    close(y, exact.y, np.float32, 4)
    assert np.abs(saved.var / exact.var - 1).max() <= 5e-7
    return y, saved


@shapes
@ratios
def test_training(shape, ratio, layout):
    contract(array(shape, layout, mean=ratio), axis_of(layout))


@shapes
@ratios
def test_training_with_parameters(shape, ratio, layout):
    gamma, beta = np.random.default_rng(1).normal(1, 0.3, (2, shape.channels)).astype(np.float32)
    contract(array(shape, layout, mean=-ratio * 3, std=3, seed=1), axis_of(layout), gamma, beta)


@shapes
@ratios
def test_inference(shape, ratio, layout):
    x = array(shape, layout, mean=ratio)
    mean, var = (v.astype(np.float64) for v in oracle.moments(x, axis_of(layout)))
    y = batch_norm_inference(x, mean, var, axis=axis_of(layout))
    close(y, oracle.forward(x, mean=mean, var=var, axis=axis_of(layout)).y, np.float32, 4)


extended = pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63,
                              reason="numpy.longdouble is no wider than float64 here")


def contract_in_float64(x, axis, eps=1e-5):
    """y within 4 units of 2**-53 of the largest, and the variance within 8 of itself."""
    y, saved = batch_norm_training(x, axis=axis, eps=eps)
    # Rational numbers, each as two words: extended precision alone would be thousands of units off at 1e8.
    means, variances = exact.population([x], axis)
    (mean, low), (var, var_low) = (zip(*map(words, values), strict=True) for values in (means, variances))
    d = x - oracle.along(mean, x, axis, np.longdouble) - oracle.along(low, x, axis, np.longdouble)
    deviation = np.sqrt(np.add(var, np.asarray(var_low, np.longdouble)) + np.longdouble(eps))
    close(y, d / oracle.along(deviation, x, axis, np.longdouble), np.float64, 4)
    assert exact.relative(saved.var, variances) <= 8 * unit(np.float64)
    return y, saved


@extended
@pytest.mark.parametrize("ratio", [*RATIOS, 1e8, 1e12, 1e15], ids="{:g}".format)
def test_float64(ratio, layout):
    contract_in_float64(array(case(64, 7, 7, 7), layout, np.float64, mean=ratio), axis_of(layout))


@extended
def test_neighbours_in_float64(layout):
    # A mean of 1e16 deviations: the pivot must be the mean that was found, to the last bit.
    x = np.broadcast_to(np.array([0.1 + 0.2, 0.3] * 50).reshape(-1, 1), (100, 3))
    contract_in_float64(arranged(np.array(x), layout), axis_of(layout), eps=1e-37)


def words(value):
    """A rational number as the sum of two floating-point numbers."""
    high = float(value)
    return high, float(value - Fraction(high))


def test_two_valued_data_in_few_columns():
    # The worst of a search: with float sums of 32 rows y was 4.6 units off.
    x = np.full((1000, 64), 0.11031343, np.float32)
    x[:15] = -1.770966
    rng = np.random.default_rng(137)
    contract(rng.permuted(x, axis=0), 1)


@pytest.mark.parametrize(("ratio", "scale"), [(1e10, 1.0), (0.0, 1e-40), (0.0, 1e40), (1.0, 1e100)], ids=str)
def test_float64_beyond_float32(ratio, scale, layout):
    x = array(case(256, 7, 7, 7), layout, np.float64, mean=ratio) * scale
    y, saved = batch_norm_training(x, axis=axis_of(layout), eps=1e-30)
    exact = oracle.forward(x, axis=axis_of(layout), eps=1e-30)
    assert np.abs(saved.var / exact.var - 1).max() <= 1e-13 * max(1, ratio / 1e4)
    assert np.abs(y - exact.y).max() <= 1e-13 * max(1, ratio / 1e3) * np.abs(exact.y).max()


@ratios
def test_backward(ratio, layout):
    x, dy = (array(case(256, 7, 7, 7), layout, mean=m, seed=s) for m, s in ((ratio, 0), (0, 1)))
    axis = axis_of(layout)
    _, saved = batch_norm_training(x, axis=axis)
    dx, dgamma, dbeta = batch_norm_backward(dy, x, saved, axis=axis)
    right = oracle.backward(dy, x, oracle.forward(x, axis=axis), axis=axis)
    close(dx, right.dx, np.float32, 6)
    np.testing.assert_allclose(dgamma, right.dgamma, rtol=0, atol=1e-2 * 256 * 49 * unit(np.float32) * 4)
    np.testing.assert_allclose(dbeta, right.dbeta, rtol=0, atol=1e-2 * 256 * 49 * unit(np.float32) * 4)


CONSTANTS = (0.0, 1.0, 0.1, 1.1e7, 1 / 3, 1e-20, 1e-40, -3e30, 3e38, 16777217.0)


@pytest.mark.parametrize("value", CONSTANTS, ids="{:g}".format)
@over([case(32, 3), case(17, 65), case(7, 3, 7, 7), case(3, 2, 3001), case(700, 24)], "shape")
def test_a_constant_channel_is_beta(value, shape, layout, dtype):
    x = np.full_like(array(shape, layout, dtype), value)
    gamma, beta = (np.linspace(-1, 1, shape.channels).astype(dtype) + v for v in (2, 0.3))
    y, saved = batch_norm_training(x, gamma.astype(dtype), beta.astype(dtype), axis=axis_of(layout))
    expected = np.empty_like(x)
    np.moveaxis(expected, axis_of(layout), -1)[...] = beta
    np.testing.assert_array_equal(y, expected)
    # In float64 the mean of the first of many equal numbers may be some roundings off.
    assert (saved.var <= (64 * abs(value) * unit(np.float64)) ** 2).all()
    np.testing.assert_array_equal(saved.mean, np.full(shape.channels, dtype.type(value), np.float64))


@pytest.mark.parametrize("scale", [1e-15, 1e-10, 1e10, 1e18, 1e20, 1e30, 3e37], ids="{:g}".format)
@shapes
def test_large_and_small_values(scale, shape, layout):
    # Squares beyond float32: such a span is summed in double.
    x = (array(shape, layout) * np.float32(scale)).astype(np.float32)
    y, saved = batch_norm_training(x, axis=axis_of(layout), eps=1e-30)
    exact = oracle.forward(x, axis=axis_of(layout), eps=1e-30)
    close(y, exact.y, np.float32, 4)
    assert np.abs(saved.var / exact.var - 1).max() <= 5e-7


@shapes
def test_subnormals(shape, layout):
    x = (array(shape, layout) * np.float32(1e-20) * np.float32(1e-20)).astype(np.float32)
    assert 0 < np.abs(x).max() < np.finfo(np.float32).tiny
    y, saved = batch_norm_training(x, axis=axis_of(layout))
    exact = oracle.forward(x, axis=axis_of(layout))
    assert np.isfinite(y).all()
    assert np.abs(y).max() > 0
    # y is subnormal too: its spacing is that of the smallest number.
    assert np.abs(y - exact.y).max() <= 4 * max(2**-149, float(np.abs(exact.y).max()) * 2**-24)
    assert np.abs(saved.var / exact.var - 1).max() <= 5e-7


def trend(rng, shape):
    return np.sort(rng.standard_normal(shape), axis=0)


def drift(rng, shape):
    n = shape[0]
    return rng.standard_normal(shape) + 20 * np.arange(n).reshape(-1, *[1] * (len(shape) - 1)) / n


def sorted_within(rng, shape):
    return np.sort(rng.standard_normal(shape), axis=-1)


def far_first_eighth(rng, shape):
    x = rng.standard_normal(shape)
    x[: max(1, shape[0] // 8)] += 1e4
    return x


def far_first_elements(rng, shape):
    x = rng.standard_normal(shape)
    x[..., : max(1, shape[-1] // 8)] -= 1e3
    return x


def one_outlier(rng, shape):
    x = rng.standard_normal(shape)
    x[(0, slice(None), *[0] * (len(shape) - 2))] = 1e6
    return x


def outlier_at_the_end(rng, shape):
    x = rng.standard_normal(shape)
    x[(-1, slice(None), *[-1] * (len(shape) - 2))] = -1e6
    return x


def image_offsets(rng, shape):
    return rng.standard_normal(shape) + 1e3 * rng.standard_normal((shape[0], shape[1], *[1] * (len(shape) - 2)))


def two_valued(rng, shape):
    # As a mask: roundings of equal addends do not average out.
    low, high = rng.uniform(1, 2, (2, 1, *shape[1:2], *(1,) * (len(shape) - 2)))
    return low + high * (np.arange(np.prod(shape) // shape[1]).reshape(shape[0], 1, *shape[2:]) % 2)


def sawtooth(rng, shape):
    return np.arange(np.prod(shape)).reshape(shape) % 17 * rng.uniform(1, 2, (1, shape[1], *(1,) * (len(shape) - 2)))


ADVERSARIES = (two_valued, sawtooth, trend, drift, sorted_within, far_first_eighth, far_first_elements, one_outlier,
               outlier_at_the_end, image_offsets)


adversaries = pytest.mark.parametrize("make", ADVERSARIES, ids=lambda f: f.__name__)
UNITS_OF_WORK = (case(64, 24), case(33, 65), case(1000, 3), case(300, 70), case(64, 3, 7, 7), case(16, 4, 20, 20),
                 case(2, 3, 20000))


@adversaries
@over(UNITS_OF_WORK, "shape")
@pytest.mark.parametrize("offset", [0.0, 1e4], ids="{:g}".format)
def test_adversaries(make, shape, layout, offset):
    x = make(np.random.default_rng(5), shape.shape) + offset
    contract(arranged(x.astype(np.float32), layout), axis_of(layout))


@extended
@adversaries
@over([*UNITS_OF_WORK, case(1024, 64), case(4000, 8)], "shape")
@pytest.mark.parametrize("offset", [0.0, 1e8], ids="{:g}".format)
def test_adversaries_in_float64(make, shape, layout, offset):
    x = make(np.random.default_rng(5), shape.shape) + offset
    contract_in_float64(arranged(x, layout), axis_of(layout))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@over([case(40, 5), case(33, 65), case(900, 24), case(8, 5, 7, 7), case(2, 3, 33000), case(70, 1025)], "shape")
def test_one_bad_element_spoils_its_channel_alone(value, shape, layout, dtype, activation):
    axis = axis_of(layout)
    clean, dy = array(shape, layout, dtype), array(shape, layout, dtype, seed=1)
    bad = clean.copy()
    channel = shape.channels // 2
    np.moveaxis(bad, axis, 0)[channel].flat[3] = value
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (clean, bad):
            y, saved = batch_norm_training(x, axis=axis, activation=activation)
            dx, dgamma, dbeta = batch_norm_backward(dy, x, saved, axis=axis)
            stats = ChannelStats(shape.channels, axis=axis).update(x)
            results.append((*(np.moveaxis(a, axis, 0) for a in (y, dx)), saved.mean, saved.var, dgamma, dbeta,
                            stats.mean, stats.m2))
    others = np.arange(shape.channels) != channel
    for a, b in zip(*results, strict=True):
        same_bits(a[others], b[others])
    assert np.isnan(results[1][0][channel]).all(), "y"
    assert np.isnan(results[1][1][channel]).all(), "dx"
    assert not np.isfinite(results[1][2][channel])
    assert np.isnan(results[1][3][channel])
    assert np.isnan(results[1][7][channel])


@pytest.mark.parametrize("rows", [40, 49, 64, 100, 128, 200])
@pytest.mark.parametrize("value", [1.9, 1.37])
def test_masks(rows, value):
    # Two values: all roundings of a sum go one way.
    rng = np.random.default_rng(1)
    for share in (0.5, 0.6, 0.7, 0.8, 0.9):
        mask = rng.random((rows, 512)) < share
        mask[:2] = [[False], [True]]  # no constant channels
        contract((mask * value).astype(np.float32), 1)


def golden(count, length):
    """Places that a pivot is sampled at."""
    return np.arange(count) * 40503 % 65536 * length // 65536


@pytest.mark.parametrize("share", [0.73, 0.745, 0.77])
def test_blank_where_the_pivot_is_sampled(share):
    mask = np.random.default_rng(2).random((256, 512)) < share
    mask[golden(16, 256)] = False
    contract((mask * 1.9).astype(np.float32), 1)


@extended
@pytest.mark.parametrize("shift", [100.0, 1e6, -1e12], ids="{:g}".format)
@over([case(1024, 64), case(1024, 3), case(5000, 70), case(64, 2, 49)], "shape")
def test_float64_outliers_where_the_pivot_is_sampled(shape, shift, layout):
    x = np.random.default_rng(0).standard_normal(shape.shape)
    x[golden(16, shape.shape[0])] += shift
    contract_in_float64(arranged(x, layout), axis_of(layout))
    x = np.random.default_rng(0).standard_normal(shape.shape)
    x[0] += shift
    contract_in_float64(arranged(x, layout), axis_of(layout))


@extended
@pytest.mark.parametrize("rows", [20, 33, 300])
@pytest.mark.parametrize("shift", [100.0, 1e4], ids="{:g}".format)
def test_float64_where_one_value_dominates(rows, shift, layout):
    # More than the contract: M2 is nearly all one square, so that no roundings average out.
    x = np.random.default_rng(rows).standard_normal((rows, 500))
    x[0] += shift
    x = x if layout == "rows" else np.ascontiguousarray(x.T)[None]
    y, saved = batch_norm_training(x, axis=1)
    means, variances = exact.population([x], 1)
    assert exact.relative(saved.var, variances) <= 8 * unit(np.float64)
    high, low = (np.asarray(v, np.longdouble) for v in zip(*map(words, means), strict=True))
    var = sum(np.asarray(v, np.longdouble) for v in zip(*map(words, variances), strict=True))
    d = x - oracle.along(high, x, 1, np.longdouble) - oracle.along(low, x, 1, np.longdouble)
    close(y, d / oracle.along(np.sqrt(var + np.longdouble(1e-5)), x, 1, np.longdouble), np.float64, 5)


HUGE = [1e140, 1e152, 1e160, 1e250, 1e300]      # squares overflow from 1.3e154 on, the sums of many of them before


@pytest.mark.parametrize("scale", HUGE, ids="{:g}".format)
@over([case(700, 3), case(300, 70), case(1300, 1100), case(40, 5, 7, 7), case(2, 3, 40000)], "shape")
def test_values_whose_squares_overflow_float64(shape, scale, layout):
    k = int(np.log2(scale))
    axis = axis_of(layout)
    x, dy = array(shape, layout, np.float64, mean=3), array(shape, layout, np.float64, seed=1)
    y, saved = batch_norm_training(np.ldexp(x, k), axis=axis, eps=1e-30)
    ordinary, right = batch_norm_training(x, axis=axis, eps=1e-30)
    assert np.abs(y - ordinary).max() <= 8 * unit(np.float64) * np.abs(ordinary).max()
    np.testing.assert_allclose(saved.mean, np.ldexp(right.mean, k), rtol=1e-15)
    np.testing.assert_allclose(saved.rstd, np.ldexp(right.rstd, -k), rtol=1e-15)
    with np.errstate(over="ignore"):    # Inf where the variance is out of range
        np.testing.assert_allclose(saved.var, np.ldexp(right.var, 2 * k), rtol=1e-15)
        squares = ChannelStats(shape.channels, axis=axis).update(np.ldexp(x, k)).m2
        np.testing.assert_allclose(squares, np.ldexp(right.var * shape.count, 2 * k), rtol=1e-14)
    dx, dgamma, dbeta = batch_norm_backward(dy, np.ldexp(x, k), saved, axis=axis)
    exact_dx, exact_dgamma, exact_dbeta = batch_norm_backward(dy, x, right, axis=axis)
    assert np.abs(np.ldexp(dx, k) - exact_dx).max() <= 1e-14 * np.abs(exact_dx).max()
    np.testing.assert_allclose(dgamma, exact_dgamma, rtol=0, atol=1e-13 * shape.count)
    np.testing.assert_array_equal(dbeta, exact_dbeta)


@pytest.mark.parametrize("value", [1.1e154, 1.1e170, -3e250, 1.7e308], ids="{:g}".format)
@over([case(22, 1), case(1000, 3), case(300, 70), case(3, 5, 400)], "shape")
def test_huge_constants(value, shape, layout):
    x = np.full(arranged(np.empty(shape.shape), layout).shape, value)
    beta = np.linspace(1, 2, shape.channels)
    y, saved = batch_norm_training(x, None, beta, axis=axis_of(layout))
    np.testing.assert_array_equal(np.moveaxis(y, axis_of(layout), -1), np.broadcast_to(beta, np.moveaxis(
        y, axis_of(layout), -1).shape))
    stats = ChannelStats(shape.channels, axis=axis_of(layout)).update(x)
    for mean, var in ((saved.mean, saved.var), (stats.mean, stats.var())):
        np.testing.assert_array_equal(mean, np.full(shape.channels, value))
        np.testing.assert_array_equal(var, np.zeros(shape.channels))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_statistics_of_planes_that_are_blank_where_the_pivot_is_sampled(dtype):
    x = np.full((16384, 2, 2), 0.7, dtype)
    x[golden(256, 16384)] = 0
    x[8192 + golden(256, 8192)] = 0
    stats = ChannelStats(2).update(x)
    exact = x.astype(np.longdouble).var((0, 2))
    assert np.abs(stats.var() / exact - 1).max() <= 1e-12


@shapes
def test_gradients_whose_products_are_too_small_for_float32(shape, layout):
    axis = axis_of(layout)
    x = (array(shape, layout) * np.float32(1e-18)).astype(np.float32)
    dy = (array(shape, layout, seed=1) * np.float32(1e-27)).astype(np.float32)
    _, saved = batch_norm_training(x, axis=axis, eps=1.2e-38)
    _, dgamma, _ = batch_norm_backward(dy, x, saved, axis=axis)
    exact = oracle.backward(dy, x, oracle.forward(x, axis=axis, eps=1.2e-38), axis=axis)
    assert np.abs(dgamma - exact.dgamma).max() <= 1e-6 * np.abs(exact.dgamma).max()


@pytest.mark.skipif(np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps, reason="no float is longer than float64")
@pytest.mark.parametrize("ratio", [1, 1e4, 1e6, 1e8])
def test_float64_keeps_both_words_of_the_mean(ratio):
    x = np.random.default_rng(0).normal(ratio, 1, (64, 8, 49))
    y, _ = batch_norm_training(x)
    d = x - x.astype(np.longdouble).mean(axis=(0, 2), keepdims=True)
    d -= d.mean(axis=(0, 2), keepdims=True)     # what the first mean was rounded by
    exact = d / np.sqrt((d * d).mean(axis=(0, 2), keepdims=True) + np.longdouble(1e-5))
    assert np.abs(y - exact).max() <= 4 * 2.0**-53 * np.abs(exact).max()
