"""Measures the cells of a suite: every library in its own process, in turns, in several rounds."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import floors
from benchmarks.cases import Case, Operation
from benchmarks.machine import Load, is_busy
from benchmarks.peers import FLOORS, LIBRARIES, Library
from benchmarks.results import Results
from benchmarks.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes
    ----------
    rounds : int
    budget : float
        Seconds for one cell in one round.
    threads : sequence of int
    resume : bool
        Skip the rounds of a cell that were measured before.
    """

    rounds: int
    budget: float
    threads: Sequence[int]
    resume: bool = False


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


def measure(results: Results, plan: Mapping[Operation, Sequence[Case]], effort: Effort) -> None:
    """Measure every cell in every round, and save the figures as they come."""
    chosen = list(cells(plan, effort.threads, results.configuration["l3"]))
    before = {cell.key: results.rounds(cell.key) if effort.resume else 0 for cell in chosen}
    with ExitStack() as stack:
        workers: dict[tuple[str, int], Worker] = {}
        for cell in chosen:
            if (cell.library.target, cell.threads) not in workers:
                workers[cell.library.target, cell.threads] = stack.enter_context(Worker(cell.library, cell.threads))
        load = Load(worker.pid for worker in workers.values())
        for turn in range(effort.rounds):
            todo = [cell for cell in chosen if before[cell.key] <= turn]
            if not todo:
                continue
            load.start()
            for done, cell in enumerate(todo, 1):
                progress(f"round {turn + 1} of {effort.rounds}, {done} of {len(todo)}: {cell.key}")
                worker = workers[cell.library.target, cell.threads]
                results.add(cell.key, worker.measure(cell.op, cell.case, effort.budget))
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
