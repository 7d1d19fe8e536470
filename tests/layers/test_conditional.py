"""The layer of conditional batch normalization: modes, running averages, gradients, state."""

import copy
import gc
import pickle

import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm, ConditionalBatchNorm
from fastbn.functional import conditional_batch_norm_backward, conditional_batch_norm_training
from tests.compare import same_bits
from tests.conditional import arrays, exact, units

SHAPE = (6, 4, 5, 5)


def trained(**settings):
    bn = ConditionalBatchNorm(4, **settings)
    for seed in range(3):
        x, gamma, beta, _ = arrays(SHAPE, 1, np.float32, seed=seed, mean=seed)
        bn(x, gamma, beta)
    return bn


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_training_is_the_function(activation, dtype):
    x, gamma, beta, dy = arrays(SHAPE, 1, dtype)
    bn = ConditionalBatchNorm(4, eps=1e-3)
    y = bn(x, gamma, beta, activation)
    want, saved = conditional_batch_norm_training(x, gamma, beta, eps=1e-3, activation=activation)
    same_bits(y, want)
    dx, dgamma, dbeta = conditional_batch_norm_backward(dy, x, saved, gamma)
    same_bits(bn.backward(dy), dx)
    assert bn.grad_gamma.dtype == np.float32
    same_bits(bn.grad_gamma, dgamma.astype(np.float32))
    same_bits(bn.grad_beta, dbeta.astype(np.float32))


@pytest.mark.parametrize("settings", [
    {}, {"momentum": None}, {"unbiased": False}, {"averaging": "exact"}, {"debias": True}], ids=str)
def test_running_averages_are_those_of_batch_norm(settings):
    bn, other = trained(**settings), BatchNorm(4, affine=False, **settings)
    for seed in range(3):
        other(arrays(SHAPE, 1, np.float32, seed=seed, mean=seed)[0])
    np.testing.assert_allclose(bn.running_mean, other.running_mean, rtol=1e-6)
    np.testing.assert_allclose(bn.running_var, other.running_var, rtol=1e-6)
    assert bn.num_batches_tracked == other.num_batches_tracked == 3
    x, gamma, beta, _ = arrays(SHAPE, 1, np.float32)
    want = other.eval()(x) * gamma[:, :, None, None] + beta[:, :, None, None]
    np.testing.assert_allclose(bn.eval()(x, gamma, beta), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
def test_evaluation(relu, dtype):
    bn = trained(dtype=dtype).eval()
    x, gamma, beta, dy = arrays(SHAPE, 1, dtype, seed=9)
    want = exact(x, gamma, beta, dy, relu=relu, statistics=(bn.running_mean, bn.running_var))
    y = bn(x, gamma, beta, "relu" if relu else None)
    assert units(y, want.y, dtype) < 4
    assert units(bn.backward(dy), want.dx, dtype) < 4
    assert units(bn.grad_gamma, want.dgamma, dtype) < 8
    assert units(bn.grad_beta, want.dbeta, dtype) < 8
    assert bn.num_batches_tracked == 3


def test_evaluation_takes_one_value_and_training_does_not():
    bn = trained()
    x, one = np.full((1, 4), 2, np.float32), np.ones((1, 4))
    with pytest.raises(ValueError, match="one value per channel"):
        bn(x, one, one)
    want = (2 - bn.running_mean) / np.sqrt(bn.running_var + bn.eps) + 1
    np.testing.assert_allclose(bn.eval()(x, one, one)[0], want, rtol=1e-5)


def test_without_running_averages_evaluation_uses_the_batch():
    bn = ConditionalBatchNorm(4, track_running_stats=False)
    x, gamma, beta, dy = arrays(SHAPE, 1, np.float32)
    y = bn(x, gamma, beta)
    dx = bn.backward(dy)
    same_bits(bn.eval()(x, gamma, beta), y)
    same_bits(bn.backward(dy), dx)
    assert bn.state_dict() == {}


def test_evaluation_holds_no_reference_to_x():
    bn = trained().eval()
    x, gamma, beta, dy = arrays(SHAPE, 1, np.float32)
    bn(x, gamma, beta)
    del x
    gc.collect()
    with pytest.raises(RuntimeError, match="x of the last forward pass no longer exists"):
        bn.backward(dy)


def test_in_place():
    bn, other = trained(), trained()
    x, gamma, beta, dy = arrays(SHAPE, 1, np.float32)
    y = bn(x, gamma, beta)
    dx = bn.backward(dy)
    given = x.copy()
    assert other(given, gamma, beta, out=given) is given
    same_bits(given, y)
    with pytest.raises(RuntimeError, match="a result was written over the x"):
        other.backward(dy)
    given = x.copy()
    other(given, gamma, beta)
    same_bits(other.backward(dy, out=given), dx)
    with pytest.raises(RuntimeError, match="a result was written over the x"):
        other.backward(dy)


def test_gamma_may_change_before_backward():
    bn = ConditionalBatchNorm(4)
    x, gamma, beta, dy = arrays(SHAPE, 1, np.float32)
    bn(x, gamma, beta, "relu")
    want = bn.backward(dy)
    gamma[...], beta[...] = 7, 7
    same_bits(bn.backward(dy), want)


@pytest.mark.parametrize("policy", ["propagate", "raise", "skip_update"])
def test_nan_policy(policy):
    bn = trained(nan_policy=policy)
    before = bn.running_mean.copy()
    x, gamma, beta, _ = arrays(SHAPE, 1, np.float32)
    x[0, 1, 0, 0] = np.nan
    given = x.copy()
    if policy == "raise":
        with pytest.raises(ValueError, match="not finite in float32 in channel 1; nan_policy='raise'"):
            bn(given, gamma, beta, out=given)
        np.testing.assert_array_equal(given, x)
    elif policy == "skip_update":
        with pytest.warns(RuntimeWarning, match="not finite"):
            bn(x, gamma, beta)
    else:
        bn(x, gamma, beta)
        assert np.flatnonzero(np.isnan(bn.running_mean)).tolist() == [1]
        return
    np.testing.assert_array_equal(bn.running_mean, before)
    assert bn.num_batches_tracked == 3


def test_an_empty_batch_counts_and_moves_nothing():
    bn = trained()
    before = bn.running_mean.copy()
    y = bn(np.zeros((0, 4, 5), np.float32), np.zeros((0, 4)), np.zeros((0, 4)))
    assert y.shape == (0, 4, 5)
    assert bn.backward(y).shape == (0, 4, 5)
    assert bn.grad_gamma.shape == (0, 4)
    np.testing.assert_array_equal(bn.running_mean, before)
    assert bn.num_batches_tracked == 4


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_refused_call_changes_nothing(training):
    bn = trained().train(training)
    x, gamma, beta, dy = arrays(SHAPE, 1, np.float32)
    bn(x, gamma, beta)
    want, state, out = bn.backward(dy), bn.state_dict(), np.full_like(x, 7)
    for bad in ((gamma[:, 0], beta), (gamma, beta[:2]), (gamma.astype(int), beta)):
        with pytest.raises((TypeError, ValueError), match=r"gamma has|beta has"):
            bn(x, *bad, out=out)
    with pytest.raises(ValueError, match="which is 5 channels along axis 1; expected 4"):
        bn(np.ones((6, 5, 5, 5), np.float32), gamma, beta)
    np.testing.assert_array_equal(out, 7)
    same_bits(bn.backward(dy), want)
    for name, value in bn.state_dict().items():
        np.testing.assert_array_equal(value, state[name])


def test_state_copies_and_files(tmp_path):
    bn = trained(eps=1e-3, axis=1)
    assert sorted(bn.state_dict()) == ["num_batches_tracked", "running_mean", "running_var"]
    assert repr(bn) == "ConditionalBatchNorm(4, eps=0.001)"
    bn.save(tmp_path / "layer.npz")
    x, gamma, beta, _ = arrays(SHAPE, 1, np.float32)
    loaded = ConditionalBatchNorm(4, eps=1e-3)
    loaded.load_state_dict(bn.state_dict())
    copies = [copy.copy(bn), copy.deepcopy(bn), pickle.loads(pickle.dumps(bn)), loaded,
              ConditionalBatchNorm.load(tmp_path / "layer.npz")]
    want = bn.eval()(x, gamma, beta)
    for other in copies:
        assert type(other) is ConditionalBatchNorm
        assert other.eps == 1e-3
        same_bits(other.eval()(x, gamma, beta), want)
        other.train()(x, gamma, beta)
    np.testing.assert_array_equal(loaded.num_batches_tracked, 4)
    assert bn.num_batches_tracked == 3


def test_the_state_of_a_batch_norm_without_parameters_loads():
    other = BatchNorm(4, affine=False)
    other(arrays(SHAPE, 1, np.float32)[0])
    bn = ConditionalBatchNorm(4)
    bn.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(bn.running_var, other.running_var)


def test_frozen_is_the_normalization():
    bn = trained()
    x, gamma, beta, _ = arrays(SHAPE, 1, np.float32)
    want = bn.frozen()(x) * gamma[:, :, None, None] + beta[:, :, None, None]
    np.testing.assert_allclose(bn.eval()(x, gamma, beta), want, rtol=1e-5, atol=1e-6)
    assert bn.report(x).drift is not None


def test_parameters_are_not_attributes():
    bn = ConditionalBatchNorm(4)
    assert (bn.gamma, bn.beta, bn.affine) == (None, None, False)
    with pytest.raises(AttributeError, match=r"gamma of a ConditionalBatchNorm cannot be assigned; pass it to each"):
        bn.gamma = np.ones(4)
    with pytest.raises(AttributeError, match="has no attribute epsilon; it is called eps"):
        bn.epsilon = 1
    with pytest.raises(TypeError, match="PyTorch has no module that is a ConditionalBatchNorm"):
        ConditionalBatchNorm.from_torch(object())


def test_without_gradients_of_the_parameters():
    bn = ConditionalBatchNorm(4)
    x, gamma, beta, dy = arrays(SHAPE, 1, np.float32)
    bn(x, gamma, beta)
    want = bn.backward(dy)
    bn.learn_affine = False
    same_bits(bn.backward(dy), want)
    assert (bn.grad_gamma, bn.grad_beta) == (None, None)


def test_is_public():
    assert fastbn.ConditionalBatchNorm is ConditionalBatchNorm
    assert "ConditionalBatchNorm" in fastbn.__all__
