"""``python -m fastbn stats``: its arguments, its exit codes, and what happens on Ctrl-C."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fastbn.checkpoints.files import replace as write_file
from fastbn.statistics_command import inputs, resume
from fastbn.statistics_command.counting import Settings, State, count
from fastbn.statistics_command.errors import CommandError, InputError, require
from fastbn.statistics_command.inputs import FINGERPRINT_BYTES
from fastbn.statistics_command.progress import Progress
from fastbn.statistics_command.report import report, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastbn.statistics_command.inputs import Input

HELP = "count, mean, standard deviation, minimum and maximum of the channels of files"
FAILED, INTERRUPTED = 1, 130


def configure(
    command: argparse.ArgumentParser, positive_int: Callable[[str], int], picture_path: Callable[[str], Path]
) -> None:
    """Give a parser the arguments of the command."""
    command.description = (
        "Print mean and standard deviation of each channel as a line for training code, and a table with count, "
        "minimum and maximum. Inputs are read block by block, whatever their size.")
    command.epilog = (
        "Images need the extra 'fastbn[images]', Zarr arrays 'fastbn[zarr]', a progress bar and --plot "
        "'fastbn[stats]'. Exit codes: 0 done, 1 failed, 2 wrong arguments, 130 interrupted.")
    command.add_argument(
        "paths", nargs="+", metavar="PATH",
        help="an .npy or .npz file, an image, a folder of images, a Zarr array, or - for an .npy on standard input")
    command.add_argument(
        "--axis", type=integer, default=-1, metavar="A",
        help="the channel axis of arrays (default: -1, the last one, which is always that of images)")
    command.add_argument(
        "--member", action="append", default=[], metavar="NAME", dest="members",
        help="an array to read from each .npz file; may be given several times (default: all)")
    command.add_argument("--json", type=output_path, metavar="OUT", help="write the same as JSON, for programs")
    command.add_argument("--plot", type=picture_path, metavar="OUT", help="draw the channels: .png, .pdf or .svg")
    command.add_argument("--threads", type=positive_int, metavar="N", help="how many threads may be used")
    command.add_argument(
        "--on-error", choices=("skip", "stop"), default="stop",
        help="what to do about an input that cannot be read, none of which is counted (default: stop)")
    command.add_argument(
        "--resume", type=Path, metavar="FILE", help="go on from the file that an interrupted run left, with the same "
        "inputs and settings")
    command.set_defaults(command=run)


def integer(value: str) -> int:
    """Return an integer, or raise the error that argparse shows."""
    try:
        return int(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an integer, got {value!r}") from None


def output_path(value: str) -> Path:
    """Return a path in a folder that is there, or raise the error that argparse shows."""
    path = Path(value)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {str(path.parent)!r}")
    return path


def same_file(output: Path, path: str) -> bool:
    """Return whether an output would replace an input."""
    return path != inputs.STANDARD_INPUT and output.exists() and Path(path).exists() and output.samefile(path)


def run(arguments: argparse.Namespace) -> int:
    """Count the inputs, or say in one line why not."""
    task = Run(arguments)
    try:
        return interruptible(task)
    except (CommandError, InputError) as error:
        print(error, file=sys.stderr)
        return FAILED


def interruptible(task: Run) -> int:
    """Count the inputs, or on Ctrl-C keep what is known."""
    arguments = task.arguments
    try:
        if arguments.paths.count(inputs.STANDARD_INPUT) > 1:
            raise CommandError("standard input (-) can be read only once")
        for given in (arguments.json, arguments.plot):
            if given is not None and any(same_file(given, path) for path in arguments.paths):
                raise CommandError(f"{given}: is an input; the output wants another place")
        if arguments.plot is not None:
            require("matplotlib", "matplotlib", "stats", "--plot")
        task.read()
        task.finish()
    except KeyboardInterrupt:
        with undisturbed():
            return task.interrupted()
    return 0


class Run:
    """One run of the command: what it was asked, and what it knows."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.settings = Settings(arguments.axis, tuple(arguments.members), arguments.threads)
        self.state = State()
        self.fingerprints = bytearray()         # of inputs finished, and of the one that has begun
        self.source: Input | None = None        # the one that has begun

    def read(self) -> None:
        """Count all inputs that are not finished."""
        if self.arguments.resume is not None:
            self.state, fingerprints = resume.load(self.arguments.resume, self.settings)
            self.fingerprints[:] = fingerprints
        total, done = self.survey()
        with Progress(total, done) as progress:
            for index, source in enumerate(inputs.find(self.arguments.paths)):
                if index >= self.state.finished:
                    self.read_one(index, source, progress)

    def survey(self) -> tuple[int, int]:
        """Return the stored bytes of all inputs and of those finished; what is wrong at first sight is found here."""
        total, done, number = 0, 0, 0
        for number, source in enumerate(inputs.find(self.arguments.paths), 1):
            known = self.fingerprints[(number - 1) * FINGERPRINT_BYTES:number * FINGERPRINT_BYTES]
            if known and source.fingerprint != known:
                raise CommandError(f"{source.path}: is not the input number {number} that there was when the run was "
                                   "interrupted, by path, size and time; begin anew, without --resume")
            if source.problem and self.arguments.on_error == "stop" and number > self.state.finished:
                raise InputError(source.path, source.problem)
            total += source.size
            done += source.size if number <= self.state.finished else 0
        if number * FINGERPRINT_BYTES < len(self.fingerprints):
            raise CommandError(f"{self.arguments.resume}: knows {len(self.fingerprints) // FINGERPRINT_BYTES} inputs; "
                               f"now there are {number}")
        return total, done

    def read_one(self, index: int, source: Input, progress: Progress) -> None:
        """Count an input, or skip it."""
        before = self.state.total
        self.source = source
        self.fingerprints[index * FINGERPRINT_BYTES:] = source.fingerprint
        try:
            if source.problem:
                raise InputError(source.path, source.problem)
            for state, stored in count(source, self.state, self.settings):
                self.state = state
                progress.advance(stored)
        except InputError as error:
            if self.arguments.on_error == "stop":
                raise
            progress.say(f"skipped: {error}")
            self.state = State(index + 1, before, skipped=(*self.state.skipped, (source.path, error.reason)))
        spoilt = self.state.spoilt_since(before)
        if spoilt:
            progress.say(f"{source.path}: has NaN or Inf in channel {', '.join(map(str, spoilt))}")

    def finish(self) -> None:
        """Print the result, and write what was asked for."""
        total, skipped = self.state.total, self.state.skipped
        if total is None:
            raise CommandError(f"nothing was counted; inputs skipped: {len(skipped)}")
        show(text(total))
        counted = self.state.finished - len(skipped)
        if self.arguments.json is not None:
            content = report(total, self.settings.axis, counted, skipped)
            write(self.arguments.json, json.dumps(content, indent=2, allow_nan=False).encode() + b"\n")
        if self.arguments.plot is not None:
            from fastbn.statistics_command.picture import draw

            write(self.arguments.plot, draw(total, counted, self.arguments.plot.suffix[1:].lower()))

    def interrupted(self) -> int:
        """Print what is known, write the file to go on from, and return the exit code."""
        state = self.state
        known = state.so_far
        if known is not None:
            show(text(known))
        counted = state.finished - len(state.skipped)
        done = f"interrupted; counted so far: {counted} inputs"
        done += "" if known is state.total else " and a part of the next"
        if state.partial is not None and self.source is not None and self.source.kind == inputs.STREAM:
            state = replace(state, partial=None)    # it will come from its beginning
        if state == State():
            print(f"{done}; there is nothing to go on from", file=sys.stderr)
            return INTERRUPTED
        path = self.arguments.resume or resume.unused_path()
        begun = state.finished + (state.partial is not None)
        write(path, resume.encode(state, self.settings, bytes(self.fingerprints[:begun * FINGERPRINT_BYTES])))
        print(f"{done}; to go on, give the same command with --resume {path}", file=sys.stderr)
        return INTERRUPTED


def show(lines: str) -> None:
    """Print on standard output, of which a reader may take only the first lines."""
    try:
        print(lines, flush=True)
    except BrokenPipeError:
        # Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write(path: Path, data: bytes) -> None:
    """Put a file in place at once."""
    try:
        write_file(path, data)
    except OSError as error:
        raise CommandError(f"{path}: cannot be written: {error.strerror}") from None


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C: whoever presses it twice still wants the file that the first one leaves."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
