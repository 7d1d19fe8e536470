"""The cost of SyncBatchNorm: its exchanges, ResNet-50's layers with and without them, and an estimate for more ranks.

docs/guides/scale.md quotes the tables. On a cluster, two ranks on two machines measure its network. Each time is the
best of all samples, of the slowest rank in each.
"""

from __future__ import annotations

import math
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from mpi4py import MPI

import fastbn
from benchmarks.cases import filled
from benchmarks.report import table
from fastbn.layers.ranks import HEADER, channel_of
from fastbn.layers.source import merge, total

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

COMM = MPI.COMM_WORLD
RANKS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
CHANNELS = (64, 256, 1024, 2048)


class Layers(NamedTuple):
    """Equal layers of ResNet-50."""

    channels: int
    side: int
    number: int


RESNET50 = tuple(Layers(*values) for values in (
    (64, 112, 1), (64, 56, 6), (256, 56, 4), (128, 56, 1), (128, 28, 7), (512, 28, 5), (256, 28, 1), (256, 14, 11),
    (1024, 14, 7), (512, 14, 1), (512, 7, 5), (2048, 7, 4)))


def best(call: Callable[[], object], budget: float) -> float:
    """Return the seconds of one collective call."""
    call()
    seconds = math.inf
    spent = 0.0
    while spent < budget:
        COMM.Barrier()
        start = perf_counter()
        call()
        slowest = COMM.allreduce(perf_counter() - start, MPI.MAX)
        seconds = min(seconds, slowest)
        spent += slowest + 1e-5
    return seconds


def numbers(channels: int) -> int:
    """Return how many float64 values a rank contributes to an exchange."""
    return HEADER + 1 + 3 * channels


def exchanges(budget: float) -> tuple[dict[int, tuple[float, float]], float]:
    """Return the seconds of the layer's exchange and of MPI's blocking all-gather by channels, and of a whole step."""
    channel = channel_of(COMM, 60.0, "benchmark")

    def gather(piece: NDArray[np.float64]) -> None:
        channel.all_gather(piece, 60.0, "benchmark")

    seconds = {}
    for channels in CHANNELS:
        piece = np.ones(numbers(channels))
        everything = np.empty((COMM.size, len(piece)))
        seconds[channels] = (best(partial(gather, piece), budget),
                             best(partial(COMM.Allgather, piece, everything), budget))
    pieces = [np.ones(numbers(layers.channels)) for layers in RESNET50 for _ in range(2 * layers.number)]
    return seconds, best(lambda: [gather(piece) for piece in pieces], budget)


def compute(batch: int, budget: float) -> list[list[float]]:
    """Return the seconds of each row of RESNET50: forward and SyncBatchNorm's, backward and SyncBatchNorm's."""
    rows = []
    for layers in RESNET50:
        shape = batch, layers.channels, layers.side, layers.side
        x, dy, y = (filled(shape, COMM.rank + seed) for seed in range(3))
        times = []
        for layer in (fastbn.BatchNorm(layers.channels), fastbn.SyncBatchNorm(layers.channels)):
            times.append((best(partial(layer, x, out=y), budget), best(partial(layer.backward, dy, out=y), budget)))
        rows.append([seconds for pair in zip(*times, strict=True) for seconds in pair])
    return rows


def merging(budget: float) -> dict[tuple[int, int], float]:
    """Return the seconds in which a rank merges all parts of a forward and a backward pass, by ranks and channels."""
    merged = {}
    for ranks in RANKS:
        for channels in sorted({layers.channels for layers in RESNET50}):
            parts = np.ones((ranks, 1 + 3 * channels))
            sums = np.ones((ranks, 2 * channels))
            seconds, end = math.inf, perf_counter() + budget
            while seconds == math.inf or perf_counter() < end:
                start = perf_counter()
                merge(parts[:, :1], parts[:, 1:])
                total(sums)
                seconds = min(seconds, perf_counter() - start)
            merged[ranks, channels] = seconds
    return merged


def estimate(ranks: int, latency: float, bandwidth: float, merged: dict[tuple[int, int], float]) -> tuple[float, ...]:
    """Return the seconds of latency, transfer and merging in a step of ResNet-50 (see docs/guides/scale.md)."""
    waiting = moving = merge_time = 0.0
    for layers in RESNET50:
        waiting += layers.number * 2 * math.ceil(math.log2(ranks)) * latency
        moving += layers.number * 2 * (ranks - 1) * 8 * numbers(layers.channels) / bandwidth
        merge_time += layers.number * merged[ranks, layers.channels]
    return waiting, moving, merge_time


def print_layers(batch: int, rows: list[list[float]]) -> None:
    """Print the time of each layer, and of all."""
    lines = [[f"{batch} samples a rank", "layers", "BatchNorm", "SyncBatchNorm", "backward", "SyncBatchNorm backward"]]
    for layers, row in zip(RESNET50, rows, strict=True):
        lines.append([f"{layers.channels}x{layers.side}x{layers.side}", str(layers.number),
                      *(f"{seconds * 1e3:.3f} ms" for seconds in row)])
    counts = np.array([layers.number for layers in RESNET50])
    lines.append(["all", str(counts.sum()), *(f"{seconds * 1e3:.1f} ms" for seconds in counts @ np.array(rows))])
    print(f"\n{table(lines)}")


def print_estimate(gathered: dict[int, tuple[float, float]], step: float, merged: dict[tuple[int, int], float]) -> None:
    """Fit t = rounds * latency + (ranks - 1) * bytes / bandwidth to the smallest and largest piece, and extrapolate."""
    small, large = CHANNELS[0], CHANNELS[-1]
    slope = (gathered[large][0] - gathered[small][0]) / (8 * (numbers(large) - numbers(small)))
    bandwidth = (COMM.size - 1) / slope
    latency = (gathered[small][0] - slope * 8 * numbers(small)) / math.ceil(math.log2(COMM.size))
    print(f"\nall exchanges of a step, measured: {step * 1e3:.2f} ms")
    print(f"latency {latency * 1e6:.1f} us a round, bandwidth {bandwidth / 1e9:.2f} GB/s\n")
    lines = [["ranks", "latency", "transfer", "merging (measured)", "a step"]]
    for ranks in RANKS:
        times = estimate(ranks, latency, bandwidth, merged)
        lines.append([f"{ranks:,}", *(f"{seconds * 1e3:,.1f} ms" for seconds in (*times, sum(times)))])
    print(table(lines))


def main(tiny: bool, batch: int) -> None:
    """Measure with `batch` samples a rank, and print the tables on rank 0."""
    batch, budget = (1, 0.001) if tiny else (batch, 0.3)
    fastbn.set_num_threads(1)
    gathered, step = exchanges(budget)
    rows = compute(batch, budget)
    if COMM.rank:
        return
    print(f"{COMM.size} ranks, one thread each; {MPI.Get_library_version().split(',')[0].strip()}\n")
    print(table([["channels", "bytes a rank", "exchange", "blocking all-gather"], *(
        [str(channels), f"{8 * numbers(channels):,}", f"{ours * 1e6:.1f} us", f"{blocking * 1e6:.1f} us"]
        for channels, (ours, blocking) in gathered.items())]))
    print_layers(batch, rows)
    if COMM.size > 1:
        print_estimate(gathered, step, merging(budget / 10))
