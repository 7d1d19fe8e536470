"""One array of an input, checked and ready to be read block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._layout import axis_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from fastbn.statistics_command.errors import Place
    from fastbn.statistics_command.grid import Grid

DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool", "float16", "float32",
          "float64")


@dataclass(frozen=True)
class Part:
    """An array that is being read.

    Attributes
    ----------
    place : Place
    grid : Grid
        How it is cut into blocks.
    uint8 : bool
        Whether its values are of uint8.
    stored : int
        Bytes that it takes where it is stored.
    blocks : callable
        Given the index of a block, returns an iterator of the blocks from there on, each of which may lie where the one
        before it did. After the last one it raises InputError if the array turns out to be damaged.
    shape : tuple of int or None
        Of the array as it is stored; None for an image.
    """

    place: Place
    grid: Grid
    uint8: bool
    stored: int
    blocks: Callable[[int], Iterator[NDArray[Any]]]
    shape: tuple[int, ...] | None = None

    @property
    def channels(self) -> int:
        """How many there are."""
        return self.grid.shape[self.grid.axis]


def check(place: Place, shape: tuple[int, ...], dtype: np.dtype[Any], axis: int) -> int:
    """Return the channel axis, not negative, of an array that can be counted.

    Raises
    ------
    InputError
        If its dtype is another, its shape has no such axis, or it has no values.
    """
    if dtype.hasobject:
        raise place.error("holds Python objects, which are never loaded")
    if dtype.name not in DTYPES:
        raise place.misfit(f"has dtype {dtype}; expected {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    if len(shape) < 2:
        raise place.misfit(f"has shape {shape}; expected two or more dimensions")
    if 0 in shape:
        raise place.misfit(f"has shape {shape}, no values")
    try:
        return axis_of(axis, len(shape))
    except ValueError:
        raise place.misfit(f"has shape {shape}, which has no axis {axis}; see --axis") from None
