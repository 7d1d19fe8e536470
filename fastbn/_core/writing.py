"""Puts files in place, as a whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Only the owner's, until the file has the mode of the one that it replaces.
PRIVATE, NEW = 0o600, 0o666


def replace(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a new file beside the old one, flush it to the disk, and rename it over the old one.

    A file that is replaced keeps its mode, and where the system permits it its owner and group; a new file has the mode
    that the umask gives it. Of a symbolic link the file that it points to is replaced. What is there and is no regular
    file, such as a pipe or a device, is written to.

    Parameters
    ----------
    path : path-like
    data : bytes

    Raises
    ------
    OSError
        If it cannot be written; what was there is as it was then, and nothing lies beside it.
    """
    if _is_special(path):
        with open(path, "wb") as file:
            file.write(data)
        return
    target = Path(os.path.realpath(path))
    old = target.stat() if target.exists() else None
    # Of a length of its own, so that a name of 255 bytes can be replaced.
    beside = target.with_name(f".{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(beside, flags, NEW if old is None else PRIVATE)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None    # not a name that nobody gave
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if old is not None:
                _keep(old, descriptor, beside)
            os.fsync(descriptor)
        os.replace(beside, target)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == os.fspath(beside):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        raise
    _sync_folder(target.parent)


def replace_picture(path: str | os.PathLike[str], figure: Figure) -> None:
    """Write a figure of Matplotlib as `replace` does, in the format that the suffix names; PNG without one."""
    data = io.BytesIO()
    figure.savefig(data, format=Path(path).suffix.removeprefix(".") or "png")
    replace(path, data.getvalue())


def _is_special(path: str | os.PathLike[str]) -> bool:
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _keep(old: os.stat_result, descriptor: int, path: Path) -> None:
    mode = stat.S_IMODE(old.st_mode)
    new = os.fstat(descriptor)
    if os.name == "posix" and (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.fchown(descriptor, old.st_uid, old.st_gid)
        except OSError:     # for others than root the file becomes the writer's, who lends nobody its rights
            mode &= 0o777
    os.chmod(descriptor if os.chmod in os.supports_fd else path, mode)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    # The file is in place; that the rename may not survive a power failure is no failure of the save.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
