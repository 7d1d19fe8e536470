"""The program that imports fastbn: its own command line, or another one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn


def is_command() -> bool:
    """Return whether ``python -m fastbn`` or the script ``fastbn`` imports the package."""
    arguments = getattr(sys, "argv", None) or [""]      # an embedded interpreter may have none
    if arguments[0] != "-m":
        return Path(arguments[0]).stem == "fastbn"
    # While Python looks for the module, its name is only in the original arguments, before those of the program.
    return sys.orig_argv[-len(arguments)].removeprefix("-m") in ("fastbn", "fastbn.__main__")


def refuse(error: ImportError) -> NoReturn:
    """Raise an error of the import. On the command line, print it as one line and exit with code 2 instead."""
    if not is_command():
        raise error
    sys.stderr.write(f"fastbn: {error}\n")
    raise SystemExit(2) from None
