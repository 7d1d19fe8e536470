"""The shortest time of many calls: what the machine can do when nothing else disturbs it."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LEAST_SAMPLES = 3
SAMPLE_SECONDS = 50e-6  # a sample of short calls holds as many of them as make the clock's own cost vanish


def best_time(calls: Sequence[Callable[[], object]], budget: float) -> float:
    """Return the seconds of one call: the best of all samples of all `calls`, which do the same in several ways.

    Parameters
    ----------
    calls : sequence of callables
        They take turns, so that a busy moment hits all of them.
    budget : float
        Seconds to spend, warming up aside; at least three samples of each are taken.
    """
    repeats = [_repeats(call) for call in calls]
    best = float("inf")
    samples, end = 0, perf_counter() + budget
    while samples < LEAST_SAMPLES or perf_counter() < end:
        for call, repeat in zip(calls, repeats, strict=True):
            best = min(best, _sample(call, repeat))
        samples += 1
    return best


def _repeats(call: Callable[[], object]) -> int:
    call()
    once = min(_sample(call, 1) for _ in range(2))
    return max(1, int(SAMPLE_SECONDS / max(once, 1e-9)))


def _sample(call: Callable[[], object], repeat: int) -> float:
    turns = range(repeat)
    start = perf_counter()
    for _ in turns:
        call()
    return (perf_counter() - start) / repeat
