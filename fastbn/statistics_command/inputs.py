"""Which inputs the arguments name, in an order that is always the same, and how to tell that one has changed."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING

from fastbn.statistics_command import images, npy, npz, zarr_array

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from fastbn.statistics_command.part import Part

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

    def open(self, axis: int, members: tuple[str, ...]) -> AbstractContextManager[Iterator[Part]]:
        """Return a context in which the arrays of this input can be read, one after the other."""
        openers: dict[str, Callable[[str, int], AbstractContextManager[Iterator[Part]]]] = {
            "npy": partial(npy.open_file, axis=axis),
            "npz": partial(npz.open_file, axis=axis, names=members),
            "image": images.open_file,
            "zarr": partial(zarr_array.open_folder, axis=axis),
            STREAM: partial(npy.open_standard_input, axis=axis),
        }
        return openers[self.kind](self.path, self.size)


def find(paths: Iterable[str]) -> Iterator[Input]:
    """Yield the inputs, those of a folder in the order of their names."""
    for path in paths:
        if path == STANDARD_INPUT:
            yield Input(path, STREAM)
        elif not os.path.isdir(path):
            yield from_file(path)
        elif zarr_array.is_zarr(path):
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
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in found)
    except OSError as error:
        yield Input(folder, "folder", problem=str(error.strerror))
        return
    for name, is_folder in entries:
        path = os.path.join(folder, name)
        if name.startswith("."):
            continue
        if is_folder:
            yield from in_folder(path)
        elif name.lower().endswith(images.SUFFIXES):
            yield from_file(path)


def from_zarr(path: str) -> Input:
    """Return a Zarr array as an input: the sum of its files' sizes, and the time of the newest."""
    size, newest = 0, 0
    folders = [path]
    try:
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    status = entry.stat()
                    newest = max(newest, status.st_mtime_ns)
                    if entry.is_dir():
                        folders.append(entry.path)
                    else:
                        size += status.st_size
    except OSError as error:
        return Input(path, "zarr", problem=str(error.strerror))
    return Input(path, "zarr", size, newest)
