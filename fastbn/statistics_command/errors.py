"""What the command says in one line."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple


class InputError(ValueError):
    """An input that cannot be counted: the message begins with its path. ``--on-error`` decides what follows."""

    def __init__(self, path: str, reason: object) -> None:
        self.path = path
        self.reason = " ".join(str(reason).split()) or type(reason).__name__     # one line, whatever a library says
        super().__init__(f"{path}: {self.reason}")


class Place(NamedTuple):
    """What is being read: a file, and where it is an archive, a member of it."""

    path: str
    member: str | None = None

    def error(self, reason: object) -> InputError:
        """Return the error whose reason, a predicate such as "has no values", is that of this place."""
        return InputError(self.path, reason if self.member is None else f"member {self.member!r} {reason}")

    def misfit(self, reason: object) -> InputError:
        """Return the error of an array that is in order, and is none to be counted here."""
        return self.error(reason if self.member is None else f"{reason}; --member NAME chooses arrays of an archive")


class CommandError(Exception):
    """What ends the command, whatever ``--on-error`` says."""


def require(module: str, package: str, extra: str, what: str) -> Any:
    """Return a module of an optional package, or say which extra brings it.

    Raises
    ------
    CommandError
        If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A package that is there and misses one of its own says so itself.
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise
        raise CommandError(f"{what} needs {package}, which is not installed: pip install 'fastbn[{extra}]'") from None
