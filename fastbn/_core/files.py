"""Open regular files only, and replace files atomically."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS = ((stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
          (stat.S_ISBLK, "a device"))
# A replacement is private to its owner until it gets the mode of the old file.
PRIVATE, NEW = 0o600, 0o666


class NotRegularError(ValueError):
    """The path of a pipe, a socket or a device was given for a file.

    Attributes
    ----------
    reason : str
        The message without the path.
    """

    def __init__(self, path: str | os.PathLike[str], kind: str) -> None:
        self.reason = f"is {kind}; expected a regular file"
        super().__init__(f"{os.fspath(path)}: {self.reason}")


def check_path(path: object) -> None:
    """Raise TypeError if this is not a path. A number would stand for an open file."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a string or a path-like object, got {path!r}")


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading. A pipe is refused at once instead of blocking.

    Raises
    ------
    OSError
        If the file cannot be opened, or is a folder.
    NotRegularError
        If it is another kind of file; the message begins with the path.
    """
    return io.BufferedReader(open_raw(path))


def open_raw(path: str | os.PathLike[str]) -> io.FileIO:
    """Open a regular file without a buffer, for reads into the caller's memory; errors are those of `open_regular`."""
    # The descriptor is checked, not the path: another file could replace the path between check and open.
    check_path(path)
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


def replace(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a new file beside the old one, flush it to the disk, and rename it over the old one.

    The new file keeps the mode of the old one and, if the system permits it, its owner and group; without an old file
    the umask decides. A symbolic link stays, and its target is replaced. Pipes, devices and other special files are
    written to directly.

    Parameters
    ----------
    path : path-like
    data : bytes

    Raises
    ------
    OSError
        If the file cannot be written. The old file is unchanged then, and no temporary file remains.
    """
    check_path(path)
    if _is_special(path):
        with open(path, "wb") as file:
            file.write(data)
        return
    target = Path(os.path.realpath(path))
    old = target.stat() if target.exists() else None
    # The temporary name has a fixed length, so that files with names of 255 bytes can be replaced.
    beside = target.with_name(f".{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(beside, flags, NEW if old is None else PRIVATE)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None    # names the file, not the temporary one
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if old is not None:
                _keep_owner_and_mode(old, descriptor, beside)
            os.fsync(descriptor)
        os.replace(beside, target)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == os.fspath(beside):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        raise
    _sync_folder(target.parent)


def replace_picture(path: str | os.PathLike[str], figure: Figure) -> None:
    """Write a Matplotlib figure like `replace`, in the format of the suffix; PNG without a suffix."""
    data = io.BytesIO()
    figure.savefig(data, format=Path(path).suffix.removeprefix(".") or "png")
    replace(path, data.getvalue())


def _is_special(path: str | os.PathLike[str]) -> bool:
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _keep_owner_and_mode(old: os.stat_result, descriptor: int, path: Path) -> None:
    mode = stat.S_IMODE(old.st_mode)
    new = os.fstat(descriptor)
    if os.name == "posix" and (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.fchown(descriptor, old.st_uid, old.st_gid)
        except OSError:     # only root may do this; drop set-uid and set-gid, which would grant the writer's rights
            mode &= 0o777
    os.chmod(descriptor if os.chmod in os.supports_fd else path, mode)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # other systems cannot open a folder
        return
    # The file is in place. A rename that may not survive a power failure is not an error.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
