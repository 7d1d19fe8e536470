"""Gradients of whitening against finite differences in float64, degenerate eigenvalues included."""

import numpy as np
import pytest

from fastbn.functional import WhiteningSaved, whitening_backward, whitening_inference, whitening_training
from fastbn.functional.inverse_root import EigenRoot, NewtonRoot
from tests.compare import same_bits
from tests.whitening import as_matrices, correlated, covariance

STEP = 1e-5
METHODS = [{"method": "zca"}, {"method": "iternorm"}, {"method": "iternorm", "iterations": 1},
           {"method": "iternorm", "iterations": 30}]
methods = pytest.mark.parametrize("method", METHODS, ids=lambda m: "-".join(map(str, m.values())))


def differences(f, a):
    """The gradient of a function of an array by central differences."""
    out = np.empty_like(a)
    for index in np.ndindex(a.shape):
        value = a[index]
        a[index] = value + STEP
        above = f()
        a[index] = value - STEP
        below = f()
        a[index] = value
        out[index] = (above - below) / (2 * STEP)
    return out


def orthogonal(positions, channels):
    """A batch whose covariance is the identity, so that all eigenvalues are equal."""
    x = np.random.default_rng(0).normal(size=(positions, channels))
    q, _ = np.linalg.qr(x - x.mean(axis=0))
    return q * np.sqrt(positions)


BATCHES = {
    "vectors": (correlated((12, 4)), 1, 1e-3), "groups": (correlated((12, 4)), 2, 1e-3),
    "images": (correlated((3, 4, 2, 3)), 2, 1e-3), "equal eigenvalues": (orthogonal(12, 4), 1, 1e-3),
    "fewer values than channels": (correlated((3, 5)), 1, 1e-1), "groups of one": (correlated((6, 4)), 4, 1e-3),
}


@methods
@pytest.mark.parametrize("name", BATCHES)
def test_training(name, method):
    x, groups, eps = BATCHES[name]
    rng = np.random.default_rng(1)
    x, dy = x.copy(), rng.normal(size=x.shape)
    gamma, beta = rng.normal(1, 0.5, (2, x.shape[1]))

    def loss():
        return (whitening_training(x, gamma, beta, groups=groups, eps=eps, **method)[0] * dy).sum()

    _, saved = whitening_training(x, gamma, beta, groups=groups, eps=eps, **method)
    for got, of in zip(whitening_backward(dy, x, saved, gamma), (x, gamma, beta), strict=True):
        want = differences(loss, of)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-7 * max(1, abs(want).max()))


def test_given_statistics():
    rng = np.random.default_rng(1)
    x, dy = correlated((5, 4, 3)), rng.normal(size=(5, 4, 3))
    gamma, beta = rng.normal(1, 0.5, (2, 4))
    mean, matrix = rng.normal(size=4), rng.normal(size=(2, 2, 2))

    def loss():
        return (whitening_inference(x, mean, matrix, gamma, beta) * dy).sum()

    saved = WhiteningSaved.from_statistics(mean, matrix)
    for got, of in zip(whitening_backward(dy, x, saved, gamma), (x, gamma, beta), strict=True):
        np.testing.assert_allclose(got, differences(loss, of), rtol=0, atol=1e-8)


@pytest.mark.parametrize("gap", [0.0, 1e-15, 1e-12, 1e-8, 1e-4])
def test_nearly_equal_eigenvalues(gap):
    # The textbook formula divides by differences of eigenvalues. Here the limit is exact: d(v^-1/2) = -v^-3/2 / 2.
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
    cov = (rotation * (1 + gap * np.arange(6)) @ rotation.T)[None]
    d = np.random.default_rng(1).normal(size=cov.shape)
    want = -(d + d.swapaxes(1, 2)) / 4
    np.testing.assert_allclose(EigenRoot(cov, 0).gradient(d), want, rtol=0, atol=1e-13 + 30 * gap)
    np.testing.assert_allclose(NewtonRoot(cov, 0, 40).gradient(d), want, rtol=0, atol=1e-13 + 30 * gap)


@methods
def test_gradients_of_a_constant_direction_vanish(method):
    # y has the same mean and, by ZCA, the same covariance whatever x is, so these losses do not depend on x.
    x = correlated((50, 4))
    y, saved = whitening_training(x, eps=1e-15, **method)
    assert abs(whitening_backward(np.ones_like(x), x, saved)[0]).max() < 1e-12
    if method["method"] == "zca":
        weights = np.random.default_rng(2).normal(size=(4, 4))
        assert abs(whitening_backward(y @ (weights + weights.T), x, saved)[0]).max() < 1e-9
        # Scaling x does not change y either.
        assert abs((whitening_backward(x, x, saved)[0] * x).sum()) < 1e-9


@methods
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 2e-3)])
def test_dtypes(dtype, tolerance, method):
    x, dy = correlated((40, 6, 5)).astype(dtype), correlated((40, 6, 5), seed=1).astype(dtype)
    gamma = np.random.default_rng(2).normal(1, 0.5, 6)
    wide = x.astype(np.float64)
    _, saved = whitening_training(x, gamma, groups=2, **method)
    _, exact = whitening_training(wide, gamma, groups=2, **method)
    dx, dgamma, dbeta = whitening_backward(dy, x, saved, gamma)
    want = whitening_backward(dy.astype(np.float64), wide, exact, gamma)
    assert dx.dtype == dtype
    assert dgamma.dtype == dbeta.dtype == np.float64
    np.testing.assert_allclose(dx.astype(np.float64), want[0], rtol=0, atol=tolerance * abs(want[0]).max())
    np.testing.assert_allclose(dgamma, want[1], rtol=1e-9)
    np.testing.assert_allclose(dbeta, want[2], rtol=1e-9)


@methods
def test_layouts_agree(method):
    x, dy = correlated((6, 8, 4, 5)), correlated((6, 8, 4, 5), seed=1)
    _, saved = whitening_training(x, groups=2, **method)
    first = whitening_backward(dy, x, saved)
    a, b = (np.ascontiguousarray(np.moveaxis(v, 1, -1)) for v in (x, dy))
    _, saved = whitening_training(a, groups=2, axis=-1, **method)
    last = whitening_backward(b, a, saved, axis=-1)
    np.testing.assert_allclose(np.moveaxis(last[0], -1, 1), first[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(last[1:], first[1:], rtol=0, atol=1e-11)


def test_threads_change_no_sums():
    x, dy = correlated((64, 8, 20, 20)).astype(np.float32), correlated((64, 8, 20, 20), seed=1).astype(np.float32)
    results = []
    for threads in (1, 2):
        _, saved = whitening_training(x, num_threads=threads)
        results.append((saved.mean, whitening_backward(dy, x, saved, num_threads=threads)[2]))
    for one, two in zip(*results, strict=True):
        same_bits(one, two)


def test_oracle():
    # The batch of equal eigenvalues is one.
    np.testing.assert_allclose(covariance(orthogonal(12, 4))[0], np.eye(4), atol=1e-14)
    assert as_matrices(np.zeros((2, 6, 5)), 3).shape == (3, 2, 10)
