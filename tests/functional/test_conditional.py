"""Conditional batch normalization without state, against the definition."""

import numpy as np
import pytest

from fastbn.functional import (
    Saved,
    batch_norm_backward,
    batch_norm_training,
    conditional_batch_norm_backward,
    conditional_batch_norm_inference,
    conditional_batch_norm_training,
)
from tests.awkward import INPUTS, SHAPE, WRITABLE, by_name, values
from tests.compare import same_bits
from tests.conditional import DTYPES, SHAPES, arrays, exact, units


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("kind", DTYPES, ids=lambda kind: np.dtype(kind).name)
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_against_the_definition(shape, axis, kind, relu):
    x, gamma, beta, dy = arrays(shape, axis, kind)
    want = exact(x, gamma, beta, dy, axis=axis, relu=relu)
    activation = "relu" if relu else None
    y, saved = conditional_batch_norm_training(x, gamma, beta, axis=axis, activation=activation)
    dx, dgamma, dbeta = conditional_batch_norm_backward(dy, x, saved, gamma, axis=axis)
    assert y.dtype == dx.dtype == np.dtype(kind)
    assert y.shape == dx.shape == shape
    assert units(y, want.y, kind) < 4
    assert units(dx, want.dx, kind) < 4
    sums = np.float64 if kind == np.float64 else np.float32
    assert dgamma.dtype == dbeta.dtype == np.float64
    assert units(dgamma, want.dgamma, sums) < 8
    assert units(dbeta, want.dbeta, sums) < 8


@pytest.mark.parametrize("mean", [1e2, 1e4, 1e6])
def test_accuracy_at_a_large_mean(mean):
    dtype = np.float32
    x, gamma, beta, dy = arrays((6, 5, 12, 12), 1, dtype, mean=mean)
    want = exact(x, gamma, beta, dy)
    y, saved = conditional_batch_norm_training(x, gamma, beta)
    dx, *_ = conditional_batch_norm_backward(dy, x, saved, gamma)
    assert units(y, want.y, dtype) < 4
    assert units(dx, want.dx, dtype) < 4


@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_given_statistics(shape, axis, dtype):
    x, gamma, beta, dy = arrays(shape, axis, dtype)
    statistics = np.linspace(-1, 1, gamma.shape[1]), np.linspace(0.5, 2, gamma.shape[1])
    want = exact(x, gamma, beta, dy, axis=axis, statistics=statistics)
    y = conditional_batch_norm_inference(x, *statistics, gamma, beta, axis=axis)
    saved = Saved.from_statistics(*statistics)
    dx, dgamma, dbeta = conditional_batch_norm_backward(dy, x, saved, gamma, axis=axis)
    assert units(y, want.y, dtype) < 4
    assert units(dx, want.dx, dtype) < 4
    assert units(dgamma, want.dgamma, dtype) < 8
    assert units(dbeta, want.dbeta, dtype) < 8


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES[:4], ids=str)
def test_equal_samples_are_a_batch_norm(shape, axis, activation, dtype):
    x, gamma, beta, dy = arrays(shape, axis, dtype)
    gamma, beta = gamma[-1], beta[-1]
    many = [np.tile(vector, (len(arrays(shape, axis, dtype)[1]), 1)) for vector in (gamma, beta)]
    y, saved = conditional_batch_norm_training(x, *many, axis=axis, activation=activation)
    dx, dgamma, dbeta = conditional_batch_norm_backward(dy, x, saved, many[0], axis=axis)
    want, other = batch_norm_training(x, gamma, beta, axis=axis, activation=activation)
    want_dx, *sums = batch_norm_backward(dy, x, other, gamma, axis=axis)
    tolerance = {"rtol": 0, "atol": 40 * np.finfo(dtype).eps}
    np.testing.assert_allclose(y, want, **tolerance)
    np.testing.assert_allclose(dx, want_dx, **tolerance)
    np.testing.assert_allclose(dgamma.sum(0), sums[0], rtol=1e-5 if dtype == np.float32 else 1e-13, atol=1e-4)
    np.testing.assert_allclose(dbeta.sum(0), sums[1], rtol=1e-5 if dtype == np.float32 else 1e-13, atol=1e-4)


@pytest.mark.parametrize("activation", ["gelu", "elu", ("leaky_relu", 0.2)], ids=str)
def test_finite_differences(activation):
    x, gamma, beta, dy = arrays((4, 3, 5), 1, np.float64, seed=3)

    def loss(x, gamma, beta):
        return (conditional_batch_norm_training(x, gamma, beta, activation=activation)[0] * dy).sum()

    _, saved = conditional_batch_norm_training(x, gamma, beta, activation=activation)
    given = [x, gamma, beta]
    for k, gradient in enumerate(conditional_batch_norm_backward(dy, x, saved, gamma)):
        for at in np.random.default_rng(k).choice(gradient.size, 8, replace=False):
            step = np.zeros(gradient.size)
            step[at] = 1e-5
            ends = [loss(*(a + sign * step.reshape(a.shape) if k == j else a for j, a in enumerate(given)))
                    for sign in (1, -1)]
            np.testing.assert_allclose(gradient.reshape(-1)[at], (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("axes", [(1, 2), (2, 1), (1, 3)], ids=str)
def test_several_channel_axes(axes, dtype):
    x, dy = (np.random.default_rng(seed).normal(1, 2, (5, 3, 4, 6)).astype(dtype) for seed in (0, 1))
    sizes = [x.shape[k] for k in axes]
    merged = [np.moveaxis(a, axes, (1, 2)).reshape(5, np.prod(sizes), -1) for a in (x, dy)]
    _, gamma, beta, _ = arrays(merged[0].shape, 1, dtype)
    want = exact(merged[0], gamma, beta, merged[1])
    y, saved = conditional_batch_norm_training(x, gamma, beta, axis=axes)
    dx, dgamma, _ = conditional_batch_norm_backward(dy, x, saved, gamma, axis=axes)
    for got, right in ((y, want.y), (dx, want.dx)):
        assert got.shape == x.shape
        assert units(np.moveaxis(got, axes, (1, 2)).reshape(merged[0].shape), right, dtype) < 4
    assert units(dgamma, want.dgamma, dtype) < 8


@pytest.mark.parametrize("make", INPUTS, **by_name)
@pytest.mark.parametrize("axis", [0, 1, 3])
def test_memory_of_inputs(make, axis, dtype):
    x, dy = values(dtype), values(dtype, seed=1)
    _, gamma, beta, _ = arrays(SHAPE, axis, dtype)
    want, saved = conditional_batch_norm_training(x, gamma, beta, axis=axis, activation="relu")
    gradients = conditional_batch_norm_backward(dy, x, saved, gamma, axis=axis)
    y, saved = conditional_batch_norm_training(make(x), gamma, beta, axis=axis, activation="relu")
    np.testing.assert_allclose(y, want, rtol=0, atol=30 * np.finfo(dtype).eps)
    for got, right in zip(conditional_batch_norm_backward(make(dy), make(x), saved, gamma, axis=axis), gradients,
                          strict=True):
        np.testing.assert_allclose(got, right, rtol=0, atol=400 * np.finfo(dtype).eps)


@pytest.mark.parametrize("make", WRITABLE, **by_name)
@pytest.mark.parametrize("target", ["buffer", "x", "dy"])
def test_out(make, target, dtype):
    x, gamma, beta, dy = arrays(SHAPE, 1, dtype)
    want, saved = conditional_batch_norm_training(x, gamma, beta)
    gradient, *_ = conditional_batch_norm_backward(dy, x, saved, gamma)
    given, upstream = make(x.copy()), make(dy.copy())
    y = make(np.full_like(x, np.nan)) if target != "x" else given
    result, saved = conditional_batch_norm_training(given, gamma, beta, out=y)
    assert result is y
    np.testing.assert_allclose(y, want, rtol=0, atol=30 * np.finfo(dtype).eps)
    given = make(x.copy())
    dx = {"buffer": make(np.full_like(x, np.nan)), "x": given, "dy": upstream}[target]
    result, *_ = conditional_batch_norm_backward(upstream, given, saved, gamma, out=dx)
    assert result is dx
    np.testing.assert_allclose(dx, gradient, rtol=0, atol=30 * np.finfo(dtype).eps)


def test_strided_and_byte_swapped_parameters():
    x, gamma, beta, dy = arrays((5, 7, 6, 6), 1, np.float32)
    want, saved = conditional_batch_norm_training(x, gamma, beta)
    odd = [np.repeat(matrix, 2, axis=1)[:, ::2].astype(matrix.dtype.newbyteorder()) for matrix in (gamma, beta)]
    y, _ = conditional_batch_norm_training(x, *odd)
    same_bits(y, want)
    same_bits(conditional_batch_norm_training(x, gamma.tolist(), beta.tolist())[0], want)
    same_bits(conditional_batch_norm_backward(dy, x, saved, odd[0])[0],
              conditional_batch_norm_backward(dy, x, saved, gamma)[0])


@pytest.mark.parametrize("missing", ["gamma", "beta"])
def test_without_gamma_or_beta(missing, dtype):
    x, gamma, beta, dy = arrays((5, 7, 6, 6), 1, dtype)
    given = {"gamma": gamma, "beta": beta, missing: None}
    filled = given | {missing: np.full(gamma.shape, 1.0 if missing == "gamma" else 0.0)}
    y, saved = conditional_batch_norm_training(x, **given)
    want, other = conditional_batch_norm_training(x, **filled)
    same_bits(y, want)
    for got, right in zip(conditional_batch_norm_backward(dy, x, saved, given["gamma"]),
                          conditional_batch_norm_backward(dy, x, other, filled["gamma"]), strict=True):
        same_bits(got, right)


@pytest.mark.parametrize(("shape", "axis"), [((8, 24, 40, 40), 1), ((8, 40, 40, 24), -1), ((300, 4, 9), -1)], ids=str)
def test_same_bits_for_any_number_of_threads(shape, axis):
    x, gamma, beta, dy = arrays(shape, axis, np.float32)
    results = []
    for threads in (1, 2, 3):
        y, saved = conditional_batch_norm_training(x, gamma, beta, axis=axis, activation="relu", num_threads=threads)
        results.append((y, *conditional_batch_norm_backward(dy, x, saved, gamma, axis=axis, num_threads=threads)))
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            same_bits(got, want)


def test_a_constant_channel_gives_beta(dtype):
    x, gamma, beta, dy = arrays((5, 7, 6, 6), 1, dtype)
    x[:, 2] = 1.1e7
    y, saved = conditional_batch_norm_training(x, gamma, beta)
    np.testing.assert_array_equal(y[:, 2], np.broadcast_to(beta[:, 2, None, None].astype(dtype), y[:, 2].shape))
    dx, dgamma, _ = conditional_batch_norm_backward(dy, x, saved, gamma)
    assert np.isfinite(dx).all()
    np.testing.assert_array_equal(dgamma[:, 2], 0)


def test_nan_stays_in_its_channel(dtype):
    x, gamma, beta, dy = arrays((5, 7, 6, 6), 1, dtype)
    x[1, 2, 3, 3] = np.nan
    y, saved = conditional_batch_norm_training(x, gamma, beta)
    dx, *_ = conditional_batch_norm_backward(dy, x, saved, gamma)
    for array in (y, dx):
        assert np.isnan(array[:, 2]).all()
        assert np.isfinite(np.delete(array, 2, axis=1)).all()


@pytest.mark.parametrize("shape", [(0, 3, 4), (4, 3, 0), (4, 0, 3)], ids=str)
def test_empty(shape, dtype):
    x, matrix = np.zeros(shape, dtype), np.ones(shape[:2])
    y, saved = conditional_batch_norm_training(x, matrix, matrix, activation="silu")
    dx, dgamma, dbeta = conditional_batch_norm_backward(x, x, saved, matrix)
    assert y.shape == dx.shape == shape
    np.testing.assert_array_equal(dgamma, np.zeros(shape[:2]))
    np.testing.assert_array_equal(dbeta, np.zeros(shape[:2]))


X = np.ones((2, 3, 4), np.float32)
M = np.ones((2, 3), np.float32)
BAD = {
    "vector": ((X, M[0], M), ValueError, r"gamma has shape \(3,\); expected \(N, C\), .* of x, \(2, 3\)"),
    "transposed": ((X, M, M.T), ValueError, r"beta has shape \(3, 2\); expected \(N, C\)"),
    "integers": ((X, M.astype(int), M), TypeError, "gamma has dtype int64; expected float32 or float64"),
    "one value": ((X[:1, :, :1], M[:1], M[:1]), ValueError, "one value per channel along axis 1"),
    "integer x": ((X.astype(int), M, M), TypeError, "x has dtype int64"),
    "one axis": ((X[0, 0], M, M), ValueError, "expected two or more dimensions"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(arguments, error, message):
    out = np.full_like(arguments[0], 7)
    with pytest.raises(error, match=message):
        conditional_batch_norm_training(*arguments, out=out)
    np.testing.assert_array_equal(out, 7)


def test_bad_settings():
    with pytest.raises(ValueError, match="activation must be None"):
        conditional_batch_norm_training(X, M, M, activation="swish")
    with pytest.raises(ValueError, match="eps must be 0, or finite"):
        conditional_batch_norm_training(X, M, M, eps=-1)
    with pytest.raises(ValueError, match=r"var has negative values, down to -1\.0, in channel 1"):
        conditional_batch_norm_inference(X, np.zeros(3), [1.0, -1.0, 1.0], M, M)
    with pytest.raises(ValueError, match=r"mean has shape \(2,\); expected \(3,\)"):
        conditional_batch_norm_inference(X, np.zeros(2), np.ones(2), M, M)
    with pytest.raises(TypeError, match="mean and var must be arrays, got None"):
        conditional_batch_norm_inference(X, None, np.ones(3), M, M)


def test_saved_of_another_forward_pass():
    x, gamma, beta, dy = arrays((5, 7, 6), 1, np.float32)
    _, saved = batch_norm_training(x, activation="silu")
    with pytest.raises(ValueError, match="its scale has 7 values; expected 35"):
        conditional_batch_norm_backward(dy, x, saved, gamma)
    _, saved = batch_norm_training(x, residual=x)
    with pytest.raises(ValueError, match="has no residual"):
        conditional_batch_norm_backward(dy, x, saved, gamma)
    _, saved = conditional_batch_norm_training(x, gamma, beta, activation="silu")
    with pytest.raises(ValueError, match=r"scale has shape|shift has shape"):
        batch_norm_backward(dy, x, saved)
    with pytest.raises(ValueError, match=r"x has shape \(4, 7, 6\); expected that of the forward pass"):
        conditional_batch_norm_backward(dy[:4], x[:4], saved, gamma[:4])
