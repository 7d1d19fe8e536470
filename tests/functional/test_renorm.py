"""Batch renormalization without state against its definition, batch normalization and finite differences."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

from fastbn import Ramp
from fastbn.functional import (
    batch_norm_backward,
    batch_norm_inference,
    batch_norm_training,
    batch_renorm_backward,
    batch_renorm_training,
)
from tests import oracle
from tests.cases import EMPTY_CASES, LARGE_CASES, SAMPLE_CASES, array, axis_of, case, inputs
from tests.compare import close, same_bits, unit
from tests.grid import over

LIMITS = (1.5, 0.4)
SMALL = case(6, 5, 3)


def running(c, i, dtype):
    """Statistics near those of the batch, so that some channels are clipped and some are not."""
    mean, var = oracle.moments(i.x, i.axis)
    rng = np.random.default_rng(c.channels)
    factor = np.exp(rng.normal(0, 0.5, c.channels))
    std = np.sqrt(var.astype(float) + 1e-5) * factor
    return (mean.astype(float) + rng.normal(0, 0.5, c.channels) * std).astype(dtype), std.astype(dtype)


@over((*SAMPLE_CASES, LARGE_CASES[0]))
def test_definition(case, layout, dtype, activation, with_residual):
    i, relu = inputs(case, layout, dtype), activation == "relu"
    given = running(case, i, dtype)
    residual = i.residual if with_residual else None
    options = {"axis": i.axis, "limits": LIMITS, "residual": residual, "relu": relu}
    right = oracle.renorm(i.x, i.dy, given, i.gamma, i.beta, **options)
    dy = np.where(np.abs(right.z) < 1e-4, 0, i.dy).astype(dtype) if relu else i.dy   # away from the kink
    right = oracle.renorm(i.x, dy, given, i.gamma, i.beta, **options)
    y, saved = batch_renorm_training(
        i.x, *given, i.gamma, i.beta, r_max=LIMITS[0], d_max=LIMITS[1], axis=i.axis, residual=residual,
        activation=activation, num_threads=2)
    close(y, right.y, dtype, 4, size=np.abs(right.z).max() + (np.abs(residual).max() if with_residual else 0))
    np.testing.assert_allclose(saved.r, right.r.astype(float), rtol=1e-12)
    np.testing.assert_allclose(saved.d, right.d.astype(float), rtol=1e-12, atol=1e-12)
    dx, dgamma, dbeta, *dresidual = batch_renorm_backward(dy, i.x, saved, i.gamma, axis=i.axis, num_threads=2)
    size = np.abs(i.gamma * saved.r * saved.batch.rstd).max() * np.abs(dy).max()
    close(dx, right.dx, dtype, 8 if dtype == np.float32 else 64, size)
    tolerance = np.abs(dy).sum() / case.channels * 4 * (5e-7 if dtype == np.float32 else 1e-14)
    np.testing.assert_allclose(dbeta, right.dbeta.astype(float), rtol=0, atol=tolerance)
    np.testing.assert_allclose(dgamma, right.dgamma.astype(float), rtol=0, atol=tolerance)
    if with_residual:
        np.testing.assert_array_equal(dresidual[0], np.where(right.z <= 0, 0, dy) if relu else dy)
    else:
        assert not dresidual


@pytest.mark.parametrize("ratio", [1.0, 1e2, 1e4, 1e6], ids="{:g}".format)
def test_accuracy(ratio, layout):
    c = case(64, 40, 7)
    x, axis = array(c, layout, mean=ratio), axis_of(layout)
    given = np.full(40, ratio - 1.0), np.full(40, 2.0)
    right = oracle.renorm(x, x, given, np.ones(40), np.zeros(40), limits=(3, 5), axis=axis)
    close(batch_renorm_training(x, *given, axis=axis)[0], right.y, np.float32, 4)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_halves(kind, layout):
    i = inputs(SMALL, layout, np.float32)
    x, dy = i.x.astype(kind), i.dy.astype(kind)
    given = running(SMALL, i, np.float64)
    right = oracle.renorm(x, dy, given, i.gamma, i.beta, limits=LIMITS, axis=i.axis)
    y, saved = batch_renorm_training(x, *given, i.gamma, i.beta, r_max=LIMITS[0], d_max=LIMITS[1], axis=i.axis)
    dx, *_ = batch_renorm_backward(dy, x, saved, i.gamma, axis=i.axis)
    assert y.dtype == dx.dtype == kind
    rounding = 2.0**-8 if kind == ml_dtypes.bfloat16 else 2.0**-11
    for got, want in ((y, right.y), (dx, right.dx)):
        assert np.abs(got.astype(float) - want.astype(float)).max() <= 2 * rounding * np.abs(want).max()


def test_without_correction_it_is_batch_norm(layout, dtype):
    i = inputs(SMALL, layout, dtype)
    y, saved = batch_renorm_training(
        i.x, i.mean, np.sqrt(i.var), i.gamma, i.beta, r_max=1, d_max=0, axis=i.axis)
    want, of = batch_norm_training(i.x, i.gamma, i.beta, axis=i.axis)
    close(y, want, dtype, 2)
    for got, exact in zip(batch_renorm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis),
                          batch_norm_backward(i.dy, i.x, of, i.gamma, axis=i.axis), strict=True):
        np.testing.assert_allclose(got, exact, rtol=0, atol=16 * unit(dtype) * np.abs(exact).max())


def test_without_limits_it_is_inference(layout, dtype):
    i = inputs(SMALL, layout, dtype)
    std = np.sqrt(i.var.astype(float) + 1e-5)
    y, saved = batch_renorm_training(
        i.x, i.mean, std, i.gamma, i.beta, r_max=np.inf, d_max=np.inf, axis=i.axis)
    close(y, batch_norm_inference(i.x, i.mean, i.var, i.gamma, i.beta, axis=i.axis), dtype, 4)
    assert saved.r.max() > 1.1


def test_finite_differences(layout):
    i = inputs(SMALL, layout, np.float64)
    given = running(SMALL, i, np.float64)
    y, saved = batch_renorm_training(i.x, *given, i.gamma, i.beta, r_max=LIMITS[0], d_max=LIMITS[1], axis=i.axis,
                                     activation="silu")
    assert (saved.r != 1).any()
    assert (saved.d != 0).any()
    r, d = saved.r, saved.d

    def loss(x, gamma, beta):       # r and d are constants
        return (batch_norm_training(x, gamma * r, beta + gamma * d, axis=i.axis, activation="silu")[0] * i.dy).sum()

    np.testing.assert_allclose(loss(i.x, i.gamma, i.beta), (y * i.dy).sum(), rtol=1e-12)
    arguments = [i.x.copy(), i.gamma.copy(), i.beta.copy()]
    step = 1e-6
    for values, gradient in zip(arguments, batch_renorm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis), strict=True):
        for index in np.ndindex(values.shape):
            kept = values[index]
            values[index] = kept + step
            above = loss(*arguments)
            values[index] = kept - step
            below = loss(*arguments)
            values[index] = kept
            assert (above - below) / (2 * step) == pytest.approx(float(gradient[index]), abs=2e-8)


@over(LARGE_CASES)
def test_bits_for_any_number_of_threads(case, layout, dtype):
    i = inputs(case, layout, dtype)
    results = []
    for threads in (1, 2, 3):
        y, saved = batch_renorm_training(
            i.x, i.mean, np.sqrt(i.var), i.gamma, i.beta, axis=i.axis, num_threads=threads)
        results.append((y, *batch_renorm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis, num_threads=threads)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            same_bits(a, b)


@over(EMPTY_CASES)
def test_empty(case, layout):
    x = array(case, layout)
    y, saved = batch_renorm_training(x, np.ones(3), np.ones(3), axis=axis_of(layout))
    assert y.shape == x.shape
    dx, dgamma, dbeta = batch_renorm_backward(x, x, saved, axis=axis_of(layout))
    assert dx.shape == x.shape
    assert not dgamma.any()
    assert not dbeta.any()


def test_arrays_of_all_kinds():
    x = np.random.default_rng(0).normal(2, 3, (4, 6, 5))
    want, of = batch_renorm_training(x, np.zeros(6), np.ones(6))
    wants = batch_renorm_backward(x, x, of)
    strided = np.repeat(x, 2, axis=2)[:, :, ::2]
    swapped = x.astype(x.dtype.newbyteorder("S"))
    frozen = x.copy()
    frozen.flags.writeable = False
    for other in (strided, swapped, frozen, np.asfortranarray(x), x[:, :, ::-1][:, :, ::-1], x.tolist()):
        y, saved = batch_renorm_training(other, [0.0] * 6, np.ones(6, np.float32))
        np.testing.assert_allclose(y, want, rtol=1e-13)
        np.testing.assert_allclose(batch_renorm_backward(other, other, saved)[0], wants[0], rtol=1e-9, atol=1e-13)
    out, dx = np.empty_like(x), np.empty_like(x)
    y, saved = batch_renorm_training(x, np.zeros(6), np.ones(6), out=out)
    assert y is out
    same_bits(y, want)
    assert batch_renorm_backward(x, x, saved, out=dx)[0] is dx
    same_bits(dx, wants[0])
    copied = x.copy()
    same_bits(batch_renorm_training(copied, np.zeros(6), np.ones(6), out=copied)[0], want)
    for again in (pickle.loads(pickle.dumps(of)), copy.deepcopy(of)):
        same_bits(batch_renorm_backward(x, x, again)[0], wants[0])


def test_nan_stays_in_its_channel_and_a_constant_channel_is_beta():
    x = np.random.default_rng(0).normal(2, 3, (8, 3))
    x[2, 0], x[:, 1] = np.nan, 7.0
    y, saved = batch_renorm_training(x, np.array([0, 7.0, 0]), np.ones(3), None, np.full(3, 0.25))
    assert np.isnan(y[:, 0]).all()
    np.testing.assert_array_equal(y[:, 1], 0.25)
    assert np.isfinite(y[:, 2]).all()
    dx, dgamma, _ = batch_renorm_backward(x, x, saved)
    assert np.isnan(dgamma[0])
    assert np.isfinite(dgamma[1:]).all()
    assert np.isfinite(dx[:, 2]).all()


X, M, S = np.ones((4, 3)), np.zeros(3), np.ones(3)
BAD = {
    "one value": (lambda: batch_renorm_training(X[:1], M, S), ValueError, "one value per channel"),
    "no mean": (lambda: batch_renorm_training(X, None, S), TypeError, "running_mean and running_std must be arrays"),
    "length": (lambda: batch_renorm_training(X, M, np.ones(2)), ValueError, r"running_std has shape \(2,\)"),
    "std": (lambda: batch_renorm_training(X, M, [1.0, 0.0, -1.0]), ValueError,
            "running_std must be positive, got 0 in channels 1, 2"),
    "r_max": (lambda: batch_renorm_training(X, M, S, r_max=0.9), ValueError, "r_max must be at least 1, got 0.9"),
    "r_max NaN": (lambda: batch_renorm_training(X, M, S, r_max=np.nan), ValueError, "r_max must be at least 1, got"),
    "d_max": (lambda: batch_renorm_training(X, M, S, d_max=-1), ValueError, "d_max must be at least 0, got -1"),
    "d_max text": (lambda: batch_renorm_training(X, M, S, d_max="5"), TypeError, "d_max must be a number, got '5'"),
    "dtype": (lambda: batch_renorm_training(X.astype(int), M, S), TypeError, "x has dtype int64"),
    "overlap": (lambda: batch_renorm_training(X[:3], M, S, out=X[1:]), ValueError, "out overlaps"),
    "activation": (lambda: batch_renorm_training(X, M, S, residual=X, activation="silu"), ValueError, "after a resid"),
    "saved": (lambda: batch_renorm_backward(X, X, batch_norm_training(X)[1]), TypeError, "saved must be a SavedRenorm"),
    "gamma": (lambda: batch_renorm_backward(X, X, batch_renorm_training(X, M, S)[1], np.ones(2)), ValueError,
              r"gamma has shape \(2,\)"),
    "dy": (lambda: batch_renorm_backward(X[:2], X, batch_renorm_training(X, M, S)[1]), ValueError, "dy has shape"),
    "ramp": (lambda: Ramp(1, 3, 10, 5), ValueError, "end must be at least 10, got 5"),
    "ramp step": (lambda: Ramp(1, 3, 0.5, 5), TypeError, "begin must be an integer"),
    "ramp value": (lambda: Ramp("1", 3, 0, 5), TypeError, "first must be a number, got '1'"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()


def test_ramp():
    ramp = Ramp(1, 3, 5000, 40000)
    assert [ramp(step) for step in (0, 5000, 14000, 40000, 10**9)] == [1, 1, pytest.approx(1 + 2 * 9 / 35), 3, 3]
    assert [Ramp(0, 5, 7, 7)(step) for step in (6, 7, 8)] == [0, 5, 5]
    assert [Ramp(1, np.inf, 3, 8)(step) for step in (3, 4, 8)] == [1, np.inf, np.inf]
    assert [Ramp(np.inf, 1, 3, 8)(step) for step in (3, 4, 8)] == [np.inf, np.inf, 1]
    assert pickle.loads(pickle.dumps(ramp)) == ramp == eval(repr(ramp))
