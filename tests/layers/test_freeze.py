"""Frozen layers: constant statistics in training, running averages that stay or move, parameters that do not learn."""

import copy
import pickle

import numpy as np
import pytest

from fastbn import BatchNorm, ChannelAffine, population_statistics
from tests import oracle
from tests.cases import axis_of
from tests.compare import close, same_bits
from tests.layers.trained import N, assert_same, batches, snapshot, trained

MODES = ("use_running_stats", "update_running_stats", "learn_affine")
NOT_FROZEN = {"use_running_stats": False, "update_running_stats": True, "learn_affine": True}
FROZEN = {"use_running_stats": True, "update_running_stats": False, "learn_affine": False}


def modes(bn):
    return {name: getattr(bn, name) for name in MODES}


# ---- the modes ----

def test_freeze_and_unfreeze():
    bn = BatchNorm(3)
    assert modes(bn) == NOT_FROZEN
    assert bn.freeze() is bn
    assert modes(bn) == FROZEN
    assert modes(bn.train().eval().train()) == FROZEN
    assert bn.unfreeze() is bn
    assert modes(bn) == NOT_FROZEN
    assert modes(bn.freeze(learn_affine=True)) == FROZEN | {"learn_affine": True}


def test_modes_in_the_repr_the_pickle_and_the_copy():
    bn = BatchNorm(3).freeze(learn_affine=True)
    assert repr(bn) == "BatchNorm(3, use_running_stats=True, update_running_stats=False)"
    assert repr(bn.eval()) == "BatchNorm(3, training=False, use_running_stats=True, update_running_stats=False)"
    for other in (pickle.loads(pickle.dumps(bn)), copy.copy(bn), copy.deepcopy(bn)):
        assert modes(other) == modes(bn)
    assert sorted(bn.state_dict()) == sorted(BatchNorm(3).state_dict())


def test_loading_a_state_keeps_the_modes():
    bn = BatchNorm(5).freeze()
    bn.load_state_dict(trained().state_dict())
    assert modes(bn) == FROZEN


@pytest.mark.parametrize("name", MODES)
def test_modes_are_checked(name):
    bn = BatchNorm(3)
    with pytest.raises(TypeError, match=f"{name} must be True or False, got 1"):
        bn.freeze(**{name: 1})
    assert modes(bn) == NOT_FROZEN
    with pytest.raises(TypeError, match=f"{name} must be True or False, got 'yes'"):
        setattr(bn, name, "yes")
    setattr(bn, name, not NOT_FROZEN[name])
    assert modes(bn) == NOT_FROZEN | {name: not NOT_FROZEN[name]}


def test_without_running_averages_there_is_nothing_to_use():
    bn = BatchNorm(3, track_running_stats=False)
    with pytest.raises(ValueError, match="use_running_stats must be False with track_running_stats=False, got True"):
        bn.freeze()
    bn.freeze(use_running_stats=False)
    assert modes(bn) == FROZEN | {"use_running_stats": False}


# ---- constant statistics ----

def test_frozen_training_is_evaluation(layout, dtype, activation, with_residual):
    bn = trained(layout, dtype)
    before = snapshot(bn)
    x, r, dy = batches(layout, dtype)[1:]
    r = r if with_residual else None
    y = bn.eval()(x, r, activation)
    gradients = bn.backward(dy)
    dgamma, dbeta = bn.grad_gamma, bn.grad_beta
    bn.train().freeze(learn_affine=True)
    same_bits(bn(x, r, activation), y)
    for got, expected in zip(*(g if with_residual else (g,) for g in (bn.backward(dy), gradients)), strict=True):
        same_bits(got, expected)
    same_bits(bn.grad_gamma, dgamma)
    same_bits(bn.grad_beta, dbeta)
    assert_same(bn, before)


@pytest.mark.parametrize(("act", "with_residual"), [
    (None, False), (None, True), ("relu", False), ("relu", True), ("silu", False)])
def test_gradients_without_those_of_the_parameters(layout, dtype, act, with_residual):
    bn = trained(layout, dtype).freeze(learn_affine=True)
    x, r, dy = batches(layout, dtype)[1:]
    call = (x, r if with_residual else None, act)
    bn(*call)
    expected = bn.backward(dy)
    bn.freeze()
    bn(*call)
    got = bn.backward(dy)
    for a, b in zip(*(g if with_residual else (g,) for g in (got, expected)), strict=True):
        same_bits(a, b)
    assert bn.grad_gamma is None
    assert bn.grad_beta is None


def test_the_gradient_is_that_of_constants(layout, dtype):
    bn = trained(layout, dtype).freeze(learn_affine=True)
    x, _, dy = batches(layout, dtype)[1:]
    of = oracle.forward(x, bn.gamma, bn.beta, axis=bn.axis, mean=bn.running_mean, var=bn.running_var)
    close(bn(x), of.y, dtype, 8)
    right = oracle.backward(dy, x, of, bn.gamma, axis=bn.axis, frozen=True)
    close(bn.backward(dy), right.dx, dtype)
    close(bn.grad_gamma, right.dgamma, dtype, 64)


def test_training_keeps_a_temporary_for_the_backward_pass():
    bn = trained().freeze()
    x, dy = batches()[:2]
    bn(x + 1)
    dx = bn.backward(dy)
    scale = bn.gamma.astype(float) / np.sqrt(bn.running_var.astype(float) + bn.eps)
    close(dx, scale[:, None, None] * dy.astype(float), np.float32)


def test_one_value_per_channel_and_masks():
    bn = trained().freeze()
    x = batches()[0]
    y = bn(x)
    same_bits(bn(x[:1, :, :1, :1]), y[:1, :, :1, :1])
    mask = np.arange(16) < 5
    masked = bn(x, mask=mask[:, None, None])
    same_bits(masked[:5], y[:5])
    assert not masked[5:].any()
    dx = bn.backward(x)
    assert not dx[5:].any()
    assert dx[:5].all()


def test_in_place_training_has_no_backward_pass():
    bn = trained().freeze()
    x = batches()[0].copy()
    bn(x, out=x)
    with pytest.raises(RuntimeError, match="written over the x"):
        bn.backward(x)


# ---- running averages that move, or stay ----

def test_statistics_of_the_batch_without_an_update(layout):
    bn = trained(layout)
    before = snapshot(bn)
    x, dy = batches(layout)[2:]
    other = copy.deepcopy(bn)
    bn.update_running_stats = False
    same_bits(bn(x), other(x))
    same_bits(bn.backward(dy), other.backward(dy))
    assert_same(bn, before)
    same_bits(bn.grad_gamma, other.grad_gamma)
    for array in (bn.running_mean, bn.running_var):     # read-only averages suffice
        array.flags.writeable = False
    bn(x)


@pytest.mark.parametrize("masked", [False, True])
def test_running_averages_that_move_while_they_are_used(layout, dtype, activation, with_residual, masked):
    bn, still = trained(layout, dtype), trained(layout, dtype).freeze(learn_affine=True)
    bn.use_running_stats = True
    x, r, dy = batches(layout, dtype)[1:]
    r = r if with_residual else None
    marks = {"mask": (np.arange(16) < 7)[:, None, None]} if masked else {}
    y = still(x, r, activation, **marks)
    same_bits(bn(x, r, activation, **marks), y)
    m, v = oracle.moments(x[:7] if masked else x, axis_of(layout))
    n = N // 16 * 7 if masked else N
    rtol = 1e-6 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(bn.running_mean, (0.9 * still.running_mean + 0.1 * m).astype(float), rtol=rtol)
    np.testing.assert_allclose(
        bn.running_var, (0.9 * still.running_var + 0.1 * v * n / (n - 1)).astype(float), rtol=rtol)
    # The backward pass is that of the averages before.
    for got, expected in zip(*(g if with_residual else (g,) for g in (bn.backward(dy), still.backward(dy))),
                             strict=True):
        same_bits(got, expected)
    same_bits(bn.grad_gamma, still.grad_gamma)


def test_a_batch_that_cannot_be_followed_is_refused():
    bn = trained(nan_policy="raise")
    bn.use_running_stats = True
    before = snapshot(bn)
    x = batches()[0].copy()
    x[0, 0] = np.nan
    out = np.zeros_like(x)
    with pytest.raises(ValueError, match="x has a mean or variance that is not finite"):
        bn(x, out=out)
    with pytest.raises(ValueError, match="single value"):
        bn(x[:1, :, :1, :1])
    assert not out.any()
    assert_same(bn, before)


# ---- beside other parts ----

def test_a_transform_of_a_frozen_layer():
    bn = trained()
    x = batches()[0]
    transform = bn.frozen()
    assert isinstance(transform, ChannelAffine)
    assert modes(bn) == NOT_FROZEN
    same_bits(bn.freeze().frozen()(x), transform(x))
    same_bits(bn(x), transform(x))


def test_accumulate_needs_statistics_of_the_batch():
    bn = trained().freeze()
    with pytest.raises(RuntimeError, match="with use_running_stats=True, call the layer with each micro-batch"):
        bn.accumulate([batches()[0]])
    bn.use_running_stats = False
    before = snapshot(bn)
    x = batches()[0]
    whole = bn.accumulate([x[:4], x[4:]])
    close(np.concatenate([whole(x[:4]), whole(x[4:])]), oracle.forward(x, bn.gamma, bn.beta).y, np.float32, 8)
    whole.backward([x[:4], x[4:]])
    assert bn.grad_gamma is None
    assert_same(bn, before)


@pytest.mark.parametrize("name", ["use_running_stats", "update_running_stats"])
def test_population_statistics_need_a_layer_that_is_not_frozen(name):
    bn = trained()
    setattr(bn, name, FROZEN[name])
    with pytest.raises(ValueError, match=rf"bn_layers\[0\] has {name}={FROZEN[name]}; expected a layer that is not"):
        population_statistics(bn, batches(), bn)


def test_a_report_changes_nothing():
    bn = trained()
    x = batches()[0]
    same_bits(bn.freeze().report(x).drift, bn.unfreeze().report(x).drift)
