"""Arrays as matrices of channels by positions, block by block in float64, for linear algebra of bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.rounding import rounded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fastbn._core import views

BLOCK_VALUES = 1 << 18      # of a block: 2 MB
LEAST_POSITIONS = 64        # of a block, so that products of wide matrices remain efficient


def walked(view: views.View) -> NDArray[Any]:
    """Return the array of a view in its shape (n, c, s), without a copy."""
    order = view.arrangement[1]
    return (view.array if order is None else view.array.transpose(order)).reshape(view.shape)


class Blocks:
    """A view cut into blocks of all channels and some positions.

    A block is (G, D, k): k positions of G groups of D channels, in memory in the order of the view, which BLAS reads as
    it is. The cuts follow from the shape alone.

    Parameters
    ----------
    view : View
    groups : int
    """

    n: int
    c: int
    s: int
    groups: int

    def __init__(self, view: views.View, groups: int) -> None:
        self.n, self.c, self.s = view.shape
        self.groups = groups
        self._most = max(LEAST_POSITIONS, BLOCK_VALUES // self.c)
        self._buffers: dict[str, NDArray[np.float64]] = {}

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        samples = max(1, self._most // self.s)
        width = min(self.s, self._most)
        for n in range(0, self.n, samples):
            for s in range(0, self.s, width):
                yield slice(n, min(n + samples, self.n)), slice(s, min(s + width, self.s))

    def buffer(self, name: str, block: tuple[slice, slice]) -> NDArray[np.float64]:
        """Return memory for a block by its name, the same for all blocks."""
        positions = (block[0].stop - block[0].start) * (block[1].stop - block[1].start)
        size = self.c * positions
        if name not in self._buffers:
            self._buffers[name] = np.empty(size)        # the first block is the largest
        memory = self._buffers[name][:size]
        matrix: NDArray[np.float64] = (
            memory.reshape(positions, self.groups, -1).transpose(1, 2, 0) if self.s == 1
            else memory.reshape(self.groups, -1, positions))
        return matrix

    def load(
        self, view: views.View, block: tuple[slice, slice], name: str, mean: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Return a block of a view, minus a mean per channel."""
        matrix = self.buffer(name, block)
        part = walked(view)[:, :, block[1]][block[0]]
        target = self._positions(matrix, part.shape)
        np.copyto(target, part)
        if mean is not None:
            with np.errstate(invalid="ignore"):     # Inf - Inf is NaN
                target -= mean[:, None]
        return matrix

    def store(self, matrix: NDArray[np.float64], view: views.View, block: tuple[slice, slice]) -> None:
        """Round a block to the dtype of a view, and write it there."""
        part = walked(view)[:, :, block[1]][block[0]]
        source: NDArray[Any] = self._positions(matrix, part.shape)
        if part.dtype.name == "bfloat16":
            source = rounded(source, part.dtype)
        with np.errstate(all="ignore"):     # overflow gives Inf, underflow gives 0
            part[...] = source

    def _positions(self, matrix: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
        # A block as (n, c, s).
        n, c, s = shape
        positions: NDArray[np.float64] = (
            matrix.transpose(2, 0, 1).reshape(n, c, 1) if self.s == 1 else matrix.reshape(c, n, s).transpose(1, 0, 2))
        return positions
