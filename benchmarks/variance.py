"""Errors of running and of batched variances, beside other libraries.

The exact result is computed in rational arithmetic from the values in memory, so only the library's own error counts.
Libraries that are not installed are left out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastbn
from benchmarks.report import table
from tests.statistics import rational

Batches = Sequence[NDArray[Any]]

RATIOS = (1.0, 1e2, 1e4, 1e6)   # mean/std
SIZES = (1500, 40, 900, 7, 2000, 333, 64, 2, 1100, 254)
CHANNELS = 4
DRIFT = 5.0     # standard deviations from the mean of a batch to that of the next
# NIST StRD, univariate summary statistics: 1,001 values whose standard deviation is 0.1.
NUMACC4 = np.array([10000000.2, *([10000000.1, 10000000.3] * 500)])[:, None]
HEADING = """\
The largest relative error of the variance of {channels} channels of {values:,} float32 values, by mean/std: in one
piece, and in {batches} uneven batches whose mean moves by {drift:g} std from one to the next. The last column has the
correct digits of the standard deviation of NIST's NumAcc4 in float64, out of {most:.1f}.
"""
NOTES = """\
NumPy and torch.var get all values at once, because they have no batches. update_bn, Keras and Flax average the
variances of the batches with equal weights: update_bn by itself, the others with a momentum of k / (k + 1) in batch k.
The variance between the batches is lost, which alone is an error of nearly 1. Keras casts float64 to float32.
"""


def by_fastbn(batches: Batches) -> NDArray[Any]:
    stats = fastbn.ChannelStats(batches[0].shape[1])
    for x in batches:
        stats.update(x)
    return stats.var()


def by_numpy(batches: Batches) -> NDArray[Any]:
    return np.concatenate(batches).astype(np.float32).var(axis=0)


def by_numpy_in_double(batches: Batches) -> NDArray[Any]:
    return np.concatenate(batches).var(axis=0, dtype=np.float64)


def by_sklearn(batches: Batches) -> NDArray[Any]:
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    for x in batches:
        scaler.partial_fit(x)
    return scaler.var_


def by_torch(batches: Batches) -> NDArray[Any]:
    import torch

    return torch.var(torch.from_numpy(np.concatenate(batches)), dim=0, correction=0).numpy()


def by_update_bn(batches: Batches) -> NDArray[Any]:
    import torch
    from torch.optim.swa_utils import update_bn

    tensors = [torch.from_numpy(x) for x in batches]
    layer = torch.nn.BatchNorm1d(tensors[0].shape[1], dtype=tensors[0].dtype)
    update_bn(tensors, layer)
    return layer.running_var.numpy()


def by_keras(batches: Batches) -> NDArray[Any]:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    layer = keras.layers.BatchNormalization(dtype=batches[0].dtype.name)
    for k, x in enumerate(batches):
        layer.momentum = k / (k + 1)
        layer(keras.ops.convert_to_tensor(x), training=True)
    return keras.ops.convert_to_numpy(layer.moving_variance)


def by_flax(batches: Batches) -> NDArray[Any]:
    import jax
    from flax import linen

    jax.config.update("jax_enable_x64", True)       # for float64; float32 stays float32
    variables = linen.BatchNorm(use_running_average=False).init(jax.random.key(0), batches[0])
    for k, x in enumerate(batches):
        layer = linen.BatchNorm(use_running_average=False, momentum=k / (k + 1))
        variables |= layer.apply(variables, x, mutable=["batch_stats"])[1]
    return np.asarray(variables["batch_stats"]["var"])


class Way(NamedTuple):
    """A way to a variance, with the degrees of freedom that it subtracts."""

    name: str
    variance: Callable[[Batches], NDArray[Any]]
    ddof: int = 0


WAYS = (
    Way("fastbn ChannelStats", by_fastbn),
    Way("NumPy var, float32", by_numpy),
    Way("NumPy var, dtype=float64", by_numpy_in_double),
    Way("scikit-learn partial_fit", by_sklearn),
    Way("torch.var", by_torch),
    Way("torch update_bn", by_update_bn, 1),
    Way("Keras BatchNormalization", by_keras),
    Way("Flax BatchNorm", by_flax),
)


def batches_of(ratio: float, sizes: Sequence[int], drift: float) -> list[NDArray[np.float32]]:
    """Return normal values around `ratio` with a standard deviation of 1."""
    rng = np.random.default_rng(0)
    return [(ratio + drift * k + rng.standard_normal((n, CHANNELS))).astype(np.float32) for k, n in enumerate(sizes)]


def installed() -> list[Way]:
    """Return the ways whose library is installed, and name the others."""
    found = []
    for way in WAYS:
        try:
            way.variance([np.ones((2, 1), np.float32)])
        except ImportError as error:
            print(f"{way.name} is left out: {error}")
        else:
            found.append(way)
    return found


def versions() -> str:
    """Return the versions of the installed libraries."""
    found = []
    for name in ("numpy", "scikit-learn", "torch", "keras", "flax", "jax"):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


def errors(way: Way, cases: Sequence[Batches], right: Sequence[Sequence[Fraction]]) -> list[str]:
    """Return the largest relative error in each case, and the digits of NumAcc4."""
    cells = []
    for batches, variances in zip(cases, right, strict=True):
        n = sum(map(len, batches))
        expected = [v * n / (n - way.ddof) for v in variances]
        cells.append(f"{rational.relative(way.variance(batches), expected):.1e}")
    n = len(NUMACC4)
    deviation = (float(way.variance([NUMACC4])[0]) * (n - way.ddof) / (n - 1)) ** 0.5
    return [*cells, f"{digits(deviation):.1f}"]


def digits(deviation: float) -> float:
    """Return the correct significant digits of NumAcc4's standard deviation, NIST's LRE."""
    error = abs(Fraction(deviation) * 10 - 1)
    return 15.0 if error == 0 else float(np.clip(-np.log10(float(error)), 0.0, 15.0))


def main(tiny: bool) -> None:
    """Print the table."""
    sizes = SIZES[-4:] if tiny else SIZES
    ways = installed()
    cases = [batches_of(ratio, *how) for how in (([sum(sizes)], 0.0), (sizes, DRIFT)) for ratio in RATIOS]
    right = [rational.population(batches)[1] for batches in cases]
    headings = [f"{how}{ratio:g}".replace("1e+0", "1e") for how in ("", "batches, ") for ratio in RATIOS]
    most = digits(float(rational.population([NUMACC4], ddof=1)[1][0]) ** 0.5)
    print(HEADING.format(channels=CHANNELS, values=sum(sizes), batches=len(sizes), drift=DRIFT, most=most))
    print(table([["", *headings, "NumAcc4"], *([way.name, *errors(way, cases, right)] for way in ways)]))
    print(f"\n{NOTES}\nWith {versions()}.")
