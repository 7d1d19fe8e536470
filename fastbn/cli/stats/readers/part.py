"""One array of an input, checked and ready to be read block by block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.views import axis_of
from fastbn.cli.stats import limits
from fastbn.cli.stats.readers.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from fastbn.cli.stats.errors import Place
    from fastbn.cli.stats.readers.grid import Grid
    from fastbn.cli.stats.settings import Settings

DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool", "float16", "float32",
          "float64")


@dataclass(frozen=True)
class Part:
    """An array that is being read.

    Attributes
    ----------
    place : Place
    grid : Grid
        The blocks of the array.
    uint8 : bool
        Whether the dtype is uint8.
    stored : int
        Stored bytes of the array, compressed or not.
    blocks : callable
        Takes the index of a block, and returns an iterator over this block and all later ones. A block may reuse the
        memory of the previous one. The iterator raises `InputError` if the array is damaged, possibly at its end.
    shape : tuple of int or None
        Shape of the array in the file; None for an image.
    """

    place: Place
    grid: Grid
    uint8: bool
    stored: int
    blocks: Callable[[int], Iterator[NDArray[Any]]]
    shape: tuple[int, ...] | None = None

    @property
    def kind(self) -> Kind:
        """The properties that all arrays must share."""
        return Kind(self.grid.shape[self.grid.axis], self.uint8)


def check(place: Place, shape: tuple[int, ...], dtype: np.dtype[Any], settings: Settings) -> int:
    """Check that an array can be counted, and return its channel axis as an index from 0.

    Raises
    ------
    InputError
        If the dtype is not supported, the array is empty or has no such axis, or the statistics of its channels exceed
        the memory limit.
    """
    if dtype.hasobject:
        raise place.error("holds Python objects, which are never loaded")
    if dtype.name not in DTYPES:
        raise place.misfit(f"has dtype {dtype}; expected {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    if len(shape) < 2:
        raise place.misfit(f"has shape {shape}; expected two or more dimensions")
    if 0 in shape:
        raise place.misfit(f"has shape {shape}, no values")
    if math.prod(shape) * dtype.itemsize > limits.MOST_ARRAY_BYTES:
        raise place.error(f"has shape {shape}, more values than a file can hold")
    try:
        axis = axis_of(settings.axis, len(shape))
    except ValueError:
        raise place.misfit(f"has shape {shape}, which has no axis {settings.axis}; see --axis") from None
    needed = shape[axis] * limits.CHANNEL_BYTES
    if needed > settings.max_memory:
        raise place.misfit(
            f"has shape {shape}; statistics of {shape[axis]} channels on axis {settings.axis} take about "
            f"{limits.shown(needed)} of memory, expected up to {limits.shown(settings.max_memory)}; see --axis and "
            "--max-memory")
    return axis
