"""Conditional batch normalization by its definition, and arrays for its tests."""

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tests import oracle
from tests.oracle import WIDE

UNITS = {"float32": 2.0**-24, "float64": 2.0**-53, "float16": 2.0**-11, "bfloat16": 2.0**-8}
DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
# Shapes and channel axes: planes, rows, small and large samples, both orders of two axes.
SHAPES = (
    ((5, 7, 6, 6), 1), ((5, 6, 6, 7), -1), ((9, 7), 1), ((7, 9), 0), ((7, 9, 3), 0), ((3, 2, 5, 4, 3), 2),
    ((3, 17, 40, 40), 1), ((3, 40, 40, 17), 3), ((1, 4, 30), 1), ((6, 1, 3), 1))


class Exact(NamedTuple):
    """Results; z is the input of the activation."""

    y: Any
    z: Any
    dx: Any
    dgamma: Any
    dbeta: Any


def spread(matrix: Any, x: Any, axis: int) -> Any:
    """Values (N, C) in a shape that broadcasts against x."""
    axis %= x.ndim
    sample = 1 if axis == 0 else 0
    shape = [x.shape[k] if k in (axis, sample) else 1 for k in range(x.ndim)]
    matrix = np.asarray(matrix, WIDE)
    return (matrix.T if axis < sample else matrix).reshape(shape)


def exact(
    x: Any, gamma: Any, beta: Any, dy: Any, *, axis: int = 1, eps: float = 1e-5, relu: bool = False,
    statistics: Any = None,
) -> Exact:
    """The definition, in extended precision; with `statistics`, mean and variance are these constants."""
    x, dy = np.asarray(x).astype(WIDE), np.asarray(dy).astype(WIDE)
    axis %= x.ndim
    mean, var = oracle.moments(x, axis) if statistics is None else statistics
    rstd = oracle.along(1 / np.sqrt(np.asarray(var, WIDE) + WIDE(eps)), x, axis, WIDE)
    x_hat = (x - oracle.along(mean, x, axis, WIDE)) * rstd
    z = x_hat * spread(gamma, x, axis) + spread(beta, x, axis)
    if relu:
        dy = np.where(z <= 0, 0, dy)
    space = tuple(k for k in range(x.ndim) if k not in (axis, 1 if axis == 0 else 0))
    dbeta, dgamma = dy.sum(space), (dy * x_hat).sum(space)
    v = dy * spread(gamma, x, axis)
    if statistics is None:
        over = oracle.others(x, axis)
        v = v - v.mean(over, keepdims=True) - x_hat * (v * x_hat).mean(over, keepdims=True)
    transpose = axis == 0
    return Exact(np.where(z <= 0, 0, z) if relu else z, z, v * rstd, dgamma.T if transpose else dgamma,
                 dbeta.T if transpose else dbeta)


def arrays(shape: Any, axis: int, dtype: Any, *, mean: float = 1.0, seed: int = 0) -> tuple[Any, ...]:
    """x, gamma, beta and dy; some values of gamma are 0, as in a layer that begins as the identity of a residual."""
    rng = np.random.default_rng(seed)
    axis %= len(shape)
    pairs = shape[1 if axis == 0 else 0], shape[axis]
    gamma, beta = rng.normal(1, 1, pairs), rng.normal(0, 1, pairs)
    gamma[0, :2] = 0
    kind = np.float64 if dtype == np.float64 else np.float32
    return (rng.normal(mean, 2, shape).astype(dtype), gamma.astype(kind), beta.astype(kind),
            rng.normal(0, 1, shape).astype(dtype))


def units(got: Any, want: Any, dtype: Any) -> float:
    """The largest error, in rounding units of the largest exact value."""
    return float(np.abs(got.astype(WIDE) - want).max() / np.abs(want).max() / UNITS[np.dtype(dtype).name])
