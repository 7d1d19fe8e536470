"""One library in a process of its own: two OpenMP pools in one process would spin against each other.

The parent holds a `Worker` and asks it for one measurement at a time; the process waits asleep between two questions.
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
from typing import TYPE_CHECKING, Any

from benchmarks.cases import Case
from benchmarks.timing import best_time

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).resolve().parent.parent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "FASTBN_NUM_THREADS")


class Worker:
    """A process that measures one library with a given number of threads.

    Parameters
    ----------
    library : str
        ``module:class`` of what is measured. An instance is made with the number of threads; its ``prepare(case)`` is
        told each new case, and its ``calls(op)`` returns callables that all do `op`.
    threads : int
    environment : dict of str to str, optional
        Added to that of the process.
    """

    def __init__(self, library: str, threads: int, environment: dict[str, str] | None = None) -> None:
        variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", library, str(threads)], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **variables, **(environment or {})})
        self.pid = self._process.pid

    def measure(self, case: Case, op: str, budget: float) -> float:
        """Return the best seconds of `op` on `case`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        question = {"case": asdict(case), "op": op, "budget": budget}
        with contextlib.suppress(BrokenPipeError):  # the missing answer tells
            print(json.dumps(question), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of {' '.join(self._process.args[3:])} ended at {op} on {case.name}")
        seconds: float = json.loads(answer)["seconds"]
        return seconds

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main(target: str, threads: int) -> None:
    """Answer questions from standard input until it ends."""
    # Answers have the real standard output to themselves, whatever a library may print.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, name = target.split(":")
    library: Any = getattr(importlib.import_module(module), name)(threads)
    prepared = None
    for line in sys.stdin:
        question = json.loads(line)
        case = Case.from_json(question["case"])
        if case != prepared:
            library.prepare(case)
            prepared = case
        seconds = best_time(library.calls(question["op"]), question["budget"])
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
