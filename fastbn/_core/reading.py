"""Opens files to read, and nothing that only looks like one."""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import BinaryIO

_KINDS = ((stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
          (stat.S_ISBLK, "a device"))


class NotRegularError(ValueError):
    """A pipe, a socket or a device in the place of a file.

    Attributes
    ----------
    reason : str
        The message without the path that it begins with.
    """

    def __init__(self, path: str | os.PathLike[str], kind: str) -> None:
        self.reason = f"is {kind}; expected a regular file"
        super().__init__(f"{os.fspath(path)}: {self.reason}")


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Return a regular file, open for reading; never waits for the other end of a pipe.

    Raises
    ------
    OSError
        If it cannot be opened, or is a folder.
    NotRegularError
        If it is another kind of file; the message begins with the path.
    """
    return io.BufferedReader(open_raw(path))


def open_raw(path: str | os.PathLike[str]) -> io.FileIO:
    """Return the same without a buffer, for reads that fill one of the caller's."""
    # Opened first and looked at then, so that nothing can take its place in between.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(mode):
            raise NotRegularError(path, next((kind for test, kind in _KINDS if test(mode)), "a special file"))
        return io.FileIO(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
