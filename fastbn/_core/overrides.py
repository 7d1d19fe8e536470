"""Detect overridden methods: a conversion of such an object would compute the result of its base class instead."""

from __future__ import annotations

from typing import Any


def check_methods(value: object, name: str, base: type[Any], methods: tuple[str, ...]) -> None:
    """Raise an error if an object overrides methods of a base class.

    Parameters
    ----------
    value : object
        An instance of `base`.
    name : str
        The name of the argument, for the message.
    base : type
    methods : tuple of str
        The methods that compute the result.

    Raises
    ------
    TypeError
        If a subclass or the object itself overrides one of the methods.
    """
    kind = type(value)
    for method in methods:
        if method in vars(value) or getattr(kind, method) is not getattr(base, method):
            raise TypeError(
                f"{name} of class {kind.__name__} overrides {method}, so its result may differ from that of "
                f"{base.__name__}; expected a plain {base.__name__}. To convert it without the override, load its "
                "state into a layer of fastbn")
