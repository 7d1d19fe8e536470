"""The arguments of the command, and its exit codes."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastbn._core import extras
from fastbn.cli.arguments import Once, integer, number, output_path, picture_path, threads
from fastbn.cli.command import Command
from fastbn.cli.console import FAILED, OutputError, tell
from fastbn.cli.stats import limits
from fastbn.cli.stats.errors import CommandError, InputError
from fastbn.cli.stats.interrupts import Interrupted, interrupting_once
from fastbn.cli.stats.run import STANDARD_OUTPUT, Run
from fastbn.statistics.selection import NAN_POLICIES

DESCRIPTION = """\
Compute statistics of each channel over all inputs together. The command prints
mean and standard deviation as lines of Python for training code, and a table
with count, minimum and maximum. It reads inputs of any size block by block.
"""
EPILOG = f"""\
extras:
  images                  {extras.hint("images")}
  Zarr arrays             {extras.hint("zarr")}
  progress bar, --plot    {extras.hint("stats")}

exit codes:
  0           success
  1           failure
  2           wrong arguments
  130, 143    interrupted, terminated
  141         the reader of standard output closed it
"""

def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument(
        "paths", nargs="+", metavar="PATH",
        help="an .npy or .npz file, an image, a folder of images, a Zarr array, or - for an .npy file on standard "
        "input")

    counted = parser.add_argument_group("values to count")
    counted.add_argument(
        "--axis", type=integer, default=-1, metavar="A",
        help="channel axis of arrays (default: -1, the last axis); images always have channels last")
    counted.add_argument(
        "--member", action="append", default=[], metavar="NAME", dest="members",
        help="name of an array to read from each .npz file; may be repeated (default: all arrays)")
    counted.add_argument(
        "--nan", choices=NAN_POLICIES, default="propagate",
        help="treatment of NaN: the channel becomes NaN, the input is an error, or the value is ignored "
        "(default: propagate)")
    counted.add_argument(
        "--nodata", type=number, metavar="VALUE", action=Once,
        help="ignore values equal to VALUE, as in rasters; the table shows how many")
    counted.add_argument(
        "--convert", choices=("RGB", "L", "none"), default="none",
        help="convert all images to this mode (default: none, which counts the stored values)")

    output = parser.add_argument_group("output")
    output.add_argument(
        "--json", type=json_path, metavar="OUT",
        help="write the result as JSON; - prints JSON on standard output instead of the table")
    output.add_argument("--plot", type=picture_path, metavar="OUT", help="draw the channels: .png, .pdf or .svg")

    running = parser.add_argument_group("run")
    running.add_argument("--threads", type=threads, metavar="N", help="maximum number of threads")
    running.add_argument(
        "--max-memory", type=limits.size, default=limits.MOST_MEMORY, metavar="SIZE",
        help="memory limit for the statistics, for an image and for a Zarr chunk (default: 512M)")
    running.add_argument(
        "--on-error", choices=("skip", "stop"), default="stop",
        help="skip an input that cannot be read, or stop there; in both cases no part of it is counted (default: stop)")
    running.add_argument(
        "--resume", type=Path, metavar="FILE",
        help="continue an interrupted run from the file it wrote, with the same inputs and settings")


def json_path(text: str) -> str | Path:
    """Return the path of a file that can be written, or a dash for standard output."""
    return text if text == STANDARD_OUTPUT else output_path(text)


def run(arguments: argparse.Namespace) -> int:
    """Count the inputs, or report in one line why not."""
    task, code = Run(arguments), 0
    try:
        with interrupting_once():
            try:
                task.check()
                task.read()
                task.finish()
            except Interrupted as interrupt:
                code = interrupt.exit_code
                task.keep()
        if code:    # the resume file is complete; from here a second signal may end a blocked print
            task.show_interrupted()
    except CommandError as error:
        tell(str(error))
        return error.exit_code
    except InputError as error:
        tell(str(error))
        return FAILED
    except OutputError as error:
        if not code:
            raise
        tell(str(error))
    return code


COMMAND = Command("stats", "print channel statistics of arrays and images in files", "images/ --plot channels.png",
                  configure, run, signed_options=("--nodata",))
