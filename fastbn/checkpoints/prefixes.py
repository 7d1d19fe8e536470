"""The prefixes of the layers in a file."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from fastbn.checkpoints.conventions import CONVENTIONS
from fastbn.checkpoints.settings import ARGUMENTS, key_of, prefixes_of
from fastbn.checkpoints.state import EXTRA

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastbn.checkpoints.conventions import Convention
    from fastbn.checkpoints.formats.archive import Archive


def layers_in(archive: Archive, convention: Convention) -> list[str]:
    """Return the sorted prefixes of the layers in a file: those with settings of fastbn or with running averages."""
    names = set(archive.names)
    mean, var = convention.running_mean, convention.running_var
    found = {name.removesuffix(mean) for name in names if name.endswith(mean)}
    averaged = {prefix for prefix in found if prefix + var in names}
    own = names_of_layers(convention)
    prefixes = prefixes_of(archive.metadata)
    described = {prefix for prefix in prefixes if any(prefix + name in names for name in own)}
    whole = {prefix for prefix in prefixes if key_of(prefix, ARGUMENTS) in archive.metadata and archive.has(prefix)}
    return sorted((averaged - within(averaged, whole)) | described | whole)


def within(prefixes: set[str], whole: set[str]) -> set[str]:
    """Return the prefixes that begin with another one, of a layer stored as a whole: its parts with running averages.

    Examples
    --------
    >>> from fastbn.checkpoints.prefixes import within
    >>> sorted(within({"a.", "a.bns.0.", "b.bns.0."}, {"a."}))
    ['a.bns.0.']
    """
    parts: set[str] = set()
    outer = None
    for prefix in sorted(prefixes | whole):     # what begins with a prefix follows it
        if outer is not None and prefix.startswith(outer):
            parts.add(prefix)
        elif prefix in whole:
            outer = prefix
    return parts & prefixes


def names_of_layers(convention: Convention) -> set[str]:
    """Return all names, without the prefix, that a layer may have in a file, under any convention."""
    return {name for one in (convention, *CONVENTIONS.values()) for name in one.names.values()} | {*EXTRA}


def check_apart(prefixes: Iterable[str]) -> None:
    """Raise an error if one prefix begins with another: `load` takes all names that begin with a prefix."""
    for first, second in pairwise(sorted(prefixes)):
        if second.startswith(first):
            raise ValueError(f"prefix {first!r} is the beginning of prefix {second!r}, so that the names of one layer "
                             "would belong to both")
