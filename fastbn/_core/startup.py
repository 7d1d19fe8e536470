"""Errors of the command line while the package is imported.

``python -m fastbn`` and the script ``fastbn`` import this package, NumPy and the compiled modules before any code of
the command line runs. If that fails or is interrupted, the process ends with one line instead of a traceback. This
module imports little itself, because an interruption of its own imports is a traceback.
"""

from __future__ import annotations

import contextlib
import os
import sys

FAILED = 1
USAGE_ERROR = 2
INTERRUPTED = 130       # 128 + SIGINT, as in a shell


def is_command() -> bool:
    """Return whether the process is ``python -m fastbn`` or the script ``fastbn``."""
    arguments: list[str] = getattr(sys, "argv", [])     # an embedded interpreter may have none
    if not arguments:
        return False
    if arguments[0] == "-m":    # Python has not found the module yet; its name precedes the arguments
        module = sys.orig_argv[-len(arguments)].removeprefix("-m")
        return module.partition(".")[0] == "fastbn"
    return os.path.splitext(os.path.basename(arguments[0]))[0] == "fastbn"


def guard_imports() -> None:
    """Report errors of imports in one line, if the process is the command line."""
    if is_command():
        sys.excepthook = _report


def end_guard() -> None:
    """Leave errors to the command line, which is imported now."""
    if sys.excepthook is _report:
        sys.excepthook = sys.__excepthook__


def _report(kind: type[BaseException], error: BaseException, _: object) -> None:
    if issubclass(kind, KeyboardInterrupt):
        line, code = "interrupted", INTERRUPTED
    elif issubclass(kind, ImportError):
        line, code = " ".join(str(error).split()), USAGE_ERROR
        if not line.startswith("FASTBN_"):      # a setting in an environment variable
            line, code = f"fastbn cannot be imported: {line}", FAILED
    else:
        sys.__excepthook__(kind, error, error.__traceback__)
        return
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr)
    raise SystemExit(code)
