"""Statistics of Dask arrays: any chunks, invalid input, and a cluster that loses a worker."""

import os
import signal
import time

import numpy as np
import pytest

from fastbn import ChannelStats
from fastbn.dask import channel_stats
from tests import oracle
from tests.compare import same_bits
from tests.process import PATIENCE

da = pytest.importorskip("dask.array", reason='dask is not installed: pip install ".[dask]"')

SHAPE = (30, 5, 8, 6)
CHUNKS = {
    "one": SHAPE, "samples": (7, 5, 8, 6), "single samples": (1, 5, 8, 6), "channels": (30, 2, 8, 6),
    "single channels": (4, 1, 8, 6), "planes": (30, 5, 3, 2), "everything": (11, 3, 5, 4),
    "single values": (1, 5, 1, 6),
}


def values(shape=SHAPE, dtype=np.float64, mean=1e3):
    return (np.random.default_rng(5).standard_normal(shape) + mean).astype(dtype)


def check(stats, x, axis, rtol=1e-12):
    mean, var = oracle.moments(x, axis)
    same_bits(stats.count, np.full(x.shape[axis], float(x.size // x.shape[axis])))
    np.testing.assert_allclose(stats.mean, mean.astype(float), rtol=rtol)
    np.testing.assert_allclose(stats.var(), var.astype(float), rtol=rtol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [1, -1, 0, 2])
@pytest.mark.parametrize("chunks", CHUNKS)
def test_any_chunks(chunks, axis, dtype):
    x = values(dtype=dtype)
    stats = channel_stats(da.from_array(x, CHUNKS[chunks]), axis).compute(scheduler="threads")
    assert isinstance(stats, ChannelStats)
    assert stats.axis == axis % 4
    check(stats, x, axis)
    # Updates and merges work as usual.
    check(stats.update(x) if stats.axis == axis else stats.merge(ChannelStats(x.shape[axis], axis=axis).update(x)),
          np.concatenate([x, x], axis=(axis + 1) % 4), axis)


def test_bits_do_not_depend_on_the_scheduler():
    x = da.from_array(values(), (3, 2, 8, 6))
    one, *others = (channel_stats(x).compute(scheduler=name) for name in ("sync", "threads", "threads"))
    for other in others:
        same_bits(other.mean, one.mean)
        same_bits(other.m2, one.m2)


def test_it_is_lazy():
    def fail(values):
        raise AssertionError("computed")

    x = da.zeros(SHAPE, chunks=(7, 2, 8, 6)).map_blocks(fail, dtype=float, meta=np.empty((0,) * 4))
    stats = channel_stats(x)
    with pytest.raises(AssertionError, match="computed"):
        stats.compute(scheduler="sync")


def test_empty_and_unknown_chunks():
    x = values()
    empty = da.from_array(x, ((0, 10, 0, 20), (0, 3, 2, 0), (8, 0), (6,)))
    check(channel_stats(empty).compute(scheduler="sync"), x, 1)
    chosen = x[:, 0, 0, 0] > 1e3
    unknown = da.from_array(x, (4, 2, 8, 6))
    unknown = unknown[unknown[:, 0, 0, 0] > 1e3]
    assert np.isnan(unknown.shape[0])
    check(channel_stats(unknown).compute(scheduler="sync"), x[chosen], 1)
    nothing = channel_stats(da.zeros((0, 3, 4))).compute(scheduler="sync")
    same_bits(nothing.mean, np.full(3, np.nan))
    same_bits(nothing.count, np.zeros(3))


def test_bytes_and_halves():
    x = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    check(channel_stats(da.from_array(x, (7, 3, 8, 6))).compute(scheduler="sync"), x, 1)
    x = values(dtype=np.float16, mean=1)
    check(channel_stats(da.from_array(x, (7, 3, 8, 6))).compute(scheduler="sync"), x, 1)


@pytest.mark.parametrize("chunks", CHUNKS)
def test_nan(chunks):
    x = values()
    x[np.random.default_rng(6).random(SHAPE) < 0.1] = np.nan
    x[:, 3] = np.nan
    x[:, 4] = 7
    lazy = da.from_array(x, CHUNKS[chunks])
    omitted = channel_stats(lazy, nan_policy="omit").compute(scheduler="threads")
    same_bits(omitted.count, (~np.isnan(x)).sum(axis=(0, 2, 3)).astype(float))
    assert np.isnan([omitted.mean[3], omitted.var()[3]]).all()
    for c in (0, 1, 2, 4):
        kept = x[:, c][~np.isnan(x[:, c])].astype(np.longdouble)
        np.testing.assert_allclose(omitted.mean[c], float(kept.mean()), rtol=1e-14)
        np.testing.assert_allclose(omitted.var()[c], float(kept.var()), rtol=1e-12)
    spread = channel_stats(lazy).compute(scheduler="threads")
    assert np.isnan(spread.mean).tolist() == [True] * 4 + [False]
    refused = channel_stats(lazy, nan_policy="raise")
    with pytest.raises(ValueError, match=r"NaN, the first in channel .; nan_policy is 'raise' \(in a chunk"):
        refused.compute(scheduler="threads")
    clean = channel_stats(lazy[:, 4:], nan_policy="raise").compute(scheduler="threads")
    assert (clean.mean.tolist(), clean.var().tolist()) == ([7], [0])


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8])
@pytest.mark.parametrize("chunks", CHUNKS)
def test_masked_arrays(chunks, dtype):
    x = np.random.default_rng(7).integers(0, 100, SHAPE).astype(dtype)
    x[:, 3] = 99
    lazy = da.ma.masked_greater(da.from_array(x, CHUNKS[chunks]), 90)
    kept = np.ma.masked_greater(x, 90)
    if dtype == np.float32:     # a NaN under the mask, and one beside it
        x[0, 0, 0, 0], x[1, 1, 1, 1] = np.nan, np.nan
        lazy = da.ma.masked_array(da.from_array(x, CHUNKS[chunks]), kept.mask | (np.arange(SHAPE[0]) == 0)[
            :, None, None, None])
        kept = np.ma.masked_array(x, kept.mask | np.isnan(x))
        kept.mask[0] = True
    stats = channel_stats(lazy, nan_policy="omit").compute(scheduler="threads")
    wide, axes = kept.astype(np.float64), (0, 2, 3)
    np.testing.assert_array_equal(stats.count, wide.count(axis=axes))
    np.testing.assert_allclose(stats.mean, wide.mean(axis=axes).filled(np.nan), rtol=1e-12)
    np.testing.assert_allclose(stats.var(), wide.var(axis=axes).filled(np.nan), rtol=1e-12)
    assert np.isnan(stats.mean).tolist() == [False, False, False, True, False]


def test_masks_unknown_to_dask():
    x = da.from_array(np.arange(12.0).reshape(4, 3), chunks=2)
    masked = x.map_blocks(np.ma.masked_greater, 7, dtype=float, meta=np.empty((0, 0)))
    stats = channel_stats(masked).compute(scheduler="sync")
    assert (stats.count.tolist(), stats.mean.tolist()) == ([3, 3, 2], [3, 4, 3.5])
    unmasked = x.map_blocks(np.ma.masked_array, dtype=float, meta=np.empty((0, 0)))
    assert channel_stats(unmasked).compute(scheduler="sync") == channel_stats(x).compute(scheduler="sync")


def test_an_unknown_policy():
    with pytest.raises(ValueError, match="nan_policy must be one of 'propagate', 'raise', 'omit', got 'drop'"):
        channel_stats(da.ones((4, 3)), nan_policy="drop")


def test_wide_integers():
    x = np.random.default_rng(0).integers(-5, 5, SHAPE) + 2**60
    stats = channel_stats(da.from_array(x, (7, 3, 8, 6))).compute(scheduler="sync")
    np.testing.assert_allclose(stats.var(), (x - 2**60).var(axis=(0, 2, 3)), rtol=1e-12)


def unknown_channels():
    x = da.ones((4, 6), chunks=2)
    return x[:, x[0] > 0]


@pytest.mark.parametrize(("x", "axis", "error", "message"), [
    (np.ones((4, 3)), 1, TypeError, r"x must be a dask.array.Array, got ndarray"),
    (da.ones(4), 0, ValueError, r"x has shape \(4,\); expected two or more dimensions"),
    (da.ones((4, 3)), 2, ValueError, "axis 2 is out of range"),
    (da.ones((4, 3)), 1.0, TypeError, "axis must be an integer"),
    (da.ones((4, 3), dtype="datetime64[s]"), 1, TypeError, "x has dtype datetime64.s.; expected float32, float64"),
    (da.ones((4, 3), dtype=complex), 1, TypeError, "x has dtype complex128"),
    (da.ones((4, 0)), 1, ValueError, r"x has shape \(4, 0\); expected one or more channels along axis 1"),
    (unknown_channels(), 1, ValueError, "chunks of unknown size along its channel axis, 1; call x.compute_chunk_sizes"),
], ids=lambda v: None if isinstance(v, (type, np.ndarray, da.Array)) else str(v)[:30])
def test_what_is_refused(x, axis, error, message):
    with pytest.raises(error, match=message):
        channel_stats(x, axis)


def test_a_chunk_with_fewer_channels_than_expected():
    x = da.ones((4, 6), chunks=(2, 3)).map_blocks(lambda block: block[:, :2], dtype=float, meta=np.empty((0, 0)))
    with pytest.raises(ValueError, match=r"x has shape \(2, 2\), which is 2 channels along axis 1; expected 3"):
        channel_stats(x).compute(scheduler="sync")


# ---- a cluster ----

BLOCKS, FIRST = 48, 3


def made_by(pid, folder):
    return [path for path in os.listdir(folder) if path.endswith(f"-{pid}")]


def load(number, folder):
    """Return a block, and write a file in the name of its worker, which waits for a signal after a few blocks."""
    while len(made_by(os.getpid(), folder)) >= FIRST and not os.path.exists(os.path.join(folder, "go on")):
        time.sleep(0.01)
    with open(os.path.join(folder, f"{number}-{os.getpid()}"), "w"):
        pass
    return block(number)


def block(number):
    return np.random.default_rng(number).standard_normal((16, 3, 10)) + 1e3


@pytest.fixture
def cluster():
    distributed = pytest.importorskip("distributed", reason='distributed is not installed: pip install ".[dask]"')
    with (distributed.LocalCluster(n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None,
                                   host="127.0.0.1") as workers,
          distributed.Client(workers) as client):
        yield client


@pytest.mark.filterwarnings("default")      # the cluster warns of the lost worker
def test_a_cluster_that_loses_a_worker(cluster, tmp_path):
    from dask import delayed

    blocks = [da.from_delayed(delayed(load)(k, str(tmp_path)), (16, 3, 10), float) for k in range(BLOCKS)]
    future = cluster.compute(channel_stats(da.concatenate(blocks)))
    victim = sorted(cluster.run(os.getpid).values())[0]

    deadline = time.monotonic() + PATIENCE
    while len(made_by(victim, tmp_path)) < FIRST:
        assert time.monotonic() < deadline, "the worker got nothing to do"
        time.sleep(0.01)
    os.kill(victim, signal.SIGKILL)
    assert not future.done()
    (tmp_path / "go on").touch()
    stats = future.result(timeout=PATIENCE)
    check(stats, np.concatenate([block(k) for k in range(BLOCKS)]), 1)
    makers = {int(path.split("-")[1]) for path in os.listdir(tmp_path) if "-" in path}
    assert len(makers - {victim}) >= 2
