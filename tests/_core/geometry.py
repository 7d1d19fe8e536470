"""Calls of the kernels with samples and channels per statistic, and the reference for them.

``python -m tests._core.geometry`` prints a hash of every result of many calls, on the ISA level of the process.
"""

import json
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_activation
from fastbn._core.dispatch import kernels
from fastbn._core.kept import Kept
from tests.cases import LANES, SIZES, SLAB, TILE, arranged, axis_of
from tests.hashes import digest

EPS = 1e-5
DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)

# (N, C, S) around the sizes of the kernels; both layouts.
SHAPES = (
    (1, 1, 3), (3, 4, 2), (5, 6, 7), (4, 6, LANES), (5, 12, 49), (3, TILE, LANES + 1), (5, TILE + 2, 9),
    (2, 18, 4 * LANES), (9, 2, SIZES["few"]), (TILE + 3, 3, 3), (3, SLAB + 4, 2), (2, SIZES["narrow"], 5),
    (2, 3 * TILE, SIZES["flush_rows"] + 1))
# A plane of several spans; a unit of several images; rows of several units; several batches of sample groups.
LONG_SHAPES = (
    (3, 2, SIZES["span"] + 1), (SIZES["span"] // 49 + 3, 2, 49), (3, TILE + 2, SIZES["most_rows"] + 1),
    (SIZES["most_sums"] // TILE + 1, TILE, 2))


class Results(NamedTuple):
    y: Any
    mean: Any
    var: Any
    dx: Any
    dgamma: Any
    dbeta: Any
    dresidual: Any = None


class Inputs(NamedTuple):
    """Arrays (N, C, S), or (N, S, C) in rows."""

    x: Any
    dy: Any
    residual: Any
    gamma: Any
    beta: Any
    layout: str


def geometries(shape):
    """All (samples, channels) but batch norm's; of an odd number of samples, two leave a shorter last group."""
    n, c, _ = shape
    samples = sorted({1, 2, n})
    channels = [k for k in sorted({1, 3 if c % 3 == 0 else 2, c}) if c % k == 0]
    return [(s, k) for s in samples for k in channels if (s, k) != (n, 1)]


def inputs(shape, layout, dtype=np.float32, mean=0.0, seed=0):
    rng = np.random.default_rng([seed, *shape])
    x, dy, residual = (rng.standard_normal(shape) for _ in range(3))
    gamma, beta = rng.normal(1, 0.5, (2, shape[1])).astype(np.float64 if dtype == np.float64 else np.float32)
    if shape[1] > 1:
        gamma[1] = 0
    return Inputs(*(arranged(a.astype(dtype), layout) for a in (x * 2 + mean, dy, residual)), gamma, beta, layout)


def as_kernels_take_it(a, layout):
    """(N, C, S), or rows (N * S, C)."""
    return a if layout == "planes" else a.reshape(-1, a.shape[-1])


def as_planes(a, shape, layout):
    """(N, C, S) of an array of either layout."""
    return a if layout == "planes" else np.moveaxis(a.reshape(shape[0], shape[2], shape[1]), 2, 1)


def silu(z):
    """silu and its derivative."""
    s = 1 / (1 + np.exp(-z))
    return z * s, s + z * s * (1 - s)


def run(i, samples, channels, relu=False, residual=False, in_place=False, num_threads=1, activation=None):
    """The results of the kernels; arrays have the layout of the inputs. With `in_place`, x and dy are overwritten.

    `activation` is one other than ReLU.
    """
    arrays = [as_kernels_take_it(a, i.layout) for a in (i.x, i.dy, i.residual)]
    x, dy, r = arrays
    view = views.view(x, axis_of(i.layout))
    rows = samples * (1 if i.layout == "planes" else i.x.shape[1])
    coded = check_activation("relu" if relu else activation)
    common = {"num_threads": num_threads, "fill": False, "samples": rows, "channels": channels}
    beside = views.like(view, r, "residual") if residual else None
    bits = np.empty(kernels.bits_words(view, rows), np.uint16) if relu and residual else None
    saved_x = view
    if in_place:
        saved_x = views.view(x.copy(), axis_of(i.layout))
    out = views.output(view, x if in_place else None)
    mean, low, var, rstd = kernels.forward(
        view, out, beside, i.gamma, i.beta, EPS, activation=coded, bits=bits, **common)
    scale = shift = None
    if coded[0] and not residual:
        scale = (rstd.repeat(channels).reshape(-1, len(i.gamma)) * i.gamma).ravel()
        shift = i.beta.astype(np.float64)
    kept = Kept(mean=mean, low=low, rstd=rstd, scale=scale, shift=shift, bits=bits, frozen=False, activation=coded)
    gradient = views.like(saved_x, dy, "dy")
    dx = views.output(saved_x, dy if in_place else None)
    dresidual = views.output(saved_x) if residual else None
    dgamma, dbeta = kernels.backward(gradient, saved_x, dx, dresidual, kept, i.gamma, **common)
    return Results(out.finish(), mean, var, dx.finish(), dgamma, dbeta, dresidual.finish() if residual else None)


def reference(i, shape, samples, channels, relu=False, residual=False, activation=None):
    """The results by their definition, in extended precision; arrays are (N, C, S).

    `activation` is a function like `silu`.
    """
    wide = np.longdouble
    x, dy, r = (as_planes(a, shape, i.layout).astype(wide) for a in (i.x, i.dy, i.residual))
    origin = wide(np.rint(float(x.mean())))     # keeps the rounding errors of the mean small
    x = x - origin
    # Channels in two axes: statistics of a sample group, and channels of a statistic.
    x, dy, r = (a.reshape(shape[0], -1, channels, shape[2]) for a in (x, dy, r))
    gamma, beta = (v.astype(wide).reshape(-1, channels, 1) for v in (i.gamma, i.beta))
    y, dx = np.empty_like(x), np.empty_like(x)
    dgamma, dbeta, mean, var = np.zeros(gamma.shape, wide), np.zeros(gamma.shape, wide), [], []

    def average(a):
        return a.mean((0, 2, 3), keepdims=True)

    for n in range(0, shape[0], samples):
        group = slice(n, n + samples)
        mean.append(average(x[group]))
        var.append(average((x[group] - mean[-1]) ** 2))
        rstd = 1 / np.sqrt(var[-1] + wide(EPS))
        x_hat = (x[group] - mean[-1]) * rstd
        z = x_hat * gamma + beta + (r[group] if residual else 0)
        if relu:
            dy[group] = np.where(z <= 0, 0, dy[group])
        y[group] = np.where(z <= 0, 0, z) if relu else z
        if activation:
            y[group], slope = activation(z)
            dy[group] = dy[group] * slope
        dgamma += (dy[group] * x_hat).sum((0, 3))[..., None]
        dbeta += dy[group].sum((0, 3))[..., None]
        weighted = dy[group] * gamma
        dx[group] = rstd * (weighted - average(weighted) - x_hat * average(weighted * x_hat))
    y, dx, dy = (a.reshape(shape) for a in (y, dx, dy))
    return Results(y, np.ravel(mean) + origin, np.ravel(var), dx, dgamma.ravel(), dbeta.ravel(), dy)


def hashes():
    """{name: hash} of many calls."""
    out = {}
    for shape in SHAPES + LONG_SHAPES:
        for layout in ("planes", "rows"):
            for dtype in DTYPES:
                i = inputs(shape, layout, dtype, mean=100.0 if dtype == np.float32 else 0.5)
                for samples, channels in geometries(shape):
                    relu, residual = samples == 1, channels == 2
                    results = run(i, samples, channels, relu, residual)
                    name = f"{shape} {layout} {np.dtype(dtype).name} {samples} {channels}"
                    out[name] = digest(*(a for a in results if a is not None))
    return out


if __name__ == "__main__":
    print(json.dumps(hashes()))
