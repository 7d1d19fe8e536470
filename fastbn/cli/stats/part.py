"""One array of an input, checked and ready to be read block by block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.views import axis_of
from fastbn.cli.stats import limits
from fastbn.cli.stats.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from fastbn.cli.stats.errors import Place
    from fastbn.cli.stats.grid import Grid
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
    def kind(self) -> Kind:
        """Number of channels, and whether the values are of uint8."""
        return Kind(self.grid.shape[self.grid.axis], self.uint8)


def check(place: Place, shape: tuple[int, ...], dtype: np.dtype[Any], settings: Settings) -> int:
    """Return the channel axis, not negative, of an array that can be counted.

    Raises
    ------
    InputError
        If its dtype is another, its shape has no such axis, it has no values, or more channels than memory allows.
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
        raise place.error(f"has shape {shape}, more values than any file can have")
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
