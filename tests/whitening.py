"""Whitening by its definition, in float64: eigenvalues for both methods, and no blocks."""

import numpy as np


def as_matrices(x, groups, axis=1):
    """An array as (groups, D, positions)."""
    channels = np.moveaxis(np.asarray(x, np.float64), axis, 0)
    return channels.reshape(groups, len(channels) // groups, -1)


def as_array(matrices, x, axis=1):
    """The reverse of `as_matrices`, in the shape of x."""
    moved = np.moveaxis(x, axis, 0)
    return np.moveaxis(matrices.reshape(moved.shape), 0, axis)


def newton(s, iterations):
    """What Newton's iteration makes of a variance that is the share s of the sum of variances."""
    z = np.sqrt(s)
    for _ in range(iterations):
        z = z * (3 - z * z) / 2
    return z * z


def matrix(cov, eps, method="zca", iterations=5):
    """The whitening matrix of one group."""
    values, vectors = np.linalg.eigh(cov + eps * np.eye(len(cov)))
    variances = newton(values / values.sum(), iterations) if method == "iternorm" else np.ones_like(values)
    return vectors * np.sqrt(variances / values) @ vectors.T


def whiten(x, groups=1, *, gamma=None, beta=None, eps=1e-5, axis=1, **method):
    """y of a training batch, its means, and its whitening matrices."""
    a = as_matrices(x, groups, axis)
    mean = a.mean(axis=2, keepdims=True)
    w = np.stack([matrix(np.cov(part, bias=True).reshape(2 * part.shape[:1]), eps, **method) for part in a])
    y = w @ (a - mean)
    shape = (groups, -1, 1)
    y = y * (1 if gamma is None else gamma.reshape(shape)) + (0 if beta is None else beta.reshape(shape))
    return as_array(y, x, axis), mean.reshape(-1), w


def covariance(y, groups=1, axis=1):
    """The biased covariance of each group, (groups, D, D)."""
    return np.stack([np.cov(part, bias=True).reshape(2 * part.shape[:1]) for part in as_matrices(y, groups, axis)])


def correlated(shape, seed=0, condition=100.0, mean=3.0):
    """Channels along axis 1 that depend on each other, with covariances of about this condition number."""
    rng = np.random.default_rng(seed)
    channels = shape[1]
    rotation, _ = np.linalg.qr(rng.normal(size=(channels, channels)))
    mix = rotation * np.geomspace(1, condition ** -0.5, channels)
    noise = rng.normal(size=(channels, int(np.prod(shape)) // channels))
    return np.ascontiguousarray(as_array(mix @ noise + mean, np.empty(shape)))
