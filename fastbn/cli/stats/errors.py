"""Errors that the command reports in one line."""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from fastbn._core import extras
from fastbn.cli.console import FAILED, USAGE_ERROR, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_CHARACTERS = 600       # of a reason, which may quote the content of a file


class InputError(ValueError):
    """An input that cannot be counted; ``--on-error`` decides what follows.

    Attributes
    ----------
    path : str
        The path of the input, with which the message begins.
    reason : str
        The rest of the message.
    """

    def __init__(self, path: str, reason: object) -> None:
        line = printable(" ".join(str(reason).split())) or type(reason).__name__    # messages of libraries vary
        self.path = path
        self.reason: str = line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}..."
        super().__init__(f"{printable(path)}: {self.reason}")


class Place(NamedTuple):
    """What is being read: a file, or a member of an archive."""

    path: str
    member: str | None = None

    def error(self, reason: object) -> InputError:
        """Return the error for a reason, which is a predicate such as "has no values"."""
        return InputError(self.path, reason if self.member is None else f"member {self.member!r} {reason}")

    def misfit(self, reason: object) -> InputError:
        """Return the error for a valid array that the command cannot count."""
        return self.error(reason if self.member is None else f"{reason}; --member NAME selects arrays of an archive")


class CommandError(Exception):
    """An error that ends the command, even with ``--on-error skip``."""

    exit_code: int = FAILED

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class ArgumentsError(CommandError):
    """Arguments that cannot be used together, or with these inputs."""

    exit_code = USAGE_ERROR


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn all errors while an input is read into an `InputError` that names it.

    Readers raise `InputError` for the errors that they know. Damaged files, and the libraries that decode them, can
    raise any other exception.
    """
    try:
        yield
    except (CommandError, InputError):
        raise
    except MemoryError as error:
        raise InputError(path, "there is not enough memory to read it") from error
    except Exception as error:
        raise InputError(path, f"cannot be read: {type(error).__name__}: {error}") from error


def require(module: str, package: str, extra: str, feature: str) -> Any:
    """Import a module of an optional package.

    Parameters
    ----------
    module : str
    package : str
        The name of the package for pip.
    extra : str
        The extra that installs it.
    feature : str
        What needs the package.

    Raises
    ------
    CommandError
        If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # An installed package that lacks a dependency raises its own error.
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise
        raise CommandError(extras.missing(feature, package, extra)) from None
