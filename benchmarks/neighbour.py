"""Latency while another process keeps a core busy.

A team of threads waits for the thread whose core is taken, so fastbn runs small calls on one thread. The table compares
a small call on one thread and by default, and a large one on one thread and on a team.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from typing import TYPE_CHECKING

import numpy as np

import fastbn
from benchmarks.cases import filled
from benchmarks.report import table

if TYPE_CHECKING:
    from collections.abc import Callable

CHANNELS = 64
SMALL, LARGE = 20_000, 2_000_000    # elements


def spin() -> None:
    """Keep a core busy."""
    while True:
        pass


def percentiles(call: Callable[[], object], seconds: float) -> list[str]:
    """Return percentiles of the time of a call, over many calls."""
    call()
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return [f"{1e6 * float(np.percentile(times, q)):.1f} us" for q in (50, 99, 99.9)]


def calls() -> dict[str, Callable[[], object]]:
    """Return the calls to compare, by name."""
    zeros, ones = np.zeros(CHANNELS), np.ones(CHANNELS)
    one, team = (fastbn.ChannelAffine(zeros, ones, zeros, num_threads=n) for n in (1, os.cpu_count() or 1))
    small, large = (filled((elements // CHANNELS, CHANNELS), 0) for elements in (SMALL, LARGE))
    small_out, large_out = np.empty_like(small), np.empty_like(large)
    return {
        f"{SMALL:,} elements, one thread": lambda: one(small, out=small_out),
        f"{SMALL:,} elements, default": lambda: team(small, out=small_out),
        f"{LARGE:,} elements, one thread": lambda: one(large, out=large_out),
        f"{LARGE:,} elements, {os.cpu_count()} threads": lambda: team(large, out=large_out),
    }


def main(tiny: bool) -> None:
    """Measure for some ten seconds, and print the table."""
    seconds = 0.01 if tiny else 1.0
    lines = [["call", "machine", "p50", "p99", "p99.9"]]
    lines += [[name, "idle", *percentiles(call, seconds)] for name, call in calls().items()]
    neighbour = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    neighbour.start()
    time.sleep(0.5)
    lines += [[name, "one core busy", *percentiles(call, seconds)] for name, call in calls().items()]
    neighbour.kill()
    neighbour.join()
    print(table(lines))
