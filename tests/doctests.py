"""Doctest collection for public objects, whose `__module__` is "fastbn" and not the module that defines them."""

import doctest
import inspect

_from_module = doctest.DocTestFinder._from_module


def home(thing):
    """Return the name of the module that defines a class or a function; of a class without functions, `__module__`."""
    functions = vars(thing).values() if inspect.isclass(thing) else [inspect.unwrap(thing)]
    return next((value.__globals__["__name__"] for value in functions if inspect.isfunction(value)), thing.__module__)


def from_module(finder, module, thing):
    if module is not None and getattr(thing, "__module__", None) == "fastbn":
        return module.__name__ == home(thing)
    return _from_module(finder, module, thing)


def install():
    """Let doctest, and ``pytest --doctest-modules``, find all examples where they are defined, and only there."""
    doctest.DocTestFinder._from_module = from_module
