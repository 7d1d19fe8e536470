"""Puts files in place, as a whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from pathlib import Path


def replace(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a new file beside the old one, flush it to the disk, and rename it over the old one.

    What is there and is no regular file, such as a pipe or a device, is written to.

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
    target = Path(os.path.realpath(path))  # what a symbolic link points to, not the link
    beside = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        # Not by tempfile, whose files are private: this one has the permissions of any other new file.
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None    # not a name that nobody gave
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if target.exists():
            shutil.copymode(target, beside)
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _is_special(path: str | os.PathLike[str]) -> bool:
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
