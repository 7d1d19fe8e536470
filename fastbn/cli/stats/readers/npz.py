"""Arrays in npz archives, read sequentially."""

from __future__ import annotations

import io
import zipfile
from contextlib import contextmanager
from functools import partial
from typing import IO, TYPE_CHECKING, cast

from fastbn._core.checks import listed, shortened
from fastbn.cli.stats import limits
from fastbn.cli.stats.errors import Place
from fastbn.cli.stats.readers import npy
from fastbn.cli.stats.readers.grid import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastbn.cli.stats.readers.part import Part
    from fastbn.cli.stats.settings import Settings

ENCRYPTED = 0x1
DIRECTORY_EXPANSION = 16    # memory of a directory in zipfile, relative to its size in the file


class Bounded:
    """A file with limited reads, because zipfile reads a directory of any size that the file claims."""

    def __init__(self, file: io.FileIO, most: int) -> None:
        self._most = most
        self.seek: Callable[..., int] = file.seek
        self.tell: Callable[[], int] = file.tell
        self.seekable: Callable[[], bool] = file.seekable
        self._read = file.read

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes, or to the end."""
        if size > self._most:
            raise ValueError(f"a directory of {limits.shown(size)}; expected up to {limits.shown(self._most)}; see "
                             "--max-memory")
        return self._read(size)


@contextmanager
def open_file(path: str, _: int, settings: Settings) -> Iterator[Iterator[Part]]:
    """Open an archive, and yield the arrays that the settings select."""
    with npy.open_binary(path) as file:
        most = max(BLOCK_BYTES, settings.max_memory // DIRECTORY_EXPANSION)
        try:
            archive = zipfile.ZipFile(cast(IO[bytes], Bounded(file, most)))
        except Exception as error:  # zipfile checks little of a directory
            raise Place(path).error(f"is not a readable npz archive: {error}") from None
        with archive:
            yield map(partial(part, archive, path, settings), members(archive, path, settings.members))


def members(archive: zipfile.ZipFile, path: str, names: tuple[str, ...]) -> list[zipfile.ZipInfo]:
    """Return the members to read: those named, in this order, or all in the order of the archive."""
    known: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in known:
            raise Place(path).error(f"has the member {shortened(name)} twice")
        known[name] = member
    if not known:
        raise Place(path).error("has no arrays")
    missing = [name for name in names if name not in known]
    if missing:
        raise Place(path).error(f"has no member {missing[0]!r}; it has {listed([*map(shortened, known)])}")
    return [known[name] for name in names or known]


def part(archive: zipfile.ZipFile, path: str, settings: Settings, member: zipfile.ZipInfo) -> Part:
    """Open one array."""
    place = Place(path, member.filename.removesuffix(".npy"))
    if member.flag_bits & ENCRYPTED:
        raise place.error("is encrypted")
    # zipfile limits the size of a read for these methods only.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise place.error(f"has compression method {member.compress_type}; expected stored or deflated")
    try:
        stream = archive.open(member)
    except Exception as error:  # zipfile raises many types for invalid flags, names and offsets
        raise place.error(f"is damaged: {error}") from None
    return npy.part(cast(npy.Stream, stream), place, settings, member.file_size, member.compress_size)
