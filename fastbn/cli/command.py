"""What a command consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes
    ----------
    name : str
    summary : str
        One line for the list of commands, without a period.
    example : str
        Typical arguments, for the overview.
    configure : callable
        Adds the arguments of the command to an ``argparse`` parser.
    run : callable
        Takes the parsed arguments and returns the exit code.
    signed_options : tuple of str
        Options whose value may begin with a minus sign.
    """

    name: str
    summary: str
    example: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    signed_options: tuple[str, ...] = ()
