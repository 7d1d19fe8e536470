"""What the figures were measured on, and what else ran there."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.floors import PROVIDER, l3_bytes
from benchmarks.worker import ROOT
from fastbn._core.config import config

if TYPE_CHECKING:
    from collections.abc import Iterable

BUSY_PERCENT = 5.0
PACKAGES = ("numpy", "torch", "onnxruntime", "openvino", "opencv-python-headless", "scikit-learn")
SOURCES = {".py", ".pyx", ".pxd", ".pxi"}


def configuration() -> dict[str, Any]:
    """Return all that two measurements must share to be compared."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "caches": _caches(),
        "l3": l3_bytes(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "floors": PROVIDER,
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


class Load:
    """The CPU time of this machine between `start` and `stop`: that of the benchmark, and that of other processes.

    Parameters
    ----------
    pids : iterable of int
        The benchmark's processes besides this one.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._ours = [psutil.Process(), *map(psutil.Process, pids)]

    def start(self) -> None:
        """Take the first reading."""
        self._started = time.strftime("%Y-%m-%d %H:%M")
        self._before = os.getloadavg()[0]
        self._first = self._snapshot()

    def stop(self) -> dict[str, Any]:
        """Return the time of the start, the load averages, and the percentage of all CPU time that others took."""
        elapsed, all_busy, ours, stolen = (b - a for a, b in zip(self._first, self._snapshot(), strict=True))
        capacity = max(elapsed, 1e-9) * (os.cpu_count() or 1)
        return {
            "started": self._started,
            "seconds": round(elapsed, 1),
            "load_before": round(self._before, 2),
            "load_after": round(os.getloadavg()[0], 2),
            "others_percent": round(max(0.0, 100 * (all_busy - ours) / capacity), 1),
            "stolen_percent": round(100 * stolen / capacity, 1),
        }

    def _snapshot(self) -> tuple[float, float, float, float]:
        times = psutil.cpu_times()
        busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
        ours = sum(t.user + t.system for t in (process.cpu_times() for process in self._ours))
        return time.monotonic(), busy, ours, getattr(times, "steal", 0.0)


def is_busy(run: dict[str, Any]) -> bool:
    """Return whether other processes took so much of the machine that the figures of a run suffer."""
    return bool(run["others_percent"] + run["stolen_percent"] > BUSY_PERCENT)
