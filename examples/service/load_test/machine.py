"""What the load test ran on, and what else ran there meanwhile."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

BUSY_PERCENT = 5.0


@dataclass(frozen=True)
class Load:
    """How busy a machine was.

    Attributes
    ----------
    started : str
    seconds : float
    ours, others : float
        Percent of all CPU time: of this process and of its children, and of everybody else, the hypervisor included.
    """

    started: str
    seconds: float
    ours: float
    others: float

    @property
    def busy(self) -> bool:
        """Whether others took so much that the figures suffer."""
        return self.others > BUSY_PERCENT


class LoadMeter:
    """Measures from its making to `read`; children count once they have ended."""

    def __init__(self) -> None:
        self._started = time.strftime("%Y-%m-%d %H:%M")
        self._first = self._snapshot()

    def read(self) -> Load:
        """Return how busy the machine was."""
        seconds, everybody, ours = (b - a for a, b in zip(self._first, self._snapshot(), strict=True))
        capacity = seconds * (os.cpu_count() or 1) / 100
        return Load(self._started, seconds, ours / capacity, max(0.0, everybody - ours) / capacity)

    @staticmethod
    def _snapshot() -> tuple[float, float, float]:
        times = psutil.cpu_times()
        everybody = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
        return time.monotonic(), everybody, sum(os.times()[:4])


def describe() -> str:
    """Return the machine in a line."""
    return (f"{cpu()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}, Python "
            f"{platform.python_version()}")


def cpu() -> str:
    """Return the name of the CPU, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
