"""The inputs that the arguments name, always in the same order, with fingerprints that detect changes."""

from __future__ import annotations

import os
import stat
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from fastbn.cli.stats.errors import InputError, reading
from fastbn.cli.stats.readers import images, npy, npz, zarr_array, zarr_metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from fastbn.cli.stats.readers.kind import Kind
    from fastbn.cli.stats.readers.part import Part
    from fastbn.cli.stats.settings import Settings

STANDARD_INPUT = "-"
STREAM = "standard input"     # as `Input.kind`
FINGERPRINT_BYTES = 8


@dataclass(frozen=True)
class Input:
    """A file, a Zarr array or standard input; an input is counted as a whole or not at all.

    Attributes
    ----------
    path : str
    kind : str
        "npy", "npz", "image", "zarr" or "standard input".
    size : int
        Stored bytes; 0 if unknown.
    mtime : int
        Time of the last modification, in nanoseconds.
    problem : str
        Why it cannot be read, if this is known before it is opened.
    """

    path: str
    kind: str
    size: int = 0
    mtime: int = 0
    problem: str = ""

    @property
    def fingerprint(self) -> bytes:
        """A short hash of path, size and modification time."""
        path = self.path if self.kind == STREAM else os.path.abspath(self.path)
        text = f"{path}\0{self.kind}\0{self.size}\0{self.mtime}\0{self.problem}"
        return blake2b(os.fsencode(text), digest_size=FINGERPRINT_BYTES).digest()

    @contextmanager
    def open(self, settings: Settings) -> Iterator[Iterator[Part]]:
        """Open the input, and return an iterator over its arrays.

        Raises
        ------
        InputError
            For all errors, here and within the ``with`` block.
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
    """Yield the inputs; those of a folder are in the order of their names."""
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
    """Return a file as an input, whose kind follows from the suffix."""
    suffix = os.path.splitext(path)[1].lower()
    kind = {".npy": "npy", ".npz": "npz"}.get(suffix, "image" if suffix in images.SUFFIXES else "")
    try:
        status = os.stat(path)
    except OSError as error:
        return Input(path, kind, problem=str(error.strerror))
    if not kind:
        return Input(path, kind, problem="has no known suffix; expected .npy, .npz, an image or a folder")
    if not stat.S_ISREG(status.st_mode):
        return Input(path, kind, problem="is not a regular file; use - to read standard input")
    return Input(path, kind, status.st_size, status.st_mtime_ns)


def in_folder(folder: str) -> Iterator[Input]:
    """Yield the images in a folder and its subfolders, without hidden ones and links to folders."""
    waiting = [(folder, True)]      # a stack, because deep folders would exceed the recursion limit
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
    """Return a Zarr array as an input, with the total size of its files and the time of the newest."""
    size, newest = 0, 0
    folders, seen = [path], set()
    try:
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    status = entry.stat()
                    newest = max(newest, status.st_mtime_ns)
                    place = status.st_dev, status.st_ino
                    if stat.S_ISDIR(status.st_mode) and place not in seen:      # links can form a cycle
                        seen.add(place)
                        folders.append(entry.path)
                    elif stat.S_ISREG(status.st_mode):
                        size += status.st_size
                    elif not stat.S_ISDIR(status.st_mode):      # reading a pipe or a device may never end
                        return Input(path, "zarr", problem=f"holds {entry.name!r}, which is not a regular file")
    except OSError as error:
        return Input(path, "zarr", problem=str(error.strerror))
    return Input(path, "zarr", size, newest)


def majority(sources: Iterable[Input], settings: Settings) -> Kind | None:
    """Return the most frequent kind of the inputs, so that an odd first input does not decide for the others.

    Only headers are read, and the pixels of images with a palette. Standard input is skipped, because it can be read
    only once. The result is None if no input can be read.
    """
    found: Counter[Kind] = Counter()
    for source in sources:
        if source.kind == STREAM:
            continue
        try:
            with source.open(settings) as parts:
                kinds = {part.kind for part in parts}
        except InputError:
            continue    # the run reports it later
        if len(kinds) == 1:
            found.update(kinds)
    return max(found, key=lambda kind: found[kind], default=None)
