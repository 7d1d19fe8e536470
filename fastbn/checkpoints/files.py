"""Files of arrays: the right format for a name, all read or nothing, all written or nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fastbn._reading import open_regular
from fastbn._state import check_exact, check_initial_weight
from fastbn._writing import replace
from fastbn.checkpoints import npz, safetensors
from fastbn.checkpoints.conventions import COUNTER, Convention
from fastbn.checkpoints.conversion import check_prefix, check_shapes, check_state, match, without_prefix
from fastbn.checkpoints.npz import Npz
from fastbn.checkpoints.safetensors import Safetensors
from fastbn.checkpoints.settings import Settings, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from fastbn.checkpoints.archive import Archive

READERS: dict[str, Callable[[BinaryIO], Archive]] = {".safetensors": Safetensors, ".npz": Npz}
WRITERS: dict[str, Callable[[Mapping[str, NDArray[Any]], Mapping[str, str]], bytes]] = {
    ".safetensors": safetensors.dump, ".npz": npz.dump}


def suffix_of(path: str | os.PathLike[str]) -> str:
    """Return the end of a file's name, which tells its format."""
    suffix = Path(path).suffix.lower()
    if suffix not in READERS:
        raise ValueError(f"path must end in {' or '.join(READERS)}, got {os.fspath(path)!r}")
    return suffix


def read(
    path: str | os.PathLike[str], prefix: str, convention: Convention
) -> tuple[dict[str, NDArray[Any]], Settings]:
    """Return the state of one layer, checked and without the prefix, and the settings that the file has of it.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not as its format has it, or has no such layer; the message begins with the path.
    """
    check_prefix(prefix)
    suffix = suffix_of(path)
    with open_regular(path) as file:
        try:
            return read_file(file, suffix, prefix, convention)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error


def read_file(
    file: BinaryIO, suffix: str, prefix: str, convention: Convention
) -> tuple[dict[str, NDArray[Any]], Settings]:
    """Do what `read` does, from an open file."""
    archive = READERS[suffix](file)
    full = without_prefix({name: name for name in archive.names}, prefix)
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
    check_state(state, convention)
    if extra:
        check_exact(state, channels[0])
        check_initial_weight(state)
    return state, decode(archive.metadata, prefix)


def write(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Put a file in place at once; if anything fails, what was there stays as it was.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    replace(path, WRITERS[suffix_of(path)](arrays, metadata))
