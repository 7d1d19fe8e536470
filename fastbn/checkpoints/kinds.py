"""The layer classes that a checkpoint can hold, registered by name.

Layers register themselves, so that this package does not import them. A file names the class of each layer, except for
the default, the class that was registered first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from fastbn.checkpoints.protocol import Checkpointable

Kind = TypeVar("Kind", bound="type[Checkpointable]")

_kinds: dict[str, type[Checkpointable]] = {}


def register(cls: Kind) -> Kind:
    """Register a layer class under its name; can be used as a decorator.

    Parameters
    ----------
    cls : type
        A class with the methods of `fastbn.checkpoints.protocol.Checkpointable`.

    Returns
    -------
    type
        `cls`.

    Raises
    ------
    ValueError
        If another class has this name.
    """
    if _kinds.setdefault(cls.__name__, cls) is not cls:
        raise ValueError(f"a class named {cls.__name__} is already registered")
    return cls


def registered() -> list[str]:
    """Return the names of the registered classes; the first one is the default."""
    return list(_kinds)


def named(name: str) -> type[Checkpointable]:
    """Return the class registered under a name.

    Raises
    ------
    ValueError
        If there is no such class.
    """
    if name not in _kinds:
        raise ValueError(f"kind must be one of {', '.join(_kinds)}, got {name!r}")
    return _kinds[name]


def name_of(cls: type) -> str | None:
    """Return the name that a class, or the nearest of its bases, is registered under; None without one."""
    return next((name for base in cls.__mro__ for name, kind in _kinds.items() if base is kind), None)
