"""A value that is not finite makes the statistics of its channel NaN, wherever it stands, and no other channel."""

import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm, ChannelStats
from tests import oracle
from tests.cases import array, axis_of, case
from tests.compare import same_bits
from tests.grid import over

BAD = 1     # its channel
SHAPES = (case(2, 3, 4), case(70, 3, 50), case(5, 40, 9, 7))
VALUES = (np.inf, -np.inf, np.nan)


def spoilt(x, axis, places, value):
    """A copy with a value at some places of one channel."""
    x = x.copy()
    channel = np.take(x, BAD, axis)
    channel.reshape(-1)[[place % channel.size for place in places]] = value
    x[(slice(None),) * (axis % x.ndim) + (BAD,)] = channel
    return x


def only_bad(vector, clean):
    assert np.isnan(vector[BAD])
    same_bits(np.delete(vector, BAD), np.delete(clean, BAD))


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("places", [(0,), (1,), (-1,), (37,), (0, -1), range(999)], ids=str)
@over(SHAPES, "shape")
def test_wherever_it_stands(shape, places, value, layout, dtype):
    x, axis = array(shape, layout, dtype), axis_of(layout)
    clean = ChannelStats(shape.channels, axis=axis).update(x)
    stats = ChannelStats(shape.channels, axis=axis).update(spoilt(x, axis, places, value))
    for name in ("mean", "m2"):
        only_bad(getattr(stats, name), getattr(clean, name))
    only_bad(stats.std(), clean.std())
    bn, other = BatchNorm(shape.channels, axis=axis, dtype=dtype), BatchNorm(shape.channels, axis=axis, dtype=dtype)
    bn(spoilt(x, axis, places, value))
    other(x)
    for name in ("running_mean", "running_var"):
        only_bad(getattr(bn, name), getattr(other, name))


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("first", [True, False])
def test_in_any_part_of_a_merge(first, value, dtype):
    parts = [array(case(6, 3, 4), "planes", dtype, seed=seed) for seed in range(2)]
    parts[first] = spoilt(parts[first], 1, [3], value)
    stats = ChannelStats(3).update(parts[0]).update(parts[1])
    assert np.isnan([stats.mean[BAD], stats.m2[BAD]]).all()
    assert sum(ChannelStats(3).update(part) for part in parts) == stats
    both = spoilt(parts[not first], 1, [0], -value), parts[first]
    assert np.isnan(sum(ChannelStats(3).update(part) for part in both).mean[BAD])
    mean, _ = oracle.moments(np.concatenate(parts)[:, [0, 2]], 1)
    np.testing.assert_allclose(np.delete(stats.mean, BAD), mean.astype(float), rtol=0, atol=1e-14)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("options", [
    {"sample_weight": np.linspace(0.5, 2, 6)}, {"sample_weight": np.eye(6)[2]},
    {"mask": np.arange(24).reshape(6, 4) > 2}, {"mask": np.ones((6, 3, 4), bool)},
    {"mask": np.arange(72).reshape(6, 3, 4) % 5 > 0}, {"lengths": [4, 1, 4, 4, 4, 4]},
], ids=["weights", "one weight", "mask", "full", "by channel", "lengths"])
def test_with_weights_and_masks(options, value, dtype):
    x = spoilt(array(case(6, 3, 4), "planes", dtype), 1, [9], value)     # in sample 2
    stats = ChannelStats(3).update(x, **options)
    assert np.isnan([stats.mean[BAD], stats.m2[BAD]]).all()
    assert np.isfinite(np.delete([stats.mean, stats.m2], BAD, 1)).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinite_mean_of_another_library(value):
    stats = ChannelStats.from_arrays(4, [1.0, value], [2.0, 3.0])
    np.testing.assert_array_equal(stats.mean, [1, np.nan])
    np.testing.assert_array_equal(stats.m2, [2, np.nan])


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_omitting_nan_does_not_omit_inf(value, dtype):
    x = spoilt(spoilt(array(case(6, 3, 4), "planes", dtype), 1, [2], np.nan), 1, [9], value)
    stats = ChannelStats(3).update(x, nan_policy="omit")
    assert stats.count.tolist() == [24, 23, 24]
    assert np.isnan([stats.mean[BAD], stats.m2[BAD]]).all()


def test_large_finite_values_stay_finite():
    # Their sum and their squares are Inf in float64, and their mean is not.
    x = np.array([[1.7e308, 1.0], [1.5e308, 3.0]])
    stats = ChannelStats(2).update(x)
    np.testing.assert_allclose(stats.mean, [1.6e308, 2.0], rtol=1e-15)
    np.testing.assert_array_equal(stats.m2, [np.inf, 2.0])
    merged = ChannelStats(2).update(x[:1]) + ChannelStats(2).update(x[1:])
    np.testing.assert_allclose(merged.mean, [1.6e308, 2.0], rtol=1e-15)
    y = fastbn.BatchNorm(2, dtype=np.float64, eps=0)(x)
    np.testing.assert_allclose(y, [[1, -1], [-1, 1]], rtol=1e-14)
