"""Constants.made_of finds a change in any channel of any parameter."""

import numpy as np
import pytest

from fastbn._core.dispatch import kernels

EPS = 1e-3
# Below, at and above the lanes of the comparison, whether 8 or 16.
CHANNELS = (1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65)


def vectors(channels, dtype):
    rng = np.random.default_rng(channels)
    return [rng.uniform(0.5, 2, channels).astype(dtype) for _ in range(4)]


def constants(values, eps=EPS):
    return kernels.Constants(next(len(v) for v in values if v is not None), *values, eps)


@pytest.mark.parametrize("channels", CHANNELS)
def test_each_change_of_each_channel_is_seen(channels, dtype):
    values = vectors(channels, dtype)
    made = constants(values)
    assert made.made_of(*values, EPS)
    for vector in values:
        for channel in range(channels):
            before = vector[channel]
            for other in (np.nextafter(before, dtype.type(9)), -before, dtype.type(np.nan), dtype.type(np.inf)):
                vector[channel] = other
                assert not made.made_of(*values, EPS)
            vector[channel] = before
    assert made.made_of(*values, EPS)
    assert not made.made_of(*values, 2 * EPS)


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_vector_that_is_missing_is_zeros_or_ones(channels, dtype):
    made = constants([*vectors(channels, dtype)[:2], None, None])
    values = [*vectors(channels, dtype)[:2], np.ones(channels, dtype), np.zeros(channels, dtype)]
    assert made.made_of(*values, EPS)
    assert constants(values).made_of(*values[:2], None, None, EPS)
    values[2][-1] = 2
    assert not made.made_of(*values, EPS)
    assert not constants(values).made_of(*values[:2], None, None, EPS)


def test_nan_is_never_the_same_and_zeros_are_whatever_their_sign(dtype):
    values = vectors(9, dtype)
    values[3][8] = np.nan
    assert not constants(values).made_of(*values, EPS)
    values[3][8] = 0.0
    made = constants(values)
    values[3][8] = -0.0
    assert made.made_of(*values, EPS)


def test_the_dtype_may_change_while_the_values_do_not():
    values = vectors(9, np.float32)
    made = constants(values)
    assert made.made_of(*(v.astype(np.float64) for v in values), EPS)
    assert not made.made_of(values[0].astype(np.float64) + 1e-12, *values[1:], EPS)


def test_what_it_does_not_read_is_not_the_same():
    values = vectors(9, np.float32)
    made = constants(values)
    for other in (values[0].tolist(), values[0][:8], np.repeat(values[0], 2)[::2], values[0].astype(">f4"),
                  values[0].astype(np.float16), values[0][None]):
        assert not made.made_of(other, *values[1:], EPS)
