"""``python -m fastbn info``: the build, and its settings on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fastbn._core.config import config, describe
from fastbn.cli.command import Command
from fastbn.cli.console import show

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the configuration."""
    text = json.dumps(config(), indent=2) if arguments.json else describe(config())
    show(*text.split("\n"))
    return 0


COMMAND = Command("info", "print version, compiler, ISA level, OpenMP runtime and threads", "", configure, run)
