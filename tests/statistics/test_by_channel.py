"""ChannelStats of values that differ between channels: NaN to omit, and masks with as many axes as x."""

import tracemalloc
import warnings
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from fastbn import ChannelStats
from fastbn.statistics import reduction
from tests.cases import axis_of
from tests.statistics.rational import population, relative

SHAPES = [(40, 3), (6, 20, 3), (3, 9, 11, 5), (30, 2, 700)]     # channels last
FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, ">f4", ">f8"]
INTEGERS = [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.bool_]


@pytest.fixture(params=[1 << 18, 100], ids=["a block", "many blocks"])
def block(request, monkeypatch):
    monkeypatch.setattr(reduction, "BLOCK_VALUES", request.param)


def holes(shape, share=0.3):
    """Which values count: none of channel 1, all of channel 2, and a share of the others."""
    counted = np.random.default_rng(1).random(shape) >= share
    counted[..., 1] = False
    if shape[-1] > 2:
        counted[..., 2] = True
    return counted


def moved(array, layout):
    return array if layout == "rows" else np.ascontiguousarray(np.moveaxis(array, -1, 1))


def others(x, axis):
    return tuple(k for k in range(x.ndim) if k != axis % x.ndim)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: np.dtype(d).str)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_nan_to_omit(shape, dtype, layout):
    x = np.random.default_rng(0).normal(20, 9, shape).astype(dtype)
    x[~holes(shape)] = np.nan
    x, axis = moved(x, layout), axis_of(layout)
    stats = ChannelStats(shape[-1], axis=axis, extrema=True).update(x, nan_policy="omit")
    wide = x.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # NumPy warns of the channel without values
        for ours, theirs in ((stats.mean, np.nanmean), (stats.var(), np.nanvar), (stats.std(), np.nanstd)):
            np.testing.assert_allclose(ours, theirs(wide, axis=others(x, axis)), rtol=1e-12)
        np.testing.assert_allclose(stats.var(1), np.nanvar(wide, axis=others(x, axis), ddof=1), rtol=1e-12)
        some = stats.count > 0
        np.testing.assert_array_equal(stats.min[some], np.nanmin(wide, axis=others(x, axis))[some])
        np.testing.assert_array_equal(stats.max[some], np.nanmax(wide, axis=others(x, axis))[some])
    np.testing.assert_array_equal(stats.count, (~np.isnan(wide)).sum(axis=others(x, axis)))
    assert (stats.min[1], stats.max[1], stats.m2[1]) == (np.inf, -np.inf, 0)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS], ids=lambda d: np.dtype(d).str)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_masks_as_in_numpy_ma(shape, dtype, layout):
    x = moved(np.random.default_rng(0).normal(20, 9, shape).clip(0, 100).astype(dtype), layout)
    mask, axis = moved(holes(shape), layout), axis_of(layout)
    stats = ChannelStats(shape[-1], axis=axis, extrema=True).update(x, mask=mask)
    expected = np.ma.masked_array(x.astype(np.float64), ~mask)
    for ours, theirs in ((stats.mean, expected.mean), (stats.var(), expected.var), (stats.count, expected.count)):
        want = np.ma.filled(theirs(axis=others(x, axis)).astype(float), np.nan)
        np.testing.assert_allclose(ours, want, rtol=1e-12)
    np.testing.assert_array_equal(stats.min, np.ma.filled(expected.min(axis=others(x, axis)), np.inf))
    np.testing.assert_array_equal(stats.max, np.ma.filled(expected.max(axis=others(x, axis)), -np.inf))


AWKWARD = {
    "far from zero": lambda z: z + 1e6,
    "outliers": lambda z: np.where(np.arange(len(z))[:, None] % 97 == 5, 1e7, 1) * z,
    "drift": lambda z: z + 1e3 * np.arange(len(z))[:, None],
    "two values": lambda z: 1 + 2.0**-20 * (z > 0.5),
    "large": lambda z: z * 2.0**100,
    "small": lambda z: z * 2.0**-90,
}


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("share", [0.01, 0.5, 0.97])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_values_are_exact(name, dtype, share):
    x = AWKWARD[name](np.random.default_rng(2).standard_normal((1000, 3))).astype(dtype)
    counted = np.random.default_rng(3).random(x.shape) >= share
    stats = ChannelStats(3).update(x, mask=counted)
    x[~counted] = np.nan
    assert stats == ChannelStats(3).update(x, nan_policy="omit")
    for c in range(3):
        (mean,), (var,) = population([x[counted[:, c], c][:, None]])
        assert stats.count[c] == counted[:, c].sum()
        assert relative(stats.var()[c:c + 1], [var]) < 1e-14
        two_words = Fraction(stats.mean[c]) + Fraction(stats.to_arrays()["mean_low"][c])
        assert abs(two_words - mean) < 1e-14 * float(var) ** 0.5


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("value", [0.1, 1e7 + 0.3, -1e300, 5e-324])
def test_a_constant_has_no_spread(value):
    x = np.full((400, 2), value)
    x[::3, 0], x[1::7, 1] = np.nan, np.nan
    stats = ChannelStats(2).update(x, nan_policy="omit")
    assert (stats.mean.tolist(), stats.m2.tolist()) == ([value] * 2, [0, 0])


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
@pytest.mark.parametrize("end", ["min", "max"])
def test_integers_that_do_not_count_cost_no_digits(end, dtype, weights):
    distances = np.random.default_rng(0).integers(0, 1000, (500, 3))
    mask = np.random.default_rng(1).random((500, 3)) < 0.8
    start = 1_700_000_000_000_000_000       # nanoseconds
    x = np.where(mask, (distances + start).astype(dtype), dtype(getattr(np.iinfo(dtype), end)))
    stats = ChannelStats(3, extrema=True).update(x, mask=mask, sample_weight=np.full(500, 1.0) if weights else None)
    for c in range(3):
        (mean,), (var,) = population([distances[mask[:, c], c][:, None]])
        assert relative(stats.var()[c:c + 1], [var]) < 1e-12
        assert relative(stats.mean[c:c + 1], [mean + start]) < 1e-15
        counted = x[mask[:, c], c]
        assert (stats.min[c], stats.max[c]) == (float(counted.min()), float(counted.max()))


@pytest.mark.parametrize("policy", ["propagate", "omit"])
def test_nan_and_infinities_that_count(policy):
    x = np.random.default_rng(0).standard_normal((50, 6))
    mask = np.ones(x.shape, bool)
    mask[:5] = False
    mask[5, :] = np.arange(6) % 2 == 0
    x[7, 1], x[8, 2], x[9, 3], x[9:11, 4] = np.nan, np.inf, -np.inf, [np.inf, -np.inf]
    x[2] = [np.nan, np.inf, -np.inf, 1e300, np.nan, np.inf]      # none of them counts
    stats = ChannelStats(6, extrema=True).update(x, mask=mask, nan_policy=policy)
    bad = [False, policy == "propagate", True, True, True, False]
    assert np.isnan(stats.mean).tolist() == bad
    assert np.isnan(stats.m2).tolist() == bad
    if policy == "omit":
        x[7, 1], mask[7, 1] = 0, False
    expected = np.ma.masked_array(x, ~mask)
    np.testing.assert_array_equal(stats.min, np.where(np.isnan(x[7]), np.nan, expected.min(axis=0)))
    np.testing.assert_array_equal(stats.max, np.where(np.isnan(x[7]), np.nan, expected.max(axis=0)))
    np.testing.assert_array_equal(stats.count, expected.count(axis=0))


def test_the_first_nan_is_named():
    x = np.zeros((600_000, 4), np.float32)
    x[500_000, [1, 2]] = np.nan
    with pytest.raises(ValueError, match="x has 2 or more NaN, the first in channel 1; nan_policy is 'raise'"):
        ChannelStats(4).update(x, nan_policy="raise")
    mask = np.ones(x.shape, bool)
    mask[500_000, 1] = False
    with pytest.raises(ValueError, match="x has 1 or more NaN, the first in channel 2"):
        ChannelStats(4).update(x, mask=mask, nan_policy="raise")
    mask[500_000, 2] = False
    assert ChannelStats(4).update(x, mask=mask, nan_policy="raise").count.tolist() == [6e5, 6e5 - 1, 6e5 - 1, 6e5]


def test_the_same_bits_for_any_number_of_threads(layout):
    x = np.random.default_rng(0).normal(5, 2, (40, 300, 70, 3)).astype(np.float32)
    x[np.random.default_rng(1).random(x.shape) < 0.2] = np.nan
    x, axis = moved(x, layout), axis_of(layout)
    one, two, three = (ChannelStats(3, axis=axis, extrema=True).update(x, nan_policy="omit", num_threads=n)
                       for n in (1, 2, 3))
    assert one == two == three


@pytest.mark.parametrize("shape", [(3_000_000, 3), (60, 50, 40, 30, 3)], ids=["rows", "axes"])
def test_only_blocks_are_copied(shape):
    x = np.zeros(shape, np.float32)
    x[..., 1] = np.nan
    tracemalloc.start()
    stats = ChannelStats(3, axis=-1).update(x, nan_policy="omit")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20, f"{peak} bytes, of {x.nbytes} in x"
    assert stats.count.tolist() == [x.size / 3, 0, x.size / 3]


@pytest.mark.parametrize(("shape", "axis"), [((7, 5), 1), ((30, 4, 50), 1), ((2, 3, 4, 5, 6), 0), ((1000, 3), 0)])
def test_blocks_cover_every_value_once(shape, axis, monkeypatch):
    monkeypatch.setattr(reduction, "BLOCK_VALUES", 100)
    seen = np.zeros(shape, int)
    for box in reduction.boxes(shape, axis):
        seen[box] += 1
        assert seen[box].shape[axis] == shape[axis]
        assert seen[box].size <= max(100, shape[axis])
    assert (seen == 1).all()
