"""Errors of y and of variances, beside other libraries.

The exact results are computed in extended precision and in rational arithmetic from the values in memory, so only the
library's own error counts. Libraries that are not installed are left out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import fastbn
from benchmarks.peers import EPS
from benchmarks.report import table
from tests.statistics import rational

T = TypeVar("T")
Array = NDArray[Any]
Batches = Sequence[Array]

RATIOS = (1.0, 1e2, 1e4, 1e6)   # mean/std
PACKAGES = ("numpy", "scikit-learn", "torch", "keras", "flax", "jax")

# y and the variance of one batch
SHAPE, TINY_SHAPE = (32, 16, 28, 28), (2, 4, 8, 8)
AXES = (0, 2, 3)
UNIT = 2.0**-24

# the variance of several batches
SIZES, TINY_SIZES = (1500, 40, 900, 7, 2000, 333, 64, 2, 1100, 254), (64, 2, 1100, 254)
CHANNELS = 4
DRIFT = 5.0     # standard deviations from the mean of a batch to that of the next
# NIST StRD, univariate summary statistics: 1,001 values whose standard deviation is 0.1.
NUMACC4 = np.array([10000000.2, *([10000000.1, 10000000.3] * 500)])[:, None]
HEADING = """\
The largest relative error of the variance of {channels} channels of {values:,} float32 values, by mean/std: in one
piece, and in {batches} uneven batches whose mean moves by {drift:g} std from one to the next. The last column has the
correct digits of the standard deviation of NIST's NumAcc4 in float64, out of {most:.1f}.
"""
NOTES = """
NumPy and torch.var get all values at once, because they have no batches. update_bn, Keras and Flax average the
variances of the batches with equal weights: update_bn by itself, the others with a momentum of k / (k + 1) in batch k.
The variance between the batches is lost, which alone is an error of nearly 1. Keras casts float64 to float32.
"""


def exact(x: Array) -> tuple[Array, Array]:
    """Return y and the biased variance in extended precision."""
    wide = x.astype(np.longdouble)
    mean = wide.mean(AXES, keepdims=True)
    var = ((wide - mean) ** 2).mean(AXES, keepdims=True)
    return (wide - mean) / np.sqrt(var + np.longdouble(EPS)), var.ravel()


def fastbn_forward(x: Array) -> tuple[Array, Array]:
    y, saved = fastbn.functional.batch_norm_training(x, eps=EPS)
    return y, saved.var


def torch_forward(x: Array) -> tuple[Array, Array]:
    import torch

    y, _, rstd = torch.native_batch_norm(torch.from_numpy(x), None, None, None, None, True, 0.1, EPS)
    return y.numpy(), 1 / rstd.numpy().astype(np.float64) ** 2 - EPS


def numpy_forward(x: Array) -> tuple[Array, Array]:
    mean, var = x.mean(AXES, keepdims=True), x.var(AXES, keepdims=True)
    return (x - mean) / np.sqrt(var + np.float32(EPS)), var.ravel()


FORWARDS = {"fastbn": fastbn_forward, "PyTorch": torch_forward, "NumPy": numpy_forward}


def channel_stats(batches: Batches) -> Array:
    stats = fastbn.ChannelStats(batches[0].shape[1])
    for x in batches:
        stats.update(x)
    return stats.var()


def numpy_var(batches: Batches) -> Array:
    return np.concatenate(batches).astype(np.float32).var(axis=0)


def numpy_var_in_double(batches: Batches) -> Array:
    return np.concatenate(batches).var(axis=0, dtype=np.float64)


def sklearn_partial_fit(batches: Batches) -> Array:
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    for x in batches:
        scaler.partial_fit(x)
    return scaler.var_


def torch_var(batches: Batches) -> Array:
    import torch

    return torch.var(torch.from_numpy(np.concatenate(batches)), dim=0, correction=0).numpy()


def torch_update_bn(batches: Batches) -> Array:
    import torch
    from torch.optim.swa_utils import update_bn

    tensors = [torch.from_numpy(x) for x in batches]
    layer = torch.nn.BatchNorm1d(tensors[0].shape[1], dtype=tensors[0].dtype)
    update_bn(tensors, layer)
    return layer.running_var.numpy()


def keras_layer(batches: Batches) -> Array:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    layer = keras.layers.BatchNormalization(dtype=batches[0].dtype.name)
    for k, x in enumerate(batches):
        layer.momentum = k / (k + 1)
        layer(keras.ops.convert_to_tensor(x), training=True)
    return keras.ops.convert_to_numpy(layer.moving_variance)


def flax_layer(batches: Batches) -> Array:
    import jax
    from flax import linen

    jax.config.update("jax_enable_x64", True)       # for float64; float32 stays float32
    variables = linen.BatchNorm(use_running_average=False).init(jax.random.key(0), batches[0])
    for k, x in enumerate(batches):
        layer = linen.BatchNorm(use_running_average=False, momentum=k / (k + 1))
        variables |= layer.apply(variables, x, mutable=["batch_stats"])[1]
    return np.asarray(variables["batch_stats"]["var"])


WAYS = {
    "fastbn ChannelStats": channel_stats,
    "NumPy var, float32": numpy_var,
    "NumPy var, dtype=float64": numpy_var_in_double,
    "scikit-learn partial_fit": sklearn_partial_fit,
    "torch.var": torch_var,
    "torch update_bn": torch_update_bn,
    "Keras BatchNormalization": keras_layer,
    "Flax BatchNorm": flax_layer,
}
UNBIASED = ("torch update_bn",)


def installed(ways: Mapping[str, T], example: object) -> dict[str, T]:
    """Return the ways whose library is installed, and name the others."""
    found = {}
    for name, way in ways.items():
        try:
            way(example)
        except ImportError as error:
            print(f"{name} is left out: {error}")
        else:
            found[name] = way
    return found


def print_forwards(shape: tuple[int, ...]) -> None:
    forwards = installed(FORWARDS, np.ones((2, 1, 1, 2), np.float32))
    noise = np.random.default_rng(0).standard_normal(shape)
    lines = [["mean/std", *(f"{name}: {what}" for name in forwards for what in ("y, units", "variance"))]]
    for ratio in RATIOS:
        x = (noise + ratio).astype(np.float32)
        y_exact, var_exact = exact(x)
        line = [f"{ratio:g}"]
        for forward in forwards.values():
            y, var = forward(x)
            units = float(np.abs(y - y_exact).max() / np.abs(y_exact).max() / UNIT)
            line += [f"{units:,.1f}", f"{float(np.abs(var / var_exact - 1).max()):.1e}"]
        lines.append(line)
    constant = np.full(shape, 1.1e7, np.float32)
    lines.append(["constant 1.1e7: largest abs y, 0 expected",
                  *(cell for forward in forwards.values() for cell in (f"{np.abs(forward(constant)[0]).max():g}", ""))])
    print(f"Largest errors over {shape} normal values: y in units of 2^-24 of the largest value, variance relative.\n")
    print(table(lines))


def batches_of(ratio: float, sizes: Sequence[int], drift: float) -> list[NDArray[np.float32]]:
    """Return normal values around `ratio` with a standard deviation of 1."""
    rng = np.random.default_rng(0)
    return [(ratio + drift * k + rng.standard_normal((n, CHANNELS))).astype(np.float32) for k, n in enumerate(sizes)]


def errors(name: str, cases: Sequence[Batches], right: Sequence[Sequence[Fraction]]) -> list[str]:
    """Return the largest relative error in each case, and the digits of NumAcc4."""
    way, ddof = WAYS[name], int(name in UNBIASED)
    cells = []
    for batches, variances in zip(cases, right, strict=True):
        n = sum(map(len, batches))
        cells.append(f"{rational.relative(way(batches), [v * n / (n - ddof) for v in variances]):.1e}")
    n = len(NUMACC4)
    return [*cells, f"{digits((float(way([NUMACC4])[0]) * (n - ddof) / (n - 1)) ** 0.5):.1f}"]


def digits(deviation: float) -> float:
    """Return the correct significant digits of NumAcc4's standard deviation, NIST's LRE."""
    error = abs(Fraction(deviation) * 10 - 1)
    return 15.0 if error == 0 else float(np.clip(-np.log10(float(error)), 0.0, 15.0))


def print_variances(sizes: Sequence[int]) -> None:
    ways = installed(WAYS, [np.ones((2, 1), np.float32)])
    cases = [batches_of(ratio, *how) for how in (([sum(sizes)], 0.0), (sizes, DRIFT)) for ratio in RATIOS]
    right = [rational.population(batches)[1] for batches in cases]
    headings = [f"{how}{ratio:.0e}".replace("e+0", "e").replace("1e0", "1") for how in ("", "batches, ")
                for ratio in RATIOS]
    most = digits(float(rational.population([NUMACC4], ddof=1)[1][0]) ** 0.5)
    print(HEADING.format(channels=CHANNELS, values=sum(sizes), batches=len(sizes), drift=DRIFT, most=most))
    print(table([["", *headings, "NumAcc4"], *([name, *errors(name, cases, right)] for name in ways)]))
    print(NOTES)


def main(tiny: bool) -> None:
    """Print the tables."""
    print_forwards(TINY_SHAPE if tiny else SHAPE)
    print()
    print_variances(TINY_SIZES if tiny else SIZES)
    versions = []
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions.append(f"{name} {version(name)}")
    print(f"With {', '.join(versions)}.")
