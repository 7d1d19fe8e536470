"""Arrays in folders of Zarr, read by whole chunks."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.statistics_command.errors import Place, require
from fastbn.statistics_command.grid import Grid
from fastbn.statistics_command.part import Part, check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ARRAY, GROUP = ".zarray", ".zgroup"     # of the second version of the format
NODE = "zarr.json"                      # of the third, of arrays and groups


def is_zarr(folder: str) -> bool:
    """Return whether a folder is a Zarr array or group."""
    # By os.path, to which what lies in an unreadable folder is not there.
    return any(os.path.exists(os.path.join(folder, name)) for name in (ARRAY, GROUP, NODE))


@contextmanager
def open_folder(path: str, size: int, axis: int) -> Iterator[Iterator[Part]]:
    """Open an array whose chunks take that many bytes."""
    place = Place(path)
    zarr = require("zarr", "zarr", "zarr", "Reading Zarr arrays")
    try:
        node = zarr.open(path, mode="r")
    except Exception as error:  # of the many layers of Zarr
        raise place.error(f"is no Zarr array that can be read: {error}") from None
    if not isinstance(node, zarr.Array):
        names = ", ".join(sorted(name for name, _ in node.arrays()))
        raise place.error(f"is a Zarr group; name one of its arrays ({names}) as {path}/NAME")
    yield iter([part(node, place, size, axis)])


def part(array: Any, place: Place, size: int, axis: int) -> Part:
    """Check an array."""
    shape, dtype = tuple(array.shape), np.dtype(array.dtype)
    axis = check(place, shape, dtype, axis)
    grid = Grid.cut(shape, axis, dtype.itemsize, tuple(array.chunks))

    def blocks(start: int) -> Iterator[NDArray[Any]]:
        for index in range(start, len(grid)):
            try:
                block = np.ascontiguousarray(array[grid.slices(index)])
            except Exception as error:  # of codecs, of the file system
                raise place.error(f"is damaged: {error}") from None
            yield block

    return Part(place, grid, dtype == np.uint8, size, blocks, shape)
