"""Arrays in folders of Zarr, read by whole chunks."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.checks import listed
from fastbn.cli.stats import limits, zarr_metadata
from fastbn.cli.stats.errors import Place, require
from fastbn.cli.stats.grid import Grid
from fastbn.cli.stats.part import Part, check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fastbn.cli.stats.settings import Settings

# Chunks that are not there count, so that a small folder can claim an array that takes years to read. How much it may
# claim, in chunks of at least the size whose reading takes as long as finding out that a chunk is not there:
LEAST_CHUNK_BYTES = 1 << 16
MOST_EXPANSION = 10_000     # times its files; or
MOST_MEMORIES = 128         # times --max-memory


@contextmanager
def open_folder(path: str, size: int, settings: Settings) -> Iterator[Iterator[Part]]:
    """Open an array whose files have that many bytes."""
    place = Place(path)
    zarr = require("zarr", "zarr", "zarr", "Reading Zarr arrays")
    try:
        version = zarr_metadata.array_version(path)
        array = None if version is None else open_array(zarr, path, version)
        names = zarr_metadata.arrays_in(path) if array is None else []
    except Exception as error:  # of metadata, and of the many layers of Zarr
        raise place.error(f"is no Zarr array that can be read: {error}") from None
    if array is None:
        raise place.error(f"is a Zarr group; name one of its arrays ({listed(names)}) as {path}/NAME")
    yield iter([part(array, place, size, settings)])


def open_array(zarr: Any, path: str, version: int) -> Any:
    """Open an array by the metadata that were checked.

    From a name, Zarr would choose the store (a URL, or N5 by its suffix), and from a folder the version.
    """
    if not zarr.__version__.startswith("2."):
        return zarr.open_array(zarr.storage.LocalStore(path, read_only=True), mode="r", zarr_format=version)
    if version != 2:
        raise ValueError(f"version {version} of the format needs zarr 3; this is zarr {zarr.__version__}")
    return zarr.open_array(zarr.DirectoryStore(path), mode="r", zarr_version=version)


def part(array: Any, place: Place, size: int, settings: Settings) -> Part:
    """Check an array."""
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
                          f"hold: most chunks are not there; see --max-memory")
    grid = Grid.cut(shape, axis, dtype.itemsize, chunks)

    def blocks(start: int) -> Iterator[NDArray[Any]]:
        for index in range(start, len(grid)):
            try:
                block = np.ascontiguousarray(array[grid.slices(index)])
            except Exception as error:  # of codecs, of the file system
                raise place.error(f"is damaged: {error}") from None
            yield block

    return Part(place, grid, dtype == np.uint8, size, blocks, shape)
