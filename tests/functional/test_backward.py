"""The backward pass against the oracle and against finite differences."""

import numpy as np
import pytest

from fastbn.functional import Saved, batch_norm_backward, batch_norm_inference, batch_norm_training
from tests import oracle
from tests.cases import (
    CASES,
    EMPTY_CASES,
    LARGE_CASES,
    LARGE_PLANES,
    LARGE_ROWS,
    SAMPLE_CASES,
    SMALL_PLANES,
    arranged,
    axis_of,
    inputs,
)
from tests.compare import close, same_bits
from tests.grid import over


def away_from_the_kink(dy, z, relu):
    """A gradient without a say where rounding decides whether the ReLU is open."""
    return np.where(np.abs(z) < 1e-4, 0, dy).astype(dy.dtype) if relu else dy


def check(got, right, dtype, gamma_rstd, with_residual):
    dx, dgamma, dbeta, *dresidual = got
    units = 8 if dtype == np.float32 else 64
    close(dx, right.dx, dtype, units, np.abs(gamma_rstd).max() * np.abs(right.dresidual).max())
    # Relative to what is summed, not to what is left of it.
    size = np.abs(right.dresidual).sum() / len(dbeta)
    tolerance = size * 4 * (5e-7 if dtype == np.float32 else 1e-14)
    np.testing.assert_allclose(dbeta, right.dbeta, rtol=0, atol=tolerance)
    np.testing.assert_allclose(dgamma, right.dgamma, rtol=0, atol=tolerance)
    assert dbeta.dtype == dgamma.dtype == np.float64
    assert len(dresidual) == with_residual
    for d in dresidual:
        np.testing.assert_array_equal(d, right.dresidual)
        assert d.dtype == dtype


@over(CASES + LARGE_CASES)
def test_batch_statistics(case, layout, dtype, activation, with_residual):
    i = inputs(case, layout, dtype)
    relu = activation == "relu"
    common = {"axis": i.axis, "residual": i.residual if with_residual else None}
    of = oracle.forward(i.x, i.gamma, i.beta, relu=relu, wide=np.float64, **common)
    dy = away_from_the_kink(i.dy, of.z, relu)
    _, saved = batch_norm_training(i.x, i.gamma, i.beta, activation=activation, num_threads=2, **common)
    got = batch_norm_backward(dy, i.x, saved, i.gamma, axis=i.axis, num_threads=2)
    right = oracle.backward(dy, i.x, of, i.gamma, axis=i.axis, relu=relu, wide=np.float64)
    check(got, right, dtype, of.rstd * i.gamma, with_residual)


@over(CASES + LARGE_CASES)
def test_frozen_statistics(case, layout, dtype):
    i = inputs(case, layout, dtype)
    of = oracle.forward(i.x, i.gamma, axis=i.axis, mean=i.mean, var=i.var, wide=np.float64)
    saved = Saved.from_statistics(i.mean, i.var)
    got = batch_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis, num_threads=2)
    right = oracle.backward(i.dy, i.x, of, i.gamma, axis=i.axis, frozen=True, wide=np.float64)
    dx, dgamma, dbeta = got
    close(dx, right.dx, dtype, 3 if dtype == np.float32 else 8)
    tolerance = 2e-6 if dtype == np.float32 else 1e-13
    size = np.abs((i.x - oracle.along(i.mean, i.x, i.axis, np.float64)) * i.dy).sum() / case.channels + case.count
    np.testing.assert_allclose(dbeta, right.dbeta, rtol=0, atol=tolerance * size)
    np.testing.assert_allclose(dgamma, right.dgamma, rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("case", EMPTY_CASES, ids=lambda c: c.name)
def test_empty(case, layout, dtype, activation, with_residual):
    i = inputs(case, layout, dtype)
    residual = i.residual if with_residual else None
    _, saved = batch_norm_training(i.x, i.gamma, axis=i.axis, residual=residual, activation=activation)
    dx, dgamma, dbeta, *dresidual = batch_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis)
    assert len(dresidual) == with_residual
    for d in (dx, *dresidual):
        assert d.shape == i.x.shape
        assert d.dtype == dtype
    np.testing.assert_array_equal(dgamma, np.zeros(3))
    np.testing.assert_array_equal(dbeta, np.zeros(3))


@over((*SAMPLE_CASES, LARGE_PLANES, LARGE_ROWS))
def test_where_the_result_goes(case, layout, dtype, activation, with_residual):
    def run(target):
        i = inputs(case, layout, dtype)
        residual = i.residual if with_residual else None
        _, saved = batch_norm_training(i.x, i.gamma, i.beta, axis=i.axis, residual=residual, activation=activation)
        out = {"new": None, "given": np.full_like(i.x, np.nan), "dy": i.dy, "x": i.x}[target]
        results = batch_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis, out=out)
        if out is not None:
            assert results[0] is out
        return results

    fresh = run("new")
    for target in ("given", "dy", "x"):
        for a, b in zip(run(target), fresh, strict=True):
            same_bits(a, b)


def test_inputs_are_left_alone(layout, dtype, activation):
    i, before = inputs(SMALL_PLANES, layout, dtype), inputs(SMALL_PLANES, layout, dtype)
    _, saved = batch_norm_training(i.x, i.gamma, i.beta, axis=i.axis, residual=i.residual, activation=activation)
    batch_norm_backward(i.dy, i.x, saved, i.gamma, axis=i.axis)
    for now, then in zip(i[:-1], before[:-1], strict=True):
        same_bits(now, then)


@pytest.mark.parametrize("frozen", [False, True], ids=["batch", "frozen"])
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 2, 2)], ids=str)
def test_finite_differences(shape, frozen, layout, activation, with_residual):
    if frozen and (activation or with_residual):
        # The layer puts these together with frozen statistics: test_layer.py.
        activation, with_residual = None, False
    rng = np.random.default_rng(3)
    axis = axis_of(layout)
    x, residual, weights = (arranged(rng.standard_normal(shape), layout) for _ in range(3))
    gamma, beta, mean = rng.standard_normal((3, 3))
    var = rng.uniform(0.5, 2, 3)
    parts = {"x": x, "gamma": gamma, "beta": beta, "residual": residual}

    def loss():
        common = {"axis": axis, "residual": residual if with_residual else None, "activation": activation}
        if frozen:
            return float((weights * batch_norm_inference(x, mean, var, gamma, beta, **common)).sum())
        return float((weights * batch_norm_training(x, gamma, beta, **common)[0]).sum())

    def difference(values, step=1e-5):
        out = np.empty(values.size)
        for k in range(values.size):
            before = values.flat[k]
            sides = []
            for value in (before + step, before - step):
                values.flat[k] = value
                sides.append(loss())
            values.flat[k] = before
            out[k] = (sides[0] - sides[1]) / (2 * step)
        return out.reshape(values.shape)

    saved = Saved.from_statistics(mean, var) if frozen else batch_norm_training(
        x, gamma, beta, axis=axis, residual=residual if with_residual else None, activation=activation)[1]
    gradients = dict(zip(parts, batch_norm_backward(weights, x, saved, gamma, axis=axis), strict=False))
    assert len(gradients) == 3 + with_residual
    for name, gradient in gradients.items():
        expected = difference(parts[name])
        assert np.abs(gradient - expected).max() <= 1e-6 * max(1, np.abs(expected).max()), name


def test_a_mask_made_in_another_order_of_memory(dtype):
    # The backward pass takes a copy of x whose channels are not last in memory, as those of the forward pass are.
    i = inputs(SMALL_PLANES, "planes", dtype)
    x = np.moveaxis(np.ascontiguousarray(np.moveaxis(i.x, 1, -1)), -1, 1)
    _, saved = batch_norm_training(x, i.gamma, i.beta, residual=i.residual, activation="relu")
    expected = batch_norm_backward(i.dy, x, saved, i.gamma)
    got = batch_norm_backward(i.dy, i.x, saved, i.gamma)
    np.testing.assert_array_equal(got[3], expected[3])
    np.testing.assert_allclose(got[0], expected[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (60, 3, 2), (120, 3, 1, 1)])
def test_a_backward_of_another_shape_is_refused(shape):
    # As many channels and values as the forward pass had, but the mask lies otherwise.
    x = np.asfortranarray(np.random.default_rng(0).standard_normal((120, 3), np.float32))
    _, saved = batch_norm_training(x, residual=x, activation="relu")
    other = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=r"x has shape .*; expected that of the forward pass"):
        batch_norm_backward(other, other, saved)


def test_a_backward_along_another_axis_is_refused():
    x = np.random.default_rng(0).standard_normal((3, 3, 4), np.float32)
    _, saved = batch_norm_training(x, axis=1)
    with pytest.raises(ValueError, match="axis 0 is not that of the forward pass, 1"):
        batch_norm_backward(x, x, saved, axis=0)


def test_an_empty_batch_checks_gamma():
    x = np.ones((0, 3), np.float32)
    _, saved = batch_norm_training(x)
    with pytest.raises(ValueError, match=r"gamma has shape \(4,\); expected \(3,\)"):
        batch_norm_backward(x, x, saved, np.ones(4))
