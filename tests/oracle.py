"""The reference: batch normalization by its definition, along any axis, slow and simple.

All computations are in `WIDE` by default. On x86, np.longdouble has 64 bits of significand, and the error of its
two-pass variance is far below a rounding of float64. Elsewhere it may be float64 itself, whose errors are still far
below a rounding of float32.
"""

from typing import Any, NamedTuple

import numpy as np

WIDE = np.longdouble


class Forward(NamedTuple):
    """The results of a forward pass; z is the input of the activation."""

    y: Any
    z: Any
    mean: Any
    var: Any
    rstd: Any


class Backward(NamedTuple):
    """The results of a backward pass."""

    dx: Any
    dgamma: Any
    dbeta: Any
    dresidual: Any


def others(x: Any, axis: int) -> tuple[int, ...]:
    """All axes but the channel axis."""
    return tuple(k for k in range(x.ndim) if k != axis % x.ndim)


def along(vector: Any, x: Any, axis: int, wide: Any) -> Any:
    """A vector with one value per channel, in a shape that broadcasts against x."""
    return np.asarray(vector, wide).reshape([-1 if k == axis % x.ndim else 1 for k in range(x.ndim)])


def moments(x: Any, axis: int, wide: Any = WIDE) -> tuple[Any, Any]:
    """Mean and biased variance per channel, in two passes."""
    x = np.asarray(x).astype(wide)
    mean = x.mean(axis=others(x, axis))
    return mean, ((x - along(mean, x, axis, wide)) ** 2).mean(axis=others(x, axis))


def forward(
    x: Any, gamma: Any = None, beta: Any = None, *, axis: int = 1, eps: float = 1e-5, residual: Any = None,
    relu: bool = False, mean: Any = None, var: Any = None, wide: Any = WIDE,
) -> Forward:
    """Normalize by the statistics of x, or by a given mean and variance."""
    x = np.asarray(x).astype(wide)
    if mean is None:
        mean, var = moments(x, axis, wide)
    rstd = 1 / np.sqrt(np.asarray(var, wide) + wide(eps))
    z = (x - along(mean, x, axis, wide)) * along(rstd, x, axis, wide)
    if gamma is not None:
        z = z * along(gamma, x, axis, wide)
    if beta is not None:
        z = z + along(beta, x, axis, wide)
    if residual is not None:
        z = z + np.asarray(residual).astype(wide)
    return Forward(np.where(z <= 0, 0, z) if relu else z, z, mean, var, rstd)


def backward(
    dy: Any, x: Any, of: Forward, gamma: Any = None, *, axis: int = 1, relu: bool = False, frozen: bool = False,
    wide: Any = WIDE,
) -> Backward:
    """The gradients of the forward pass `of`; with `frozen`, mean and variance are constants."""
    x, dy = np.asarray(x).astype(wide), np.asarray(dy).astype(wide)
    if relu:
        dy = np.where(of.z <= 0, 0, dy)
    x_hat = (x - along(of.mean, x, axis, wide)) * along(of.rstd, x, axis, wide)
    dbeta = dy.sum(axis=others(x, axis))
    dgamma = (dy * x_hat).sum(axis=others(x, axis))
    dx = dy
    if not frozen:
        n = x.size // len(dbeta)
        dx = dx - along(dbeta, x, axis, wide) / n - x_hat * (along(dgamma, x, axis, wide) / n)
    dx = dx * along(of.rstd, x, axis, wide)
    return Backward(dx if gamma is None else dx * along(gamma, x, axis, wide), dgamma, dbeta, dy)


class Renorm(NamedTuple):
    """The results of a batch renormalization."""

    y: Any
    z: Any
    r: Any
    d: Any
    dx: Any
    dgamma: Any
    dbeta: Any


def renorm(
    x: Any, dy: Any, running: tuple[Any, Any], gamma: Any, beta: Any, *, limits: tuple[float, float], axis: int = 1,
    eps: float = 1e-5, residual: Any = None, relu: bool = False,
) -> Renorm:
    """Batch renormalization relative to a running mean and deviation, and its gradients."""
    x, dy = np.asarray(x).astype(WIDE), np.asarray(dy).astype(WIDE)
    mean, var = moments(x, axis)
    std = np.sqrt(var + WIDE(eps))
    running_mean, running_std = (np.asarray(v, WIDE) for v in running)
    r = np.clip(std / running_std, 1 / WIDE(limits[0]), WIDE(limits[0]))
    d = np.clip((mean - running_mean) / running_std, -WIDE(limits[1]), WIDE(limits[1]))
    wide = {name: along(v, x, axis, WIDE) for name, v in
            {"mean": mean, "std": std, "r": r, "d": d, "gamma": gamma, "beta": beta}.items()}
    normal = (x - wide["mean"]) / wide["std"]
    x_hat = normal * wide["r"] + wide["d"]
    z = x_hat * wide["gamma"] + wide["beta"] + (0 if residual is None else np.asarray(residual).astype(WIDE))
    if relu:
        dy = np.where(z <= 0, 0, dy)
    over = others(x, axis)
    dbeta, dgamma = dy.sum(axis=over), (dy * x_hat).sum(axis=over)
    upstream = dy * wide["gamma"] * wide["r"]       # r and d are constants
    dx = (upstream - upstream.mean(axis=over, keepdims=True)
          - normal * (upstream * normal).mean(axis=over, keepdims=True)) / wide["std"]
    return Renorm(np.where(z <= 0, 0, z) if relu else z, z, r, d, dx, dgamma, dbeta)
