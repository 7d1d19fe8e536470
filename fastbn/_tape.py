"""What the last forward of a layer leaves for its backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from fastbn._masked import Masked
    from fastbn._saved import Saved

    Last: TypeAlias = tuple[Any, Any, int, Saved | Masked | None]


class Tape:
    """One forward, replaced as a whole by the next one.

    Attributes
    ----------
    last : tuple or None
        x, residual, the number of the activation, and what the statistics left. x is None where the forward wrote over
        what a backward would read. The last entry is None after a forward with running averages, whose backward works
        it out.
    """

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last: Last | None = None
