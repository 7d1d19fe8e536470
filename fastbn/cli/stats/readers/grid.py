"""Blocks of a few megabytes, into which an array of any shape is divided."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

BLOCK_BYTES = 4 << 20     # fits in the L2 or L3 cache


@dataclass(frozen=True)
class Grid:
    """Blocks of one array, in C order; a block has all channels if they fit.

    Attributes
    ----------
    shape : tuple of int
        Shape of the array, which is not empty.
    box : tuple of int
        Shape of a block; blocks at the upper ends of the axes may be smaller.
    axis : int
        The channel axis, an index from 0.
    """

    shape: tuple[int, ...]
    box: tuple[int, ...]
    axis: int

    @classmethod
    def cut(cls, shape: tuple[int, ...], axis: int, itemsize: int, chunks: tuple[int, ...] | None = None) -> Grid:
        """Return the grid of blocks that have about `BLOCK_BYTES` and consist of whole chunks.

        Blocks extend along the last axes first, so that those of an array without chunks are contiguous.

        Parameters
        ----------
        shape : tuple of int
        axis : int
            The channel axis, an index from 0.
        itemsize : int
            Bytes of a value.
        chunks : tuple of int, optional
            Shape of the chunks of the file, which are read as a whole. By default, a chunk is one value.

        Examples
        --------
        >>> from fastbn.cli.stats.readers.grid import Grid
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
        """Number of blocks along each axis."""
        return tuple(-(-length // step) for length, step in zip(self.shape, self.box, strict=True))

    def __len__(self) -> int:
        return math.prod(self.counts)

    def slices(self, index: int) -> tuple[slice, ...]:
        """Return the slices of a block."""
        places = np.unravel_index(index, self.counts)
        return tuple(slice(int(at) * step, min((int(at) + 1) * step, length))
                     for at, step, length in zip(places, self.box, self.shape, strict=True))
