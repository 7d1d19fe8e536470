"""What all inputs of a run must have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fastbn._core.checks import counted

if TYPE_CHECKING:
    from fastbn.cli.stats.errors import Place


class Kind(NamedTuple):
    """What all that is counted must have in common.

    Attributes
    ----------
    channels : int
    uint8 : bool
        Whether the values are of uint8. Beside them, those of another dtype are most likely 0 to 1.
    """

    channels: int
    uint8: bool

    def check(self, place: Place, kind: Kind, whose: str) -> None:
        """Raise an error if another kind is not this one, which is that of "those before", for example."""
        if kind.channels != self.channels:
            raise place.misfit(f"has {counted(kind.channels, 'channel')}; {whose} have {self.channels}")
        if kind.uint8 != self.uint8:
            ours, theirs = ("values of uint8", "values of another dtype")[::1 if kind.uint8 else -1]
            raise place.misfit(f"has {ours}; {whose} have {theirs}")
