"""Asks all inputs what they are, so that an odd one that comes first does not decide for the others."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fastbn.cli.stats.errors import InputError
from fastbn.cli.stats.inputs import STREAM

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastbn.cli.stats.inputs import Input
    from fastbn.cli.stats.kind import Kind
    from fastbn.cli.stats.settings import Settings


def majority(sources: Iterable[Input], settings: Settings) -> Kind | None:
    """Return the kind of most inputs, or the first of several such; None if none can be read.

    Headers are read, and no values but those of images with a palette. Standard input, which comes only once, is not
    asked.
    """
    found: Counter[Kind] = Counter()
    for source in sources:
        if source.kind == STREAM:
            continue
        try:
            with source.open(settings) as parts:
                kinds = {part.kind for part in parts}
        except InputError:
            continue    # which will be named when it is its turn
        if len(kinds) == 1:
            found.update(kinds)
    return max(found, key=lambda kind: found[kind], default=None)
