"""Output of the command line: standard output, standard error and files, and errors when they cannot be written.

Results go to standard output, messages to standard error. Control characters of file names are escaped in both.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import tempfile
from typing import IO, TYPE_CHECKING, Any, NoReturn

from fastbn._core.files import replace
from fastbn._core.startup import FAILED, INTERRUPTED, USAGE_ERROR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = [
    "FAILED", "INTERRUPTED", "READER_LEFT", "USAGE_ERROR", "OutputError", "Parser", "ShowVersion", "check_writable",
    "guarded", "printable", "show", "tell", "write_file",
]

READER_LEFT = 141       # 128 + SIGPIPE, as in a shell


class OutputError(Exception):
    """Standard output or a file cannot be written.

    Attributes
    ----------
    exit_code : int
        141 if the reader of standard output closed it, as ``head`` does, which needs no message; else 1.
    """

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Parser(argparse.ArgumentParser):
    """An ``argparse`` parser that prints through this module."""

    def print_help(self, file: Any = None) -> None:
        """Print the help text on standard output."""
        _write(self.format_help().splitlines())

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message on standard error, and exit."""
        _write_error(f"{self.format_usage()}{self.prog}: error: {printable(message)}\n")
        self.exit(USAGE_ERROR)


class ShowVersion(argparse.Action):
    """The action of ``--version``, which prints its `const`. That of ``argparse`` ignores write errors."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print the text and exit."""
        show(self.const)
        parser.exit()


def guarded(command: Callable[[], int]) -> int:
    """Run a command and return its exit code, even if a standard stream is closed, full or broken.

    Ctrl-C, a lack of memory and output that cannot be written end the command with at most one line on standard error.

    Parameters
    ----------
    command : callable
        Takes no arguments and returns an exit code.
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
    """Print lines on standard output and flush it.

    Raises
    ------
    OutputError
        If standard output is closed or full, or its reader closed it.
    """
    _write(printable(line) for line in lines)


def tell(*lines: str) -> None:
    """Print lines on standard error, and ignore write errors."""
    _write_error("".join(f"{printable(line)}\n" for line in lines))


def write_file(path: Path, data: bytes) -> None:
    """Write a file atomically.

    Raises
    ------
    OutputError
        If it cannot be written. A previous file is unchanged then.
    """
    try:
        replace(path, data)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None


def check_writable(path: Path) -> None:
    """Check that a file can be written, before the work that computes its content.

    Raises
    ------
    OutputError
        If its folder is not writable or, for a device or a pipe, the file itself.
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
    r"""Return text with all characters that are not printable escaped as in Python.

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
        for line in lines:      # in one long text, unbuffered streams (python -u) may lose the end without an error
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
    """Flush both streams, because Python cannot handle errors of its own flush at exit."""
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
        return OutputError("the reader of standard output closed it", READER_LEFT)
    return OutputError(f"standard output: cannot be written: {error.strerror}")


def _discard(stream: IO[str]) -> None:
    """Discard the buffer of a stream and all further output."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _claim_closed_streams() -> None:
    """Open the null device for standard streams that are closed.

    Otherwise the next open file would get the descriptor of a standard stream and receive messages of C libraries. A
    closed standard error is replaced in Python too, because ``print(file=None)`` prints on standard output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)      # uses the lowest free descriptor
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # for the rest of the process
