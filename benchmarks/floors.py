"""The speed of memory, and the floor that it sets for each operation.

- read: the sum of x
- read2: the sum of x * dy
- copy: y = x into a warm buffer
- add2: dx = x + dy into a warm buffer

PyTorch's loops do these passes if it is installed, otherwise NumPy's, split over threads. The fastest way counts,
because a slow floor would flatter the operations compared with it.
"""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.cases import Case, Operation
from benchmarks.peers import Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.peers import Calls

PASSES = {name: Operation(name, name, name) for name in ("read", "read2", "copy", "add2")}
DEFAULT_L3 = 32 << 20
PROVIDER = "torch" if importlib.util.find_spec("torch") else "numpy"


def passes(op: Operation, case: Case, l3: int) -> list[str]:
    """Return the passes over memory that `op` needs at least, none if it has no floor; `l3` are the bytes of L3.

    A channel of planes is a few long runs, so a group of channels stays in L2 between statistics and result. A channel
    of rows runs through the whole array: what L3 does not hold is read twice.
    """
    if op.kind == "moments":
        return ["read"]
    if op.fresh or op.dtype != "float32":
        return []
    if op.kind == "step":
        return [name for kind in ("training", "backward") for name in passes(replace(op, kind=kind), case, l3)]
    if op.kind.endswith("_norm_backward"):      # a statistic's values stay in a cache
        return ["add2"]
    if op.kind.endswith("_norm"):
        return ["copy"]
    if op.kind == "backward":
        twice = not op.frozen and case.layout == "rows" and 2 * case.nbytes > l3
        return ["read2", "add2"] if twice else ["add2"]
    last = "add2" if op.residual else "copy"
    if op.kind == "training":
        return ["read", last] if case.layout == "rows" and case.nbytes > l3 else [last]
    return [last] if op.kind in ("inference", "affine") else []


def floor(needed: list[str], seconds: Mapping[str, float]) -> float | None:
    """Return the least seconds of an operation, from those of each pass; None if one was not measured."""
    if "read" in seconds:   # figures from before read2 was measured
        seconds = {"read2": 2 * seconds["read"], **seconds}
    if not needed or not set(needed) <= seconds.keys():
        return None
    return sum(seconds[name] for name in needed)


def flat(op: Operation, case: Case) -> Case:
    """Return the case whose float32 arrays have as many bytes as x.

    Floors depend on the size alone. The layout is kept so that each size is measured at two moments.
    """
    return Case((op.nbytes(case) // 4,), case.layout)


def l3_bytes() -> int:
    """Return the size of the last level of cache."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text().strip()
    except OSError:
        return DEFAULT_L3
    units = {"K": 1 << 10, "M": 1 << 20}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


class Floors(Peer):
    """The passes over memory, as a peer."""

    def __init__(self, case: Case, threads: int) -> None:
        self.case = case
        self.threads = threads

    @classmethod
    def supports(cls, op: Operation, case: Case) -> bool:
        """Return whether `op` is a pass."""
        return op.name in PASSES

    def calls(self, op: Operation) -> Calls:
        """Return the ways to do a pass."""
        ways = self._by_torch if PROVIDER == "torch" else self._by_numpy
        return ways(op.name)

    def _by_torch(self, name: str) -> Calls:
        import torch

        torch.set_num_threads(self.threads)
        x, dy, y = map(torch.from_numpy, (self.x, self.dy, self.y))
        calls: dict[str, Calls] = {
            "read": [lambda: torch.sum(x), lambda: torch.dot(x, x)],
            "read2": [lambda: torch.dot(x, dy)],
            "copy": [lambda: y.copy_(x), lambda: torch.mul(x, 2.0, out=y)],
            "add2": [lambda: torch.add(x, dy, out=y)],
        }
        if len(x) % self.threads == 0:  # a product for each thread
            left, right = x.view(self.threads, 1, -1), dy.view(self.threads, -1, 1)
            calls["read2"].append(lambda: torch.bmm(left, right))
        return calls[name]

    def _by_numpy(self, name: str) -> Calls:
        passes: dict[str, Callable[..., Any]] = {
            "read": lambda x, dy, y: np.add.reduce(x),
            "read2": lambda x, dy, y: np.dot(x, dy),
            "copy": lambda x, dy, y: np.copyto(y, x),
            "add2": lambda x, dy, y: np.add(x, dy, out=y),
        }
        do, arrays = passes[name], (self.x, self.dy, self.y)
        parts = list(zip(*(np.array_split(array, self.threads) for array in arrays), strict=True))
        pool = ThreadPoolExecutor(self.threads)     # NumPy releases the GIL inside
        return [lambda: do(*arrays), lambda: list(pool.map(lambda part: do(*part), parts))]
