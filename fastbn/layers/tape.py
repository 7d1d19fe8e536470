"""What the last forward of a layer leaves for its backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ref

if TYPE_CHECKING:
    from fastbn._core.saved import Saved
    from fastbn.layers.masked import Masked


class Tape:
    """One forward, replaced as a whole by the next one.

    Attributes
    ----------
    last : tuple or None
        x, residual, the number of the activation, and what the statistics left. Those of evaluation mode are weak
        references. x is None where the forward wrote over what a backward would read. residual is True where there was
        one whose values no backward needs. The last entry is None after a forward with running averages, whose backward
        works it out.
    """

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last: tuple[Any, Any, int, Saved | Masked | None] | None = None


def weakly(array: Any) -> Any:
    """Return a reference that does not keep an array alive; of what can have none, as a list, the object itself."""
    try:
        return ref(array)
    except TypeError:
        return array


def alive(reference: Any, name: str) -> Any:
    """Return what `weakly` made a reference of.

    Raises
    ------
    RuntimeError
        If it is gone.
    """
    if not isinstance(reference, ref):
        return reference
    array = reference()
    if array is None:
        raise RuntimeError(f"the {name} of the last forward is gone: evaluation mode does not keep it alive, and "
                           "backward needs it; hold on to the array itself until then")
    return array
