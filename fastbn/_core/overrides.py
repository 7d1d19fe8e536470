"""Objects whose class computes something else than its base: what is made of them would compute what the base does."""

from __future__ import annotations

from typing import Any


def check_methods(value: object, name: str, base: type[Any], methods: tuple[str, ...]) -> None:
    """Raise an error if an object has other methods than a class that it is of.

    Parameters
    ----------
    value : object
        An instance of `base`.
    name : str
        What the argument is called.
    base : type
    methods : tuple of str
        Those that compute the result.

    Raises
    ------
    TypeError
        If a subclass, or the object itself, replaces one of them.
    """
    kind = type(value)
    for method in methods:
        if method in vars(value) or getattr(kind, method) is not getattr(base, method):
            raise TypeError(
                f"{name} of class {kind.__name__} has a {method} of its own, whose result may be another than that of "
                f"{base.__name__}; expected a plain {base.__name__}. To leave the rest out, load its state into a "
                "BatchNorm")
