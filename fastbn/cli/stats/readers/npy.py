"""Arrays in NumPy's npy format, read sequentially from files, members of archives, and standard input.

Files are not mapped into memory: if a mapped file is truncated while it is read, the process crashes; mapped pages
count as memory of the process; and members of archives and pipes cannot be mapped.
"""

from __future__ import annotations

import io
import math
import sys
import zipfile
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from fastbn._core.files import NotRegularError, open_raw
from fastbn.cli.stats.errors import Place
from fastbn.cli.stats.readers.grid import Grid
from fastbn.cli.stats.readers.part import Part, check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fastbn.cli.stats.settings import Settings

READ_ERRORS = (OSError, EOFError, zipfile.BadZipFile, zlib.error)
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
MOST_HEADER_BYTES = 1 << 16     # NumPy's parser accepts less


class Stream(Protocol):
    """A binary stream."""

    def read(self, size: int = -1, /) -> bytes | None:
        """Read up to that many bytes."""

    def readinto(self, buffer: Any, /) -> int | None:
        """Read bytes into a buffer, up to its size."""


@contextmanager
def open_file(path: str, size: int, settings: Settings) -> Iterator[Iterator[Part]]:
    """Open a file of `size` bytes."""
    with open_binary(path) as file:
        yield iter([part(file, Place(path), settings, size, size)])


@contextmanager
def open_standard_input(path: str, _: int, settings: Settings) -> Iterator[Iterator[Part]]:
    """Open standard input."""
    if sys.stdin is None:
        raise Place(path).error("is closed; expected the bytes of an .npy file")
    if sys.stdin.isatty():
        raise Place(path).error("is a terminal; expected the bytes of an .npy file")
    yield iter([part(cast(Stream, sys.stdin.buffer), Place(path), settings)])


def open_binary(path: str) -> io.FileIO:
    """Open a regular file."""
    try:
        return open_raw(path)
    except OSError as error:
        raise Place(path).error(error.strerror) from None
    except NotRegularError as error:
        raise Place(path).error(error.reason) from None


def part(stream: Stream, place: Place, settings: Settings, size: int | None = None,
         stored: int | None = None) -> Part:
    """Read the header of an array.

    Parameters
    ----------
    stream : binary stream
    place : Place
    settings : Settings
    size : int, optional
        Bytes of the stream including the header, if known.
    stored : int, optional
        Stored bytes. By default, those of the array.

    Raises
    ------
    InputError
        If the header is invalid, the array cannot be counted, or the stream is too short.
    """
    shape, fortran, dtype, begin = header(stream, place)
    axis = check(place, shape, dtype, settings)
    stored_shape = shape
    # With its axes reversed, an array in Fortran order is in C order, and the statistics are the same.
    if fortran:
        shape, axis = shape[::-1], len(shape) - 1 - axis
    grid = Grid.cut((math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1:])), 1, dtype.itemsize)
    length = math.prod(shape) * dtype.itemsize
    if size is not None and size < begin + length:
        raise place.error(f"ends after {size} of its {begin + length} bytes")

    def blocks(start: int) -> Iterator[NDArray[Any]]:
        buffer = np.empty(math.prod(grid.box) * dtype.itemsize, np.uint8)
        if start:
            done = length if start == len(grid) else dtype.itemsize * int(
                np.ravel_multi_index([piece.start for piece in grid.slices(start)], grid.shape))
            skip(stream, buffer, done, place)
        for index in range(start, len(grid)):
            box = tuple(piece.stop - piece.start for piece in grid.slices(index))
            here = buffer[:math.prod(box) * dtype.itemsize]
            fill(stream, here, place)
            yield here.view(dtype).reshape(box)
        # An archive verifies its checksum at the end of a member only.
        if read(stream, buffer[:1], place):
            raise place.error("has bytes after its array")

    return Part(place, grid, dtype == np.uint8, length if stored is None else stored, blocks, stored_shape)


def header(stream: Stream, place: Place) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return the shape, whether the array is in Fortran order, the dtype, and the bytes of the header."""
    counted = Counted(stream)
    try:
        version = np.lib.format.read_magic(counted)
        if version not in HEADERS:
            raise ValueError(f"npy format {version[0]}.{version[1]}; expected 1.0 or 2.0")
        shape, fortran, dtype = HEADERS[version](counted)
        if any(length < 0 or isinstance(length, bool) for length in shape):
            raise ValueError(f"shape {shape}")
    except Exception as error:  # a header is a Python literal, whose parser raises many types
        raise place.error(f"has no valid npy header: {error}") from None
    return shape, fortran, dtype, counted.bytes


class Counted:
    """A stream that counts its bytes and limits the size of a read.

    A member of an archive has no position before its first read, and a header can claim a size of 4 GB.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.bytes: int = 0

    def read(self, size: int = -1, /) -> bytes:
        """Read up to that many bytes."""
        if not 0 <= size <= MOST_HEADER_BYTES:
            raise ValueError(f"a header of {size} bytes; expected up to {MOST_HEADER_BYTES}")
        data = self._stream.read(size) or b""
        self.bytes += len(data)
        return data


def skip(stream: Stream, buffer: NDArray[np.uint8], size: int, place: Place) -> None:
    """Skip `size` bytes."""
    if isinstance(stream, io.FileIO):
        stream.seek(size, io.SEEK_CUR)
        return
    while size:     # the checksum of a member needs all its bytes
        step = min(size, len(buffer))
        fill(stream, buffer[:step], place)
        size -= step


def fill(stream: Stream, buffer: NDArray[np.uint8], place: Place) -> None:
    """Fill a buffer."""
    done = 0
    while done < len(buffer):
        more = read(stream, buffer[done:], place)
        if not more:
            raise place.error("ends in the middle of its array")
        done += more


def read(stream: Stream, buffer: NDArray[np.uint8], place: Place) -> int:
    """Read bytes into a buffer, and return how many; 0 at the end."""
    try:
        return stream.readinto(buffer) or 0
    except READ_ERRORS as error:
        raise place.error(f"is damaged: {error}") from None
