"""How far variances are from the exact ones, here and elsewhere, and how fast they are.

    python -m benchmarks.statistics             a table of errors, as docs/statistics.md quotes it
    python -m benchmarks.statistics --speed     and beside the speed of memory, NumPy and scikit-learn

The exact result is worked out in rational arithmetic from the values as they are in memory, so that only the library's
own error counts. Libraries that are not installed are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import fastbn
from benchmarks import floors
from benchmarks.cases import Case, filled
from benchmarks.compare.tables import table, time
from benchmarks.timing import best_time
from tests.statistics import rational as exact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from numpy.typing import NDArray

    Batches = Sequence[NDArray[Any]]

RATIOS = (1.0, 1e2, 1e4, 1e6)
SIZES = (1500, 40, 900, 7, 2000, 333, 64, 2, 1100, 254)
CHANNELS = 4
DRIFT = 5.0         # standard deviations from the mean of a batch to that of the next
# NIST StRD, univariate summary statistics: 1,001 values whose standard deviation is 0.1.
NUMACC4 = np.array([10000000.2, *([10000000.1, 10000000.3] * 500)])[:, None]
THREADS = (1, 2)


class Peer(NamedTuple):
    """A way to a variance."""

    name: str
    variance: Callable[[Batches], NDArray[Any]]
    ddof: int = 0


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

    jax.config.update("jax_enable_x64", True)       # for float64; float32 stays what it is
    variables = linen.BatchNorm(use_running_average=False).init(jax.random.key(0), batches[0])
    for k, x in enumerate(batches):
        layer = linen.BatchNorm(use_running_average=False, momentum=k / (k + 1))
        variables |= layer.apply(variables, x, mutable=["batch_stats"])[1]
    return np.asarray(variables["batch_stats"]["var"])


PEERS = (
    Peer("fastbn ChannelStats", by_fastbn),
    Peer("NumPy var, float32", by_numpy),
    Peer("NumPy var, dtype=float64", by_numpy_in_double),
    Peer("scikit-learn partial_fit", by_sklearn),
    Peer("torch.var", by_torch),
    Peer("torch update_bn", by_update_bn, 1),
    Peer("Keras BatchNormalization", by_keras),
    Peer("Flax BatchNorm", by_flax),
)
HEADING = """\
The largest relative error of the variance, {channels} channels of {values:,} float32 values, by mean/std: in one
piece, and in {batches} uneven batches whose mean moves by {drift:g} std from one to the next. And the correct digits of
the standard deviation of NIST's NumAcc4 in float64, which holds {most:.1f} of them.
"""
NOTES = """\
NumPy and torch.var have no batches: they get all values at once. update_bn, Keras and Flax average the variances of the
batches, each with the same weight: update_bn by itself, the others by a momentum of k / (k + 1) in batch k. What lies
between the batches is lost, which alone is an error of nearly 1. Keras casts float64 to float32.
"""


def batches_of(ratio: float, sizes: Sequence[int], drift: float) -> list[NDArray[np.float32]]:
    """Return normal numbers around `ratio`, their standard deviation being 1."""
    rng = np.random.default_rng(0)
    return [(ratio + drift * k + rng.standard_normal((n, CHANNELS))).astype(np.float32) for k, n in enumerate(sizes)]


def installed() -> list[Peer]:
    """Return the peers that there are, and say which there are not."""
    found = []
    for peer in PEERS:
        try:
            peer.variance([np.ones((2, 1), np.float32)])
        except ImportError as error:
            print(f"{peer.name} is left out: {error}")
        else:
            found.append(peer)
    return found


def versions() -> str:
    """Return the versions of the libraries that there are."""
    found = []
    for name in ("numpy", "scikit-learn", "torch", "keras", "flax", "jax"):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


def errors(peer: Peer, cases: Sequence[Batches], right: Sequence[Sequence[Fraction]]) -> list[str]:
    """Return the largest relative error in each case, and the digits of NumAcc4."""
    cells = []
    for batches, variances in zip(cases, right, strict=True):
        n = sum(map(len, batches))
        expected = [v * n / (n - peer.ddof) for v in variances]
        cells.append(f"{exact.relative(peer.variance(batches), expected):.1e}")
    n = len(NUMACC4)
    deviation = (float(peer.variance([NUMACC4])[0]) * (n - peer.ddof) / (n - 1)) ** 0.5
    return [*cells, f"{digits(deviation):.1f}"]


def digits(deviation: float) -> float:
    """Return the correct significant digits of NumAcc4's standard deviation, NIST's LRE."""
    error = abs(Fraction(deviation) * 10 - 1)
    return 15.0 if error == 0 else float(np.clip(-np.log10(float(error)), 0.0, 15.0))


def print_errors(tiny: bool) -> None:
    sizes = SIZES[-4:] if tiny else SIZES
    peers = installed()
    cases = [batches_of(ratio, *how) for how in (([sum(sizes)], 0.0), (sizes, DRIFT)) for ratio in RATIOS]
    right = [exact.population(batches)[1] for batches in cases]
    headings = [f"{how}{ratio:.0e}".replace("e+0", "e").replace("1e0", "1") for how in ("", "batches, ")
                for ratio in RATIOS]
    most = digits(float(exact.population([NUMACC4], ddof=1)[1][0]) ** 0.5)
    print(HEADING.format(channels=CHANNELS, values=sum(sizes), batches=len(sizes), drift=DRIFT, most=most))
    print(table([["", *headings, "NumAcc4"], *([peer.name, *errors(peer, cases, right)] for peer in peers)]))
    print(f"\n{NOTES}With {versions()}.")


def read_seconds(nbytes: int, threads: int, budget: float) -> float:
    """Return the seconds of a plain sum of as many bytes, which no statistics can beat."""
    memory = (floors.TorchFloors if floors.PROVIDER == "torch" else floors.NumpyFloors)(threads)
    memory.prepare(Case((nbytes // 4, 1), "rows"))
    return best_time(memory.calls("read"), budget)


def update(x: NDArray[Any], axis: int, threads: int, budget: float) -> float:
    """Return the seconds of ChannelStats.update."""
    stats = fastbn.ChannelStats(x.shape[axis], axis=axis)
    return best_time([lambda: stats.update(x, num_threads=threads)], budget)


def normal(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return filled(shape, 0)


def random_bytes(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def print_bandwidth(tiny: bool, budget: float) -> None:
    lines = [["ChannelStats.update of", "bytes", "threads", "time", "GB/s", "plain sum, GB/s", "of that"]]
    side = 8 if tiny else 128
    for batch, images in ((1, 1), (2, 2)) if tiny else ((1, 32), (32, 1024)):      # in the cache, and beyond it
        for shape, make in (((batch, 64, side, side), normal), ((images, 3, 2 * side, side), random_bytes)):
            for axis in (1, -1):
                x = make(shape if axis == 1 else (shape[0], *shape[2:], shape[1]))
                for threads in THREADS:
                    floor = read_seconds(x.nbytes, threads, budget)
                    seconds = update(x, axis, threads, budget)
                    lines.append([
                        f"{x.dtype} {'x'.join(map(str, x.shape))}, axis {axis}", f"{x.nbytes / 1e6:.1f} MB",
                        str(threads), time(seconds), f"{x.nbytes / seconds / 1e9:.1f}",
                        f"{x.nbytes / floor / 1e9:.1f}", f"{floor / seconds:.0%}"])
    print(table(lines))


def by_numpy_in_wide_rows(x: NDArray[Any], dtype: type | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return mean and variance of (R, C) values as long rows of several, which NumPy adds faster."""
    channels = x.shape[1]
    wide = x.reshape(-1, math.gcd(len(x), 256) * channels)
    means, variances = (values.reshape(-1, channels) for values in (wide.mean(0, dtype), wide.var(0, dtype)))
    return means.mean(0), variances.mean(0) + means.var(0)


def numpy_tricks(x: NDArray[Any]) -> list[Callable[[], object]]:
    """Return ways to mean and variance of (R, C) values that take NumPy less time than asking for them."""
    return [
        lambda: by_numpy_in_wide_rows(x, None),
        lambda: by_numpy_in_wide_rows(x, np.float32),
        lambda: [(channel.mean(dtype=np.float32), channel.var(dtype=np.float32)) for channel in x.T],
    ]


def print_libraries(tiny: bool, budget: float) -> None:
    try:
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        StandardScaler = None
        print("scikit-learn is not installed and left out\n")
    lines = [["", "threads", "ChannelStats.update", "NumPy mean + var", "ratio", "its fastest way", "ratio",
              "StandardScaler.partial_fit", "ratio"]]
    for x in (filled((1000 if tiny else 100_000, 64), 0), random_bytes((1 if tiny else 64, 224, 224, 3))):
        rows = x.reshape(-1, x.shape[-1])
        plain = best_time([lambda rows=rows: (rows.mean(0), rows.var(0))], budget)
        others = [plain, min(plain, best_time(numpy_tricks(rows), budget))]
        if StandardScaler is not None:
            scaler = StandardScaler()
            others.append(best_time([lambda scaler=scaler, rows=rows: scaler.partial_fit(rows)], budget))
        for threads in THREADS:
            seconds = update(x, -1, threads, budget)
            cells = [cell for other in others for cell in (time(other), f"{other / seconds:.1f}")]
            lines.append([f"{x.dtype} {'x'.join(map(str, x.shape))}", str(threads), time(seconds), *cells])
    lines[0] = lines[0][:len(lines[1])]
    print(table(lines))


def print_masked(tiny: bool, budget: float) -> None:
    lines = [["training forward, half of the steps padding", "threads", "unmasked", "masked", "masked/unmasked"]]
    for shape in ((4, 8, 256), (4, 8, 64)) if tiny else ((64, 512, 256), (64, 512, 64)):
        x = filled(shape, 0)
        y = np.empty_like(x)
        lengths = np.linspace(0, shape[1], shape[0]).round().astype(int)
        for threads in THREADS:
            bn = fastbn.BatchNorm(shape[2], axis=-1, num_threads=threads)
            whole = best_time([lambda bn=bn, x=x, y=y: bn(x, out=y)], budget)
            masked = best_time([lambda bn=bn, x=x, y=y, lengths=lengths: bn(x, out=y, lengths=lengths)], budget)
            lines.append([f"float32 {'x'.join(map(str, shape))}", str(threads), time(whole), time(masked),
                          f"{masked / whole:.2f}"])
    print(table(lines))


def main() -> None:
    """Measure, and print the tables in Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.statistics", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true", help="measure the speed too")
    parser.add_argument("--tiny", action="store_true", help="a smoke test: few values, hardly measured")
    options = parser.parse_args()
    print_errors(options.tiny)
    if options.speed:
        budget = 0.001 if options.tiny else 1.0
        print(f"\nThe best of many calls; load average {os.getloadavg()[0]:.1f} before. Plain sums of as many bytes by "
              f"{floors.PROVIDER}, with as many threads:\n")
        print_bandwidth(options.tiny, budget)
        print("\nNumPy and scikit-learn have one thread; ratios are theirs to ours:\n")
        print_libraries(options.tiny, budget)
        print("\nChannels last, into a warm buffer:\n")
        print_masked(options.tiny, budget)


if __name__ == "__main__":
    main()
