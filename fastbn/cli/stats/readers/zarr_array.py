"""Zarr arrays, read by whole chunks."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.checks import listed
from fastbn.cli.stats import limits
from fastbn.cli.stats.errors import Place, require
from fastbn.cli.stats.readers import zarr_metadata
from fastbn.cli.stats.readers.grid import Grid
from fastbn.cli.stats.readers.part import Part, check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fastbn.cli.stats.settings import Settings

# Missing chunks count with their fill value, so a small folder can claim an array that takes years to read. The claimed
# size is limited to the larger of two multiples.
MOST_EXPANSION = 10_000         # of the size of the files
MOST_MEMORIES = 128             # of --max-memory
LEAST_CHUNK_BYTES = 1 << 16     # the search for a missing chunk takes as long as reading this many bytes


@contextmanager
def open_folder(path: str, size: int, settings: Settings) -> Iterator[Iterator[Part]]:
    """Open an array whose files have `size` bytes."""
    place = Place(path)
    zarr = require("zarr", "zarr", "zarr", "Reading Zarr arrays")
    try:
        version = zarr_metadata.array_version(path)
        array = None if version is None else open_array(zarr, path, version)
        names = zarr_metadata.arrays_in(path) if array is None else []
    except Exception as error:  # Zarr raises many types
        raise place.error(f"is not a readable Zarr array: {error}") from None
    if array is None:
        raise place.error(f"is a Zarr group; name one of its arrays ({listed(names)}) as {path}/NAME")
    yield iter([part(array, place, size, settings)])


def open_array(zarr: Any, path: str, version: int) -> Any:
    """Open an array with the store and the version that were checked.

    Given a path alone, Zarr could choose another store (a URL, or N5 by its suffix) or another version.
    """
    if not zarr.__version__.startswith("2."):
        return zarr.open_array(zarr.storage.LocalStore(path, read_only=True), mode="r", zarr_format=version)
    if version != 2:
        raise ValueError(f"version {version} of the format needs zarr 3; this is zarr {zarr.__version__}")
    return zarr.open_array(zarr.DirectoryStore(path), mode="r", zarr_version=version)


def part(array: Any, place: Place, size: int, settings: Settings) -> Part:
    """Check an array, and return it as a part."""
    shape, dtype, chunks = tuple(array.shape), np.dtype(array.dtype), tuple(array.chunks)
    axis = check(place, shape, dtype, settings)
    chunk = math.prod(chunks) * dtype.itemsize
    if chunk > settings.max_memory:
        raise place.error(f"has chunks {chunks} of {limits.shown(chunk)}; expected up to "
                          f"{limits.shown(settings.max_memory)}; see --max-memory")
    claimed = max(chunk, LEAST_CHUNK_BYTES) * math.prod(
        -(-length // step) for length, step in zip(shape, chunks, strict=True))
    if claimed > max(MOST_EXPANSION * size, MOST_MEMORIES * settings.max_memory):
        raise place.error(f"has shape {shape} in chunks {chunks}, far more than its files of {limits.shown(size)} can "
                          f"hold: most chunks are missing; see --max-memory")
    grid = Grid.cut(shape, axis, dtype.itemsize, chunks)

    def blocks(start: int) -> Iterator[NDArray[Any]]:
        for index in range(start, len(grid)):
            try:
                block = np.ascontiguousarray(array[grid.slices(index)])
            except Exception as error:  # codecs and the file system raise many types
                raise place.error(f"is damaged: {error}") from None
            yield block

    return Part(place, grid, dtype == np.uint8, size, blocks, shape)
