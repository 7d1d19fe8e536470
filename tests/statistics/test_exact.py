"""ChannelStats against exact arithmetic: data sets of NIST, merges in every order, integers, huge values."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from fastbn import ChannelStats
from tests.cases import BYTE_CASES, arranged, axis_of
from tests.grid import over


def exact(values):
    """Return mean and variance of a channel, as fractions."""
    numbers = [Fraction(float(v)) for v in values]
    mean = sum(numbers) / len(numbers)
    return mean, sum((v - mean) ** 2 for v in numbers) / len(numbers)


def close_mean(got, mean, var):
    """Return whether the error is within a rounding of the mean or the standard deviation, whichever is larger."""
    return abs(Fraction(float(got)) - mean) <= Fraction(2.0**-51) * max(abs(mean), Fraction(float(var) ** 0.5))


def digits(got, right):
    """Return the number of correct significant digits, the LRE of NIST, at most 15."""
    error = abs(Fraction(float(got)) - right) / abs(right)
    return 15.0 if error == 0 else min(15.0, -np.log10(float(error)))


# NIST StRD, univariate summary statistics: the four generated data sets.
NIST = {
    "NumAcc1": ([10000001, 10000003, 10000002], 14),
    "NumAcc2": ([1.2, *([1.1, 1.3] * 500)], 14),
    "NumAcc3": ([1000000.2, *([1000000.1, 1000000.3] * 500)], 9),
    "NumAcc4": ([10000000.2, *([10000000.1, 10000000.3] * 500)], 8),
}
CERTIFIED = {
    "NumAcc1": (10000002, 1.0), "NumAcc2": (1.2, 0.1), "NumAcc3": (1000000.2, 0.1), "NumAcc4": (10000000.2, 0.1)}


@pytest.mark.parametrize("pieces", [1, 3, 7])
@pytest.mark.parametrize("name", NIST)
def test_nist(name, pieces):
    values, least = NIST[name]
    x = np.array(values, np.float64)[:, None]
    stats = ChannelStats(1)
    for piece in np.array_split(x, pieces):
        stats.update(piece)
    mean, deviation = CERTIFIED[name]
    assert digits(stats.mean[0], Fraction(str(mean))) >= 14
    assert digits(stats.std(1)[0], Fraction(str(deviation))) >= least


@pytest.mark.parametrize(("ratio", "bound"), [(1, 1e-12), (1e4, 1e-12), (1e6, 1e-11)], ids=["1", "1e4", "1e6"])
@pytest.mark.parametrize("drift", [0.0, 1.0, 30.0])
def test_every_order_of_merging(ratio, bound, drift, layout):
    # The means of the parts differ, so that a mean of one word would lose digits.
    rng = np.random.default_rng(3)
    parts = [(ratio + rng.normal(0, 1, (n, 2, 5)) + drift * k).astype(np.float32)
             for k, n in enumerate((1, 40, 7, 200))]
    whole = np.concatenate(parts)
    right = [exact(whole[:, c].ravel()) for c in range(2)]
    if layout == "rows":
        parts = [np.ascontiguousarray(part.transpose(0, 2, 1)) for part in parts]
    axis = axis_of(layout)
    ones = [ChannelStats(2, axis=axis).update(part) for part in parts]
    for order in itertools.permutations(range(4)):
        a, b, c, d = (ones[k] for k in order)
        for stats in (((a + b) + c) + d, (a + b) + (c + d), a + (b + (c + d))):
            for channel, (mean, var) in enumerate(right):
                assert abs(Fraction(float(stats.var()[channel])) - var) <= Fraction(bound) * var
                assert close_mean(stats.mean[channel], mean, var)


@pytest.mark.parametrize("pieces", [2, 1000])
def test_many_updates_of_drifting_data(pieces):
    rng = np.random.default_rng(4)
    x = (1e6 + np.linspace(0, 50, 20000)[:, None] + rng.normal(0, 1, (20000, 1))).astype(np.float32)
    mean, var = exact(x[:, 0])
    stats = ChannelStats(1)
    for piece in np.array_split(x, pieces):
        stats.update(piece)
    assert abs(Fraction(float(stats.var()[0])) - var) <= Fraction(1e-11) * var
    assert close_mean(stats.mean[0], mean, var)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (1000, 3), (333, 64), (70, 65), (40, 3, 17), (3, 2, 70000)],
                         ids=lambda s: "x".join(map(str, s)))
def test_integers(dtype, shape, layout):
    info = np.iinfo(dtype)
    rng = np.random.default_rng(5)
    x = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    if layout == "rows" and len(shape) > 2:
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    axis = axis_of(layout)
    channels = np.moveaxis(x, axis, 0).reshape(shape[1], -1)
    stats = ChannelStats(shape[1], axis=axis, extrema=True).update(x)
    for c, values in enumerate(channels[:4]):
        n, s1, s2 = len(values), sum(map(int, values)), sum(int(v) ** 2 for v in values)
        m2 = Fraction(n * s2 - s1 * s1, n)
        assert close_mean(stats.mean[c], Fraction(s1, n), m2 / n)
        # The sums are exact; a few roundings follow.
        bound = Fraction(2.0**-50) if dtype != np.int32 else Fraction(1e-12)
        assert abs(Fraction(float(stats.m2[c])) - m2) <= bound * m2
    np.testing.assert_array_equal(stats.min, channels.min(axis=1))
    np.testing.assert_array_equal(stats.max, channels.max(axis=1))


@over(BYTE_CASES)
def test_bytes(case, layout):
    x = arranged(np.random.default_rng(7).integers(0, 256, case.shape, np.uint8), layout)
    stats = ChannelStats(case.channels, axis=axis_of(layout)).update(x, num_threads=2)
    values = np.moveaxis(x, axis_of(layout), 0).reshape(case.channels, -1).astype(np.int64)
    sums, squares = values.sum(1), (values * values).sum(1)
    np.testing.assert_allclose(stats.mean, sums / case.count, rtol=2.0**-52)
    np.testing.assert_allclose(stats.m2, (case.count * squares - sums * sums) / case.count, rtol=2.0**-50)


@pytest.mark.parametrize("value", [0, 1, 254, 255])
def test_constant_bytes(value, layout):
    x = np.full((300, 3, 20, 30) if layout == "planes" else (300, 20, 30, 3), value, np.uint8)
    stats = ChannelStats(3, axis=axis_of(layout)).update(x)
    np.testing.assert_array_equal(stats.mean, [value] * 3)
    np.testing.assert_array_equal(stats.m2, [0.0] * 3)
    x.reshape(-1)[0] ^= 1
    n = 300 * 600
    np.testing.assert_allclose(ChannelStats(3, axis=axis_of(layout)).update(x).m2[0], 1 - 1 / n, rtol=1e-15)


def test_bytes_in_all_memory_layouts(layout):
    rng = np.random.default_rng(6)
    x = rng.integers(0, 256, (40, 50, 60, 3), np.uint8)
    if layout == "planes":
        x = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    axis = axis_of(layout)
    one = ChannelStats(3, axis=axis).update(x, num_threads=1)
    as_floats = ChannelStats(3, axis=axis).update(x.astype(np.float64))
    assert one == ChannelStats(3, axis=axis).update(x, num_threads=2)
    assert one == ChannelStats(3, axis=axis).update(x[::-1, :, ::-1])
    assert one == ChannelStats(3, axis=axis).update(np.repeat(x, 2, axis=2)[:, :, ::2])
    np.testing.assert_allclose(one.mean, as_floats.mean, rtol=1e-14)
    np.testing.assert_allclose(one.m2, as_floats.m2, rtol=1e-13)


def test_subtraction_of_a_part():
    rng = np.random.default_rng(7)
    a, b = (rng.normal(1e3, 1, (n, 3)) for n in (400, 300))
    both = ChannelStats(3).update(a).update(b)
    rest = both - ChannelStats(3).update(b)
    alone = ChannelStats(3).update(a)
    np.testing.assert_array_equal(rest.count, alone.count)
    np.testing.assert_allclose(rest.mean, alone.mean, rtol=1e-15)
    np.testing.assert_allclose(rest.m2, alone.m2, rtol=1e-12)
    nothing = both - both
    np.testing.assert_array_equal(nothing.count, 0.0)
    np.testing.assert_array_equal(nothing.mean, np.nan)
    np.testing.assert_array_equal(nothing.m2, 0.0)
    weighted = [ChannelStats(3).update(part, sample_weight=rng.random(len(part)) + 0.1) for part in (a, b)]
    left = (weighted[0] + weighted[1]) - weighted[1] - weighted[0]
    np.testing.assert_array_equal(left.count, 0.0)
    np.testing.assert_array_equal(left.mean, np.nan)
    with pytest.raises(ValueError, match="other has more values in channel 0 than the whole: 700 > 400"):
        alone - both


WIDE = {
    "near 0": (np.int64, -50, 50), "above 2**53": (np.int64, 2**53, 2**53 + 1000),
    "nanoseconds": (np.int64, 1_700_000_000_000_000_000, 1_700_000_000_000_001_000),
    "all of int64": (np.int64, -(2**63), 2**63 - 1), "the end of int64": (np.int64, 2**63 - 9, 2**63 - 1),
    "the start of int64": (np.int64, -(2**63), -(2**63) + 8), "all of uint64": (np.uint64, 0, 2**64 - 1),
    "the end of uint64": (np.uint64, 2**64 - 5, 2**64 - 1), "all of uint32": (np.uint32, 0, 2**32 - 1),
    "bool": (np.bool_, 0, 1),
}


@pytest.mark.parametrize("how", ["all", "masked", "weighted", "masked by channel"])
@pytest.mark.parametrize("name", WIDE)
def test_wide_integers(name, how, layout):
    # Compared with Python's integers: the mean in both words, and M2 to a relative 1e-12.
    dtype, low, high = WIDE[name]
    rng = np.random.default_rng(8)
    kind = np.uint8 if dtype == np.bool_ else dtype
    x = rng.integers(low, high, (300, 5, 3), kind, endpoint=True).astype(dtype)
    x[:2, :, 0] = np.array([[low], [high]], dtype)     # both ends of the range
    x = x[..., ::-1]
    weights, mask = rng.integers(0, 3, 300), rng.random((300, 5)) < 0.5
    by_channel = rng.random(x.shape) < 0.5
    times = {"all": np.int64(1), "masked": mask[..., None].astype(int), "weighted": weights[:, None, None],
             "masked by channel": by_channel.astype(int)}[how]
    times = np.broadcast_to(times, x.shape)
    given, axis = (x, -1) if layout == "rows" else (np.ascontiguousarray(np.moveaxis(x, -1, 1)), 1)
    options = {"all": {}, "masked": {"mask": mask}, "weighted": {"sample_weight": weights},
               "masked by channel": {"mask": by_channel if axis == -1 else np.moveaxis(by_channel, -1, 1)}}[how]
    stats = ChannelStats(3, axis=axis, extrema=True)
    stats.update(given[:130], **{k: v[:130] for k, v in options.items()})
    stats.update(given[130:].astype(given.dtype.newbyteorder()), **{k: v[130:] for k, v in options.items()})
    mean_low = stats.to_arrays()["mean_low"]
    for c in range(3):
        values = [int(v) for v, k in zip(x[..., c].ravel(), times[..., c].ravel(), strict=True) for _ in range(k)]
        mean = Fraction(sum(values), len(values))
        m2 = sum((v - mean) ** 2 for v in values)
        assert stats.count[c] == len(values)
        deviation = Fraction(float(m2 / len(values)) ** 0.5)
        assert abs(Fraction(float(stats.mean[c])) + Fraction(float(mean_low[c])) - mean) <= Fraction(1e-12) * deviation
        assert abs(Fraction(float(stats.m2[c])) - m2) <= Fraction(1e-12) * m2
        assert (stats.min[c], stats.max[c]) == (float(min(values)), float(max(values)))


def test_distant_means():
    # The difference of the two means overflows; their mean does not.
    a, b = (ChannelStats.from_arrays([3.0], [v], [0.0]) for v in (-1.5e308, 1.5e308))
    assert (a + b).mean.tolist() == [0]
    assert (a + b).var().tolist() == [np.inf]
    assert (a + b + b).mean == pytest.approx([0.5e308], rel=1e-15)
    # With small weights, M2 is finite although the squares overflow.
    near, far = (ChannelStats(1).update(np.full((2, 1), v), sample_weight=[1e-300, 1e-300]) for v in (0.0, 1e160))
    assert (near + far).m2 == pytest.approx([1e20], rel=1e-14)
    assert ((near + far) - far).m2.tolist() == [0]


def test_weights_of_huge_values():
    stats = ChannelStats(1).update(np.full((3000, 1), 1.7e308), sample_weight=np.full(3000, 2.0))
    assert (stats.mean.tolist(), stats.var().tolist()) == ([1.7e308], [0.0])
    constant = np.full((3000, 1), 0.1)
    stats = ChannelStats(1).update(constant, sample_weight=np.random.default_rng(0).random(3000))
    assert (stats.mean.tolist(), stats.m2.tolist()) == ([0.1], [0.0])
    spread = ChannelStats(1).update(np.array([[1e200], [-1e200], [5e199]]), sample_weight=[1.0, 1.0, 2.0])
    assert spread.mean == pytest.approx([2.5e199], rel=1e-15)
    assert spread.var().tolist() == [np.inf]
