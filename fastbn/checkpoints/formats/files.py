"""Open and write files of named arrays; the suffix of the path selects the format."""

from __future__ import annotations

import io
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastbn._core.files import check_path, open_regular, replace
from fastbn.checkpoints.formats.npz import Npz
from fastbn.checkpoints.formats.safetensors import Safetensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from fastbn.checkpoints.formats.archive import Archive

FORMATS: dict[str, type[Archive]] = {".safetensors": Safetensors, ".npz": Npz}


def format_of(path: str | os.PathLike[str]) -> type[Archive]:
    """Return the format that the suffix of a path selects."""
    check_path(path)
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"path must end in {' or '.join(FORMATS)}, got {os.fspath(path)!r}")
    return FORMATS[suffix]


@contextmanager
def located(where: str) -> Iterator[None]:
    """Prefix the messages of TypeErrors and ValueErrors with a path or another location."""
    try:
        yield
    except TypeError as error:
        raise TypeError(f"{where}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Archive]:
    """Open a file for reading; errors raised in the ``with`` block begin with the path too.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If the file is malformed.
    """
    kind = format_of(path)
    with open_regular(path) as file, located(os.fspath(path)):
        yield kind(file)


def write(
    path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str],
    kept: Mapping[str, Any] | None = None,
) -> None:
    """Write a file and rename it into place; after an error the previous file is unchanged.

    Parameters
    ----------
    path : path-like
    arrays : mapping of str to ndarray
    metadata : mapping of str to str
    kept : mapping of str to object, optional
        Stored forms from an `Archive` of the same format, copied unchanged.

    Raises
    ------
    OSError
        If the file cannot be written.
    ValueError
        If the reader would refuse the result, for a name or for the number of names.
    """
    kind = format_of(path)
    with located(os.fspath(path)):
        data = kind.dump({**(kept or {}), **{name: kind.encode(array) for name, array in arrays.items()}}, metadata)
        kind(io.BytesIO(data))
    replace(path, data)
