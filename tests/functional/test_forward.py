"""Both forwards against the oracle, over all cases x layout x dtype x activation x residual."""

import numpy as np
import pytest

from fastbn.functional import batch_norm_inference, batch_norm_training
from tests import oracle
from tests.cases import (
    CASES,
    EMPTY_CASES,
    LARGE_CASES,
    LARGE_PLANES,
    LARGE_ROWS,
    ODD_PLANES,
    SAMPLE_CASES,
    SMALL_PLANES,
    array,
    axis_of,
    inputs,
)
from tests.compare import close, same_bits
from tests.grid import over


def options(i, activation, with_residual):
    return {"axis": i.axis, "residual": i.residual if with_residual else None}, activation == "relu"


@over(CASES + LARGE_CASES)
def test_training(case, layout, dtype, activation, with_residual):
    i = inputs(case, layout, dtype)
    common, relu = options(i, activation, with_residual)
    y, saved = batch_norm_training(i.x, i.gamma, i.beta, activation=activation, num_threads=2, **common)
    right = oracle.forward(i.x, i.gamma, i.beta, relu=relu, wide=np.float64, **common)
    # In float64 the oracle rounds as much as what it judges.
    close(y, right.y, dtype, 4 if dtype == np.float32 else 64, np.abs(right.z).max())
    assert saved.count == case.count
    np.testing.assert_allclose(saved.mean, right.mean, rtol=0, atol=5e-7 if dtype == np.float32 else 1e-14)
    np.testing.assert_allclose(saved.var, right.var, rtol=5e-7 if dtype == np.float32 else 1e-13)
    np.testing.assert_allclose(saved.rstd, 1 / np.sqrt(saved.var + 1e-5), rtol=1e-15)


@over(CASES + LARGE_CASES)
def test_inference(case, layout, dtype, activation, with_residual):
    i = inputs(case, layout, dtype)
    common, relu = options(i, activation, with_residual)
    y = batch_norm_inference(i.x, i.mean, i.var, i.gamma, i.beta, activation=activation, num_threads=2, **common)
    right = oracle.forward(i.x, i.gamma, i.beta, mean=i.mean, var=i.var, relu=relu, wide=np.float64, **common)
    close(y, right.y, dtype, 4 if dtype == np.float32 else 16, np.abs(right.z).max())


@pytest.mark.parametrize("case", EMPTY_CASES, ids=lambda c: c.name)
def test_empty(case, layout, dtype, activation, with_residual):
    i = inputs(case, layout, dtype)
    common, _ = options(i, activation, with_residual)
    y, saved = batch_norm_training(i.x, i.gamma, i.beta, activation=activation, **common)
    z = batch_norm_inference(i.x, i.mean, i.var, i.gamma, i.beta, activation=activation, **common)
    for result in (y, z):
        assert result.shape == i.x.shape
        assert result.dtype == dtype
    assert saved.count == 0
    assert saved.mean.shape == saved.var.shape == saved.rstd.shape == (3,)


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 1e-3, 1.0, 1e10])
@pytest.mark.parametrize(("gamma", "beta"), [(False, False), (True, False), (False, True)])
def test_eps_and_missing_parameters(layout, dtype, eps, gamma, beta):
    i = inputs(ODD_PLANES, layout, dtype)
    given = {"gamma": i.gamma if gamma else None, "beta": i.beta if beta else None, "axis": i.axis, "eps": eps}
    y, _ = batch_norm_training(i.x, **given)
    close(y, oracle.forward(i.x, **given).y, dtype, 8)
    z = batch_norm_inference(i.x, i.mean, i.var, **given)
    close(z, oracle.forward(i.x, mean=i.mean, var=i.var, **given).y, dtype, 8)


@pytest.mark.parametrize("parameters", ["float32", "float64", "list", "strided"])
def test_parameters_of_another_kind(layout, dtype, parameters):
    i = inputs(ODD_PLANES, layout, dtype)
    kinds = {"list": lambda v: v.tolist(), "strided": lambda v: np.repeat(v, 2)[::2]}
    convert = kinds.get(parameters, lambda v: v.astype(parameters))
    gamma, beta = convert(i.gamma), convert(i.beta)
    y, _ = batch_norm_training(i.x, gamma, beta, axis=i.axis)
    close(y, oracle.forward(i.x, gamma, beta, axis=i.axis).y, dtype, 8)
    z = batch_norm_inference(i.x, convert(i.mean), convert(i.var), gamma, beta, axis=i.axis)
    close(z, oracle.forward(i.x, gamma, beta, mean=convert(i.mean), var=convert(i.var), axis=i.axis).y, dtype, 8)


@over((*SAMPLE_CASES, LARGE_PLANES, LARGE_ROWS))
def test_where_the_result_goes(case, layout, dtype, activation, with_residual):
    i = inputs(case, layout, dtype)
    common, _ = options(i, activation, with_residual)
    common["activation"] = activation
    fresh, _ = batch_norm_training(i.x, i.gamma, i.beta, **common)
    frozen = batch_norm_inference(i.x, i.mean, i.var, i.gamma, i.beta, **common)
    out = np.full_like(i.x, np.nan)
    y, _ = batch_norm_training(i.x, i.gamma, i.beta, out=out, **common)
    assert y is out
    same_bits(y, fresh)
    out = np.full_like(i.x, np.nan)
    assert batch_norm_inference(i.x, i.mean, i.var, i.gamma, i.beta, out=out, **common) is out
    same_bits(out, frozen)
    for target in ("x", "residual") if with_residual else ("x",):
        i = inputs(case, layout, dtype)
        common["residual"] = i.residual if with_residual else None
        y, _ = batch_norm_training(i.x, i.gamma, i.beta, out=getattr(i, target), **common)
        assert y is getattr(i, target)
        same_bits(y, fresh)
        i = inputs(case, layout, dtype)
        common["residual"] = i.residual if with_residual else None
        same_bits(batch_norm_inference(i.x, i.mean, i.var, i.gamma, i.beta, out=getattr(i, target), **common), frozen)


def test_inputs_are_left_alone(layout, dtype, activation):
    i, before = inputs(SMALL_PLANES, layout, dtype), inputs(SMALL_PLANES, layout, dtype)
    batch_norm_training(i.x, i.gamma, i.beta, axis=i.axis, residual=i.residual, activation=activation)
    batch_norm_inference(i.x, i.mean, i.var, i.gamma, i.beta, axis=i.axis, residual=i.residual, activation=activation)
    for now, then in zip(i[:-1], before[:-1], strict=True):
        same_bits(now, then)


def test_relu_is_zero_and_lets_nan_through(layout, dtype):
    x = array(SMALL_PLANES, layout, dtype)
    x.flat[0] = np.nan
    clean = np.delete(np.arange(64), 0)
    y = batch_norm_inference(x, np.zeros(64), np.ones(64), axis=axis_of(layout), activation="relu")
    assert np.isnan(y.flat[0])
    assert np.isnan(y).sum() == 1
    y, _ = batch_norm_training(x, axis=axis_of(layout), activation="relu")
    channels = np.moveaxis(y, axis_of(layout), 0).reshape(64, -1)
    assert np.isnan(channels[0]).all()
    assert (channels[clean] >= 0).all()
    assert not np.signbit(channels[clean]).any()


def test_a_scale_beyond_float64_raises_no_floating_point_error():
    # With a ReLU, gamma * rstd is computed again after y has been written.
    x = np.array([[1.0, 1.0], [1.0, 2.0]])
    with np.errstate(all="raise"):
        y, _ = batch_norm_training(x, np.array([1e300, 1.0]), eps=1e-30, activation="relu")
    np.testing.assert_allclose(y[:, 1], [0, 1])
