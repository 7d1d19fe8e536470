"""Counts inputs block by block. The state is immutable and replaced as a whole, so a run can stop at any time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fastbn.cli.stats.counting.tally import Tally, merged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastbn.cli.stats.inputs import Input
    from fastbn.cli.stats.readers.kind import Kind
    from fastbn.cli.stats.settings import Settings


@dataclass(frozen=True)
class Partial:
    """The state of an unfinished input.

    Attributes
    ----------
    part : int
        The index of the current array.
    block : int
        The index of its next block.
    tally : Tally or None
        Statistics of the blocks read so far.
    """

    part: int = 0
    block: int = 0
    tally: Tally | None = None


@dataclass(frozen=True)
class State:
    """The state of a run.

    Attributes
    ----------
    finished : int
        The number of inputs counted or skipped.
    total : Tally or None
        Statistics of the inputs counted.
    partial : Partial or None
        The state of the next input, if it is unfinished.
    skipped : tuple of (str, str)
        Path and reason for each input skipped.
    """

    finished: int = 0
    total: Tally | None = None
    partial: Partial | None = None
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def so_far(self) -> Tally | None:
        """Statistics of all blocks read, including those of the unfinished input."""
        return self.total if self.partial is None else merged(self.total, self.partial.tally)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of the first array; None if there were only images."""
        known = self.total, None if self.partial is None else self.partial.tally
        return next((tally.shape for tally in known if tally is not None and tally.shape is not None), None)

    def spoilt_since(self, total: Tally | None) -> list[int]:
        """Return the channels with NaN or Inf that have none in an earlier total."""
        if self.total is None:
            return []
        before = set() if total is None else set(total.spoilt)      # it can have half a million elements
        return [channel for channel in self.total.spoilt if channel not in before]


def count(
    source: Input, state: State, settings: Settings, expected: Kind | None = None
) -> Iterator[tuple[State, float]]:
    """Count an input, and yield the state and the number of stored bytes after each block.

    Only the last state has the input in its total, after the whole input was read without an error.

    Parameters
    ----------
    source : Input
    state : State
        The state before the input, or within it if a run is resumed.
    settings : Settings
    expected : Kind, optional
        The kind of the first input counted. By default, any.

    Yields
    ------
    state : State
    stored : float
        Stored bytes that correspond to the block.

    Raises
    ------
    InputError
        If the input cannot be read to its end, or the kind of an array is not that of earlier ones.
    """
    known = state.partial or Partial()
    with source.open(settings) as parts:
        for number, part in enumerate(parts):
            if number < known.part:
                yield state, part.stored
                continue
            before = known.tally or state.total
            if before is not None:
                before.kind.check(part.place, part.kind, "earlier inputs")
            elif expected is not None:
                expected.check(part.place, part.kind, "most inputs")
            if known.block > len(part.grid):
                raise part.place.error("has fewer blocks than in the interrupted run")
            if known.block:
                yield state, part.stored * known.block / len(part.grid)
            axis = part.grid.axis
            for index, block in enumerate(part.blocks(known.block), known.block):
                first = part.grid.slices(index)[axis].start
                try:
                    tally = Tally.of(block, axis, first, part.kind.channels, threads=settings.threads,
                                     missing=settings.missing)
                except (TypeError, ValueError) as error:
                    raise part.place.error(error) from None
                known = Partial(number, index + 1, merged(known.tally, replace(tally, shape=part.shape)))
                yield replace(state, partial=known), part.stored / len(part.grid)
            known = Partial(number + 1, 0, known.tally)
    yield State(state.finished + 1, merged(state.total, known.tally), skipped=state.skipped), 0

