"""Arrays in NumPy's npy format, read from front to back: files, members of archives, standard input.

They are read and not mapped into memory: a mapped file that is cut short while it is read ends the process, its mapped
pages count as memory of the process, and members of archives and pipes cannot be mapped.
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
from fastbn.cli.stats.grid import Grid
from fastbn.cli.stats.part import Part, check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fastbn.cli.stats.settings import Settings

READ_ERRORS = (OSError, EOFError, zipfile.BadZipFile, zlib.error)
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
MOST_HEADER_BYTES = 1 << 16     # more than NumPy's parser takes


class Stream(Protocol):
    """What arrays are read from."""

    def read(self, size: int = -1, /) -> bytes | None:
        """Read up to that many bytes."""

    def readinto(self, buffer: Any, /) -> int | None:
        """Read up to as many bytes as there is room for."""


@contextmanager
def open_file(path: str, size: int, settings: Settings) -> Iterator[Iterator[Part]]:
    """Open a file that has that many bytes."""
    with open_binary(path) as file:
        yield iter([part(file, Place(path), settings, size, size)])


@contextmanager
def open_standard_input(path: str, _: int, settings: Settings) -> Iterator[Iterator[Part]]:
    """Take what comes from standard input."""
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
        Bytes that the stream has, header included, where that is known.
    stored : int, optional
        Bytes that it takes where it is stored; those of the array if not given.

    Raises
    ------
    InputError
        If it is no header, or no array that can be counted, or the stream has not as many bytes as it says.
    """
    shape, fortran, dtype, begin = header(stream, place)
    axis = check(place, shape, dtype, settings)
    as_stored = shape
    # The order of axes says nothing about statistics: in the order of the file all arrays are C-ordered.
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
        # An archive compares checksums when it is asked for what is behind the end.
        if read(stream, buffer[:1], place):
            raise place.error("has bytes behind its array")

    return Part(place, grid, dtype == np.uint8, length if stored is None else stored, blocks, as_stored)


def header(stream: Stream, place: Place) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, whether in Fortran order, dtype, and bytes of a header, by NumPy's own parser."""
    counted = Counted(stream)
    try:
        version = np.lib.format.read_magic(counted)
        if version not in HEADERS:
            raise ValueError(f"npy format {version[0]}.{version[1]}; expected 1.0 or 2.0")
        shape, fortran, dtype = HEADERS[version](counted)
        if any(length < 0 or isinstance(length, bool) for length in shape):
            raise ValueError(f"shape {shape}")
    except Exception as error:  # a header is a Python literal, and there are many ways in which that is refused
        raise place.error(f"has no npy header that can be read: {error}") from None
    return shape, fortran, dtype, counted.bytes


class Counted:
    """A stream whose bytes are counted, up to those of the longest header.

    That of a member cannot tell where it is before it was read once, and a header may claim to have 4 GB.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.bytes = 0

    def read(self, size: int = -1, /) -> bytes:
        """Read up to that many bytes."""
        if not 0 <= size <= MOST_HEADER_BYTES:
            raise ValueError(f"a header of {size} bytes; expected up to {MOST_HEADER_BYTES}")
        data = self._stream.read(size) or b""
        self.bytes += len(data)
        return data


def skip(stream: Stream, buffer: NDArray[np.uint8], size: int, place: Place) -> None:
    """Leave out that many bytes."""
    if isinstance(stream, io.FileIO):
        stream.seek(size, io.SEEK_CUR)
        return
    while size:     # by reading: the checksum of a member is that of all its bytes
        step = min(size, len(buffer))
        fill(stream, buffer[:step], place)
        size -= step


def fill(stream: Stream, buffer: NDArray[np.uint8], place: Place) -> None:
    """Read as many bytes as there is room for."""
    done = 0
    while done < len(buffer):
        more = read(stream, buffer[done:], place)
        if not more:
            raise place.error("ends in the middle of its array")
        done += more


def read(stream: Stream, buffer: NDArray[np.uint8], place: Place) -> int:
    """Read some bytes, none at the end."""
    try:
        return stream.readinto(buffer) or 0
    except READ_ERRORS as error:
        raise place.error(f"is damaged: {error}") from None
