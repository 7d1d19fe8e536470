"""``python -m fastbn stats``: its arguments, its exit codes, and what happens on Ctrl-C."""

from __future__ import annotations

import argparse
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fastbn._core.checks import channels, counted
from fastbn.cli.console import FAILED, OutputError, show, tell, write_file
from fastbn.cli.stats import inputs, limits, resume
from fastbn.cli.stats.counting import State, count
from fastbn.cli.stats.errors import CommandError, InputError, require
from fastbn.cli.stats.inputs import FINGERPRINT_BYTES
from fastbn.cli.stats.interrupts import Interrupted, interrupting_once
from fastbn.cli.stats.majority import majority
from fastbn.cli.stats.missing import Missing
from fastbn.cli.stats.progress import Progress
from fastbn.cli.stats.report import report, text
from fastbn.cli.stats.settings import Settings
from fastbn.statistics.selection import NAN_POLICIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastbn.cli.stats.inputs import Input
    from fastbn.cli.stats.tally import Tally

HELP = "count, mean, standard deviation, minimum and maximum of the channels of files"
STANDARD_OUTPUT = "-"       # as --json has it; a path is never equal to it
IMAGE_CHANNELS = (1, 3, 4)  # gray, RGB, RGBA
MANY_CHANNELS = 64          # more than these beside an axis as short as that are rather columns of pixels


def configure(
    command: argparse.ArgumentParser, threads: Callable[[str], int], output_path: Callable[[str], Path],
    picture_path: Callable[[str], Path],
) -> None:
    """Give a parser the arguments of the command, of which some types are those of other commands too."""
    command.description = (
        "Print mean and standard deviation of each channel as a line for training code, and a table with count, "
        "minimum and maximum. Inputs are read block by block, whatever their size.")
    command.epilog = (
        "Images need the extra 'fastbn[images]', Zarr arrays 'fastbn[zarr]', a progress bar and --plot "
        "'fastbn[stats]'. Exit codes: 0 done, 1 failed, 2 wrong arguments, 130 or 143 interrupted or terminated, 141 "
        "the reader of standard output left.")
    command.add_argument(
        "paths", nargs="+", metavar="PATH",
        help="an .npy or .npz file, an image, a folder of images, a Zarr array, or - for an .npy on standard input")
    command.add_argument(
        "--axis", type=integer, default=-1, metavar="A",
        help="the channel axis of arrays (default: -1, the last one, which is always that of images)")
    command.add_argument(
        "--member", action="append", default=[], metavar="NAME", dest="members",
        help="an array to read from each .npz file; may be given several times (default: all)")
    command.add_argument(
        "--nan", choices=NAN_POLICIES, default="propagate",
        help="what a NaN does: makes its channel NaN, is an error in its input, or does not count in its channel "
        "(default: propagate)")
    command.add_argument(
        "--nodata", type=number, metavar="VALUE",
        help="values equal to VALUE do not count in their channel, as in rasters")
    command.add_argument(
        "--json", type=lambda value: value if value == STANDARD_OUTPUT else output_path(value), metavar="OUT",
        help="write the same as JSON, for programs; - for standard output, which has nothing else then")
    command.add_argument("--plot", type=picture_path, metavar="OUT", help="draw the channels: .png, .pdf or .svg")
    command.add_argument("--threads", type=threads, metavar="N", help="how many threads may be used")
    command.add_argument(
        "--convert", choices=("RGB", "L", "none"), default="none",
        help="the mode to which all images are converted (default: none, which counts the values that they have)")
    command.add_argument(
        "--max-memory", type=limits.size, default=limits.MOST_MEMORY, metavar="SIZE",
        help="how much memory the statistics of the channels, an image or a Zarr chunk may take (default: 512M)")
    command.add_argument(
        "--on-error", choices=("skip", "stop"), default="stop",
        help="leave out an input that cannot be read, or stop there; no part of it is counted (default: stop)")
    command.add_argument(
        "--resume", type=Path, metavar="FILE", help="go on from the file that an interrupted run left, with the same "
        "inputs and settings")
    command.set_defaults(command=run)


def joined(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with each value of --nodata joined to it: argparse takes -1e38 for an option.

    Examples
    --------
    >>> from fastbn.cli.stats.command import joined
    >>> joined(["stats", "x.npy", "--nodata", "-1e38"])
    ['stats', 'x.npy', '--nodata=-1e38']
    """
    out: list[str] = []
    for argument in arguments:
        if out and out[-1] == "--nodata":
            out[-1] += f"={argument}"
        else:
            out.append(argument)
    return out


def integer(value: str) -> int:
    """Return an integer, or raise the error that argparse shows."""
    try:
        return int(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an integer, got {value!r}") from None


def number(value: str) -> int | float:
    """Return a number, an int where it is whole, or raise the error that argparse shows."""
    try:
        return int(value)       # all digits of a 64-bit integer
    except ValueError:
        pass
    try:
        parsed = float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {value!r}") from None
    return int(parsed) if math.isfinite(parsed) and parsed.is_integer() else parsed


def replaces(output: Path, source: Input) -> bool:
    """Return whether an output would replace an input, or a file within it."""
    if source.kind == inputs.STREAM:
        return False
    try:
        return os.path.samefile(output, source.path) or (
            source.kind == "zarr" and Path(source.path).resolve() in output.resolve().parents)
    except OSError:     # one of them is not there, or cannot be seen
        return False


def run(arguments: argparse.Namespace) -> int:
    """Count the inputs, or say in one line why not."""
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
        if code:    # What is known is safe. A reader who takes nothing must not hold up the next signal.
            task.say_what_is_known()
    except (CommandError, InputError) as error:
        tell(str(error))
        return FAILED
    except OutputError as error:
        if not code:
            raise
        tell(str(error))
    return code


class Run:
    """One run of the command: what it was asked, and what it knows."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.settings = Settings(arguments.axis, tuple(dict.fromkeys(arguments.members)), arguments.threads,
                                 Missing(arguments.nan, arguments.nodata), arguments.convert, arguments.max_memory)
        self.state = State()
        self.fingerprints = bytearray()         # of inputs finished, and of the one that has begun
        self.source: Input | None = None        # the one that has begun
        self.complete = False                   # whether all were counted
        self.axis_noted = False
        self.shown = False                      # whether the result was printed
        self.kept = False                       # whether an interrupted run can go on
        self.interruption = ""                  # what to say of it

    def check(self) -> None:
        """Find what is wrong with the arguments before anything is read."""
        arguments = self.arguments
        if arguments.paths.count(inputs.STANDARD_INPUT) > 1:
            raise CommandError("standard input (-) can be read only once")

    def read(self) -> None:
        """Count all inputs that are not finished."""
        if self.arguments.resume is not None:
            self.state, fingerprints = resume.load(self.arguments.resume, self.settings)
            self.fingerprints[:] = fingerprints
            self.axis_noted = self.state.shape is not None
        total, done = self.survey()
        if self.arguments.plot is not None:
            require("matplotlib", "matplotlib", "stats", "--plot")
        if self.arguments.on_error == "skip" and self.state.total is None:
            self.settings = replace(self.settings, expected=majority(inputs.find(self.arguments.paths), self.settings))
        with Progress(total, done) as progress:
            for index, source in enumerate(inputs.find(self.arguments.paths)):
                if index >= self.state.finished:
                    self.read_one(index, source, progress)
        self.complete = True

    def survey(self) -> tuple[int, int]:
        """Return the stored bytes of all inputs and of those finished; what is wrong at first sight is found here."""
        total, done, number, archives = 0, 0, 0, False
        outputs = [path for path in (self.arguments.json, self.arguments.plot) if path not in (None, STANDARD_OUTPUT)]
        for number, source in enumerate(inputs.find(self.arguments.paths), 1):
            known = self.fingerprints[(number - 1) * FINGERPRINT_BYTES:number * FINGERPRINT_BYTES]
            if known and source.fingerprint != known:
                changed = source.problem or (f"is not the input number {number} that there was when the run was "
                                             "interrupted, by path, size and time")
                raise CommandError(f"{source.path}: {changed}; begin anew, without --resume")
            if source.problem and self.arguments.on_error == "stop" and number > self.state.finished:
                raise InputError(source.path, source.problem)
            for output in outputs:
                if replaces(output, source):
                    raise CommandError(f"{output}: is an input, or in one; the output needs another path")
            archives |= source.kind == "npz"
            total += source.size
            done += source.size if number <= self.state.finished else 0
        if number * FINGERPRINT_BYTES < len(self.fingerprints):
            raise CommandError(f"{self.arguments.resume}: knows {len(self.fingerprints) // FINGERPRINT_BYTES} inputs; "
                               f"now there are {number}")
        if self.settings.members and not archives:
            raise CommandError("--member names arrays of .npz files; there is none among the inputs")
        return total, done

    def read_one(self, index: int, source: Input, progress: Progress) -> None:
        """Count an input, or skip it."""
        before = self.state.total
        self.source = source
        self.fingerprints[index * FINGERPRINT_BYTES:] = source.fingerprint
        try:
            for state, stored in count(source, self.state, self.settings):
                self.state = state
                progress.advance(stored)
                self.note_axis(source.path, progress)
        except InputError as error:
            if self.arguments.on_error == "stop":
                raise
            progress.say(f"skipped: {error}")
            self.state = State(index + 1, before, skipped=(*self.state.skipped, (source.path, error.reason)))
        spoilt = self.state.spoilt_since(before)
        if spoilt:
            progress.say(f"{source.path}: has NaN or Inf in {channels(spoilt)}")

    def note_axis(self, path: str, progress: Progress) -> None:
        """Warn, once, if the channel axis of the first array looks like one of another kind."""
        shape = self.state.shape
        if self.axis_noted or shape is None:
            return
        self.axis_noted = True
        doubt = doubtful_axis(shape, self.settings.axis)
        if doubt:
            progress.say(f"{path}: {doubt}")

    def finish(self) -> None:
        """Print the result, and write what was asked for."""
        total, skipped = self.state.total, self.state.skipped
        if total is None:
            raise CommandError(f"nothing was counted; inputs skipped: {len(skipped)}")
        number = self.state.finished - len(skipped)
        content = json.dumps(report(total, self.settings.axis, number, skipped), indent=2, allow_nan=False)
        lost = self.show_result(content)
        if self.arguments.json not in (None, STANDARD_OUTPUT):
            write_file(self.arguments.json, f"{content}\n".encode())
        if self.arguments.plot is not None:
            from fastbn.cli.stats.picture import draw

            write_file(self.arguments.plot, draw(total, number, self.arguments.plot.suffix[1:].lower()))
        if skipped:
            tell(f"inputs counted: {number}; skipped: {len(skipped)}")
        if lost is not None:
            raise lost

    def show_result(self, content: str) -> OutputError | None:
        """Print the result, or return why that cannot be done: files that were asked for are written nevertheless."""
        assert self.state.total is not None
        try:
            show(*content.split("\n") if self.arguments.json == STANDARD_OUTPUT else self.text(self.state.total))
        except OutputError as error:
            return error
        self.shown = True
        return None

    def text(self, tally: Tally) -> list[str]:
        """Return the lines for people."""
        return text(tally, self.settings.axis)

    def keep(self) -> None:
        """Write the file to go on from."""
        state = self.state
        number = state.finished - len(state.skipped)
        done = f"interrupted; counted {'all' if self.complete else 'so far'}: {counted(number, 'input')}"
        done += "" if state.so_far is state.total else " and a part of the next"
        if state.partial is not None and self.source is not None and self.source.kind == inputs.STREAM:
            state = replace(state, partial=None)    # it will come from its beginning
        if state == State():
            self.interruption = f"{done}; there is nothing to go on from"
            return
        path = self.arguments.resume or resume.unused_path()
        begun = state.finished + (state.partial is not None)
        try:
            write_file(path, resume.encode(state, self.settings, bytes(self.fingerprints[:begun * FINGERPRINT_BYTES])))
        except OutputError as error:
            self.interruption = f"{done}; the file to go on from {error}"
            return
        self.kept = True
        self.interruption = f"{done}; to go on, give the same command with --resume {path}"

    def say_what_is_known(self) -> None:
        """Print what became of an interrupted run, and its result so far."""
        tell(self.interruption)
        known = self.state.so_far
        if known is None or self.shown:
            return
        part = [] if self.complete else ["# interrupted: of a part of the inputs"]
        if self.arguments.json != STANDARD_OUTPUT:
            show(*part, *self.text(known))
        elif not self.kept:     # it would be lost; a program that reads JSON must not take it for the result
            tell(*part, *self.text(known))


def doubtful_axis(shape: tuple[int, ...], axis: int) -> str:
    """Return why another axis may be the one of the channels, or nothing."""
    chosen = axis % len(shape)
    others = [k for k in range(len(shape)) if k != chosen and shape[k] in IMAGE_CHANNELS]
    if shape[chosen] <= MANY_CHANNELS or not others:
        return ""
    return (f"shape {shape} has {shape[chosen]} channels along axis {axis}, and {shape[others[-1]]} along axis "
            f"{others[-1]}; --axis chooses another")
