"""Files of arrays: the right format for a name, all read or nothing, all written or nothing."""

from __future__ import annotations

import io
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastbn._core.reading import open_regular
from fastbn._core.writing import replace
from fastbn.checkpoints.conventions import COUNTER, Convention
from fastbn.checkpoints.conversion import check_shapes, check_state, match, without_prefix
from fastbn.checkpoints.npz import Npz
from fastbn.checkpoints.safetensors import Safetensors
from fastbn.checkpoints.settings import Settings, decode
from fastbn.checkpoints.state import check_exact, check_initial_weight

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from fastbn.checkpoints.archive import Archive

FORMATS: dict[str, type[Archive]] = {".safetensors": Safetensors, ".npz": Npz}


def suffix_of(path: str | os.PathLike[str]) -> str:
    """Return the end of a file's name, which tells its format."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"path must end in {' or '.join(FORMATS)}, got {os.fspath(path)!r}")
    return suffix


@contextmanager
def located(where: str) -> Iterator[None]:
    """Let the messages of errors begin with what they are about."""
    try:
        yield
    except TypeError as error:
        raise TypeError(f"{where}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Archive]:
    """Open a file of arrays; whatever is wrong with it, and with what is made of it meanwhile, begins with the path.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not as its format has it.
    """
    kind = FORMATS[suffix_of(path)]
    with open_regular(path) as file, located(os.fspath(path)):
        yield kind(file)


def read(archive: Archive, prefix: str, convention: Convention) -> tuple[dict[str, NDArray[Any]], Settings]:
    """Return the state of one layer, checked and without the prefix, and the settings that the file has of it.

    Raises
    ------
    ValueError
        If the layer is missing or malformed.
    """
    full = without_prefix({name: name for name in archive.under(prefix)}, prefix)
    names = match(full, convention)
    # Vectors of one length, before any is read: what is not a batch normalization may be as large as the file.
    check_shapes({name: archive.shape(full[name]) for field, name in names.items() if field != COUNTER})
    if COUNTER in names and archive.shape(full[names[COUNTER]]) not in ((), (1,)):
        raise ValueError(f"{names[COUNTER]} has shape {archive.shape(full[names[COUNTER]])}; expected ()")
    extra = [name for name in convention.extra if name in full]
    channels = next(archive.shape(full[name]) for field, name in names.items() if field != COUNTER)
    for name in extra:
        if archive.shape(full[name]) not in ((), channels):
            raise ValueError(f"{name} has shape {archive.shape(full[name])}; expected {channels} or ()")
    state = {name: archive.read(full[name]) for name in (*names.values(), *extra)}
    try:
        check_state(state, convention)
        if extra:
            check_exact(state, channels[0])
            check_initial_weight(state)
    except TypeError as error:      # a dtype, which is a fault of the file and not of an argument
        raise ValueError(str(error)) from error
    return state, decode(archive.metadata, prefix)


def write(
    path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str],
    kept: Mapping[str, Any] | None = None,
) -> None:
    """Put a file in place at once; if anything fails, what was there stays as it was.

    Parameters
    ----------
    path : path-like
    arrays : mapping of str to ndarray
    metadata : mapping of str to str
    kept : mapping of str to object, optional
        Entries of an `Archive` of the same format, as it has them.

    Raises
    ------
    OSError
        If it cannot be written.
    ValueError
        If it would not be read again, because a name or the number of names is beyond what is read.
    """
    kind = FORMATS[suffix_of(path)]
    with located(os.fspath(path)):
        data = kind.dump({**(kept or {}), **{name: kind.encode(array) for name, array in arrays.items()}}, metadata)
        kind(io.BytesIO(data))
    replace(path, data)
