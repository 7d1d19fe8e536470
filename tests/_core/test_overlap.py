"""Shared memory is found exactly where a short search can tell, and assumed where it cannot."""

import time

import numpy as np
import pytest

from fastbn import ChannelAffine
from fastbn._core.overlap import overlap


def hard():
    """Two views of many axes with strides whose sums hardly coincide, of the same memory."""
    memory = np.zeros(1 << 22, np.float32)
    shape, strides = (3,) * 12, tuple(4 * k for k in (
        12_345, 12_377, 12_409, 12_457, 12_503, 12_553, 12_601, 12_653, 12_703, 12_757, 12_809, 12_853))
    first = np.lib.stride_tricks.as_strided(memory, shape, strides)
    second = np.lib.stride_tricks.as_strided(memory[1:], shape, strides)
    return first, second


def test_parts_along_an_inner_axis_share_nothing():
    x = np.zeros((2, 4))
    assert not overlap(x[:, :2], x[:, 2:])
    assert overlap(x[:, :3], x[:, 2:])


def test_a_hard_search_ends_and_counts_as_shared():
    first, second = hard()
    with pytest.raises(np.exceptions.TooHardError):
        np.shares_memory(first, second, max_work=100_000)
    start = time.perf_counter()
    assert overlap(first, second)
    assert time.perf_counter() - start < 10


def test_images_refuse_an_output_that_is_hard_to_tell_apart():
    first, second = hard()
    transform = ChannelAffine([0.0] * 3, [1.0] * 3, [0.0] * 3, axis=0)
    with pytest.raises(ValueError, match=r"^out shares memory with x"):
        transform(first, out_axis=1, out=second)
