"""What the command says in one line."""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from fastbn.cli.console import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_CHARACTERS = 600       # of a reason, which may quote what is in a file


class InputError(ValueError):
    """An input that cannot be counted: the message begins with its path. ``--on-error`` decides what follows."""

    def __init__(self, path: str, reason: object) -> None:
        line = printable(" ".join(str(reason).split())) or type(reason).__name__    # whatever a library says
        self.path = path
        self.reason = line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}..."
        super().__init__(f"{printable(path)}: {self.reason}")


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

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn whatever goes wrong while an input is read into an InputError that names it.

    The readers say what is wrong where they know. The files, and the libraries that decode them, can fail in more ways
    than they know of.
    """
    try:
        yield
    except (CommandError, InputError):
        raise
    except MemoryError as error:
        raise InputError(path, "there is not enough memory to read it") from error
    except Exception as error:
        raise InputError(path, f"cannot be read: {type(error).__name__}: {error}") from error


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
