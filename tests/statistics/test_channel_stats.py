"""ChannelStats: updates and merges of any split, against the oracle."""

import copy
import pickle

import numpy as np
import pytest

import fastbn
from fastbn import ChannelStats
from tests import oracle
from tests.cases import (
    CASES,
    EMPTY_CASES,
    FEW_ROWS,
    LARGE_CASES,
    LARGE_PLANES,
    MANY_ROWS,
    ODD_PLANES,
    array,
    axis_of,
    case,
)
from tests.compare import same_bits
from tests.grid import over


def check(stats, x, axis, rel=1e-12):
    mean, var = oracle.moments(x, axis)
    count = x.size // len(mean)
    assert (stats.count == count).all()
    # The error of the mean is relative to the standard deviation if that is larger.
    assert (np.abs(stats.mean - mean) <= rel * np.maximum(np.abs(mean), np.sqrt(var))).all()
    assert (np.abs(stats.m2 - var * count) <= rel * var * count).all()
    assert stats.mean.dtype == stats.m2.dtype == np.float64


@pytest.mark.parametrize("ratio", [0.0, 1e4], ids="{:g}".format)
@over(CASES + LARGE_CASES, "shape")
def test_update(shape, ratio, layout, dtype):
    x = array(shape, layout, dtype, mean=ratio)
    stats = ChannelStats(shape.channels, axis=axis_of(layout))
    assert stats.update(x) is stats
    check(stats, x, axis_of(layout))


SPLITS = ((1,), (1, 2, 3), (7, 8), (64, 65), (10, 10, 20), tuple(range(1, 90)))


@pytest.mark.parametrize("ratio", [1.0, 1e4], ids="{:g}".format)
@pytest.mark.parametrize("split", SPLITS, ids=lambda s: f"{len(s)}cuts")
def test_any_split(split, ratio, layout, dtype):
    x = array(case(90, 5, 6, 6), layout, dtype, mean=ratio)
    x[40:] += 3
    pieces = np.split(x, split)
    axis = axis_of(layout)
    by_update, by_merge, by_sum = (ChannelStats(5, axis=axis) for _ in range(3))
    for piece in pieces:
        by_update.update(piece)
        one = ChannelStats(5, axis=axis).update(piece)
        assert by_merge.merge(one) is by_merge
        by_sum = by_sum + one
    backwards = ChannelStats(5, axis=axis)
    for piece in pieces[::-1]:
        backwards.update(piece)
    for stats in (by_update, by_merge, by_sum, backwards):
        check(stats, x, axis)


def test_var_and_std(layout, dtype):
    x = array(case(50, 4, 3), layout, dtype, mean=3)
    stats = ChannelStats(4, axis=axis_of(layout)).update(x)
    channels = np.moveaxis(x, axis_of(layout), 0).reshape(4, -1).astype(np.float64)
    for ddof in (0, 1, 2):
        np.testing.assert_allclose(stats.var(ddof), channels.var(axis=1, ddof=ddof), rtol=1e-12)
        np.testing.assert_allclose(stats.std(ddof), channels.std(axis=1, ddof=ddof), rtol=1e-12)
    np.testing.assert_array_equal(stats.var(), stats.var(ddof=0))


def test_threads_do_not_change_it(layout):
    x = array(LARGE_PLANES, layout)
    results = [ChannelStats(40, axis=axis_of(layout)).update(x, num_threads=n) for n in (1, 2, 3, 8)]
    for other in results[1:]:
        same_bits(other.mean, results[0].mean)
        same_bits(other.m2, results[0].m2)


@pytest.mark.parametrize("empty", EMPTY_CASES, ids=lambda c: c.name)
def test_empty_update_and_merge(empty, layout, dtype):
    stats = ChannelStats(3, axis=axis_of(layout))
    stats.update(array(empty, layout, dtype))
    assert (stats.count == 0).all()
    same_bits(stats.mean, np.full(3, np.nan))
    same_bits(stats.var(), np.full(3, np.nan))
    x = array(FEW_ROWS, layout, dtype)
    stats.update(x).update(array(empty, layout, dtype)).merge(ChannelStats(3))
    check(stats, x, axis_of(layout))
    check(ChannelStats(3).merge(stats), x, axis_of(layout))


def test_too_few_values_are_nan():
    # Mean, variance and standard deviation alike, without a warning. Other channels are not affected.
    stats = ChannelStats(2, extrema=True).update(np.array([[1.0, np.nan], [3.0, np.nan]]), nan_policy="omit")
    for got, want in ((stats.mean, 2), (stats.var(), 1), (stats.var(1), 2), (stats.std(), 1)):
        np.testing.assert_array_equal(got, [want, np.nan])
    np.testing.assert_array_equal(stats.var(2), [np.nan, np.nan])
    np.testing.assert_array_equal(stats.m2, [2, 0])
    assert (stats.min.tolist(), stats.max.tolist()) == ([1, np.inf], [3, -np.inf])
    # The stored numbers are zeros, the neutral element of a merge.
    assert stats.to_arrays()["mean"].tolist() == [2, 0]
    assert ChannelStats.from_arrays(**stats.to_arrays()) == stats
    assert stats.update(np.array([[5.0, 7.0]])).mean.tolist() == [3, 7]


def test_sum_changes_neither_side():
    a, b = (ChannelStats(3).update(array(FEW_ROWS, "planes", seed=s)) for s in (0, 1))
    before = copy.deepcopy((a, b))
    c = a + b
    c.update(array(FEW_ROWS, "planes"))
    for now, then in zip((a, b), before, strict=True):
        assert (now.count == 4).all()
        assert (then.count == 4).all()
        same_bits(now.mean, then.mean)
        same_bits(now.m2, then.m2)
    d, e = ChannelStats(3).merge(a), a.copy()
    assert d == e == a
    e.update(array(FEW_ROWS, "planes"))
    assert e != a
    assert d == a


def test_arrays_are_the_callers():
    x = array(FEW_ROWS, "planes")
    a, b = (ChannelStats(3, extrema=True).update(x) for _ in range(2))
    for name in ("count", "mean", "m2", "min", "max"):
        given = getattr(a, name)
        given /= 255
        assert a == b, name
    mean = a.mean
    before = mean.copy()
    a.update(x + 1)
    same_bits(mean, before)


def test_sum():
    parts = [ChannelStats(3).update(array(FEW_ROWS, "planes", seed=s)) for s in range(3)]
    assert sum(parts) == parts[0] + parts[1] + parts[2]
    assert sum(parts[:1]) == parts[0]
    assert sum(parts[:1]) is not parts[0]
    with pytest.raises(TypeError):
        sum(parts, 1)


def test_merge_with_itself():
    a = ChannelStats(3).update(array(MANY_ROWS, "planes"))
    twice = np.concatenate([array(MANY_ROWS, "planes")] * 2)
    check(a + a, twice, 1)
    check(a.merge(a), twice, 1)


def test_pickle_and_repr():
    a = ChannelStats(3).update(array(MANY_ROWS, "planes"))
    b = pickle.loads(pickle.dumps(a))
    assert b == a
    assert b.axis == a.axis == 1
    same_bits(a.m2, b.m2)
    assert repr(a) == "ChannelStats(3, axis=1, count=1000)"


def test_axis_is_checked_when_assigned():
    stats = ChannelStats(3)
    stats.axis = -1
    assert stats.update(np.ones((2, 5, 3))).axis == -1
    for value in (True, 1.0, "last", None):
        with pytest.raises(TypeError, match="axis must be an integer"):
            stats.axis = value
    assert stats.axis == -1


BAD_UPDATES = {
    "channels": (np.zeros((4, 5), np.float32), {}, ValueError, "x has shape .*5 channels.*expected 3"),
    "complex": (np.zeros((4, 3), complex), {}, TypeError, "x has dtype complex128; expected float32, float64.* bool"),
    "one channel": (np.zeros((4, 1)), {}, ValueError, r"which is 1 channel along axis 1; expected 3"),
    "dates": (np.zeros((4, 3), "datetime64[s]"), {}, TypeError, r"x has dtype datetime64\[s\]; expected float32"),
    "one dimension": (np.zeros(3), {}, ValueError, "x has shape .*two or more dimensions"),
    "no array": ("x", {}, TypeError, "x has dtype"),
    "threads 0": (np.zeros((4, 3)), {"num_threads": 0}, ValueError, "num_threads must be between 1"),
    "threads True": (np.zeros((4, 3)), {"num_threads": True}, TypeError, "num_threads must be an integer"),
    "threads 0, much to do": (np.zeros((40000, 3)), {"num_threads": 0}, ValueError, "num_threads must be between 1"),
}


@pytest.mark.parametrize("name", BAD_UPDATES)
def test_bad_updates_change_nothing(name):
    x, options, error, message = BAD_UPDATES[name]
    stats = ChannelStats(3).update(array(FEW_ROWS, "planes"))
    before = copy.deepcopy(stats)
    with pytest.raises(error, match=message):
        stats.update(x, **options)
    assert stats == before


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda s: s.merge(5), TypeError, "other must be a ChannelStats, got int"),
    (lambda s: s.merge(ChannelStats(4)), ValueError, "other has 4 channels; expected 3"),
    (lambda s: s + ChannelStats(4), ValueError, "other has 4 channels; expected 3"),
    (lambda s: s + 1, TypeError, "unsupported operand"),
    (lambda s: s.merge(ChannelStats(1)), ValueError, "other has 1 channel; expected 3"),
    (lambda s: s.var(-1), ValueError, "ddof must be at least 0, got -1"),
    (lambda s: s.var(0.5), TypeError, "ddof must be an integer, got 0.5"),
    (lambda s: ChannelStats(0), ValueError, "num_channels must be at least 1"),
    (lambda s: ChannelStats(2.0), TypeError, "num_channels must be an integer"),
    (lambda s: ChannelStats(True), TypeError, "num_channels must be an integer"),
    (lambda s: s.save(None), TypeError, "path must be a string or a path-like object, got None"),
    (lambda s: s.save("stats.txt"), ValueError, r"path must end in \.npz, got 'stats\.txt'"),
    (lambda s: s.save("npz"), ValueError, r"path must end in \.npz, got 'npz'"),
    (lambda s: ChannelStats.load(7), TypeError, "path must be a string or a path-like object, got 7"),
    (lambda s: ChannelStats(3, axis=5).update(np.ones((2, 3))), ValueError, "axis 5 is out of range"),
], ids=lambda v: None if callable(v) or isinstance(v, type) else v[:30])
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call(ChannelStats(3))


def test_it_is_what_training_normalizes_by(layout):
    x = array(ODD_PLANES, layout)
    stats = ChannelStats(ODD_PLANES.channels, axis=axis_of(layout)).update(x)
    _, saved = fastbn.functional.batch_norm_training(x, axis=axis_of(layout))
    np.testing.assert_allclose(saved.mean, stats.mean, rtol=0, atol=1e-7)
    np.testing.assert_allclose(saved.var, stats.var(), rtol=5e-7)
