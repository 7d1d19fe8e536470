"""Counts inputs block by block. What is known is a value that is replaced as a whole, so that it may end anywhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fastbn.statistics_command.tally import Tally, joined, merged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastbn.statistics_command.inputs import Input
    from fastbn.statistics_command.part import Part


@dataclass(frozen=True)
class Settings:
    """What decides which values are counted, and how.

    Attributes
    ----------
    axis : int
        The channel axis of arrays; that of images is always the last.
    members : tuple of str
        Which arrays of npz archives; all if empty.
    threads : int or None
    """

    axis: int = -1
    members: tuple[str, ...] = ()
    threads: int | None = None


@dataclass(frozen=True)
class Partial:
    """What is known of an input that is not finished.

    Attributes
    ----------
    part : int
        Which of its arrays is being read.
    block : int
        Which block of it comes next.
    before : Tally or None
        Of the arrays before that one.
    groups : tuple of Tally or None
        Of each group of channels of that one; empty at its beginning.
    """

    part: int = 0
    block: int = 0
    before: Tally | None = None
    groups: tuple[Tally | None, ...] = ()


@dataclass(frozen=True)
class State:
    """What is known.

    Attributes
    ----------
    finished : int
        How many inputs have been counted or skipped.
    total : Tally or None
        Of those counted.
    partial : Partial or None
        Of the next one, if it has begun.
    skipped : tuple of (str, str)
        The paths of those skipped, with the reason.
    """

    finished: int = 0
    total: Tally | None = None
    partial: Partial | None = None
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def so_far(self) -> Tally | None:
        """Return the tally of all that has been read, an unfinished array included if that has whole blocks alone."""
        if self.partial is None:
            return self.total
        known = merged(self.total, self.partial.before)
        return merged(known, joined(self.partial.groups)) if self.partial.groups else known

    def spoilt_since(self, total: Tally | None) -> list[int]:
        """Return the channels that have had NaN or Inf only since the total was that one."""
        if self.total is None:
            return []
        spoilt = ~np.isfinite(self.total.stats.mean)
        if total is not None:
            spoilt &= np.isfinite(total.stats.mean)
        return [int(channel) for channel in np.flatnonzero(spoilt)]


def count(source: Input, state: State, settings: Settings) -> Iterator[tuple[State, float]]:
    """Yield the state after each block of an input, with the stored bytes that this block stands for.

    The total takes the input in with the last state, when all of it was found to be in order.

    Raises
    ------
    InputError
        If the input cannot be read to its end, or its arrays do not fit those before.
    """
    known = state.partial or Partial()
    with source.open(settings.axis, settings.members) as parts:
        for number, part in enumerate(parts):
            if number < known.part:
                yield state, part.stored
                continue
            compare(part, merged(state.total, known.before))
            groups = known.groups or (None,) * part.grid.groups
            if len(groups) != part.grid.groups or known.block > len(part.grid):
                raise part.place.error("is not cut as it was when the run was interrupted")
            if known.block:
                yield state, part.stored * known.block / len(part.grid)
            for index, block in enumerate(part.blocks(known.block), known.block):
                group = part.grid.group(index)
                tally = merged(groups[group], Tally.of(block, part.grid.axis, settings.threads))
                groups = (*groups[:group], tally, *groups[group + 1:])
                known = Partial(number, index + 1, known.before, groups)
                yield replace(state, partial=known), part.stored / len(part.grid)
            known = Partial(number + 1, 0, merged(known.before, joined(groups)))
    yield State(state.finished + 1, merged(state.total, known.before), skipped=state.skipped), 0


def compare(part: Part, known: Tally | None) -> None:
    """Raise an error if an array does not fit those before."""
    if known is None:
        return
    if part.channels != known.channels:
        raise part.place.error(f"has {part.channels} channels; those before have {known.channels}")
    if part.uint8 != known.uint8:
        kinds = ("values of uint8", "floating-point values")
        ours, theirs = kinds if part.uint8 else kinds[::-1]
        raise part.place.error(f"has {ours}; those before have {theirs}")
