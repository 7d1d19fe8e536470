"""The figures of a suite, and what they were measured on.

Figures are saved as they come: an interrupted run loses nothing, and runs add up.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import floors
from benchmarks.cases import LAYOUTS, OPERATIONS, Case, Operation
from benchmarks.peers import UNTHREADED
from fastbn._core.config import config

PACKAGES = ("numpy", "torch", "onnxruntime", "openvino", "opencv-python-headless", "scikit-learn", "jax")
ROOT = Path(__file__).resolve().parent.parent
BUSY_PERCENT = 5.0  # of the machine's CPU time
SOURCES = {".py", ".pyx", ".pxd", ".pxi"}


class Results:
    """The best time of each cell. Figures in the file that were measured on another `configuration` are dropped."""

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
        """Return the contents of a file, whatever machine they came from."""
        return cls(path, json.loads(path.read_text())["configuration"])

    @staticmethod
    def key(library: str, op: Operation, case: Case, threads: int) -> str:
        """Return the name of a cell."""
        return f"{library} {op.name} {case.name} {case.layout} {1 if library in UNTHREADED else threads}"

    def rounds(self, key: str) -> int:
        """Return how often a cell was measured."""
        return self.cells[key]["rounds"] if key in self.cells else 0

    def add(self, key: str, seconds: float) -> None:
        """Keep the best time of a cell."""
        cell = self.cells.setdefault(key, {"seconds": seconds, "rounds": 0})
        cell["seconds"] = min(cell["seconds"], seconds)
        cell["rounds"] += 1

    def save(self) -> None:
        """Write the file as a whole."""
        if self.path is None:
            return
        fields = {"configuration": self.configuration, "runs": self.runs, "cells": self.cells}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".tmp")
        new.write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n")
        new.replace(self.path)

    def threads(self) -> list[int]:
        """Return the numbers of threads that were measured."""
        return sorted({int(key.rpartition(" ")[2]) for key in self.cells if key.partition(" ")[0] not in UNTHREADED})

    def seconds(self, library: str, op: Operation, case: Case, threads: int) -> float | None:
        """Return the best time of a cell, or None if it was not measured."""
        cell = self.cells.get(self.key(library, op, case, threads))
        return None if cell is None else cell["seconds"]

    def floor(self, op: Operation, case: Case, threads: int) -> float | None:
        """Return the floor of an operation, or None if it has none or it was not measured.

        Small passes are faster on fewer threads, so those of every number up to `threads` count.
        """
        flat = floors.flat(op, case)
        measured = {
            name: [seconds for layout in LAYOUTS for count in self.threads() if count <= threads
                   if (seconds := self.seconds("floors", memory, Case(flat.shape, layout), count)) is not None]
            for name, memory in floors.PASSES.items()}
        best = {name: min(times) for name, times in measured.items() if times}
        return floors.floor(floors.passes(op, case, self.configuration["l3"]), best)

    def ratio(self, against: str, op: Operation, case: Case, threads: int) -> float | None:
        """Return how many times faster fastbn is than a peer or than its baseline, or how many times a floor it takes.

        `against` is the name of a library, "baseline" or "floor".
        """
        ours = self.seconds("fastbn", op, case, threads)
        if against == "floor":
            ours, other = self.floor(op, case, threads), ours
        elif against == "baseline":
            other = self.seconds("fastbn", OPERATIONS[op.baseline[0]], case, threads) if op.baseline else None
        else:
            other = self.seconds(against, op, case, threads)
        return None if ours is None or other is None else other / ours


def is_busy(run: dict[str, Any]) -> bool:
    """Return whether other processes took so much CPU time that the figures of a run suffer."""
    return bool(run["others_percent"] + run["stolen_percent"] > BUSY_PERCENT)


def configuration() -> dict[str, Any]:
    """Return all that two measurements must share to be compared."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "caches": _caches(),
        "l3": floors.l3_bytes(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "floors": floors.PROVIDER,
        "fastbn": _fastbn(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _caches() -> str:
    caches = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            caches.append(f"L{level} {size}")
    return ", ".join(caches)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _fastbn() -> dict[str, str]:
    values = config()
    return {
        "version": values["fastbn"],
        "isa": values["isa"]["chosen"],
        "compiler": values["compiler"],
        "kernels": digest(ROOT / "fastbn" / "_core"),
        "package": digest(ROOT / "fastbn"),
    }


def digest(folder: Path) -> str:
    """Return a digest of the sources in a folder."""
    value = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in SOURCES:
            value.update(path.read_bytes())
    return value.hexdigest()[:12]
