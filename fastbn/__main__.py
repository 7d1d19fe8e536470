"""``python -m fastbn``: what this build is, a demonstration, the folding of ONNX models, statistics of files."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fastbn._core import threads as _threads
from fastbn._core.config import __version__, config, describe
from fastbn.cli import fold as folding
from fastbn.cli.console import (
    FAILED,
    WRONG_ARGUMENTS,
    OutputError,
    Parser,
    ShowVersion,
    check_writable,
    guarded,
    show,
    tell,
)
from fastbn.cli.stats import command as statistics

if TYPE_CHECKING:
    from collections.abc import Sequence

DEMO_EXTRA = {"matplotlib": "matplotlib", "sklearn": "scikit-learn", "tqdm": "tqdm"}   # module: what pip calls it
PICTURES = (".pdf", ".png", ".svg")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments, without the program's name; those of the process if not given.

    Returns
    -------
    int
        The exit code: 0; 1 where a command failed; 2 for wrong settings; 130 or 143 if it was interrupted or
        terminated; 141 if the reader of standard output left. Wrong arguments end the process with 2.
    """
    return guarded(lambda: run(argv))


def run(argv: Sequence[str] | None) -> int:
    """Run the command that the arguments name."""
    arguments = build_parser().parse_args(statistics.joined(sys.argv[1:] if argv is None else argv))
    try:
        _threads.current()
    except ValueError as error:     # FASTBN_NUM_THREADS, which --help and --version need not be right for
        tell(str(error))
        return WRONG_ARGUMENTS
    code: int = arguments.command(arguments)
    return code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; each subcommand sets ``command`` to the function that runs it."""
    parser = Parser(prog="python -m fastbn", description="Batch normalization for NumPy on the CPU.")
    parser.add_argument("--version", action=ShowVersion, nargs=0, const=f"fastbn {__version__}",
                        help="show program's version number and exit")
    commands = parser.add_subparsers(required=True, metavar="command")

    text = "print version, compiler, ISA level, OpenMP runtime and threads"
    command = commands.add_parser("info", help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.add_argument("--json", action="store_true", help="print JSON, for programs")
    command.set_defaults(command=info)

    command = commands.add_parser(
        "demo",
        help="train a small network on handwritten digits, with and without batch normalization",
        description="Train the same small convolutional network on the 1,797 digits of scikit-learn, with and without "
        "batch normalization, at a learning rate and at ten times that rate; print the test accuracy by epoch, "
        "classify the test digits one at a time, and save a picture of the four curves. Takes some ten seconds.",
        epilog="Needs the extra: pip install 'fastbn[demo]'",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("--epochs", type=positive_int, default=15, metavar="N", help="passes over the training digits")
    command.add_argument("--batch", type=positive_int, default=64, metavar="N", help="digits in a training step")
    command.add_argument("--rate", type=positive_float, default=0.1, metavar="R", help="the lower learning rate")
    command.add_argument("--seed", type=seed, default=0, metavar="S", help="of weights, split and order of the digits")
    command.add_argument(
        "--out", type=picture_path, default="fastbn-demo.png", metavar="PATH", help="where the picture goes")
    command.set_defaults(command=demo)

    folding.configure(commands.add_parser("fold", help=folding.HELP), positive_float)
    statistics.configure(commands.add_parser("stats", help=statistics.HELP), threads, output_path, picture_path)
    return parser


def info(arguments: argparse.Namespace) -> int:
    """Print what this build is and what it chose."""
    text = json.dumps(config(), indent=2) if arguments.json else describe(config())
    show(*text.split("\n"))
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """Run the demonstration, or say what it needs."""
    try:
        from fastbn.cli.demo.command import run
    except ModuleNotFoundError as error:
        missing = DEMO_EXTRA.get((error.name or "").partition(".")[0])
        if missing is None:
            raise
        tell(f"The demo needs {missing}, which is not installed: pip install 'fastbn[demo]'")
        return FAILED
    return run(arguments.epochs, arguments.batch, arguments.rate, arguments.seed, arguments.out)


def positive_int(text: str) -> int:
    """Return an integer of at least 1, or raise the error that argparse shows."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def threads(text: str) -> int:
    """Return a number of threads, or raise the error that argparse shows."""
    count = positive_int(text)
    try:
        _threads.check(count)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return count


def seed(text: str) -> int:
    """Return an integer of at least 0, or raise the error that argparse shows."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected an integer of at least 0, got {text!r}")
    return int(text)


def positive_float(text: str) -> float:
    """Return a finite number above 0, or raise the error that argparse shows."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def picture_path(text: str) -> Path:
    """Return a path that a picture can be written to: better now than after the training."""
    if Path(text).suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"expected a file name that ends in {', '.join(PICTURES)}, got {text!r}")
    return output_path(text)


def output_path(text: str) -> Path:
    """Return a path that a file can be written to, or raise the error that argparse shows."""
    path = Path(text)
    if not os.path.isdir(path.parent):
        raise argparse.ArgumentTypeError(f"there is no directory {str(path.parent)!r}")
    if not text or os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"expected a file name, got {text!r}")
    try:
        check_writable(path)
    except OutputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


if __name__ == "__main__":
    sys.exit(main())
