"""The cost of where arrays begin: in a page, and in a cache line.

A load waits for an earlier store to the same place in another page, because the CPU first compares the low 12 bits of
the addresses. Vectors of arrays that begin inside a cache line lie in two lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import fastbn
from benchmarks.cases import Case, filled, parameters
from benchmarks.report import ratio, table, time
from benchmarks.worker import best_times

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

PAGE, LINE = 4096, 64
APART = (0, 21 * LINE, 43 * LINE)   # odd numbers of lines between x, dy and the result
OFFSETS = (0, 4, 16, 32, 60)        # bytes past the beginning of a line
CASES = (Case((16, 64, 28, 28), "planes"), Case((4096, 256), "rows"), Case((1, 2048, 7, 7), "planes"),
         Case((1, 2048, 7, 7), "rows"))
TINY_CASES = (Case((2, 8, 7, 7), "planes"), Case((8, 24), "rows"))
BUDGET, TINY_BUDGET = 2.0, 0.01     # seconds of a row


class Room:
    """Memory of an array that may begin anywhere in its first page, so that every placement uses the same memory."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case = case
        self.memory = filled((case.size + 2 * PAGE // 4,), seed)
        self.first = -self.memory.ctypes.data % PAGE // 4

    def at(self, offset: int) -> NDArray[np.float32]:
        """Return the array that begins `offset` bytes, a multiple of 4, after the beginning of the page."""
        first = self.first + offset // 4
        return self.memory[first:first + self.case.size].reshape(self.case.array_shape)


def calls(case: Case, rooms: Sequence[Room], offsets: Sequence[int]) -> dict[str, Callable[[], object]]:
    """Return the operations on arrays that begin at these offsets: x, dy and the result."""
    x, dy, y = (room.at(offset) for room, offset in zip(rooms, offsets, strict=True))
    gamma, beta, mean, var = parameters(case.channels).values()
    f, options = fastbn.functional, {"axis": case.axis, "out": y, "num_threads": 1}
    saved = f.batch_norm_training(x, gamma, beta, **options)[1]
    return {
        "training": lambda: f.batch_norm_training(x, gamma, beta, **options),
        "backward": lambda: f.batch_norm_backward(dy, x, saved, gamma, **options),
        "inference": lambda: f.batch_norm_inference(x, mean, var, gamma, beta, **options),
    }


def main(tiny: bool) -> None:
    """Print the times of every placement, as multiples of that at the beginning of a line, in one thread."""
    lines = [["operation", "case", "apart", "same place in a page", *(f"{k} bytes past a line" for k in OFFSETS[1:]),
              "worst / best offset"]]
    for case in TINY_CASES if tiny else CASES:
        # The first is the reference; arrays of the others are as far apart, except those at the same place.
        rooms = [Room(case, seed) for seed in range(3)]
        placed = [calls(case, rooms, APART), calls(case, rooms, (0, 0, 0))]
        placed += [calls(case, rooms, [place + offset for place in APART]) for offset in OFFSETS[1:]]
        for name in placed[0]:
            apart, same, *inside = best_times([ways[name] for ways in placed], TINY_BUDGET if tiny else BUDGET)
            lines.append([name, f"{case.layout} {case.name}", time(apart), ratio(same / apart),
                          *(ratio(seconds / apart) for seconds in inside),
                          ratio(max(apart, *inside) / min(apart, *inside))])
    print(table(lines))
