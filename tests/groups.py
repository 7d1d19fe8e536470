"""Group norm and instance norm: inputs, and the reference by the definition.

``python -m tests.groups`` prints a hash of every result of some shapes, on the ISA level of the process.
"""

import functools
import json
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from fastbn.functional import group_norm_backward, group_norm_training
from tests.cases import arranged, axis_of
from tests.compare import unit
from tests.hashes import digest
from tests.oracle import WIDE

DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
# (N, C, *spatial), of two to five dimensions.
SHAPES = ((4, 6), (1, 6, 5), (3, 6, 40), (5, 6, 3, 3), (2, 64, 7, 7), (3, 66, 9), (2, 6, 3, 4, 5))
LARGE_SHAPES = ((70, 24, 60), (3, 6, 120, 130))


class Inputs(NamedTuple):
    """The arguments of a forward and a backward pass; gamma and beta have the shape (C,)."""

    x: Any
    dy: Any
    residual: Any
    gamma: Any
    beta: Any
    axis: int


class Exact(NamedTuple):
    """The reference of a forward pass. Statistics have the shape (N, groups)."""

    y: Any
    x_hat: Any
    mean: Any
    var: Any
    rstd: Any


class Gradients(NamedTuple):
    dx: Any
    dgamma: Any
    dbeta: Any


def groups_of(shape):
    """The numbers of groups to test: one group, two, pairs of channels, and single channels if they have two values."""
    channels = shape[1]
    return sorted({1, 2, channels // 2, *([channels] if len(shape) > 2 else [])})


GRID = [(shape, groups) for shape in SHAPES for groups in groups_of(shape)]


def inputs(shape, layout, dtype=np.float32, *, mean=0.5, std=2.0, seed=0):
    """Normal values, the same in both layouts; one channel has a gamma of 0."""
    rng = np.random.default_rng([seed, *shape])
    x, dy, residual = (rng.standard_normal(shape) for _ in range(3))
    gamma, beta = rng.normal(1, 0.5, (2, shape[1])).astype(np.float64 if dtype == np.float64 else np.float32)
    gamma[1] = 0
    arrays = (arranged(a.astype(dtype), layout) for a in (x * std + mean, dy, residual))
    return Inputs(*arrays, gamma, beta, axis_of(layout))


def split(a, axis, groups):
    """(N, groups, values of a group)."""
    moved = np.moveaxis(np.asarray(a), axis, 1)
    return moved.reshape(len(a), groups, -1)


def joined(a, like, axis):
    """Undo `split`, for an array of the shape of `like`."""
    return np.moveaxis(a.reshape(np.moveaxis(like, axis, 1).shape), 1, axis)


def along(vector, x, axis):
    """gamma or beta, of channels or of groups, in a shape that broadcasts against x."""
    vector = np.asarray(vector, WIDE).repeat(x.shape[axis] // len(vector))
    return vector.reshape([-1 if k == axis % x.ndim else 1 for k in range(x.ndim)])


def exact(x, groups, gamma=None, beta=None, *, axis=1, eps=1e-5, residual=None):
    """The definition, in extended precision; the mean is taken about a value of the group, to be exact enough."""
    values = split(x, axis, groups).astype(WIDE)
    d = values - values[:, :, :1]
    d = d - d.mean(2, keepdims=True)
    var = (d * d).mean(2)
    rstd = 1 / np.sqrt(var + WIDE(eps))
    x_hat = joined(d * rstd[:, :, None], x, axis)
    y = x_hat if gamma is None else x_hat * along(gamma, x, axis)
    y = y if beta is None else y + along(beta, x, axis)
    y = y if residual is None else y + np.asarray(residual).astype(WIDE)
    mean = values[:, :, 0] + (values - values[:, :, :1]).mean(2)
    return Exact(y, x_hat, mean, var, rstd)


def exact_gradients(dy, of, groups, gamma=None, *, axis=1):
    """The gradients of `exact`; dgamma and dbeta of channels."""
    dy = np.asarray(dy).astype(WIDE)
    v = dy if gamma is None else dy * along(gamma, dy, axis)
    v, x_hat = split(v, axis, groups), split(of.x_hat, axis, groups)
    dx = v - v.mean(2, keepdims=True) - x_hat * (v * x_hat).mean(2, keepdims=True)
    rest = tuple(k for k in range(dy.ndim) if k != axis % dy.ndim)
    return Gradients(joined(dx * of.rstd[:, :, None], dy, axis), (dy * of.x_hat).sum(rest), dy.sum(rest))


def units(got, want, dtype, size=None):
    """The largest error, in rounding units of the largest exact value."""
    size = np.abs(want).max() if size is None else size
    return float(np.abs(got.astype(WIDE) - want).max() / (size * unit_of(dtype)))


def unit_of(dtype):
    return unit(dtype) if np.dtype(dtype) in (np.float32, np.float64) else float(ml_dtypes.finfo(dtype).eps) / 2


def results(i, groups, activation, with_residual, threads):
    """Every array that the functions return for some arguments."""
    common = {"axis": i.axis, "num_threads": threads}
    y, saved = group_norm_training(
        i.x, groups, i.gamma, i.beta, residual=i.residual if with_residual else None, activation=activation, **common)
    return [y, saved.mean, saved.var, saved.rstd, *group_norm_backward(i.dy, i.x, saved, i.gamma, **common)]


@functools.cache
def hashes():
    """{name: hash} of shapes of all kinds."""
    out = {}
    for shape in (*SHAPES, LARGE_SHAPES[0]):
        for layout in ("planes", "rows"):
            for dtype in DTYPES:
                i = inputs(shape, layout, dtype, mean=100.0 if dtype == np.float32 else 0.5)
                for groups in groups_of(shape):
                    for activation, residual in ((None, False), ("relu", False), ("relu", True), ("silu", False)):
                        name = f"{shape} {layout} {np.dtype(dtype).name} {groups} {activation} {residual}"
                        out[name] = digest(*results(i, groups, activation, residual, threads=1))
    return out


if __name__ == "__main__":
    print(json.dumps(hashes()))
