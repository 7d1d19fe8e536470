"""The speed of memory, which no batch normalization can beat: read, copy and add2, and the floor of each operation.

- read: the sum of x
- copy: y = x into a warm buffer
- add2: dx = x + dy into a warm buffer

With PyTorch's loops where it is installed, else with NumPy's, split over threads: both are plain vectorised loops over
all cores. Several ways are tried and the best one counts, since a slow floor would flatter what stands on it.
"""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.cases import Case, filled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PASSES = ("read", "copy", "add2")
DEFAULT_L3 = 32 << 20
PROVIDER = "torch" if importlib.util.find_spec("torch") else "numpy"
LIBRARY = f"benchmarks.floors:{PROVIDER.capitalize()}Floors"  # for benchmarks.worker


def passes(op: str, case: Case, l3: int) -> dict[str, int]:
    """Return the passes over memory that `op` needs at least, and how often.

    Parameters
    ----------
    op : {"training", "inference", "backward", "frozen_backward", "relu", "residual_relu"}
        Either of the last two as a training forward.
    case : Case
    l3 : int
        Bytes of the last level of cache.

    Notes
    -----
    A channel of planes is a few long runs, so that a group of them stays in L2 between statistics and result. In rows
    every channel runs through the whole array: what L3 does not hold is read twice.
    """
    if op == "inference":
        return {"copy": 1}
    if op == "frozen_backward":  # dgamma needs x
        return {"add2": 1}
    if op == "backward":
        again = 2 if case.layout == "rows" and 2 * case.nbytes > l3 else 0
        return {"read": again, "add2": 1}
    again = 1 if case.layout == "rows" and case.nbytes > l3 else 0
    return {"read": again, "add2" if op == "residual_relu" else "copy": 1}


def floor(op: str, case: Case, seconds: Mapping[str, float], l3: int) -> float | None:
    """Return the least seconds of `op`, from those of each pass; None where a pass was not measured."""
    needed = {name: times for name, times in passes(op, case, l3).items() if times}
    if not needed.keys() <= seconds.keys():
        return None
    return sum(times * seconds[name] for name, times in needed.items())


def l3_bytes() -> int:
    """Return the size of the last level of cache."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text().strip()
    except OSError:
        return DEFAULT_L3
    units = {"K": 1 << 10, "M": 1 << 20}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


class TorchFloors:
    """The three passes with PyTorch."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch = torch

    def prepare(self, case: Case) -> None:
        """Make arrays of as many elements as the case has."""
        self.x, self.dy, self.y = (self.torch.from_numpy(filled((case.size,), seed)) for seed in range(3))

    def calls(self, op: str) -> list[Callable[[], object]]:
        """Return the ways to do a pass."""
        torch, x, dy, y = self.torch, self.x, self.dy, self.y
        return {
            "read": [lambda: torch.sum(x), lambda: torch.dot(x, x)],
            "copy": [lambda: y.copy_(x), lambda: torch.mul(x, 2.0, out=y)],
            "add2": [lambda: torch.add(x, dy, out=y)],
        }[op]


class NumpyFloors:
    """The three passes with NumPy, one part of the array a thread: NumPy lets go of the interpreter inside."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads)

    def prepare(self, case: Case) -> None:
        """Make arrays of as many elements as the case has."""
        self.arrays = tuple(filled((case.size,), seed) for seed in range(3))

    def calls(self, op: str) -> list[Callable[[], object]]:
        """Return the ways to do a pass."""
        do: Callable[..., object] = {
            "read": lambda x, dy, y: np.add.reduce(x),
            "copy": lambda x, dy, y: np.copyto(y, x),
            "add2": lambda x, dy, y: np.add(x, dy, out=y),
        }[op]
        parts = list(zip(*(np.array_split(array, self.threads) for array in self.arrays), strict=True))
        return [lambda: do(*self.arrays), lambda: list(self.pool.map(lambda part: do(*part), parts))]
