"""A single value in a channel of a training batch: an error, zeros, or running averages."""

import pickle

import numpy as np
import pytest

from fastbn import BatchNorm
from tests.compare import close, same_bits
from tests.layers.trained import STATE, assert_same, batches, snapshot, trained

C = 5
RULES = ("zero", "running")
ONE = np.array([[3.0, -1.0, 0.5, 1e4, 0.0]])
DY = np.array([[1.0, 2.0, -3.0, 0.5, 4.0]])


def one(dtype):
    return ONE.astype(dtype), DY.astype(dtype)


# ---- a whole batch of one value per channel ----

def test_raise_is_the_default():
    bn = trained()
    assert bn.on_single == "raise"
    before = snapshot(bn)
    with pytest.raises(ValueError, match="one value per channel"):
        bn(ONE)
    assert_same(bn, before)


@pytest.mark.parametrize("act", [None, "relu", "silu"])
@pytest.mark.parametrize("eps", [1e-5, 0.0])
def test_zero(dtype, eps, act):
    bn = trained(dtype=dtype, on_single="zero", eps=eps)
    before = snapshot(bn)
    x, dy = one(dtype)
    y = bn(x, activation=act)
    beta = bn.beta.astype(float)
    right = {None: beta, "relu": np.maximum(beta, 0), "silu": beta / (1 + np.exp(-beta))}[act]
    close(y, right[None], dtype)
    assert not bn.backward(dy).any()
    assert not bn.grad_gamma.any()
    if act is None:
        same_bits(bn.grad_beta, dy[0])
    np.testing.assert_allclose(bn.running_mean, 0.9 * before["running_mean"] + 0.1 * ONE[0], rtol=1e-6)
    same_bits(bn.running_var, before["running_var"])
    assert bn.num_batches_tracked == before["count"] + 1


def test_zero_with_a_residual(dtype):
    bn = trained(dtype=dtype, on_single="zero")
    x, dy = one(dtype)
    y = bn(x, residual=dy, activation="relu")
    same_bits(y[0], np.maximum(bn.beta + dy[0], 0))
    dx, dresidual = bn.backward(dy)
    assert not dx.any()
    same_bits(dresidual, np.where(y > 0, dy, 0))


@pytest.mark.parametrize("act", [None, "relu"])
def test_running_is_evaluation(dtype, act, with_residual):
    bn = trained(dtype=dtype, on_single="running")
    before = snapshot(bn)
    x, dy = one(dtype)
    residual = dy if with_residual else None
    evaluated = trained(dtype=dtype).eval()
    same_bits(bn(x, residual, act), evaluated(x, residual, act))
    got, expected = bn.backward(dy), evaluated.backward(dy)
    for a, b in zip(*(g if with_residual else (g,) for g in (got, expected)), strict=True):
        close(a, b.astype(np.longdouble), dtype, 2)
    close(bn.grad_gamma, evaluated.grad_gamma.astype(np.longdouble), dtype, 2)
    same_bits(bn.grad_beta, evaluated.grad_beta)
    for name in STATE:
        same_bits(getattr(bn, name), before[name])
    assert bn.num_batches_tracked == before["count"] + 1       # as an empty batch


def test_a_nan_stays_in_its_channel():
    bn = trained(on_single="zero")
    x = ONE.copy()
    x[0, 2] = np.nan
    y = bn(x)
    assert np.isnan(y).tolist() == [[False, False, True, False, False]]
    bn = trained(on_single="zero", nan_policy="raise")
    before = snapshot(bn)
    with pytest.raises(ValueError, match="not finite in float32 in channel 2"):
        bn(x)
    assert_same(bn, before)


def test_larger_batches_are_as_without():
    for rule in RULES:
        bn, plain = trained(on_single=rule), trained()
        x, dy = batches()[2:]
        same_bits(bn(x), plain(x))
        same_bits(bn.backward(dy), plain.backward(dy))
        same_bits(bn.running_var, plain.running_var)


def test_evaluation_without_running_averages():
    bn = BatchNorm(C, track_running_stats=False, on_single="zero").eval()
    same_bits(bn(ONE), np.zeros_like(ONE))
    with pytest.raises(ValueError, match="on_single must not be 'running' with track_running_stats=False"):
        bn.on_single = "running"


# ---- masks: some channels have a single value ----

def masked():
    rng = np.random.default_rng(0)
    x, dy = rng.normal(2, 3, (6, C)), rng.normal(size=(6, C))
    mask = np.ones((6, C), bool)
    mask[:, 1] = np.arange(6) == 3      # one value
    mask[:, 2] = False                  # none
    mask[0, 3] = False
    return x, dy, mask


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("eps", [1e-5, 0.0])
def test_a_channel_with_a_single_value(dtype, rule, eps):
    x, dy, mask = masked()
    x, dy = x.astype(dtype), dy.astype(dtype)
    bn, plain = (trained(dtype=dtype, on_single=r, eps=eps) for r in (rule, "raise"))
    before = snapshot(bn)
    y, dx = bn(x, mask=mask), bn.backward(dy)
    others = [0, 2, 3, 4]
    without = mask.copy()
    without[:, 1] = False
    close(y[:, others], plain(x, mask=without)[:, others].astype(np.longdouble), dtype, 2)
    close(dx[:, others], plain.backward(dy)[:, others].astype(np.longdouble), dtype, 2)
    close(bn.running_var[others], plain.running_var[others].astype(np.longdouble), dtype, 2)
    column = np.zeros(6), np.zeros(6)
    if rule == "zero":
        column[0][3] = bn.beta[1]
        mean = 0.9 * before["running_mean"][1] + 0.1 * x[3, 1]
        gradients = 0.0, dy[3, 1]
    else:
        rstd = 1 / np.sqrt(before["running_var"][1].astype(float) + eps)
        x_hat = (x[3, 1].astype(float) - before["running_mean"][1]) * rstd
        column[0][3] = bn.gamma[1] * x_hat + bn.beta[1]
        column[1][3] = bn.gamma[1] * rstd * dy[3, 1]
        mean = before["running_mean"][1]
        gradients = dy[3, 1] * x_hat, dy[3, 1]
    for got, right in zip((y[:, 1], dx[:, 1]), column, strict=True):
        close(got, right, dtype, 8, size=np.abs(right).max() + 1e-30)
    np.testing.assert_allclose(bn.running_mean[1], mean, rtol=1e-6)
    same_bits(bn.running_var[1:2], before["running_var"][1:2])
    np.testing.assert_allclose([bn.grad_gamma[1], bn.grad_beta[1]], gradients, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("rule", RULES)
def test_a_mask_of_a_single_position(rule):
    x = np.random.default_rng(0).normal(size=(4, C)).astype(np.float32)
    bn, alone = trained(on_single=rule), trained(on_single=rule)
    y, dx = bn(x, mask=np.arange(4) == 2), bn.backward(x)
    same_bits(y[2:3], alone(x[2:3]))
    same_bits(dx[2:3], alone.backward(x[2:3]))
    assert not np.delete(y, 2, 0).any()
    same_bits(bn.running_mean, alone.running_mean)
    same_bits(bn.grad_gamma, alone.grad_gamma)


# ---- micro-batches, averages, settings ----

@pytest.mark.parametrize("rule", RULES)
def test_micro_batches(rule):
    bn, alone = trained(on_single=rule), trained(on_single=rule)
    x, dy = one(np.float32)
    whole = bn.accumulate([x, x[:0]])
    ys = [whole(x), whole(x[:0])]
    same_bits(ys[0], alone(x))
    same_bits(whole.backward([dy, dy[:0]])[0], alone.backward(dy))
    same_bits(bn.running_mean, alone.running_mean)
    same_bits(bn.grad_gamma, alone.grad_gamma)


@pytest.mark.parametrize("rule", RULES)
def test_exact_averages(rule):
    bn = BatchNorm(1, averaging="exact", on_single=rule, dtype=np.float64)
    for x in ([[3.0]], [[1.0], [5.0]], [[7.0]]):
        bn(np.array(x))
    seen = np.array([3, 1, 5, 7]) if rule == "zero" else np.array([1, 5])
    np.testing.assert_allclose(bn.running_mean, seen.mean())
    np.testing.assert_allclose(bn.running_var, seen.var(ddof=1))


def test_the_first_exact_batch_of_one_value():
    bn = BatchNorm(1, averaging="exact", on_single="zero")
    bn(np.array([[3.0]]))
    assert (bn.running_mean, bn.running_var) == (3, 1)


@pytest.mark.parametrize("options", [{"momentum": None}, {"debias": True}])
def test_averages_that_need_the_same_weight_in_mean_and_variance(options):
    bn = BatchNorm(C, on_single="zero", **options)
    with pytest.raises(ValueError, match=r"x has a single value in channels 0, 1, 2, 3, 4.*unless on_single='running'"):
        bn(ONE)
    assert bn.num_batches_tracked == 0
    bn.on_single = "running"
    bn(ONE)
    assert bn.num_batches_tracked == 0


@pytest.mark.parametrize("marks", [{}, {"mask": np.array([True, False])}])
def test_in_place_where_a_nan_would_be_refused(marks):
    bn = BatchNorm(C, on_single="running", debias=True, nan_policy="raise")
    x = np.concatenate([ONE, ONE])[: 1 + len(marks)]
    y = BatchNorm(C).eval()(ONE)
    same_bits(bn(x, out=x, **marks)[:1], y)
    bad = np.full_like(x, np.nan)
    assert np.isnan(bn(bad, out=bad, **marks)[:1]).all()      # as in evaluation mode: nothing follows it
    assert not bn.running_mean.any()


def test_the_setting():
    bn = BatchNorm(C, on_single="zero")
    assert repr(bn) == "BatchNorm(5, on_single='zero')"
    assert pickle.loads(pickle.dumps(bn)).on_single == "zero"
    with pytest.raises(ValueError, match="on_single must be one of 'raise', 'zero', 'running', got 'mean'"):
        bn.on_single = "mean"
    with pytest.raises(ValueError, match="virtual_batch_size must be None with on_single='zero', got 4"):
        bn.virtual_batch_size = 4


def test_the_setting_in_a_file(tmp_path):
    BatchNorm(C, on_single="running").save(tmp_path / "layer.npz")
    assert BatchNorm.load(tmp_path / "layer.npz").on_single == "running"
