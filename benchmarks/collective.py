"""What SyncBatchNorm costs: its exchanges, and ResNet-50's layers with and without them; an estimate for more ranks.

``mpiexec -n 2 python -m benchmarks.collective`` prints the tables that docs/scale.md quotes. On a cluster, two ranks on
two machines measure its network. Times are the best of all samples, of the slowest rank in each.
"""

from __future__ import annotations

import argparse
import math
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from mpi4py import MPI

import fastbn
from benchmarks.cases import filled
from fastbn.layers.ranks import HEADER, channel_of
from fastbn.layers.source import merge, total

if TYPE_CHECKING:
    from collections.abc import Callable

COMM = MPI.COMM_WORLD
RANKS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
CHANNELS = (64, 256, 1024, 2048)


class Layers(NamedTuple):
    """Layers of ResNet-50 that are alike."""

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


def exchanges(budget: float) -> dict[int, tuple[float, float]]:
    """Return the seconds of an exchange, as the layer does it and as MPI's blocking all-gather, by channels."""
    channel = channel_of(COMM, 60.0, "benchmark")
    out = {}
    for channels in CHANNELS:
        piece = np.ones(numbers(channels))
        room = np.empty((COMM.size, len(piece)))
        out[channels] = (best(lambda piece=piece: channel.all_gather(piece, 60.0, "benchmark"), budget),
                         best(lambda piece=piece, room=room: COMM.Allgather(piece, room), budget))
    return out


def whole_step(budget: float) -> float:
    """Return the seconds of all exchanges of a step of ResNet-50, one after the other."""
    channel = channel_of(COMM, 60.0, "benchmark")
    pieces = [np.ones(numbers(layers.channels)) for layers in RESNET50 for _ in range(2 * layers.number)]
    return best(lambda: [channel.all_gather(piece, 60.0, "benchmark") for piece in pieces], budget)


def compute(batch: int, budget: float) -> list[tuple[float, float, float, float]]:
    """Return the seconds of forward and backward, without and with the other ranks, for each row of RESNET50."""
    out = []
    for layers in RESNET50:
        shape = batch, layers.channels, layers.side, layers.side
        x, dy, y = (filled(shape, COMM.rank + seed) for seed in range(3))
        row = []
        for layer in (fastbn.BatchNorm(layers.channels), fastbn.SyncBatchNorm(layers.channels)):
            row += [best(lambda layer=layer, x=x, y=y: layer(x, out=y), budget),
                    best(lambda layer=layer, dy=dy, y=y: layer.backward(dy, out=y), budget)]
        out.append((row[0], row[1], row[2], row[3]))
    return out


def merging(budget: float) -> dict[tuple[int, int], float]:
    """Return the seconds that a rank merges in a forward and adds in a backward, by ranks and channels."""
    out = {}
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
            out[ranks, channels] = seconds
    return out


def estimate(ranks: int, latency: float, bandwidth: float, merged: dict[tuple[int, int], float]) -> tuple[float, ...]:
    """Return seconds a step of ResNet-50 for latency, transfer and merging: see docs/scale.md."""
    waiting = moving = merge_time = 0.0
    for layers in RESNET50:
        waiting += layers.number * 2 * math.ceil(math.log2(ranks)) * latency
        moving += layers.number * 2 * (ranks - 1) * 8 * numbers(layers.channels) / bandwidth
        merge_time += layers.number * merged[ranks, layers.channels]
    return waiting, moving, merge_time


def main() -> None:
    """Measure, and print the tables on rank 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="samples a rank (default: 8)")
    parser.add_argument("--tiny", action="store_true", help="a smoke test: one sample, hardly measured")
    options = parser.parse_args()
    batch, budget = (1, 0.001) if options.tiny else (options.batch, 0.3)
    fastbn.set_num_threads(1)
    gathered = exchanges(budget)
    step = whole_step(budget)
    layers = compute(batch, budget)
    if COMM.rank:
        return
    merged = merging(budget / 10)
    print(f"{COMM.size} ranks, one thread each; {MPI.Get_library_version().split(',')[0].strip()}\n")
    print("| channels | bytes a rank | exchange | blocking all-gather |\n|---:|---:|---:|---:|")
    for channels, (ours, blocking) in gathered.items():
        print(f"| {channels} | {8 * numbers(channels):,} | {ours * 1e6:.1f} us | {blocking * 1e6:.1f} us |")

    print(f"\n| {batch} samples a rank | layers | BatchNorm | SyncBatchNorm | backward | SyncBatchNorm backward |\n"
          "|---|---:|---:|---:|---:|---:|")
    sums = np.zeros(4)
    for (channels, side, number), row in zip(RESNET50, layers, strict=True):
        sums += number * np.array(row)
        cells = " | ".join(f"{row[k] * 1e3:.3f} ms" for k in (0, 2, 1, 3))
        print(f"| {channels}x{side}x{side} | {number} | {cells} |")
    print(f"| all | 53 | {' | '.join(f'{sums[k] * 1e3:.1f} ms' for k in (0, 2, 1, 3))} |")
    if COMM.size < 2:
        return

    # t = rounds * latency + (ranks - 1) * bytes / bandwidth, through the smallest and the largest piece
    small, large = CHANNELS[0], CHANNELS[-1]
    slope = (gathered[large][0] - gathered[small][0]) / (8 * (numbers(large) - numbers(small)))
    bandwidth = (COMM.size - 1) / slope
    latency = (gathered[small][0] - slope * 8 * numbers(small)) / math.ceil(math.log2(COMM.size))
    print(f"\nall exchanges of a step, measured: {step * 1e3:.2f} ms")
    print(f"latency {latency * 1e6:.1f} us a round, bandwidth {bandwidth / 1e9:.2f} GB/s\n")
    print("| ranks | latency | transfer | merging (measured) | a step |\n|---:|---:|---:|---:|---:|")
    for ranks in RANKS:
        times = estimate(ranks, latency, bandwidth, merged)
        print(f"| {ranks:,} | {' | '.join(f'{seconds * 1e3:,.1f} ms' for seconds in (*times, sum(times)))} |")


if __name__ == "__main__":
    main()
