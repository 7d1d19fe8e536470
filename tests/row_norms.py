"""Layer norm and RMS norm over the last axis of rows: calls of the kernels, and the reference.

``python -m tests.row_norms`` prints a hash of every result of some shapes, on the ISA level of the process.
"""

import hashlib
import json
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_activation
from fastbn._core.dispatch import kernels
from tests.oracle import WIDE

DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
UNITS = {"float32": 2.0**-24, "float64": 2.0**-53, "float16": 2.0**-11, "bfloat16": 2.0**-8}
# Below, at and above the widths of steps and flushes, and of the longest span.
WIDTHS = (1, 2, 3, 15, 16, 17, 48, 49, 63, 64, 65, 127, 128, 129, 768, 1024, 8193)
LONG = 32769
ROWS = (1, 2, 5, 33)


class Call(NamedTuple):
    """What a forward returns."""

    y: Any
    statistics: tuple[Any, Any, Any]


class Exact(NamedTuple):
    """The reference of a forward."""

    y: Any
    x_hat: Any
    rstd: Any


class Gradients(NamedTuple):
    """dx, dgamma and dbeta."""

    dx: Any
    dgamma: Any
    dbeta: Any


def beside(rows, array, name):
    """The view of an array like x, or None."""
    return None if array is None else views.like(rows, array, name)


def forward(x, gamma=None, beta=None, *, eps=1e-5, about_zero=False, threads=1, out=None, residual=None,
            activation=None, bits=None):
    """One call of the kernel that keeps the statistics."""
    rows = views.view(x, -1)
    residual = beside(rows, residual, "residual")
    y = views.output(rows, out, residual)
    statistics = kernels.layer_forward(
        rows, y, gamma, beta, eps, about_zero=about_zero, num_threads=threads, residual=residual,
        activation=check_activation(activation), bits=bits)
    return Call(y.finish(), statistics)


def inference(x, gamma=None, beta=None, *, eps=1e-5, about_zero=False, threads=1, residual=None, activation=None):
    """One call of the kernel that keeps nothing."""
    rows = views.view(x, -1)
    y = views.output(rows)
    kernels.layer_inference(
        rows, y, gamma, beta, eps, about_zero=about_zero, num_threads=threads,
        residual=beside(rows, residual, "residual"), activation=check_activation(activation))
    return y.finish()


def backward(dy, x, statistics, gamma=None, *, threads=1, out=None, dresidual=None, beta=None, activation=None,
             bits=None):
    """One call of the kernel of the gradients; `dresidual` is written."""
    rows = views.view(x, -1)
    dx = views.output(rows, out)
    sums = kernels.layer_backward(
        views.like(rows, dy, "dy"), rows, dx, statistics, gamma, num_threads=threads,
        dresidual=beside(rows, dresidual, "dresidual"), beta=beta, activation=check_activation(activation), bits=bits)
    return Gradients(dx.finish(), *sums)


def new_bits(x):
    """Memory for the bits of a ReLU after a residual."""
    return np.empty(kernels.bits_words(views.view(x, -1), 1), np.uint16)


def exact(x, gamma=None, beta=None, *, eps=1e-5, about_zero=False):
    """The definition, in extended precision; the mean is taken about a value of the row, so that it is exact enough."""
    d = x.astype(WIDE)
    if not about_zero:
        d = d - d[:, :1]
        d = d - d.mean(1, keepdims=True)
    rstd = 1 / np.sqrt((d * d).mean(1, keepdims=True) + WIDE(eps))
    x_hat = d * rstd
    y = x_hat if gamma is None else x_hat * gamma.astype(WIDE)
    return Exact(y if beta is None else y + beta.astype(WIDE), x_hat, rstd)


def exact_gradients(dy, of, gamma=None, *, about_zero=False):
    """The gradients of `exact`."""
    dy = dy.astype(WIDE)
    v = dy if gamma is None else dy * gamma.astype(WIDE)
    dx = v - of.x_hat * (v * of.x_hat).mean(1, keepdims=True)
    if not about_zero:
        dx = dx - v.mean(1, keepdims=True)
    return Gradients(dx * of.rstd, (dy * of.x_hat).sum(0), dy.sum(0))


def values(rows, width, dtype, *, seed=0, mean=0.5):
    """x, dy, gamma and beta of a normal distribution."""
    rng = np.random.default_rng(seed)
    x, dy = rng.normal(mean, 1, (rows, width)), rng.normal(0, 1, (rows, width))
    kind = np.promote_types(np.float32, dtype) if np.dtype(dtype) in (np.float32, np.float64) else np.float32
    gamma, beta = rng.uniform(0.5, 2, width), rng.normal(0, 1, width)
    return x.astype(dtype), dy.astype(dtype), gamma.astype(kind), beta.astype(kind)


def units(got, want, dtype, size=None):
    """The largest error, in rounding units of the largest exact value."""
    size = np.abs(want).max() if size is None else size
    error = np.abs(got.astype(WIDE) - want).max()
    return 0.0 if error == 0 else float(error / (size * UNITS[np.dtype(dtype).name]))


def results(x, dy, gamma, beta, *, about_zero, threads):
    """Every array that the kernels return for some arguments."""
    how = {"about_zero": about_zero, "threads": threads}
    y, statistics = forward(x, gamma, beta, **how)
    out = [y, *(s for s in statistics if s is not None), *backward(dy, x, statistics, gamma, threads=threads)]
    bits, dresidual = new_bits(x), np.empty_like(x)
    out += [forward(x, gamma, beta, residual=dy, activation="relu", bits=bits, **how).y, bits, dresidual,
            *backward(dy, x, statistics, gamma, dresidual=dresidual, activation="relu", bits=bits, threads=threads)]
    return [*out, forward(x, gamma, beta, activation="silu", **how).y,
            *backward(dy, x, statistics, gamma, beta=beta, activation="silu", threads=threads)]


def hashes():
    """{name: {threads: hash}} of shapes that use every step, some of them large enough for several threads."""
    out = {}
    for rows, width in [*((33, width) for width in WIDTHS), (3, LONG), (5000, 65), (600, 1030)]:
        for dtype in DTYPES:
            x, dy, gamma, beta = values(rows, width, dtype)
            x[rows // 2] *= np.asarray(2.0**-70 if np.dtype(dtype).itemsize > 2 else 1, dtype)   # repeated in double
            for about_zero in (False, True):
                for threads in (1, 2, 3):
                    arrays = results(x, dy, gamma, beta, about_zero=about_zero, threads=threads)
                    bits = hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()[:16]
                    out.setdefault(f"{rows}x{width} {np.dtype(dtype).name} {about_zero}", {})[str(threads)] = bits
    return out


if __name__ == "__main__":
    print(json.dumps(hashes()))
