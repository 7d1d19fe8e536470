"""The machine of the load test, and the load of other processes."""

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
    """CPU load during the test.

    Attributes
    ----------
    started : str
    seconds : float
    ours, others : float
        Percent of all CPU time: this process and its children, and all others including the hypervisor.
    """

    started: str
    seconds: float
    ours: float
    others: float

    @property
    def busy(self) -> bool:
        """Whether other processes distort the figures."""
        return self.others > BUSY_PERCENT


class LoadMeter:
    """Measures the CPU load from its creation to `read`. Child processes count after their end."""

    def __init__(self) -> None:
        self._started = time.strftime("%Y-%m-%d %H:%M")
        self._first = self._snapshot()

    def read(self) -> Load:
        """Return the CPU load."""
        seconds, total, ours = (b - a for a, b in zip(self._first, self._snapshot(), strict=True))
        capacity = seconds * (os.cpu_count() or 1) / 100
        return Load(self._started, seconds, ours / capacity, max(0.0, total - ours) / capacity)

    @staticmethod
    def _snapshot() -> tuple[float, float, float]:
        times = psutil.cpu_times()
        total = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
        return time.monotonic(), total, sum(os.times()[:4])


def describe() -> str:
    """Return a one-line description of the machine."""
    return (f"{cpu()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}, Python "
            f"{platform.python_version()}")


def cpu() -> str:
    """Return the name of the CPU, or else of its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
