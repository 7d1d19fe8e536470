"""Output of the command line: standard output, standard error and files, and what follows where they cannot be written.

Results go to standard output, everything else to standard error. Control characters of names are escaped in both.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import tempfile
from typing import IO, TYPE_CHECKING, Any, NoReturn

from fastbn._core.files import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

FAILED = 1
WRONG_ARGUMENTS = 2
INTERRUPTED = 130           # 128 + the number of the signal, as a shell has it
READER_LEFT = 141


class OutputError(Exception):
    """Standard output or a file cannot be written.

    Attributes
    ----------
    exit_code : int
        141 if the reader of standard output has left, as ``head`` does, which needs no message; else 1.
    """

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Parser(argparse.ArgumentParser):
    """A parser that prints as the commands do."""

    def print_help(self, file: Any = None) -> None:
        """Print the help on standard output."""
        _write(self.format_help().splitlines())

    def error(self, message: str) -> NoReturn:
        """Print usage and message on standard error, and end the process."""
        _write_error(f"{self.format_usage()}{self.prog}: error: {printable(message)}\n")
        self.exit(WRONG_ARGUMENTS)


class ShowVersion(argparse.Action):
    """The action of an option that prints its `const`; that of argparse hides that it could not."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print the text, and end the process."""
        show(self.const)
        parser.exit()


def guarded(command: Callable[[], int]) -> int:
    """Run a command and return its exit code, whatever becomes of the standard streams meanwhile.

    An interruption that the command does not handle itself, missing memory, and output that cannot be written end in
    at most one line on standard error.

    Parameters
    ----------
    command : callable
        Takes nothing and returns an exit code.
    """
    _claim_closed_streams()
    try:
        try:
            return command()
        finally:
            _flush()
    except OutputError as error:
        if error.exit_code != READER_LEFT:
            tell(str(error))
        return error.exit_code
    except MemoryError:
        tell("there is not enough memory")
        return FAILED
    except KeyboardInterrupt:
        tell("interrupted")
        return INTERRUPTED


def show(*lines: str) -> None:
    """Print lines on standard output at once.

    Raises
    ------
    OutputError
        If that is closed, full, or has lost its reader.
    """
    _write(printable(line) for line in lines)


def tell(*lines: str) -> None:
    """Print lines on standard error, or nothing if that cannot be written to."""
    _write_error("".join(f"{printable(line)}\n" for line in lines))


def write_file(path: Path, data: bytes) -> None:
    """Put a file in place as a whole.

    Raises
    ------
    OutputError
        If it cannot be written; what was there is as it was then.
    """
    try:
        replace(path, data)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None


def check_writable(path: Path) -> None:
    """Find out whether a file can be put somewhere, before the work whose result it is.

    Raises
    ------
    OutputError
        If nothing can be written beside it, or into what is there and is no regular file.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        if not os.access(path, os.W_OK):
            raise OutputError(f"{path}: cannot be written: {os.strerror(errno.EACCES)}")
        return
    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(os.path.realpath(path))):
            pass
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None


def printable(text: str) -> str:
    r"""Return text whose control characters, among others that are not printable, are escaped as in Python.

    Examples
    --------
    >>> from fastbn.cli.console import printable
    >>> print(printable("a\x1b[31m\nb"))
    a\x1b[31m\nb
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _write(lines: Iterable[str]) -> None:
    if sys.stdout is None:
        raise OutputError("standard output is closed")
    encoding = sys.stdout.encoding or "utf-8"
    try:
        for line in lines:      # one by one: without a buffer (python -u), the end of a longer text may be lost unseen
            sys.stdout.write(f"{line}\n".encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        raise _lost_output(error) from None


def _write_error(text: str) -> None:
    try:
        sys.stderr.write(text)
    except OSError:
        _discard(sys.stderr)


def _flush() -> None:
    """Write what is buffered now: at its end Python could only complain."""
    try:
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        raise _lost_output(error) from None


def _lost_output(error: OSError) -> OutputError:
    _discard(sys.stdout)
    if isinstance(error, BrokenPipeError):
        return OutputError("the reader of standard output has left", READER_LEFT)
    return OutputError(f"standard output: cannot be written: {error.strerror}")


def _discard(stream: IO[str]) -> None:
    """Let go of what a stream has not written, and of all that follows."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _claim_closed_streams() -> None:
    """Open the null device for standard streams that are closed.

    Otherwise the next file that is opened would take the number of one, and messages could end up in it. A closed
    standard error is replaced in Python too, where printing to None prints on standard output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)      # takes the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # for the rest of the process
