"""Properties that all inputs of a run must share."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fastbn._core.checks import counted

if TYPE_CHECKING:
    from fastbn.cli.stats.errors import Place


class Kind(NamedTuple):
    """Properties that all arrays of a run must share.

    Attributes
    ----------
    channels : int
    uint8 : bool
        Whether the dtype is uint8. Values of other dtypes most likely have another scale, such as 0 to 1.
    """

    channels: int
    uint8: bool

    def check(self, place: Place, other: Kind, reference: str) -> None:
        """Raise an error if the kind of an array is not this one.

        Parameters
        ----------
        place : Place
            The array.
        other : Kind
            Its kind.
        reference : str
            Which inputs this kind comes from, for example "earlier inputs".
        """
        if other.channels != self.channels:
            raise place.misfit(f"has {counted(other.channels, 'channel')}; {reference} have {self.channels}")
        if other.uint8 != self.uint8:
            found, expected = ("uint8 values", "values of another dtype")[::1 if other.uint8 else -1]
            raise place.misfit(f"has {found}; {reference} have {expected}")
