"""What else is in a file that a layer is written to: it stays, or the layer is not written."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fastbn._core.checks import check_flag
from fastbn.checkpoints import files
from fastbn.checkpoints.conventions import CONVENTIONS, Convention
from fastbn.checkpoints.conversion import abbreviated
from fastbn.checkpoints.settings import prefix_of, prefixes_of
from fastbn.checkpoints.state import EXTRA

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from numpy.typing import NDArray

    from fastbn.checkpoints.archive import Archive


def put(
    path: str | os.PathLike[str],
    arrays: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str],
    prefixes: Collection[str],
    convention: Convention,
    append: bool,
) -> None:
    """Write layers to a file, of their own or beside what is there.

    Parameters
    ----------
    path : path-like
    arrays, metadata : mapping
        With prefixes.
    prefixes : collection of str
        Of all the layers.
    convention : Convention
        That of the names.
    append : bool
        Whether to keep what else is there; without it there may be nothing else.

    Raises
    ------
    OSError
        If the file cannot be read or written.
    ValueError
        If something else would be lost, or could not be told apart from a layer.
    """
    check_flag(append, "append")
    check_apart(prefixes)
    kept: dict[str, Any] = {}
    texts: dict[str, str] = {}
    if _has_content(path):
        with files.opened(path) as archive:
            own = {prefix + name for prefix in prefixes for name in _names(convention)}
            others = [name for name in archive.names if name not in own]
            if others and not append:
                raise ValueError(f"holds also {abbreviated(list(map(repr, others)))}, which would be lost; pass "
                                 "append=True to keep what is there, or remove the file first")
            if append:
                _check_apart_from(archive, others, prefixes, convention)
                kept = {name: archive.entry(name) for name in others}
                replaced = set(prefixes)
                texts = {key: text for key, text in archive.metadata.items() if prefix_of(key) not in replaced}
    files.write(path, arrays, {**texts, **metadata}, kept)


def check_apart(prefixes: Iterable[str]) -> None:
    """Raise an error if one prefix is the beginning of another: `load` takes all names that begin with one."""
    for first, second in pairwise(sorted(prefixes)):
        if second.startswith(first):
            raise ValueError(f"prefix {first!r} is the beginning of prefix {second!r}, so that the names of one layer "
                             "would belong to both")


def layers_in(archive: Archive, convention: Convention) -> list[str]:
    """Return the prefixes of the layers in a file: of all with settings of fastbn, and all with running averages."""
    names = set(archive.names)
    mean, var = convention.running_mean, convention.running_var
    found = {name.removesuffix(mean) for name in names if name.endswith(mean)}
    averaged = {prefix for prefix in found if prefix + var in names}
    own = _names(convention)
    described = {prefix for prefix in prefixes_of(archive.metadata) if any(prefix + name in names for name in own)}
    return sorted(averaged | described)


def _names(convention: Convention) -> set[str]:
    # Of all conventions: a layer that was written under another one's names is replaced too.
    return {name for one in (convention, *CONVENTIONS.values()) for name in one.names.values()} | {*EXTRA}


def _check_apart_from(
    archive: Archive, others: Iterable[str], prefixes: Collection[str], convention: Convention
) -> None:
    check_apart({*prefixes, *layers_in(archive, convention)})
    foreign = set(others)
    for prefix in prefixes:
        taken = [repr(name) for name in archive.under(prefix) if name in foreign]
        if taken:
            raise ValueError(f"prefix {prefix!r} is the beginning of {abbreviated(taken)} in the file, which would "
                             "belong to the layer")


def _has_content(path: str | os.PathLike[str]) -> bool:
    # An empty file has nothing to lose, and a pipe or a device is written to.
    return os.path.isfile(path) and os.path.getsize(path) > 0
