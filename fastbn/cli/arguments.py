"""Types of command-line arguments: each function converts text, or raises the error that ``argparse`` reports."""

from __future__ import annotations

import contextlib
import math
import os
from argparse import Action, ArgumentError, ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

from fastbn._core.threads import check
from fastbn.cli.console import OutputError, check_writable

PICTURES = (".pdf", ".png", ".svg")


class Once(Action):
    """The action of an option that stores a value, where a second value would be taken for another one to add."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: Any = None) -> None:
        """Store the value."""
        if getattr(namespace, self.dest) is not None:
            raise ArgumentError(self, "given twice; expected one value")
        setattr(namespace, self.dest, values)


def integer(text: str) -> int:
    """Return an integer."""
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"expected an integer, got {text!r}") from None


def natural(text: str) -> int:
    """Return an integer of at least 0."""
    if not text.isdecimal():
        raise ArgumentTypeError(f"expected an integer of at least 0, got {text!r}")
    return int(text)


def positive_int(text: str) -> int:
    """Return an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def positive_float(text: str) -> float:
    """Return a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def number(text: str) -> int | float:
    """Return a number; an int if it is whole, which keeps all digits of a 64-bit integer.

    Examples
    --------
    >>> from fastbn.cli.arguments import number
    >>> number("9223372036854775807"), number("-1e3"), number("0.5")
    (9223372036854775807, -1000, 0.5)
    """
    with contextlib.suppress(ValueError):
        return int(text)
    try:
        value = float(text)
    except ValueError:
        raise ArgumentTypeError(f"expected a number, got {text!r}") from None
    if math.isinf(value) and "inf" not in text.lower():
        raise ArgumentTypeError(f"expected a number in the range of float64, got {text!r}")
    return int(value) if value.is_integer() else value


def threads(text: str) -> int:
    """Return a number of threads."""
    count = positive_int(text)
    try:
        check(count)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    return count


def picture_path(text: str) -> Path:
    """Return the path of a picture that can be written."""
    if Path(text).suffix.lower() not in PICTURES:
        raise ArgumentTypeError(f"expected a file name that ends in {', '.join(PICTURES)}, got {text!r}")
    return output_path(text)


def output_path(text: str) -> Path:
    """Return the path of a file that can be written, as a check before long work."""
    path = Path(text)
    if not os.path.isdir(path.parent):
        raise ArgumentTypeError(f"there is no directory {str(path.parent)!r}")
    if not text or os.path.isdir(path):
        raise ArgumentTypeError(f"expected a file name, got {text!r}")
    try:
        check_writable(path)
    except OutputError as error:
        raise ArgumentTypeError(str(error)) from None
    return path
