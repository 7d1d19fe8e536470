"""How long a small call takes at worst while another process keeps a core busy.

    python -m benchmarks.neighbour              some ten seconds; prints a table

A team of threads that shares its cores waits for the one that is not running. So a service's small calls have one
thread whatever the setting, and the table shows what that is worth: a small call with one thread and with the default,
and a large one with one thread and with a team.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from typing import TYPE_CHECKING

import numpy as np

import fastbn
from benchmarks.compare.tables import table

if TYPE_CHECKING:
    from collections.abc import Callable

ELEMENTS = 20_000
CHANNELS = 64


def spin() -> None:
    """Keep a core busy for ever."""
    while True:
        pass


def percentiles(call: Callable[[], object], seconds: float) -> dict[str, float]:
    """Return how long a call takes, in microseconds, over many of them."""
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return {name: 1e6 * float(np.percentile(times, q)) for name, q in (("p50", 50), ("p99", 99), ("p99.9", 99.9))}


def calls() -> dict[str, Callable[[], object]]:
    """Return the calls to compare, by name."""
    x = np.random.default_rng(0).standard_normal((ELEMENTS // CHANNELS, CHANNELS)).astype(np.float32)
    y = np.empty_like(x)
    ones, zeros = np.ones(CHANNELS), np.zeros(CHANNELS)
    one, team = (fastbn.ChannelAffine(zeros, ones, zeros, num_threads=n) for n in (1, os.cpu_count() or 1))
    large = np.ones((2_000_000 // CHANNELS, CHANNELS), np.float32)
    larger = np.empty_like(large)
    return {
        f"{ELEMENTS} elements, one thread": lambda: one(x, out=y),
        f"{ELEMENTS} elements, default": lambda: team(x, out=y),
        "2,000,000 elements, one thread": lambda: one(large, out=larger),
        "2,000,000 elements, a team": lambda: team(large, out=larger),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.neighbour", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each line of the table")
    options = parser.parse_args()
    lines = [["call", "machine", "p50", "p99", "p99.9"]]
    for busy in (False, True):
        neighbour = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
        if busy:
            neighbour.start()
            time.sleep(0.5)
        for name, call in calls().items():
            call()
            found = [f"{value:.1f} µs" for value in percentiles(call, options.seconds).values()]
            lines.append([name, "a busy neighbour" if busy else "quiet", *found])
        if busy:
            neighbour.kill()
            neighbour.join()
    print(table(lines))


if __name__ == "__main__":
    main()
