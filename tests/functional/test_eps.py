"""eps = 0: exact where there is a variance, NaN in training and an error for given statistics where there is none."""

import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm, ChannelAffine
from fastbn.functional import Saved, batch_norm_backward, batch_norm_inference, batch_norm_training
from tests import oracle
from tests.cases import axis_of
from tests.compare import close, same_bits

FLAT = 1        # the channel of zero variance
OTHERS = [0, 2]


def data(layout, dtype, shape=(6, 3, 4), value=2.5):
    x = np.random.default_rng(0).normal(3, 2, shape).astype(dtype)
    x[:, FLAT] = value
    return x if layout == "planes" else np.ascontiguousarray(np.moveaxis(x, 1, -1))


def flat_alone(a, layout):
    """Assert that one channel is NaN and the others are finite."""
    last = np.moveaxis(a, axis_of(layout), -1)
    assert np.isnan(last[..., FLAT]).all()
    assert np.isfinite(last[..., OTHERS]).all()


@pytest.mark.parametrize("shape", [(6, 3, 4), (40, 3, 33, 31), (5000, 3, 1)], ids=str)
@pytest.mark.parametrize("value", [0.0, 2.5, -1e-3])
def test_training(shape, value, layout, dtype, activation, with_residual):
    x = data(layout, dtype, shape, value)
    axis = axis_of(layout)
    gamma, beta = np.array([0.0, 0.0, 2.0]), np.array([1.0, 2.0, 3.0])     # Inf times 0 warns of nothing
    options = {"axis": axis, "eps": 0, "activation": activation, "residual": x[::-1] if with_residual else None}
    y, saved = batch_norm_training(x, gamma, beta, **options)
    flat_alone(y, layout)
    assert saved.rstd[FLAT] == np.inf
    dx, dgamma = batch_norm_backward(x, x, saved, gamma, axis=axis)[:2]
    flat_alone(dx, layout)
    assert np.isnan(dgamma[FLAT])
    assert np.isfinite(dgamma[OTHERS]).all()
    # Channels with a variance have the values of the formula.
    here = np.take(x, [2], axis)
    right = oracle.forward(here, gamma[2:], beta[2:], axis=axis, eps=0, relu=activation == "relu",
                           residual=np.take(x[::-1], [2], axis) if with_residual else None)
    close(np.take(y, [2], axis), right.y, dtype, 8)


def test_the_layer_in_training(layout, dtype):
    x = data(layout, dtype)
    bn = BatchNorm(3, axis=axis_of(layout), eps=0, dtype=dtype)
    flat_alone(bn(x), layout)
    flat_alone(bn.backward(x), layout)
    assert np.isnan(bn.grad_gamma[FLAT])
    assert np.isfinite(bn.running_mean).all()
    assert np.isfinite(bn.running_var).all()
    assert bn.running_var[FLAT] == np.asarray(0.9, dtype)
    # The averages have a variance still, so evaluation goes on.
    assert np.isfinite(bn.eval()(x)).all()


def test_micro_batches_are_one_batch(layout, dtype):
    x = data(layout, dtype)
    bn, other = (BatchNorm(3, axis=axis_of(layout), eps=0, dtype=dtype) for _ in range(2))
    whole, parts = bn.accumulate([x[:2], x[2:]]), (x[:2], x[2:])
    for activation in (None, "relu"):
        whole = bn.accumulate(parts)
        flat_alone(np.concatenate([whole(part, activation=activation) for part in parts]), layout)
        flat_alone(np.concatenate(whole.backward(parts)), layout)
    other(x)
    np.testing.assert_array_equal(np.isnan(other(x)), np.isnan(np.concatenate([whole(part) for part in parts])))


def test_masked_training():
    x = np.random.default_rng(0).normal(3, 2, (4, 5, 64)).astype(np.float32)
    mask = np.arange(5) < 3
    x[:, :3, 7] = 1
    bn = BatchNorm(64, axis=-1, eps=0)
    y = bn(x, mask=mask)
    assert np.flatnonzero(np.isnan(y[:, :3]).any(axis=(0, 1))).tolist() == [7]
    assert (y[:, 3:] == 0).all()


def test_an_empty_batch(layout):
    x = data(layout, np.float32)[:0]
    bn = BatchNorm(3, axis=axis_of(layout), eps=0)
    bn(x)
    bn.backward(x)
    np.testing.assert_array_equal(bn.grad_gamma, 0)


MESSAGE = "{} is 0 in channel 1 and eps is 0; expected a positive variance or eps"
VAR = np.array([1.0, 0.0, 2.0])
X = np.ones((4, 3))


def stored(**options):
    bn = BatchNorm(3, eps=0, dtype=np.float64, **options)
    bn.load_state_dict({"weight": np.ones(3), "bias": np.ones(3), "running_mean": np.zeros(3), "running_var": VAR})
    return bn.eval()


GIVEN = {
    "inference": (lambda out: batch_norm_inference(X, np.zeros(3), VAR, eps=0, out=out), "var"),
    "inference of lists": (lambda out: batch_norm_inference(X, [0, 0, 0], [1, 0, 2], eps=0.0, out=out), "var"),
    "saved": (lambda out: Saved.from_statistics(np.zeros(3), VAR, eps=0), "var"),
    "affine": (lambda out: ChannelAffine.from_statistics(np.zeros(3), VAR, eps=-0.0), "var"),
    "layer": (lambda out: stored()(X, out=out), "running_var"),
    "layer, masked": (lambda out: stored()(X[..., None], out=out[..., None], mask=[True]), "running_var"),
    "frozen": (lambda out: stored().frozen(), "running_var"),
    "fold": (lambda out: fastbn.fold_linear(np.ones((3, 2)), None, stored()), "running_var"),
    "fold before": (lambda out: fastbn.fold_before_linear(stored(), np.ones((2, 3)), None), "running_var"),
}


@pytest.mark.parametrize("name", GIVEN)
def test_given_statistics_without_variance_are_named(name):
    call, what = GIVEN[name]
    out = np.full_like(X, 7)
    with pytest.raises(ValueError, match=MESSAGE.format(what)):
        call(out)
    assert (out == 7).all()


@pytest.mark.parametrize("var", [np.array(["a", "b", "c"]), np.ones(3, object), np.ones(3, complex)], ids=str)
def test_variances_that_are_no_numbers_are_named(var):
    with pytest.raises(TypeError, match=r"var has dtype .*; expected float32 or float64"):
        batch_norm_inference(X, np.zeros(3), var, eps=0)


def test_a_variance_that_becomes_zero_in_place_is_seen():
    bn = BatchNorm(3, eps=0).eval()
    bn(np.float32(X))
    bn.running_var[[0, 2]] = 0
    with pytest.raises(ValueError, match="running_var is 0 in channels 0, 2 and eps is 0"):
        bn(np.float32(X))
    bn.eps = 1e-5
    assert np.isfinite(bn(np.float32(X))).all()


def test_backward_of_evaluation_names_it_too():
    bn = BatchNorm(3, eps=0).eval()
    x = np.float32(X)
    bn(x)
    bn.running_var[1] = 0
    with pytest.raises(ValueError, match=MESSAGE.format("running_var")):
        bn.backward(x)


def test_many_channels_are_listed_shortly():
    with pytest.raises(ValueError, match="var is 0 in channels 0, 1, 2, 3, 4, 5, 6, 7 and 1992 more and eps is 0"):
        batch_norm_inference(np.ones((2, 2000)), np.zeros(2000), np.zeros(2000), eps=0)


def test_zero_is_exact_elsewhere(layout, dtype):
    x = data(layout, dtype)
    mean, var = np.array([1.0, 2.0, 3.0]), np.array([4.0, 0.25, 1.0])
    y = batch_norm_inference(x, mean, var, axis=axis_of(layout), eps=0)
    shape = (3, 1) if layout == "planes" else (3,)
    close(y, (x.astype(float) - mean.reshape(shape)) / np.sqrt(var).reshape(shape), dtype, 4)


def test_files_states_and_reports(tmp_path):
    bn = stored()
    bn.save(tmp_path / "layer.npz")
    other = BatchNorm.load(tmp_path / "layer.npz")
    assert other.eps == 0
    same_bits(other.running_var, VAR)
    report = bn.report(np.random.default_rng(0).standard_normal((9, 3)))
    assert report.dead.tolist() == [False, True, False]
    assert report.saturated.tolist() == [False, True, False]


@pytest.mark.parametrize("eps", [-1e-9, np.nan, np.inf, 1e-39, 5e-324])
def test_other_small_numbers_are_refused(eps):
    with pytest.raises(ValueError, match=r"eps must be 0, or finite and at least 1\.18e-38, got"):
        BatchNorm(3, eps=eps)
    assert BatchNorm(3, eps=float(np.finfo(np.float32).tiny))(np.full((4, 3), 7, np.float32)).tolist() == [[0] * 3] * 4
