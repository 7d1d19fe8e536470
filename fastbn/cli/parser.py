"""The list of commands, and the parser of their arguments."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fastbn._core import threads
from fastbn._core.config import __version__
from fastbn.cli import fold, info
from fastbn.cli.console import USAGE_ERROR, Parser, ShowVersion, show, tell
from fastbn.cli.demo import command as demo
from fastbn.cli.stats import command as stats

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

COMMANDS = (info.COMMAND, demo.COMMAND, fold.COMMAND, stats.COMMAND)
DESCRIPTION = "Batch normalization for NumPy on the CPU."
DOCUMENTATION = "https://github.com/fastbn/fastbn/tree/main/docs"


def run(argv: Sequence[str]) -> int:
    """Run the command that the arguments name, or print an overview if there are none.

    Parameters
    ----------
    argv : sequence of str
        The arguments without the name of the program.

    Returns
    -------
    int
        The exit code.
    """
    signed = {option for command in COMMANDS for option in command.signed_options}
    arguments = build_parser().parse_args(join_values(argv, signed))
    if arguments.run is None:
        show(*overview(program()))
        return 0
    try:
        threads.current()
    except ValueError as error:     # a wrong FASTBN_NUM_THREADS, which the import does not check for the command line
        tell(str(error))
        return USAGE_ERROR
    code: int = arguments.run(arguments)
    return code


def program() -> str:
    """Return the name by which the user called the program."""
    return "fastbn" if Path(sys.argv[0]).stem == "fastbn" else "python -m fastbn"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser, which sets ``run`` to the function of the command."""
    parser = Parser(prog=program(), description=DESCRIPTION, epilog=f"Documentation: {DOCUMENTATION}")
    parser.add_argument("--version", action=ShowVersion, nargs=0, const=f"fastbn {__version__}",
                        help="show the version and exit")
    parser.set_defaults(run=None)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.summary)
        subparser.description = f"{command.summary[0].upper()}{command.summary[1:]}."
        command.configure(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def overview(name: str) -> list[str]:
    """Return what the program prints without arguments.

    Parameters
    ----------
    name : str
        The name of the program.
    """
    lines = [f"fastbn {__version__}: batch normalization for NumPy on the CPU"]
    for command in COMMANDS:
        example = f"{name} {command.name} {command.example}".rstrip()
        lines += ["", f"  {command.name:<7}{command.summary}", f"         $ {example}"]
    return [*lines, "", f"Options of a command: {name} COMMAND --help", f"Documentation: {DOCUMENTATION}"]


def join_values(arguments: Iterable[str], options: set[str]) -> list[str]:
    """Join some options with their values, because ``argparse`` takes a value such as -1e38 for an option.

    Examples
    --------
    >>> from fastbn.cli.parser import join_values
    >>> join_values(["stats", "x.npy", "--nodata", "-1e38"], {"--nodata"})
    ['stats', 'x.npy', '--nodata=-1e38']
    """
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in options:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined
