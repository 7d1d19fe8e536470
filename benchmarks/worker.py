"""One library in its own process: two OpenMP pools in one process would spin against each other.

The parent holds a `Worker` and asks it for one measurement at a time; the process sleeps between two questions.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from time import perf_counter
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks.peers import Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

    from typing_extensions import Self

    from benchmarks.cases import Case, Operation
    from benchmarks.peers import Library

# NPROC is the number of CPUs in which XLA believes.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "FASTBN_NUM_THREADS", "NPROC")
LEAST_SAMPLES = 3
SAMPLE_SECONDS = 50e-6  # short calls are repeated until the cost of the clock vanishes


class Worker:
    """A process that measures one library with a given number of threads."""

    def __init__(self, library: Library, threads: int) -> None:
        self.library = library
        spawn = multiprocessing.get_context("spawn")
        self._questions, theirs = spawn.Pipe()
        self._process = spawn.Process(target=answer, args=(library, threads, theirs), daemon=True)
        with mock.patch.dict(os.environ, dict.fromkeys(THREAD_VARIABLES, str(threads)) | library.environment):
            self._process.start()
        theirs.close()
        self.pid = self._process.pid

    def measure(self, op: Operation, case: Case, budget: float) -> float:
        """Return the best seconds of `op` on `case`."""
        try:
            self._questions.send((op, case, budget))
            seconds: float = self._questions.recv()
        except (EOFError, OSError):
            raise RuntimeError(f"{self.library.target} ended at {op.name} on {case.layout} {case.name}") from None
        return seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._questions.close()
        self._process.join()


def answer(library: Library, threads: int, questions: Connection) -> None:
    """Measure what the parent asks for, until it closes the connection."""
    peer: Peer | None = None
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            op, case, budget = questions.recv()
            if peer is None or peer.case != case:
                peer = None     # releases the arrays of the last case first
                peer = library.peer(case, threads)
            questions.send(best_time(peer.calls(op), budget))


def best_time(calls: Sequence[Callable[[], Any]], budget: float) -> float:
    """Return the seconds of one call: the best of all samples of all `calls`, which do the same in several ways."""
    return min(best_times(calls, budget))


def best_times(calls: Sequence[Callable[[], Any]], budget: float) -> list[float]:
    """Return the seconds of each call: the best of all its samples.

    The calls alternate, so that a busy moment slows all of them. `budget` is the time to spend after the warm-up, in
    seconds; at least three samples of each call are taken.
    """
    repeats = [_repeats(call) for call in calls]
    best = [float("inf")] * len(calls)
    samples, end = 0, perf_counter() + budget
    while samples < LEAST_SAMPLES or perf_counter() < end:
        for k, (call, repeat) in enumerate(zip(calls, repeats, strict=True)):
            best[k] = min(best[k], _sample(call, repeat))
        samples += 1
    return best


def _repeats(call: Callable[[], Any]) -> int:
    call()
    once = min(_sample(call, 1) for _ in range(2))
    return max(1, int(SAMPLE_SECONDS / max(once, 1e-9)))


def _sample(call: Callable[[], Any], repeat: int) -> float:
    turns = range(repeat)
    start = perf_counter()
    for _ in turns:
        call()
    return (perf_counter() - start) / repeat
