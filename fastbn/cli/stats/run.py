"""One run of the command: finds, counts and reports the inputs."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fastbn._core.checks import channels, counted
from fastbn.cli.console import OutputError, show, tell, write_file
from fastbn.cli.stats import inputs, resume
from fastbn.cli.stats.counting.count import State, count
from fastbn.cli.stats.errors import ArgumentsError, CommandError, InputError, require
from fastbn.cli.stats.inputs import FINGERPRINT_BYTES
from fastbn.cli.stats.output.progress import ProgressBar
from fastbn.cli.stats.output.report import report, text
from fastbn.cli.stats.settings import Missing, Settings

if TYPE_CHECKING:
    import argparse

    from fastbn.cli.stats.counting.tally import Tally
    from fastbn.cli.stats.inputs import Input
    from fastbn.cli.stats.readers.kind import Kind

STANDARD_OUTPUT = "-"       # a value of --json; no path is equal to it
IMAGE_CHANNELS = (1, 3, 4)  # gray, RGB, RGBA
MANY_CHANNELS = 64          # beside an axis of that length, more channels than these are rather columns of pixels


class Run:
    """The state of a run.

    Parameters
    ----------
    arguments : argparse.Namespace
        The arguments of the command.

    Attributes
    ----------
    settings : Settings
    expected : Kind or None
        The most frequent kind of the inputs, if it is known.
    state : State
    fingerprints : bytearray
        Concatenated fingerprints of the finished inputs and of the current one.
    source : Input or None
        The current input.
    complete : bool
        Whether all inputs were counted.
    axis_checked : bool
        Whether the channel axis was compared with the first array.
    shown : bool
        Whether the result was printed.
    kept : bool
        Whether the resume file was written.
    interruption : str
        The message of an interrupted run.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.settings: Settings = Settings(
            axis=arguments.axis, members=tuple(dict.fromkeys(arguments.members)), threads=arguments.threads,
            missing=Missing(arguments.nan, arguments.nodata), convert=arguments.convert,
            max_memory=arguments.max_memory)
        self.expected: Kind | None = None
        self.state: State = State()
        self.fingerprints: bytearray = bytearray()
        self.source: Input | None = None
        self.complete: bool = False
        self.axis_checked: bool = False
        self.shown: bool = False
        self.kept: bool = False
        self.interruption: str = ""

    def check(self) -> None:
        """Check the arguments before anything is read."""
        if self.arguments.paths.count(inputs.STANDARD_INPUT) > 1:
            raise ArgumentsError("standard input (-) can be read only once")

    def read(self) -> None:
        """Count all unfinished inputs."""
        if self.arguments.resume is not None:
            self.state, fingerprints = resume.load(self.arguments.resume, self.settings)
            self.fingerprints[:] = fingerprints
            self.axis_checked = self.state.shape is not None
        total, done = self.survey()
        if self.arguments.plot is not None:
            require("matplotlib", "matplotlib", "stats", "--plot")
        if self.arguments.on_error == "skip" and self.state.total is None:
            self.expected = inputs.majority(inputs.find(self.arguments.paths), self.settings)
        with ProgressBar(total, done) as progress:
            for index, source in enumerate(inputs.find(self.arguments.paths)):
                if index >= self.state.finished:
                    self.read_one(index, source, progress)
        self.complete = True

    def survey(self) -> tuple[int, int]:
        """Check all inputs without opening them, and return the stored bytes of all and of the finished ones."""
        total, done, number, archives = 0, 0, 0, False
        outputs = [path for path in (self.arguments.json, self.arguments.plot) if path not in (None, STANDARD_OUTPUT)]
        for number, source in enumerate(inputs.find(self.arguments.paths), 1):
            known = self.fingerprints[(number - 1) * FINGERPRINT_BYTES:number * FINGERPRINT_BYTES]
            if known and source.fingerprint != known:
                changed = source.problem or f"differs from input {number} of the interrupted run in path, size or time"
                raise CommandError(f"{source.path}: {changed}; start again without --resume")
            if source.problem and self.arguments.on_error == "stop" and number > self.state.finished:
                raise InputError(source.path, source.problem)
            for output in outputs:
                if replaces(output, source):
                    raise ArgumentsError(f"{output}: is an input or part of one; choose another output path")
            archives |= source.kind == "npz"
            total += source.size
            done += source.size if number <= self.state.finished else 0
        if number * FINGERPRINT_BYTES < len(self.fingerprints):
            raise CommandError(f"{self.arguments.resume}: covers {len(self.fingerprints) // FINGERPRINT_BYTES} inputs, "
                               f"but the command names {number}")
        if self.settings.members and not archives:
            raise ArgumentsError("--member selects arrays of .npz files, but no input is an .npz file")
        return total, done

    def read_one(self, index: int, source: Input, progress: ProgressBar) -> None:
        """Count or skip an input."""
        before = self.state.total
        self.source = source
        self.fingerprints[index * FINGERPRINT_BYTES:] = source.fingerprint
        try:
            for state, stored in count(source, self.state, self.settings, self.expected):
                self.state = state
                progress.advance(stored)
                self.check_axis(source.path, progress)
        except InputError as error:
            if self.arguments.on_error == "stop":
                raise
            progress.say(f"skipped: {error}")
            self.state = State(index + 1, before, skipped=(*self.state.skipped, (source.path, error.reason)))
        spoilt = self.state.spoilt_since(before)
        if spoilt:
            progress.say(f"{source.path}: has NaN or Inf in {channels(spoilt)}")

    def check_axis(self, path: str, progress: ProgressBar) -> None:
        """Warn once if another axis of the first array looks like the channel axis."""
        shape = self.state.shape
        if self.axis_checked or shape is None:
            return
        self.axis_checked = True
        doubt = doubtful_axis(shape, self.settings.axis)
        if doubt:
            progress.say(f"{path}: {doubt}")

    def finish(self) -> None:
        """Print the result, and write the files that the arguments name."""
        total, skipped = self.state.total, self.state.skipped
        if total is None:
            raise CommandError(f"nothing was counted; inputs skipped: {len(skipped)}")
        number = self.state.finished - len(skipped)
        content = json.dumps(report(total, self.settings, number, skipped), indent=2, allow_nan=False)
        lost = self.show_result(total, content)
        if self.arguments.json not in (None, STANDARD_OUTPUT):
            write_file(self.arguments.json, f"{content}\n".encode())
        if self.arguments.plot is not None:
            from fastbn.cli.stats.output.picture import draw

            write_file(self.arguments.plot, draw(total, number, self.arguments.plot.suffix[1:].lower()))
        if skipped:
            tell(f"inputs counted: {number}; skipped: {len(skipped)}")
        if lost is not None:
            raise lost

    def show_result(self, total: Tally, content: str) -> OutputError | None:
        """Print the result, or return the error, which must not prevent the writing of files."""
        to_standard_output = self.arguments.json == STANDARD_OUTPUT
        try:
            show(*content.split("\n") if to_standard_output else text(total, self.settings))
        except OutputError as error:
            return error
        self.shown = True
        return None

    def keep(self) -> None:
        """Write the resume file."""
        state = self.state
        number = state.finished - len(state.skipped)
        done = f"interrupted after {'all ' if self.complete else ''}{counted(number, 'input')}"
        done += "" if state.so_far is state.total else " and a part of the next"
        if state.partial is not None and self.source is not None and self.source.kind == inputs.STREAM:
            state = replace(state, partial=None)    # standard input starts from its beginning
        if state == State():
            self.interruption = f"{done}; there is nothing to resume"
            return
        path = self.arguments.resume or resume.unused_path()
        begun = state.finished + (state.partial is not None)
        try:
            write_file(path, resume.encode(state, self.settings, bytes(self.fingerprints[:begun * FINGERPRINT_BYTES])))
        except OutputError as error:
            self.interruption = f"{done}; the resume file {error}"
            return
        self.kept = True
        self.interruption = f"{done}; to resume, repeat the command with --resume {path}"

    def show_interrupted(self) -> None:
        """Print the message of an interrupted run, and its result so far."""
        tell(self.interruption)
        total = self.state.so_far
        if total is None or self.shown:
            return
        lines = [*([] if self.complete else ["# interrupted: only a part of the inputs was counted"]),
                 *text(total, self.settings)]
        if self.arguments.json != STANDARD_OUTPUT:
            show(*lines)
        elif not self.kept:     # the result would be lost; a reader of JSON must not take it for a complete one
            tell(*lines)


def replaces(output: Path, source: Input) -> bool:
    """Return whether an output would replace an input, or a file within it."""
    if source.kind == inputs.STREAM:
        return False
    try:
        return os.path.samefile(output, source.path) or (
            source.kind == "zarr" and Path(source.path).resolve() in output.resolve().parents)
    except OSError:     # one of them does not exist or is not accessible
        return False


def doubtful_axis(shape: tuple[int, ...], axis: int) -> str:
    """Return why another axis may be the channel axis, or an empty string."""
    chosen = axis % len(shape)
    others = [k for k in range(len(shape)) if k != chosen and shape[k] in IMAGE_CHANNELS]
    if shape[chosen] <= MANY_CHANNELS or not others:
        return ""
    return (f"shape {shape} has {shape[chosen]} channels along axis {axis}, and {shape[others[-1]]} along axis "
            f"{others[-1]}; --axis selects another axis")
