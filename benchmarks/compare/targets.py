"""What fastbn sets out to reach, and whether it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.cases import MB, Case
from benchmarks.compare.peers import OPS, applies

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.compare.results import Results

THREADS = 2
NOISE = 0.95


def resnet(case: Case) -> bool:
    return len(case.shape) == 4 and case.shape[0] == 32


def seven(case: Case) -> bool:
    return case.shape[2:] == (7, 7)


def small(case: Case) -> bool:
    return case.nbytes <= 4 * MB


def planes(case: Case) -> bool:
    return case.layout == "planes"


def rows(case: Case) -> bool:
    return case.layout == "rows"


@dataclass(frozen=True)
class Target:
    """A bound on the cells of some operations.

    Attributes
    ----------
    name : str
    against : {"torch", "numpy", "floor"}
        A bound against a library is the least speed-up; against the floor, the most times it.
    bound : float
    ops : sequence of str
    selects : callable
        Whether a case belongs to it.
    every_thread_count : bool
        Not only at two threads.
    """

    name: str
    against: str
    bound: float
    ops: Sequence[str]
    selects: Callable[[Case], bool]
    every_thread_count: bool = False

    def met(self, value: float) -> bool:
        """Return whether a cell keeps to the bound."""
        return value <= self.bound if self.against == "floor" else value >= self.bound

    def values(self, results: Results, cases: Sequence[Case]) -> list[tuple[float, str, Case, int]]:
        """Return (value, op, case, threads) of every cell that was measured, the worst one first."""
        found = []
        for threads in results.threads():
            if threads != THREADS and not self.every_thread_count:
                continue
            for case in filter(self.selects, cases):
                for op in self.ops:
                    value = (results.over_floor(op, case, threads) if self.against == "floor"
                             else results.speedup(self.against, op, case, threads)) if applies(op, case) else None
                    if value is not None:
                        found.append((value, op, case, threads))
        return sorted(found, key=lambda cell: cell[0], reverse=self.against == "floor")


def _both(name: str, bound: float, op: str, selects: Callable[[Case], bool]) -> list[Target]:
    return [Target(name, "torch", bound, [op], selects),
            Target(f"{name}, fresh", "torch", bound, [f"{op}_fresh"], selects)]


TARGETS = [
    Target("planes training, ResNet", "torch", 2.7, ["training"], lambda c: planes(c) and resnet(c)),
    Target("planes training, ResNet over 32 MB, fresh", "torch", 2.5, ["training_fresh"],
           lambda c: planes(c) and resnet(c) and c.nbytes > 32 * MB),
    Target("planes training, ResNet but 7x7", "floor", 1.4, ["training"],
           lambda c: planes(c) and resnet(c) and not seven(c)),
    Target("planes training, ResNet 7x7", "floor", 2.2, ["training"], lambda c: planes(c) and resnet(c) and seven(c)),
    *_both("planes training, up to 4 MB", 4.0, "training", lambda c: planes(c) and small(c)),
    *_both("planes backward, ResNet", 2.2, "backward", lambda c: planes(c) and resnet(c)),
    Target("planes backward, ResNet", "floor", 1.4, ["backward"], lambda c: planes(c) and resnet(c)),
    *_both("rows training, ResNet and (N, C) over 4 MB", 1.15, "training",
           lambda c: rows(c) and (resnet(c) or len(c.shape) == 2) and not small(c)),
    *_both("rows training, ResNet and (N, C) up to 4 MB", 1.5, "training",
           lambda c: rows(c) and (resnet(c) or len(c.shape) == 2) and small(c)),
    Target("rows training, ResNet and (N, C)", "floor", 1.2, ["training"],
           lambda c: rows(c) and (resnet(c) or len(c.shape) == 2)),
    *_both("rows backward", 1.7, "backward", rows),
    Target("rows backward", "floor", 1.25, ["backward"], rows),
    Target("inference over 4 MB", "torch", NOISE, ["inference"], lambda c: not small(c)),
    Target("inference up to 4 MB", "torch", 1.2, ["inference"], small),
    Target("inference over 32 MB, fresh", "torch", 1.9, ["inference_fresh"], lambda c: c.nbytes > 32 * MB),
    Target("inference over 4 MB", "floor", 1.1, ["inference"], lambda c: not small(c)),
    Target("call on (1, 64)", "torch", 3.0, ["call"], lambda c: True),
    Target("call on (1, 64)", "numpy", 1.0, ["call"], lambda c: True),
    Target("every cell, any number of threads", "torch", NOISE, OPS, lambda c: True, every_thread_count=True),
]
