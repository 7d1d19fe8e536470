"""Whitening against its definition: covariances of results, accuracy, layouts, groups and degenerate batches."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest

from fastbn.functional import (
    WhiteningSaved,
    batch_norm_backward,
    batch_norm_training,
    whitening_backward,
    whitening_inference,
    whitening_training,
)
from fastbn.functional.inverse_root import EigenRoot, NewtonRoot
from tests.awkward import INPUTS, SHAPE, WRITABLE, by_name, values
from tests.compare import same_bits
from tests.whitening import as_matrices, correlated, covariance, newton, whiten

METHODS = ["zca", "iternorm"]
# Images, few and many positions per image, vectors, and more blocks than one along either axis.
SHAPES = [(40, 6), (5, 6, 3, 4), (3, 6, 90001), (20000, 6, 3), (100000, 6), (4, 6, 5, 2, 3)]


def parameters(channels, seed=1):
    return np.random.default_rng(seed).normal(1, 0.5, (2, channels))


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_definition(shape, method, groups, last):
    x = correlated(shape)
    gamma, beta = parameters(6)
    want, mean, matrix = whiten(x, groups, gamma=gamma, beta=beta, method=method)
    if last:
        x, want = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, want))
    y, saved = whitening_training(x, gamma, beta, groups=groups, method=method, axis=-1 if last else 1)
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-10)
    np.testing.assert_allclose(saved.mean, mean, rtol=1e-13)
    np.testing.assert_allclose(saved.matrix, matrix, rtol=0, atol=1e-10 * abs(matrix).max())
    assert saved.count == x.size // 6
    given = whitening_inference(x, mean, matrix, gamma, beta, axis=-1 if last else 1)
    np.testing.assert_allclose(given, want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e6])
def test_zca_gives_the_identity(condition, groups):
    x = correlated((16, 32, 10, 10), condition=condition)
    y, _ = whitening_training(x, groups=groups, eps=1e-15)
    assert abs(covariance(y, groups) - np.eye(32 // groups)).max() < 1e-6
    assert abs(y.mean(axis=(0, 2, 3))).max() < 1e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 1e-3), ("bfloat16", 1e-2)])
def test_zca_gives_the_identity_after_one_rounding(dtype, tolerance):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    x = correlated((16, 32, 10, 10), mean=0).astype(dtype)
    y, _ = whitening_training(x, eps=1e-15)
    assert y.dtype == dtype
    assert abs(covariance(y) - np.eye(32)).max() < tolerance


def test_eps_leaves_a_share_of_each_variance():
    # In the directions of the eigenvectors, v becomes v / (v + eps).
    x = correlated((4000, 8), condition=1e4)
    values, vectors = np.linalg.eigh(covariance(x)[0])
    got = vectors.T @ covariance(whitening_training(x, eps=1e-3)[0])[0] @ vectors
    np.testing.assert_allclose(got, np.diag(values / (values + 1e-3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("iterations", [1, 5, 9, 60])
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
def test_iternorm_gives_the_stated_variances(condition, iterations):
    # With s the share of an eigenvalue in the trace, its variance becomes newton(s).
    x = correlated((4000, 16), condition=condition)
    y, _ = whitening_training(x, method="iternorm", iterations=iterations, eps=1e-15)
    values, vectors = np.linalg.eigh(covariance(x)[0])
    got = vectors.T @ covariance(y)[0] @ vectors
    np.testing.assert_allclose(got, np.diag(newton(values / values.sum(), iterations)), rtol=0, atol=1e-9)
    # The smallest share is at least 1 / (1 + (D - 1) * condition), and newton() increases.
    bound = 1 - newton(1 / (1 + 15 * values[-1] / values[0]), iterations)
    assert 1 - np.linalg.eigvalsh(covariance(y)[0])[0] <= bound + 1e-9
    if iterations == 60:
        assert abs(covariance(y) - np.eye(16)).max() < 1e-9


def test_groups_of_one_channel_are_batch_norm():
    x = correlated((8, 5, 6, 7)).astype(np.float32)
    dy = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)
    gamma, beta = parameters(5)
    y, saved = whitening_training(x, gamma, beta, groups=5)
    want, other = batch_norm_training(x, gamma, beta)
    np.testing.assert_allclose(y, want, rtol=0, atol=2e-6)
    np.testing.assert_allclose(saved.matrix.reshape(-1), other.rstd, rtol=1e-7)
    gradients = zip(whitening_backward(dy, x, saved, gamma), batch_norm_backward(dy, x, other, gamma), strict=True)
    for got, exact in gradients:
        np.testing.assert_allclose(got, exact, rtol=0, atol=1e-6 * abs(exact).max())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mean", [0.0, 1e3, 1e6])
def test_float64_accuracy_about_a_large_mean(mean, method):
    x = correlated((2000, 8), mean=mean)
    y, _ = whitening_training(x, method=method)
    centred = (x.astype(np.longdouble) - x.astype(np.longdouble).mean(axis=0)).astype(np.float64)
    np.testing.assert_allclose(y, whiten(centred, method=method)[0], rtol=0, atol=1e-11 + 1e-14 * mean)


@pytest.mark.parametrize("method", METHODS)
def test_float32_is_rounded_once(method):
    x = correlated((2000, 8), condition=1e6, mean=1e3).astype(np.float32)
    y, _ = whitening_training(x, method=method)
    exact = whiten(x.astype(np.float64), method=method)[0]
    assert (abs(y - exact) <= 2.0 ** -24 * abs(exact) + 1e-9).all()


# Degenerate batches.

@pytest.mark.parametrize("method", METHODS)
def test_fewer_values_than_channels(method):
    # The covariance is singular; eps bounds the matrix, and no direction of the batch exceeds variance 1.
    x = correlated((8, 32), condition=1.0)
    y, saved = whitening_training(x, method=method)
    assert np.isfinite(y).all()
    assert np.linalg.eigvalsh(saved.matrix[0])[-1] <= 1e-5 ** -0.5 * (1 + 1e-9)
    values = np.linalg.eigvalsh(covariance(y)[0])
    assert (values[:-7] < 1e-9).all()
    assert values[-1] <= 1 + 1e-9
    if method == "zca":
        np.testing.assert_allclose(values[-7:], 1, atol=1e-3)
    dx, _, _ = whitening_backward(x, x, saved)
    assert np.isfinite(dx).all()


@pytest.mark.parametrize("method", METHODS)
def test_constant_batch_gives_beta(method):
    x = np.full((6, 3, 4), 7.0)
    y, saved = whitening_training(x, None, np.array([1.0, 2.0, 3.0]), method=method)
    np.testing.assert_array_equal(y, np.broadcast_to(np.array([[1.0], [2.0], [3.0]]), x.shape))
    np.testing.assert_array_equal(whitening_backward(np.ones_like(x), x, saved)[0], 0)


@pytest.mark.parametrize(("x", "options"), [
    (np.random.default_rng(0).normal(size=(4, 5)), {}), (np.ones((9, 3)), {}),
    (np.ones((9, 3)), {"method": "iternorm"}),
    (np.repeat(np.random.default_rng(0).normal(size=(9, 2)), 2, axis=1), {"groups": 2}),
], ids=["few values", "constant", "constant, iternorm", "equal channels"])
def test_singular_without_eps(x, options):
    out = np.full_like(x, 7)
    with pytest.raises(ValueError, match="eps is 0 and the covariance is singular in group"):
        whitening_training(x, eps=0, out=out, **options)
    assert (out == 7).all()


def test_regular_without_eps():
    y, _ = whitening_training(correlated((4000, 8)), eps=0)
    assert abs(covariance(y) - np.eye(8)).max() < 1e-12


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_not_finite_stays_in_its_group(method, wrong):
    x = correlated((30, 6, 4))
    dy = correlated((30, 6, 4), seed=1)
    clean, saved = whitening_training(x, groups=3, method=method)
    gradients = whitening_backward(dy, x, saved)
    x[2, 3, 1] = wrong
    y, saved = whitening_training(x, groups=3, method=method)
    assert np.isnan(y[:, 2:4]).all()
    for got, want in zip((y, *whitening_backward(dy, x, saved)), (clean, *gradients), strict=True):
        channels = got if got.ndim == 1 else got.swapaxes(0, 1)
        expected = want if want.ndim == 1 else want.swapaxes(0, 1)
        np.testing.assert_allclose(channels[[0, 1, 4, 5]], expected[[0, 1, 4, 5]], rtol=1e-12)
    assert np.isnan(whitening_backward(dy, x, saved)[0][:, 2:4]).all()


def test_empty():
    x = np.empty((0, 4, 3), np.float32)
    y, saved = whitening_training(x, groups=2)
    assert y.shape == x.shape
    assert saved.count == 0
    dx, dgamma, dbeta = whitening_backward(x, x, saved)
    assert dx.shape == x.shape
    np.testing.assert_array_equal([dgamma, dbeta], np.zeros((2, 4)))
    assert whitening_inference(x, np.zeros(4), np.zeros((2, 2, 2))).shape == x.shape


# Memory.

@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", INPUTS, **by_name)
def test_inputs(make, method):
    x, dy = values(np.float32), values(np.float32, seed=1)
    gamma, beta = parameters(SHAPE[1])
    y, saved = whitening_training(x, gamma, beta, groups=2, method=method)
    gradients = whitening_backward(dy, x, saved, gamma)
    got, own = whitening_training(make(x), gamma, beta, groups=2, method=method)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, y, rtol=0, atol=1e-6)
    for a, b in zip(whitening_backward(make(dy), make(x), own, gamma), gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("make", WRITABLE, **by_name)
def test_out(make):
    x, dy = values(np.float32), values(np.float32, seed=1)
    y, saved = whitening_training(x, groups=2)
    dx, _, _ = whitening_backward(dy, x, saved)
    out = make(np.zeros_like(x))
    assert whitening_training(x, groups=2, out=out)[0] is out
    same_bits(np.array(out, np.float32), y)
    out[...] = 0
    assert whitening_inference(x, saved.mean, saved.matrix, out=out) is out
    same_bits(np.array(out, np.float32), y)
    out[...] = 0
    assert whitening_backward(dy, x, saved, out=out)[0] is out
    same_bits(np.array(out, np.float32), dx)


@pytest.mark.parametrize("shape", [(300, 6, 10, 200), (100000, 6)], ids=str)
def test_in_place(shape):
    # More blocks than one: each must be read before it is written.
    x = correlated(shape).astype(np.float32)
    dy = correlated(shape, seed=1).astype(np.float32)
    y, saved = whitening_training(x)
    dx, dgamma, _ = whitening_backward(dy, x, saved)
    for over in ("x", "dy"):
        given = {"x": x.copy(), "dy": dy.copy()}
        got, again, _ = whitening_backward(given["dy"], given["x"], saved, out=given[over])
        assert got is given[over]
        same_bits(got, dx)
        same_bits(again, dgamma)
    assert whitening_training(x, out=x)[0] is x
    same_bits(x, y)


@pytest.mark.parametrize("shape", [(400000, 16), (100, 16, 50, 80)], ids=str)
def test_memory_is_bounded(shape):
    # The arrays have 25.6 MB, and as float64 they would have twice as much.
    x, out = np.ones(shape, np.float32), np.empty(shape, np.float32)
    x[0] = 2
    tracemalloc.start()
    try:
        _, saved = whitening_training(x, out=out)
        whitening_backward(x, x, saved, out=out)
        assert tracemalloc.get_traced_memory()[1] < 16e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", METHODS)
def test_saved_is_copied_and_pickled(method):
    x, dy = correlated((50, 4)), correlated((50, 4), seed=1)
    _, saved = whitening_training(x, method=method)
    want = whitening_backward(dy, x, saved)[0]
    for other in (copy.copy(saved), copy.deepcopy(saved), pickle.loads(pickle.dumps(saved))):
        same_bits(whitening_backward(dy, x, other)[0], want)
    assert repr(saved) == "WhiteningSaved(4, groups=1, count=50)"
    for name in ("mean", "matrix"):
        assert not getattr(saved, name).flags.writeable


# Inverse roots.

def test_newton_is_stable():
    # Without the second iterate, rounding errors grow: on this matrix the direct formula is NaN after 20 steps.
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 32)))
    cov = (rotation * np.geomspace(1, 1e-6, 32) @ rotation.T)[None]
    d = np.random.default_rng(1).normal(size=cov.shape)
    exact = EigenRoot(cov, 0)
    for iterations in (30, 60, 200):
        root = NewtonRoot(cov, 0, iterations)
        assert abs(root.matrix - exact.matrix).max() < 1e-10 * abs(exact.matrix).max()
        assert abs(root.gradient(d) - exact.gradient(d)).max() < 1e-9 * abs(exact.gradient(d)).max()


def test_from_statistics():
    x, dy = correlated((50, 4)), correlated((50, 4), seed=1)
    gamma, _ = parameters(4)
    matrix = np.random.default_rng(3).normal(size=(2, 2, 2))      # not symmetric
    mean = np.arange(4.0)
    saved = WhiteningSaved.from_statistics(mean, matrix)
    dx, dgamma, dbeta = whitening_backward(dy, x, saved, gamma)
    scaled = as_matrices(dy * gamma, 2)
    np.testing.assert_allclose(as_matrices(dx, 2), matrix.swapaxes(1, 2) @ scaled, rtol=1e-12, atol=1e-14)
    z = whitening_inference(x, mean, matrix)
    np.testing.assert_allclose(dgamma, (dy * z).sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(dbeta, dy.sum(axis=0), rtol=1e-12)
