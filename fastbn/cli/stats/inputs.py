"""Which inputs the arguments name, in an order that is always the same, and how to tell that one has changed."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from fastbn.cli.stats import images, npy, npz, zarr_array, zarr_metadata
from fastbn.cli.stats.errors import InputError, reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from fastbn.cli.stats.part import Part
    from fastbn.cli.stats.settings import Settings

STANDARD_INPUT = "-"
STREAM = "standard input"     # the kind
FINGERPRINT_BYTES = 8


@dataclass(frozen=True)
class Input:
    """A file, a Zarr array or standard input: what is counted as a whole or not at all.

    Attributes
    ----------
    path : str
    kind : str
        "npy", "npz", "image", "zarr" or "standard input".
    size : int
        Bytes that it takes where it is stored; 0 if nobody knows.
    mtime : int
        When it was last modified, in nanoseconds.
    problem : str
        Why it cannot be read, if that is known already.
    """

    path: str
    kind: str
    size: int = 0
    mtime: int = 0
    problem: str = ""

    @property
    def fingerprint(self) -> bytes:
        """A few bytes that change with the place, the size or the time of the last modification."""
        path = self.path if self.kind == STREAM else os.path.abspath(self.path)
        text = f"{path}\0{self.kind}\0{self.size}\0{self.mtime}\0{self.problem}"
        return blake2b(os.fsencode(text), digest_size=FINGERPRINT_BYTES).digest()

    @contextmanager
    def open(self, settings: Settings) -> Iterator[Iterator[Part]]:
        """Open this input; its arrays come one after the other.

        Raises
        ------
        InputError
            Whatever goes wrong, here or while the context lasts.
        """
        openers: dict[str, Callable[[str, int, Settings], AbstractContextManager[Iterator[Part]]]] = {
            "npy": npy.open_file,
            "npz": npz.open_file,
            "image": images.open_file,
            "zarr": zarr_array.open_folder,
            STREAM: npy.open_standard_input,
        }
        with reading(self.path):
            if self.problem:
                raise InputError(self.path, self.problem)
            with openers[self.kind](self.path, self.size, settings) as parts:
                yield parts


def find(paths: Iterable[str]) -> Iterator[Input]:
    """Yield the inputs, those of a folder in the order of their names."""
    for path in paths:
        if path == STANDARD_INPUT:
            yield Input(path, STREAM)
        elif not os.path.isdir(path):
            yield from_file(path)
        elif zarr_metadata.is_zarr(path):
            yield from_zarr(path)
        else:
            empty = True
            for found in in_folder(path):
                empty = False
                yield found
            if empty:
                yield Input(path, "folder", problem=f"has no images; expected {', '.join(images.SUFFIXES)}")


def from_file(path: str) -> Input:
    """Return a file as an input, by the end of its name."""
    suffix = os.path.splitext(path)[1].lower()
    kind = {".npy": "npy", ".npz": "npz"}.get(suffix, "image" if suffix in images.SUFFIXES else "")
    try:
        status = os.stat(path)
    except OSError as error:
        return Input(path, kind, problem=str(error.strerror))
    if not kind:
        return Input(path, kind, problem="is neither .npy nor .npz, nor an image by its name, nor a folder")
    if not stat.S_ISREG(status.st_mode):
        return Input(path, kind, problem="is no regular file; standard input is read as -")
    return Input(path, kind, status.st_size, status.st_mtime_ns)


def in_folder(folder: str) -> Iterator[Input]:
    """Yield the images in a folder and in those below it; hidden ones are left out, and links to folders."""
    waiting = [(folder, True)]      # those before them come first; no recursion, which deep folders would exhaust
    while waiting:
        path, is_folder = waiting.pop()
        if not is_folder:
            yield from_file(path)
            continue
        try:
            with os.scandir(path) as found:
                entries = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in found)
        except OSError as error:
            yield Input(path, "folder", problem=str(error.strerror))
            continue
        waiting += [(os.path.join(path, name), below) for name, below in reversed(entries)
                    if not name.startswith(".") and (below or name.lower().endswith(images.SUFFIXES))]


def from_zarr(path: str) -> Input:
    """Return a Zarr array as an input: the sum of its files' sizes, and the time of the newest."""
    size, newest = 0, 0
    folders, seen = [path], set()
    try:
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    status = entry.stat()
                    newest = max(newest, status.st_mtime_ns)
                    place = status.st_dev, status.st_ino
                    if stat.S_ISDIR(status.st_mode) and place not in seen:      # links can lead in a circle
                        seen.add(place)
                        folders.append(entry.path)
                    elif stat.S_ISREG(status.st_mode):
                        size += status.st_size
                    elif not stat.S_ISDIR(status.st_mode):      # a pipe or a device as a chunk would never end
                        return Input(path, "zarr", problem=f"holds {entry.name!r}, which is no regular file")
    except OSError as error:
        return Input(path, "zarr", problem=str(error.strerror))
    return Input(path, "zarr", size, newest)
