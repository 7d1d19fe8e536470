"""Arrays beyond 2**31 elements, without their memory: windows over little, and islands in a sea of untouched pages."""

import mmap
import sys

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from fastbn import ChannelStats
from fastbn.functional import batch_norm_backward, batch_norm_inference, batch_norm_training
from tests import oracle
from tests.compare import close


def window_moments(buffer, step, rows, channels):
    """Mean and M2 of rows of `channels` elements, `step` apart, by running sums of integers: exact."""
    mean, m2 = np.empty(channels), np.empty(channels)
    for k in range(step):
        line = buffer[k::step].astype(np.int64)
        s1, s2 = (np.concatenate([[0], np.cumsum(v)]) for v in (line, line * line))
        starts = np.arange(len(mean[k::step]))
        total, squares = (s[starts + rows] - s[starts] for s in (s1, s2))
        mean[k::step] = total / rows
        # rows * squares - total**2 fits into 63 bits for the values below
        m2[k::step] = (rows * squares - total * total) / rows
    return mean, m2


def test_stats_of_rows():
    rows, channels, step = 2**16 + 1, 2**15 + 64, 2
    assert rows * channels > 2**31
    buffer = np.random.default_rng(0).integers(-50, 50, (rows - 1) * step + channels).astype(np.float32)
    x = as_strided(buffer, (rows, channels), (step * 4, 4), writeable=False)
    stats = ChannelStats(channels, axis=-1).update(x)
    mean, m2 = window_moments(buffer, step, rows, channels)
    assert (stats.count == rows).all()
    np.testing.assert_allclose(stats.mean, mean, rtol=0, atol=1e-11)
    np.testing.assert_allclose(stats.m2, m2, rtol=1e-12)


def test_stats_of_planes():
    # More than 2**31 values in every channel.
    channels, size = 2, 2**16 + 7
    images = 2**31 // size + 2
    x = np.random.default_rng(1).normal(3, 2, (1, channels, size)).astype(np.float32)
    mean, var = oracle.moments(x, 1)
    broadcast = np.broadcast_to(x, (images, channels, size))
    assert images * size > 2**31
    stats = ChannelStats(channels).update(broadcast)
    assert (stats.count == images * size).all()
    np.testing.assert_allclose(stats.mean, mean.astype(float), rtol=1e-12)
    np.testing.assert_allclose(stats.m2, (var * stats.count).astype(float), rtol=1e-12)


def sea(elements):
    """Zeros that take no memory until they are touched."""
    if not sys.platform.startswith("linux"):
        pytest.skip("memory is reserved without being committed on Linux alone")
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    try:
        return np.frombuffer(mmap.mmap(-1, 4 * elements, flags=flags), np.float32)
    except OSError as error:
        pytest.skip(f"this machine does not reserve {4 * elements >> 30} GiB of addresses: {error}")


# Element strides; each places the last element more than 2**31 elements from the first.
STEPS = {
    "images far apart": ((4, 3, 100), (2**30 + 3, 100, 1), 1),
    "channels far apart": ((4, 3, 100), (100, 2**30 + 64, 1), 1),
    "rows far apart": ((4, 100), (2**30 + 3, 1), -1),
}


@pytest.mark.parametrize("name", STEPS)
def test_offsets(name):
    shape, steps, axis = STEPS[name]
    reach = sum((n - 1) * s for n, s in zip(shape, steps, strict=True)) + 1
    assert reach > 2**31

    def far():
        return as_strided(sea(reach), shape, [4 * s for s in steps])

    x, y, dx = far(), far(), far()
    rng = np.random.default_rng(2)
    values, dy = rng.standard_normal((2, *shape)).astype(np.float32)
    x[...] = values
    right = oracle.forward(values, axis=axis)
    _, saved = batch_norm_training(x, axis=axis, out=y)
    close(y, right.y, np.float32, 8)
    batch_norm_backward(dy, x, saved, axis=axis, out=dx)
    close(dx, oracle.backward(dy, values, right, axis=axis).dx, np.float32, 32)
    batch_norm_inference(x, saved.mean, saved.var, axis=axis, out=y)
    close(y, right.y, np.float32, 8)
