"""The figures, kept in a file as they come: an interrupted run loses nothing, and runs add up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from benchmarks import floors
from benchmarks.cases import LAYOUTS, Case
from benchmarks.compare.libraries import LIBRARIES, flat

if TYPE_CHECKING:
    from pathlib import Path

UNTHREADED = {library.name for library in LIBRARIES if not library.threaded}


class Results:
    """The best time of each cell, measured in one configuration.

    Parameters
    ----------
    path : Path or None
        Where they are kept, if anywhere.
    configuration : dict
        What they were measured on. Figures in the file that were measured on another are dropped.
    """

    def __init__(self, path: Path | None, configuration: dict[str, Any]) -> None:
        self.path = path
        self.configuration = configuration
        self.cells: dict[str, dict[str, Any]] = {}
        self.runs: list[dict[str, Any]] = []
        self.dropped = False
        if path is not None and path.exists():
            stored = json.loads(path.read_text())
            if stored["configuration"] == configuration:
                self.cells, self.runs = stored["cells"], stored["runs"]
            else:
                self.dropped = True

    @classmethod
    def read(cls, path: Path) -> Results:
        """Return what a file holds, whatever machine it came from."""
        return cls(path, json.loads(path.read_text())["configuration"])

    @staticmethod
    def key(library: str, op: str, case: Case, threads: int) -> str:
        """Return the name of a cell."""
        return f"{library} {op} {case.name} {case.layout} {1 if library in UNTHREADED else threads}"

    def rounds(self, key: str) -> int:
        """Return how often a cell was measured."""
        return self.cells[key]["rounds"] if key in self.cells else 0

    def add(self, key: str, seconds: float) -> None:
        """Keep the best time of a cell."""
        cell = self.cells.setdefault(key, {"seconds": seconds, "rounds": 0})
        cell["seconds"] = min(cell["seconds"], seconds)
        cell["rounds"] += 1

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self.path is None:
            return
        fields = {"configuration": self.configuration, "runs": self.runs, "cells": self.cells}
        new = self.path.with_suffix(".tmp")
        new.write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n")
        new.replace(self.path)

    def seconds(self, library: str, op: str, case: Case, threads: int) -> float | None:
        """Return the best time of a cell, or None if it was not measured."""
        cell = self.cells.get(self.key(library, op, case, threads))
        return None if cell is None else cell["seconds"]

    def floor(self, op: str, case: Case, threads: int) -> float | None:
        """Return the floor of an operation that writes into a warm buffer; others have none.

        Small passes are faster on fewer threads, so those of every number up to `threads` count.
        """
        if op not in ("training", "inference", "backward"):
            return None
        counts = [count for count in self.threads() if count <= threads]
        times = {}
        for name in floors.PASSES:
            measured = [self.seconds("floors", name, flat(Case(case.shape, layout)), count)
                        for layout in LAYOUTS for count in counts]
            times |= {name: min(filter(None, measured))} if any(measured) else {}
        return floors.floor(op, case, times, self.configuration["l3"])

    def speedup(self, peer: str, op: str, case: Case, threads: int) -> float | None:
        """Return how many times faster fastbn is than `peer`."""
        ours, theirs = (self.seconds(name, op, case, threads) for name in ("fastbn", peer))
        return None if ours is None or theirs is None else theirs / ours

    def over_floor(self, op: str, case: Case, threads: int) -> float | None:
        """Return how many times the floor fastbn takes."""
        ours, least = self.seconds("fastbn", op, case, threads), self.floor(op, case, threads)
        return None if ours is None or least is None else ours / least

    def threads(self) -> list[int]:
        """Return the numbers of threads that were measured."""
        return sorted({int(key.rpartition(" ")[2]) for key in self.cells if not key.startswith(tuple(UNTHREADED))})
