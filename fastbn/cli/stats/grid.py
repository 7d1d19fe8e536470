"""Cuts an array into blocks of a few megabytes, of whatever shape and wherever its channel axis is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

BLOCK_BYTES = 4 << 20     # fits in a second or third level cache beside what reads it


@dataclass(frozen=True)
class Grid:
    """Blocks of one array, in C order.

    A block has all channels if they fit.

    Attributes
    ----------
    shape : tuple of int
        Of the array; no axis is empty.
    box : tuple of int
        Of a block; those at the ends may be smaller.
    axis : int
        The channel axis, not negative.
    """

    shape: tuple[int, ...]
    box: tuple[int, ...]
    axis: int

    @classmethod
    def cut(cls, shape: tuple[int, ...], axis: int, itemsize: int, chunks: tuple[int, ...] | None = None) -> Grid:
        """Return the grid whose blocks have about `BLOCK_BYTES`, and are made of whole chunks.

        Axes are filled from the last to the first, so that blocks of an array without chunks lie in memory one behind
        the other.

        Parameters
        ----------
        shape : tuple of int
        axis : int
            The channel axis, not negative.
        itemsize : int
            Bytes of a value.
        chunks : tuple of int, optional
            What is read as a whole; one value if not given.

        Examples
        --------
        >>> from fastbn.cli.stats.grid import Grid
        >>> grid = Grid.cut((1000, 3, 512, 512), 1, 4)
        >>> grid.box, len(grid)
        ((1, 3, 512, 512), 1000)
        >>> grid = Grid.cut((3, 10**7), 0, 8)
        >>> grid.box, len(grid), grid.slices(20)
        ((1, 524288), 60, (slice(1, 2, None), slice(0, 524288, None)))
        """
        box = [min(pair) for pair in zip(shape, chunks or (1,) * len(shape), strict=True)]
        for k in reversed(range(len(shape))):
            box[k] = min(shape[k], box[k] * max(1, BLOCK_BYTES // (math.prod(box) * itemsize)))
        return cls(shape, tuple(box), axis)

    @property
    def counts(self) -> tuple[int, ...]:
        """Blocks along each axis."""
        return tuple(-(-length // step) for length, step in zip(self.shape, self.box, strict=True))

    def __len__(self) -> int:
        return math.prod(self.counts)

    def slices(self, index: int) -> tuple[slice, ...]:
        """Return where a block lies."""
        places = np.unravel_index(index, self.counts)
        return tuple(slice(int(at) * step, min((int(at) + 1) * step, length))
                     for at, step, length in zip(places, self.box, self.shape, strict=True))
