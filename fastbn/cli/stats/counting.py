"""Counts inputs block by block. What is known is a value that is replaced as a whole, so that it may end anywhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fastbn.cli.stats.tally import Tally, merged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastbn.cli.stats.inputs import Input
    from fastbn.cli.stats.settings import Settings


@dataclass(frozen=True)
class Partial:
    """What is known of an input that is not finished.

    Attributes
    ----------
    part : int
        Which of its arrays is being read.
    block : int
        Which block of it comes next.
    tally : Tally or None
        Of what has been read.
    """

    part: int = 0
    block: int = 0
    tally: Tally | None = None


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
        """What has been read, the unfinished input included."""
        return self.total if self.partial is None else merged(self.total, self.partial.tally)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """That of the first array, the unfinished input included; None as long as there were images alone."""
        known = self.total, None if self.partial is None else self.partial.tally
        return next((tally.shape for tally in known if tally is not None and tally.shape is not None), None)

    def spoilt_since(self, total: Tally | None) -> list[int]:
        """Return the channels that have had NaN or Inf only since the total was that one."""
        if self.total is None:
            return []
        before = set() if total is None else set(total.spoilt)      # of which there may be half a million
        return [channel for channel in self.total.spoilt if channel not in before]


def count(source: Input, state: State, settings: Settings) -> Iterator[tuple[State, float]]:
    """Yield the state after each block of an input, with the stored bytes that this block stands for.

    The total takes the input in with the last state, when all of it was found to be in order.

    Raises
    ------
    InputError
        If the input cannot be read to its end, or its arrays do not fit those before.
    """
    known = state.partial or Partial()
    with source.open(settings) as parts:
        for number, part in enumerate(parts):
            if number < known.part:
                yield state, part.stored
                continue
            before = known.tally or state.total
            if before is not None:
                before.kind.check(part.place, part.kind, "those before")
            elif settings.expected is not None:
                settings.expected.check(part.place, part.kind, "most inputs")
            if known.block > len(part.grid):
                raise part.place.error("is not cut as it was when the run was interrupted")
            if known.block:
                yield state, part.stored * known.block / len(part.grid)
            axis = part.grid.axis
            for index, block in enumerate(part.blocks(known.block), known.block):
                first = part.grid.slices(index)[axis].start
                try:
                    tally = Tally.of(block, axis, first, part.kind.channels, settings.threads, settings.missing)
                except (TypeError, ValueError) as error:
                    raise part.place.error(error) from None
                known = Partial(number, index + 1, merged(known.tally, replace(tally, shape=part.shape)))
                yield replace(state, partial=known), part.stored / len(part.grid)
            known = Partial(number + 1, 0, known.tally)
    yield State(state.finished + 1, merged(state.total, known.tally), skipped=state.skipped), 0

