"""The layer classes that a checkpoint can hold, registered by name.

Layers register themselves, so that this package does not import them. A file names the class of each layer, except for
the default, the class that was registered first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing import TypeGuard

    from fastbn.checkpoints.protocol import Averaged, Checkpointable

Kind = TypeVar("Kind", bound="type[Checkpointable]")

_kinds: dict[str, type[Checkpointable]] = {}
_whole: set[str] = set()


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


def register_whole(cls: Kind) -> Kind:
    """Register a class whose layers are stored as a whole: all arguments of the constructor, and the state as it is."""
    _whole.add(register(cls).__name__)
    return cls


def is_whole(cls: type) -> bool:
    """Return whether a class was registered by `register_whole`."""
    return name_of(cls) in _whole


def is_averaged(layer: Checkpointable) -> TypeGuard[Averaged]:
    """Return whether other frameworks have the state of a layer too."""
    return not is_whole(type(layer))


def default() -> str:
    """Return the name of the default class."""
    return next(iter(_kinds))


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


def check_layer(layer: object, name: str) -> None:
    """Raise a TypeError unless an argument is a layer of a registered class, or of a class derived from one."""
    if name_of(type(layer)) is None:
        raise TypeError(f"{name} must be a layer, one of {', '.join(_kinds)}, got {type(layer).__name__}")


def check_class(layer_type: object, *, averaged: bool = False) -> None:
    """Raise a TypeError unless an argument is a registered class, or one derived from it.

    Parameters
    ----------
    layer_type : object
    averaged : bool
        Whether it must be one whose state other frameworks have.
    """
    known = [name for name in _kinds if not (averaged and name in _whole)]
    if not isinstance(layer_type, type) or name_of(layer_type) not in known:
        given = layer_type.__name__ if isinstance(layer_type, type) else repr(layer_type)
        raise TypeError(f"layer_type must be the class of a layer, one of {', '.join(known)}, got {given}")


def name_of(cls: type) -> str | None:
    """Return the name that a class, or the nearest of its bases, is registered under; None without one."""
    return next((name for base in cls.__mro__ for name, kind in _kinds.items() if base is kind), None)


def name_in_file(cls: type) -> str | None:
    """Return the name that a file gives for a class; None for the default class."""
    name = name_of(cls)
    return None if name == default() else name
