"""Every thread of a team computes in the rounding mode and flush-to-zero mode of the caller."""

import contextlib
import ctypes
import ctypes.util
import platform
import sys

import numpy as np
import pytest

from fastbn import ChannelAffine, ChannelStats
from fastbn._core import dispatch
from fastbn.functional import batch_norm_backward, batch_norm_training
from tests import row_norms
from tests.cases import array, axis_of, case

pytestmark = [
    pytest.mark.skipif(not dispatch.kernels.openmp_version(), reason="this build is without OpenMP"),
    pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64",
                       reason="the layout of fenv_t is known on x86-64 Linux alone"),
]

LIBM = ctypes.CDLL(ctypes.util.find_library("m")) if sys.platform == "linux" else None
MXCSR = slice(28, 32)       # in glibc's fenv_t
MODES = {"to nearest": 0, "up": 0x4000, "toward zero": 0x6000, "flush to zero": 0x8040}


@contextlib.contextmanager
def mode(bits):
    before, now = ctypes.create_string_buffer(32), ctypes.create_string_buffer(32)
    LIBM.fegetenv(before)
    LIBM.fegetenv(now)
    now[MXCSR] = (int.from_bytes(before[MXCSR], "little") & ~0xE040 | bits).to_bytes(4, "little")
    LIBM.fesetenv(now)
    try:
        yield
    finally:
        LIBM.fesetenv(before)


def bits_of(x, dy, axis, threads):
    """All results as bytes, as a comparison of subnormal numbers depends on the mode."""
    y, saved = batch_norm_training(x, axis=axis, num_threads=threads)
    gradients = batch_norm_backward(dy, x, saved, axis=axis, num_threads=threads)
    stats = ChannelStats(x.shape[axis], axis=axis).update(x, num_threads=threads)
    c = np.linspace(0.5, 2, x.shape[axis])
    z = ChannelAffine(c * 0, c, c * 0, axis=axis, num_threads=threads)(x)
    found = [y, saved.mean, saved.var, *gradients, stats.mean, stats.m2, z]
    if axis == x.ndim - 1:
        rows = [a.reshape(-1, x.shape[axis]) for a in (x, dy)]
        for about_zero in (False, True):
            found += row_norms.results(*rows, c, c, about_zero=about_zero, threads=threads)
    return [a.tobytes() for a in found]


@pytest.mark.parametrize("shape", [case(64, 32, 20, 20), case(9000, 64)], ids=lambda c: c.name)
def test_the_bits_do_not_depend_on_the_threads(shape, layout, dtype):
    tiny = np.finfo(dtype).tiny
    x, dy = array(shape, layout, dtype, std=tiny), array(shape, layout, dtype, seed=1)
    axis = axis_of(layout)
    seen = {}
    for name, setting in MODES.items():
        with mode(setting):
            one, two, three = (bits_of(x, dy, axis, threads) for threads in (1, 2, 3))
        assert one == two == three, name
        seen[name] = one
    assert all(seen[name] != seen["to nearest"] for name in MODES if name != "to nearest")
    assert bits_of(x, dy, axis, 2) == seen["to nearest"]


def test_the_mode_of_the_caller_stays(dtype):
    x = array(case(64, 32, 400), "planes", dtype)
    now = ctypes.create_string_buffer(32)
    for setting in MODES.values():
        with mode(setting):
            batch_norm_training(x, num_threads=2)
            LIBM.fegetenv(now)
        assert int.from_bytes(now[MXCSR], "little") & 0xE040 == setting


def test_the_largest_values_where_subnormal_numbers_are_flushed(layout):
    # The kernels scale them by a power of two whose inverse must not be flushed to zero.
    axis = axis_of(layout)
    x = np.full(array(case(22, 3, 4), layout, np.float64).shape, 1.7e308)
    with mode(MODES["flush to zero"]):
        y, saved = batch_norm_training(x, beta=np.arange(3.0), axis=axis)
        stats = ChannelStats(3, axis=axis).update(x)
    for mean, squares in ((saved.mean, saved.var), (stats.mean, stats.m2)):
        np.testing.assert_array_equal(mean, np.full(3, 1.7e308))
        np.testing.assert_array_equal(squares, np.zeros(3))
    np.testing.assert_array_equal(np.moveaxis(y, axis, -1), np.broadcast_to(np.arange(3.0), (22, 4, 3)))
