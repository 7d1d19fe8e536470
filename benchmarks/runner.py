"""Measures the cells of a suite: every library in its own process, in turns, in several rounds."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks import floors
from benchmarks.cases import Case, Operation
from benchmarks.peers import FLOORS, LIBRARIES, Library
from benchmarks.results import Results, is_busy
from benchmarks.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

SAVE_EVERY = 50     # cells


@dataclass(frozen=True)
class Cell:
    """One measurement: an operation of a library on a case."""

    library: Library
    threads: int
    op: Operation
    case: Case

    @property
    def key(self) -> str:
        """Its name in the results."""
        return Results.key(self.library.name, self.op, self.case, self.threads)


def cells(plan: Mapping[Operation, Sequence[Case]], threads: Sequence[int], l3: int) -> Iterator[Cell]:
    """Yield what is measured, in order.

    The libraries take turns at each operation, so that a busy minute slows all of them.
    """
    libraries = [library for library in LIBRARIES if library.installed()]
    seen = set()
    for case in dict.fromkeys(case for selected in plan.values() for case in selected):
        for count in threads:
            for op, selected in plan.items():
                if case not in selected:
                    continue
                memory = [Cell(FLOORS, count, floors.PASSES[name], floors.flat(op, case))
                          for name in floors.passes(op, case, l3)]
                peers = [Cell(library, count if library.threaded else 1, op, case)
                         for library in libraries if library.peer.supports(op, case)]
                for cell in memory + peers:
                    if cell.key not in seen:
                        seen.add(cell.key)
                        yield cell


def left_out(plan: Mapping[Operation, Sequence[Case]]) -> dict[str, str]:
    """Return the libraries that could take part but are not installed, with the names of their modules."""
    return {library.title: library.module for library in LIBRARIES if not library.installed()
            and any(library.peer.supports(op, case) for op, selected in plan.items() for case in selected)}


def measure(results: Results, plan: Mapping[Operation, Sequence[Case]], *, threads: Sequence[int], rounds: int,
            budget: float, resume: bool) -> None:
    """Measure every cell in every round, and save the figures as they come.

    `budget` is the time for one cell in one round, in seconds. `resume` skips the rounds that were measured before.
    """
    for title, module in left_out(plan).items():
        print(f"{title} is left out: the module {module} is not installed", file=sys.stderr)
    chosen = list(cells(plan, threads, results.configuration["l3"]))
    before = {cell.key: results.rounds(cell.key) if resume else 0 for cell in chosen}
    with ExitStack() as stack:
        stack.callback(results.save)
        workers: dict[tuple[str, int], Worker] = {}
        for cell in chosen:
            if (cell.library.target, cell.threads) not in workers:
                workers[cell.library.target, cell.threads] = stack.enter_context(Worker(cell.library, cell.threads))
        load = Load(worker.pid for worker in workers.values())
        for turn in range(rounds):
            todo = [cell for cell in chosen if before[cell.key] <= turn]
            if not todo:
                continue
            load.start()
            for done, cell in enumerate(todo, 1):
                progress(f"round {turn + 1} of {rounds}, {done} of {len(todo)}: {cell.key}")
                worker = workers[cell.library.target, cell.threads]
                results.add(cell.key, worker.measure(cell.op, cell.case, budget))
                if done % SAVE_EVERY == 0:
                    results.save()
            results.runs.append(load.stop())
            results.save()
            if is_busy(results.runs[-1]):
                print(f"\nthe machine was busy: {results.runs[-1]}", file=sys.stderr)
    progress("")


def progress(text: str) -> None:
    """Show what is being measured, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r{text:<100.100}", end="\r" if not text else "", file=sys.stderr, flush=True)


class Load:
    """The CPU time that other processes take between `start` and `stop`; `pids` are the benchmark's own."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._ours = [psutil.Process(), *map(psutil.Process, pids)]

    def start(self) -> None:
        """Take the first reading."""
        self._started = time.strftime("%Y-%m-%d %H:%M")
        self._first = self._snapshot()

    def stop(self) -> dict[str, Any]:
        """Return the time of the start, and the percentage of all CPU time that other processes and the host took."""
        elapsed, busy, ours, stolen = (b - a for a, b in zip(self._first, self._snapshot(), strict=True))
        percent = 100 / (max(elapsed, 1e-9) * (os.cpu_count() or 1))
        return {"started": self._started, "seconds": round(elapsed, 1),
                "others_percent": round(max(0.0, percent * (busy - ours)), 1),
                "stolen_percent": round(percent * stolen, 1)}

    def _snapshot(self) -> tuple[float, float, float, float]:
        times = psutil.cpu_times()
        busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
        ours = sum(t.user + t.system for t in (process.cpu_times() for process in self._ours))
        return time.monotonic(), busy, ours, getattr(times, "steal", 0.0)
