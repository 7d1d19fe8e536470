"""What a batch that is not finite does to the running averages."""

import warnings

import numpy as np
import pytest

from fastbn import BatchNorm
from tests.compare import same_bits
from tests.layers.test_running import drifting
from tests.layers.trained import assert_same, snapshot


def spoiled(value, dtype=np.float32):
    x = drifting(dtype)[0]
    x[1, 2, 0, 0] = value
    return x


@pytest.mark.parametrize("averaging", ["ema", "exact"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("place", ["new", "out", "x"])
def test_raise_changes_nothing(place, value, averaging):
    bn = BatchNorm(3, averaging=averaging, nan_policy="raise")
    good, x = drifting(np.float32)[0], spoiled(value)
    bn(good)
    before, state = snapshot(bn), bn.state_dict()
    dx = bn.backward(good)
    copied = x.copy()
    out = {"new": None, "out": np.full_like(x, 7), "x": x}[place]
    with pytest.raises(ValueError, match="x has a mean or variance that is not finite in float32 in channel 2"):
        bn(x, out=out)
    np.testing.assert_array_equal(x, copied)
    if place == "out":
        assert (out == 7).all()
    assert_same(bn, before)
    for name, was in state.items():
        same_bits(bn.state_dict()[name], was)
    same_bits(bn.backward(good), dx)
    bn.eval()(x)        # the policy does not apply in evaluation mode


def test_raise_without_running_averages():
    bn = BatchNorm(3, track_running_stats=False, nan_policy="raise")
    with pytest.raises(ValueError, match="not finite in float32 in channel 2"):
        bn(spoiled(np.nan))


@pytest.mark.parametrize("averaging", ["ema", "cumulative", "exact"])
def test_skip_update_leaves_averages_and_counter(averaging):
    bn, other = (BatchNorm(3, averaging=averaging, nan_policy=p) for p in ("skip_update", "propagate"))
    bn(drifting(np.float32)[0])
    before, state = snapshot(bn), bn.state_dict()
    x = spoiled(np.nan)
    with pytest.warns(RuntimeWarning, match="channel 2; the running averages do not follow such batches") as caught:
        y = bn(x)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(y, other(x))
    assert np.isnan(y[:, 2]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bn(x)                           # said once
    assert_same(bn, before)
    for name, was in state.items():
        same_bits(bn.state_dict()[name], was)
    dx = bn.backward(drifting(np.float32)[0])
    assert np.isfinite(dx[:, :2]).all()


@pytest.mark.parametrize("averaging", ["ema", "exact"])
def test_propagate_stays_in_its_channel(averaging):
    bn = BatchNorm(3, averaging=averaging)
    bn(spoiled(np.nan))
    bn(drifting(np.float32)[0])
    assert np.flatnonzero(np.isnan(bn.running_var)).tolist() == [2]
    assert np.isfinite(bn.running_mean[:2]).all()


@pytest.mark.parametrize("policy", ["raise", "skip_update"])
def test_the_policy_does_not_change_finite_batches(policy):
    batches = drifting(np.float32)
    one, other = BatchNorm(3, nan_policy=policy), BatchNorm(3)
    for x in batches:
        y = np.empty_like(x)
        same_bits(one(x, out=y), other(x))
    assert_same(one, snapshot(other))
    with pytest.raises(ValueError, match="one value per channel"):
        one(np.ones((1, 3), np.float32))
