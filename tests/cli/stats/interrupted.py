"""Runs of fastbn stats that interrupt themselves."""

import signal
import subprocess
import sys

from tests.cli.stats.arrays import stats
from tests.process import DEFAULT_SIGNALS, PATIENCE, settings

# Sends signals to itself before it counts a block.
INTERRUPTED = DEFAULT_SIGNALS + """
import os, sys
from fastbn.__main__ import main
from fastbn.cli.stats.readers import grid
from fastbn.cli.stats.counting.tally import Tally

grid.BLOCK_BYTES = 4096
of, left, numbers = Tally.of, int(sys.argv[1]), [int(number) for number in sys.argv[2].split(",")]

def interrupted(*arguments, **options):
    global left
    left -= 1
    if left < 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        for number in numbers:
            os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)     # both arrive now
    return of(*arguments, **options)

Tally.of = interrupted
sys.exit(main(["stats", *sys.argv[3:]]))
"""


def start(blocks, folder, *arguments, by=(signal.SIGINT,), program=INTERRUPTED, **options):
    """Run in a folder, with an interruption after some blocks; return exit code, output and messages."""
    numbers = ",".join(str(int(number)) for number in by)
    options = {"stdout": subprocess.PIPE} | options
    done = subprocess.run(
        [sys.executable, "-c", program, str(blocks), numbers, *map(str, arguments)],
        **(settings({}) | {"cwd": folder}), stderr=subprocess.PIPE, timeout=PATIENCE, check=False, **options)
    return done.returncode, done.stdout, done.stderr


def resumed(folder, *arguments):
    """The JSON of a run resumed from the only resume file in a folder."""
    [left] = folder.glob("*.resume")
    return stats(folder, *arguments, "--resume", left)
