"""One library in its own process: two OpenMP pools in one process would spin against each other.

The parent holds a `Worker` and asks it for one measurement at a time; the process sleeps between two questions.
Questions and answers are lines of JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.cases import Case, Operation
from benchmarks.peers import Library

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Self

ROOT = Path(__file__).resolve().parent.parent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "FASTBN_NUM_THREADS")
LEAST_SAMPLES = 3
SAMPLE_SECONDS = 50e-6  # short calls are repeated until the cost of the clock vanishes


class Worker:
    """A process that measures one library with a given number of threads.

    Parameters
    ----------
    library : Library
    threads : int
    """

    def __init__(self, library: Library, threads: int) -> None:
        variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", library.target, str(threads)], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **variables, **library.environment})
        self.pid = self._process.pid

    def measure(self, op: Operation, case: Case, budget: float) -> float:
        """Return the best seconds of `op` on `case`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        question = {"case": asdict(case), "op": asdict(op), "budget": budget}
        with contextlib.suppress(BrokenPipeError):  # the missing answer raises below
            print(json.dumps(question), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{' '.join(self._process.args[3:])} ended at {op.name} on {case.layout} {case.name}")
        seconds: float = json.loads(answer)["seconds"]
        return seconds

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def best_time(calls: Sequence[Callable[[], object]], budget: float) -> float:
    """Return the seconds of one call: the best of all samples of all `calls`, which do the same in several ways.

    Parameters
    ----------
    calls : sequence of callables
        They alternate, so that a busy moment slows all of them.
    budget : float
        Seconds to spend after the warm-up; at least three samples of each are taken.
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


def main(target: str, threads: int) -> None:
    """Answer questions from standard input until it ends."""
    # Libraries may print: the answers get the only handle of the real standard output.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, name = target.split(":")
    library: Any = getattr(importlib.import_module(module), name)
    peer = None
    for line in sys.stdin:
        question = json.loads(line)
        case = Case.from_json(question["case"])
        if peer is None or peer.case != case:
            peer = None     # releases the arrays of the last case first
            peer = library(case, threads)
        seconds = best_time(peer.calls(Operation(**question["op"])), question["budget"])
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
