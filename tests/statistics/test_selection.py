"""ChannelStats of selected values: masks, lengths, weights and NaN; extrema and files."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from fastbn import ChannelStats
from tests.cases import axis_of

SHAPES = [(4, 6, 3), (5, 3), (3, 2, 4, 3), (200, 50, 7)]     # channels last
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.uint8, np.int8, np.int16, np.uint16, np.int32]


def data(shape, layout, dtype=np.float32, seed=0):
    values = np.random.default_rng(seed).normal(20, 9, shape).clip(0, 100).astype(dtype)
    return values if layout == "rows" else np.ascontiguousarray(np.moveaxis(values, -1, 1))


def check(stats, rows, weights=None, rel=1e-12):
    """Compare with the selected rows, (K, C), in long double."""
    x = np.asarray(rows, np.float64).astype(np.longdouble)
    w = np.ones(len(x), np.longdouble) if weights is None else np.asarray(weights, np.longdouble)
    count = w.sum()
    mean = (w[:, None] * x).sum(axis=0) / count
    m2 = (w[:, None] * (x - mean) ** 2).sum(axis=0)
    np.testing.assert_allclose(stats.count, np.full(x.shape[1], float(count)), rtol=1e-14)
    np.testing.assert_allclose(stats.mean, mean.astype(float), rtol=1e-14)
    np.testing.assert_allclose(stats.m2, m2.astype(float), rtol=rel)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_mask(shape, dtype, layout):
    x = data(shape, layout, dtype)
    rows = np.moveaxis(x, axis_of(layout), -1)
    mask = np.random.default_rng(1).random(shape[:-1]) < 0.6
    check(ChannelStats(shape[-1], axis=axis_of(layout)).update(x, mask=mask), rows[mask])
    # A mask of samples, which broadcasts
    some = np.zeros((shape[0], *[1] * (len(shape) - 2)), bool)
    some[::2] = True
    check(ChannelStats(shape[-1], axis=axis_of(layout)).update(x, mask=some), rows[::2].reshape(-1, shape[-1]))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_mask_by_channel(shape, dtype, layout):
    x = data(shape, layout, dtype)
    axis = axis_of(layout)
    mask = np.random.default_rng(1).random(x.shape) < 0.6
    np.moveaxis(mask, axis, -1)[..., 1] = False
    last, counted = (np.moveaxis(a, axis, -1).reshape(-1, shape[-1]) for a in (x, mask))
    if dtype in DTYPES[:4]:     # values that do not count may be NaN
        x[~mask] = np.nan
    stats = ChannelStats(shape[-1], axis=axis, extrema=True).update(x, mask=mask, nan_policy="raise")
    for c in range(shape[-1]):
        rows = last[counted[:, c], c].astype(float)
        if c != 1:
            one = ChannelStats.from_arrays(*(getattr(stats, name)[c:c + 1] for name in ("count", "mean", "m2")))
            check(one, rows[:, None])
            assert (stats.min[c], stats.max[c]) == (rows.min(), rows.max())
    assert (stats.count[1], stats.m2[1], stats.min[1], stats.max[1]) == (0, 0, np.inf, -np.inf)
    assert np.isnan(stats.mean[1])


def test_masks_by_channel_with_weights_lengths_and_nan(layout):
    # Weights of samples, lengths in steps, a mask that differs between channels, and NaN.
    x = data((4, 6, 3), layout, np.float64)
    axis = axis_of(layout)
    rng = np.random.default_rng(1)
    mask, weight, lengths = rng.random(x.shape) < 0.6, np.array([0.5, 0, 2, 1]), np.array([6, 2, 4, 0])
    last, counted = np.moveaxis(x, axis, -1), np.moveaxis(mask, axis, -1)
    last[2, 1] = np.nan
    every = counted * (np.arange(6) < lengths[:, None])[..., None] * weight[:, None, None] * ~np.isnan(last)
    stats = ChannelStats(3, axis=axis).update(x, mask=mask, sample_weight=weight, lengths=lengths, nan_policy="omit")
    np.testing.assert_allclose(stats.count, every.sum(axis=(0, 1)), rtol=1e-15)
    mean = (every * np.nan_to_num(last)).sum(axis=(0, 1)) / stats.count
    np.testing.assert_allclose(stats.mean, mean, rtol=1e-14)
    np.testing.assert_allclose(stats.m2, (every * (np.nan_to_num(last) - mean) ** 2).sum(axis=(0, 1)), rtol=1e-12)


def test_a_mask_with_all_axes_that_is_equal_in_all_channels(layout):
    x = data((40, 6, 3), layout, np.float64)
    axis = axis_of(layout)
    mask = np.random.default_rng(1).random((40, 6)) < 0.6
    want = ChannelStats(3, axis=axis).update(x, mask=mask)
    thin = np.expand_dims(mask, axis)
    for same in (thin, np.broadcast_to(thin, x.shape), np.array(np.broadcast_to(thin, x.shape))):
        assert ChannelStats(3, axis=axis).update(x, mask=same) == want
    some = np.zeros((1, 1, 3) if axis == -1 else (1, 3, 1), bool)
    some.reshape(-1)[1] = True
    np.testing.assert_array_equal(ChannelStats(3, axis=axis).update(x, mask=some).count, [0, 240, 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.int16, np.int64, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("repeated", ["all", "samples", "channels", "samples and steps", "channels and steps"])
def test_repeated_memory_is_not_copied(repeated, dtype, layout):
    values = data((1, 30, 20, 3), "rows", np.int16).astype(dtype)
    cut = [slice(0, 1) if name in repeated or repeated == "all" else slice(None)
           for name in ("samples", "steps", "-", "channels")]
    x = np.broadcast_to(values[tuple(cut)], (3000, 30, 20, 3))
    if layout == "planes":
        x = np.moveaxis(x, -1, 1)
    tracemalloc.start()
    stats = ChannelStats(3, axis=axis_of(layout), extrema=True).update(x, nan_policy="omit")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20, f"{peak} bytes, of {x.nbytes} that the view seems to have"
    rows = np.broadcast_to(values[tuple(cut)], (1, 30, 20, 3)).reshape(-1, 3).astype(np.float64)
    np.testing.assert_array_equal(stats.count, 3000 * 600)
    np.testing.assert_allclose(stats.mean, rows.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(stats.m2, 3000 * 600 * rows.var(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(stats.min, rows.min(axis=0))


def test_a_mask_that_repeats_memory_is_not_copied():
    x = np.broadcast_to(np.arange(3, dtype=np.uint8), (64, 1600, 200, 3))
    mask = np.broadcast_to(np.arange(1600)[:, None, None] < 5, x.shape)
    tracemalloc.start()
    stats = ChannelStats(3, axis=-1).update(x, mask=mask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20, f"{peak} bytes, of {mask.nbytes} that the mask seems to have"
    np.testing.assert_array_equal(stats.count, 64 * 5 * 200)
    np.testing.assert_array_equal(stats.mean, [0, 1, 2])


@pytest.mark.parametrize("mask", ["positions", "by channel"])
def test_one_large_sample_is_gathered_in_parts(mask):
    x = np.random.default_rng(0).normal(5, 1, (1, 4000, 300, 3)).astype(np.float32)
    chosen = np.random.default_rng(1).random(x.shape if mask == "by channel" else x.shape[:-1]) < 0.5
    tracemalloc.start()
    stats = ChannelStats(3, axis=-1).update(x, mask=chosen)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes, f"{peak} bytes, of {x.nbytes} in x"
    every = np.broadcast_to(chosen if mask == "by channel" else chosen[..., None], x.shape)
    for c in range(3):
        assert stats.var()[c] == pytest.approx(x[..., c][every[..., c]].astype(np.float64).var(), rel=1e-12)


@pytest.mark.parametrize("shape", [(4, 6, 3), (3, 5, 4, 3), (200, 50, 7)], ids=lambda s: "x".join(map(str, s)))
def test_lengths(shape, layout):
    x = data(shape, layout)
    rows = np.moveaxis(x, axis_of(layout), -1)
    lengths = np.random.default_rng(2).integers(0, shape[1] + 1, shape[0])
    kept = np.concatenate([rows[n, :length].reshape(-1, shape[-1]) for n, length in enumerate(lengths)])
    stats = ChannelStats(shape[-1], axis=axis_of(layout)).update(x, lengths=lengths)
    check(stats, kept)
    mask = np.random.default_rng(3).random(shape[:-1]) < 0.5
    both = mask & (np.arange(shape[1]) < lengths[:, None]).reshape(*shape[:2], *[1] * (len(shape) - 3))
    check(ChannelStats(shape[-1], axis=axis_of(layout)).update(x, lengths=lengths, mask=mask), rows[both])


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_weights(shape, dtype, layout):
    x = data(shape, layout, dtype)
    rows = np.moveaxis(x, axis_of(layout), -1)
    weight = np.random.default_rng(4).random(shape[0])
    weight[1] = 0
    full = np.broadcast_to(weight.reshape(-1, *[1] * (len(shape) - 2)), shape[:-1]).ravel()
    stats = ChannelStats(shape[-1], axis=axis_of(layout)).update(x, sample_weight=weight)
    check(stats, rows.reshape(-1, shape[-1]), full)


def test_whole_weights_are_repetitions(layout):
    x = data((30, 4, 3), layout) + 1e6
    weight = np.random.default_rng(5).integers(0, 4, 30)
    stats = ChannelStats(3, axis=axis_of(layout)).update(x, sample_weight=weight)
    repeated = ChannelStats(3, axis=axis_of(layout)).update(np.repeat(x, weight, axis=0))
    np.testing.assert_array_equal(stats.count, repeated.count)
    np.testing.assert_allclose(stats.mean, repeated.mean, rtol=1e-15)
    np.testing.assert_allclose(stats.m2, repeated.m2, rtol=1e-11)


def test_nothing_counts(layout):
    x = data((4, 6, 3), layout)
    for choice in ({"mask": np.zeros((4, 6), bool)}, {"lengths": np.zeros(4, int)}, {"sample_weight": np.zeros(4)}):
        stats = ChannelStats(3, axis=axis_of(layout), extrema=True).update(x, **choice)
        assert stats == ChannelStats(3, axis=axis_of(layout), extrema=True)


@pytest.mark.parametrize("dtype", DTYPES[:4], ids=lambda d: np.dtype(d).name)
def test_nan_policy(dtype, layout):
    x = data((50, 6, 3), layout, dtype)
    rows = np.moveaxis(x, axis_of(layout), -1)
    rows[3, 2, 1] = rows[7, 0, 1] = rows[7, 0, 0] = np.nan
    clean = [rows[..., c].ravel()[~np.isnan(rows[..., c].astype(float).ravel())].astype(float) for c in range(3)]
    axis = axis_of(layout)
    spread = ChannelStats(3, axis=axis).update(x)
    assert np.isnan(spread.mean).tolist() == [True, True, False]
    omitted = ChannelStats(3, axis=axis, extrema=True).update(x, nan_policy="omit")
    np.testing.assert_array_equal(omitted.count, [299, 298, 300])
    np.testing.assert_allclose(omitted.mean, [c.mean() for c in clean], rtol=1e-14)
    np.testing.assert_allclose(omitted.var(), [c.var() for c in clean], rtol=1e-12)
    np.testing.assert_array_equal(omitted.min, [c.min() for c in clean])
    stats = ChannelStats(3, axis=axis).update(data((5, 6, 3), layout, dtype, seed=9))
    before = stats.copy()
    with pytest.raises(ValueError, match=r"x has . or more NaN, the first in channel 0; nan_policy is 'raise'"):
        stats.update(x, nan_policy="raise")
    assert stats == before
    # Together with a mask, lengths and weights, and for NaN that do not count
    mask = ~np.isnan(rows.astype(float)).any(axis=-1)
    assert np.isfinite(stats.update(x, mask=mask, nan_policy="raise").m2).all()
    weighted = ChannelStats(3, axis=axis).update(x, sample_weight=np.full(50, 2.0), nan_policy="omit")
    np.testing.assert_allclose(weighted.count, 2 * omitted.count)
    np.testing.assert_allclose(weighted.var(), omitted.var(), rtol=1e-12)


def test_all_nan_channel(layout):
    x = data((5, 6, 3), layout)
    np.moveaxis(x, axis_of(layout), -1)[..., 1] = np.nan
    stats = ChannelStats(3, axis=axis_of(layout)).update(x, nan_policy="omit")
    assert np.isnan(stats.var()).tolist() == [False, True, False]
    np.testing.assert_array_equal(stats.count, [30, 0, 30])


def test_infinity_stays_in_its_channel(layout):
    x = data((5, 6, 3), layout)
    np.moveaxis(x, axis_of(layout), -1)[2, 3, 1] = np.inf
    for policy in ("propagate", "raise", "omit"):
        stats = ChannelStats(3, axis=axis_of(layout)).update(x, nan_policy=policy)
        assert np.isfinite(stats.m2).tolist() == [True, False, True]


def test_extrema(layout):
    x, y = (data((40, 6, 3), layout, seed=s) for s in (0, 1))
    axis = axis_of(layout)
    a, b = (ChannelStats(3, axis=axis, extrema=True).update(z) for z in (x, y))
    both = np.moveaxis(np.concatenate([x, y]), axis, -1).reshape(-1, 3)
    np.testing.assert_array_equal((a + b).min, both.min(axis=0))
    np.testing.assert_array_equal((a + b).max, both.max(axis=0))
    assert (a - a).min is None
    assert (a + ChannelStats(3, axis=axis).update(y)).max is None
    assert ChannelStats(3).min is None


def test_arrays_and_files(tmp_path, layout):
    stats = ChannelStats(3, axis=axis_of(layout), extrema=True).update(data((40, 6, 3), layout) + 1e6)
    arrays = stats.to_arrays()
    assert sorted(arrays) == ["count", "m2", "max", "mean", "mean_low", "min"]
    assert ChannelStats.from_arrays(**arrays, axis=axis_of(layout)) == stats
    arrays["mean"][0] = 0
    assert stats.mean[0] != 0
    path = tmp_path / "stats.npz"
    stats.save(path)
    assert ChannelStats.load(path) == stats
    ChannelStats(2).save(path)
    assert ChannelStats.load(path) == ChannelStats(2)
    assert ChannelStats.load(path.rename(tmp_path / "stats.txt")) == ChannelStats(2)      # any name can be read


@pytest.mark.parametrize(("arrays", "error", "message"), [
    ({"count": 3, "mean": [1.0]}, TypeError, "m2"),
    ({"count": 3, "mean": [1.0], "m2": [-1.0]}, ValueError, "m2 has negative values, down to -1.0"),
    ({"count": -3, "mean": [1.0], "m2": [1.0]}, ValueError, "count must be finite and not negative"),
    ({"count": np.nan, "mean": [1.0], "m2": [1.0]}, ValueError, "count must be finite"),
    ({"count": 3, "mean": [1.0, 2.0], "m2": [1.0]}, ValueError, r"m2 has shape \(1,\); expected \(2,\)"),
    ({"count": 3, "mean": 1.0, "m2": [1.0]}, ValueError, r"mean has shape \(\); expected \(C,\)"),
    ({"count": 3, "mean": ["a"], "m2": [1.0]}, TypeError, "mean has dtype"),
    ({"count": 3, "mean": [1.0], "m2": [1.0], "min": [0.0]}, ValueError, "max is missing"),
    ({"count": 3, "mean": [1.0], "m2": [1.0], "min": [2.0], "max": [0.0]}, ValueError, "min is above max"),
], ids=range(9))
def test_bad_arrays(arrays, error, message):
    with pytest.raises(error, match=message):
        ChannelStats.from_arrays(**arrays)


def test_extrema_of_no_values_may_be_those_of_an_empty_set():
    stats = ChannelStats.from_arrays([0, 2], [0, 1], [0, 2], min=[np.inf, 0], max=[-np.inf, 2])
    np.testing.assert_array_equal(stats.min, [np.inf, 0])


def test_bad_files(tmp_path):
    for name, data_of in {"not.npz": b"no archive", "empty.npz": b""}.items():
        (tmp_path / name).write_bytes(data_of)
        with pytest.raises(ValueError, match=name):
            ChannelStats.load(tmp_path / name)
    np.savez(tmp_path / "other.npz", weight=np.ones(3))
    with pytest.raises(ValueError, match=r"other\.npz.*axis is missing"):
        ChannelStats.load(tmp_path / "other.npz")
    np.savez(tmp_path / "object.npz", axis=np.array(1), mean=np.array([None], object))
    with pytest.raises(ValueError, match=r"object\.npz"):
        ChannelStats.load(tmp_path / "object.npz")
    with pytest.raises(FileNotFoundError):
        ChannelStats.load(tmp_path / "none.npz")


BAD = {
    "mask dtype": ({"mask": np.ones((4, 6))}, TypeError, "mask has dtype float64; expected bool"),
    "mask shape": ({"mask": np.ones((4, 5), bool)}, ValueError, r"mask has shape \(4, 5\), which does not broadcast"),
    "mask by channel": ({"mask": np.ones((4, 6, 2), bool)}, ValueError,
                        r"shape \(4, 6, 2\), which does not broadcast against \(4, 6\), the shape of x without its "
                        r"channel axis, nor with as many axes against \(4, .*\), that of x"),
    "lengths dtype": ({"lengths": [1.0] * 4}, TypeError, "lengths has dtype float64; expected integers"),
    "lengths shape": ({"lengths": [1, 2]}, ValueError, r"lengths has shape \(2,\); expected \(4,\)"),
    "lengths range": ({"lengths": [1, 2, 7, 0]}, ValueError, "lengths must be between 0 and 6"),
    "weight shape": ({"sample_weight": [1.0]}, ValueError, r"sample_weight has shape \(1,\); expected \(4,\)"),
    "weight negative": ({"sample_weight": [1, 1, -1, 1]}, ValueError,
                        r"sample_weight must be finite and not negative, got -1\.0$"),
    "weight nan": ({"sample_weight": [1, 1, np.nan, 1]}, ValueError, "sample_weight must be finite"),
    "weight dtype": ({"sample_weight": ["a"] * 4}, TypeError, "sample_weight has dtype"),
    "policy": ({"nan_policy": "ignore"}, ValueError, "nan_policy must be one of 'propagate', 'raise', 'omit'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_choices_change_nothing(name, layout):
    options, error, message = BAD[name]
    stats = ChannelStats(3, axis=axis_of(layout)).update(data((4, 6, 3), layout))
    before = stats.copy()
    with pytest.raises(error, match=message):
        stats.update(data((4, 6, 3), layout), **options)
    assert stats == before


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.int16, np.int64, np.uint64, np.float32])
@pytest.mark.parametrize("shape", [(0, 3), (4, 3, 0), (0, 3, 0)])
def test_nothing_of_any_dtype(shape, dtype):
    assert ChannelStats(3).update(np.empty(shape, dtype)) == ChannelStats(3)


def test_lengths_need_steps():
    with pytest.raises(ValueError, match="lengths need an axis of steps"):
        ChannelStats(3).update(np.ones((4, 3)), lengths=[1, 1, 1, 1])


def test_weights_without_a_sum():
    stats = ChannelStats(1)
    with pytest.raises(ValueError, match="sample_weight has a sum that is not finite"):
        stats.update(np.ones((2, 1)), sample_weight=[1e308] * 2)
    assert stats == ChannelStats(1)


def test_subtraction_of_what_is_not_a_part():
    whole = ChannelStats(1).update(np.arange(10.0)[:, None])
    with pytest.raises(ValueError, match="it is not a part of it"):
        whole - ChannelStats(1).update(np.array([[100.0], [200.0]]))


def test_a_file_that_lost_its_extrema(tmp_path):
    stats = ChannelStats(1, extrema=True).update(np.arange(10.0)[:, None])
    arrays = {name: a for name, a in stats.to_arrays().items() if name not in ("min", "max")}
    np.savez(tmp_path / "lost.npz", axis=np.array(1), extrema=np.array(1), **arrays)
    with pytest.raises(ValueError, match="min does not agree with the flag extrema"):
        ChannelStats.load(tmp_path / "lost.npz")


def test_no_values_have_no_mean():
    stats = ChannelStats.from_arrays([0, 2], [1.0, 1.0], [5.0, 5.0])
    np.testing.assert_array_equal(stats.mean, [np.nan, 1])
    np.testing.assert_array_equal(stats.m2, [0, 5])
